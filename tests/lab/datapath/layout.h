/* SPDX-License-Identifier: GPL-2.0
 *
 * What the kernel side stores, by generation of the agent. NPA_GEN is the agent's version as a number
 * (1.3.7 -> 10307), NPA_IPV6 the family. What a generation lacks or does differently is switched here, and
 * nowhere else by number.
 */
#ifndef LAB_LAYOUT_H
#define LAB_LAYOUT_H

#include <linux/types.h>

#ifndef NPA_GEN
#define NPA_GEN 10307
#endif

#if NPA_GEN < 10001
#error "there is no agent before 1.0.1"
#endif

/* switches, derived from the generation (agent facts 0.3) ------------------------------------------------- */
#define CT_KEY_HAS_OWNER (NPA_GEN >= 10005)
#define CT_KEY_HAS_IFINDEX (NPA_GEN >= 10307)
#define CT_VALUE_IS_ADDRESS (NPA_GEN < 10005)
#define CT_VALUE_HAS_LAST_SEEN (NPA_GEN >= 10402)
#define HAS_POD_STATE (NPA_GEN >= 10200)
#define HAS_CLUSTER_POLICY (NPA_GEN >= 10300)
#define ANY_SLOT_CHECKS_PORTS (NPA_GEN >= 10204)
#define EVENT_HAS_SIZE (NPA_GEN >= 10202)

#ifdef NPA_IPV6
#define ADDR_WORDS 4
#define FAMILY_ETHERTYPE 0x86DD
#define FAMILY_PREFIX 128
#define FAMILY_VERSION 6
/* 1.0.1 and 1.0.2 have an unaligned key. */
#define CT_KEY_IS_PACKED (NPA_GEN < 10004)
#else
#define ADDR_WORDS 1
#define FAMILY_ETHERTYPE 0x0800
#define FAMILY_PREFIX 32
#define FAMILY_VERSION 4
#define CT_KEY_IS_PACKED 0
#endif

#if NPA_GEN < 10005
#define NP_SLOTS 8
#else
#define NP_SLOTS 24
#endif

/* Agent facts 1.4: the first IPv6 programs look at half of the slots. */
#if NPA_GEN < 10005 && defined(NPA_IPV6)
#define NP_SLOTS_SCANNED 4
#else
#define NP_SLOTS_SCANNED NP_SLOTS
#endif

#define CP_SLOTS 24
#define POD_STATE_KEYS (HAS_CLUSTER_POLICY ? 2 : 1)

#if NPA_GEN < 10100
#define CT_ENTRIES 65536
#elif NPA_GEN < 10200
#define CT_ENTRIES 262144
#else
#define CT_ENTRIES 524288
#endif

#if NPA_GEN < 10200
#define EVENT_BYTES 262144
#else
#define EVENT_BYTES 524288
#endif

/* map value words ---------------------------------------------------------------------------------------- */
#define STATE_APPLIED 0
#define STATE_ALLOW 1
#define STATE_DENY 2

#define KEY_NETWORK_POLICY 0
#define KEY_CLUSTER_POLICY 1

/* 1.2.0 to 1.2.7: what a conntrack entry says about the state it was made in */
#define MADE_IN_ALLOW 0
#define MADE_IN_APPLIED 1

#define PROTO_ICMPV6 58
#define PROTO_ANY 254
#define PROTO_RESERVED 255

#define ACTION_DENY 0
#define ACTION_ACCEPT 1
#define ACTION_PASS 2
#define LAST_ADMIN_PRIORITY 1000

#define TIER_ERROR 0
#define TIER_ADMIN 1
#define TIER_NETWORK_POLICY 2
#define TIER_BASELINE 3
#define TIER_DEFAULT 4

struct addr {
	__u32 word[ADDR_WORDS]; /* network order */
};

struct lpm_key {
	__u32 prefixlen;
	struct addr addr;
};

struct np_slot {
	__u32 protocol;
	__u32 start_port;
	__u32 end_port;
};

struct np_value {
	struct np_slot slot[NP_SLOTS];
};

struct cp_slot {
	__u32 protocol;
	__u32 word; /* priority * 10 + action */
	__u32 start_port;
	__u32 end_port;
};

struct cp_value {
	struct cp_slot slot[CP_SLOTS];
};

/* Ports in host order; padding is written as zero because a hash key is compared byte by byte. */
#if CT_KEY_IS_PACKED
struct ct_key {
	struct addr src;
	__u16 src_port;
	struct addr dst;
	__u16 dst_port;
	__u8 protocol;
	__u8 pad;
} __attribute__((packed));
#else
struct ct_key {
	struct addr src;
	__u16 src_port;
	__u16 pad1;
	struct addr dst;
	__u16 dst_port;
	__u8 protocol;
	__u8 pad2;
#if CT_KEY_HAS_OWNER
	struct addr owner;
#endif
#if CT_KEY_HAS_IFINDEX
	__u32 ifindex;
#endif
};
#endif

#if CT_VALUE_IS_ADDRESS
#define CT_VALUE_BYTES (4 * ADDR_WORDS)
struct ct_value {
	struct addr owner; /* the pod that the flow belongs to, as the key cannot say it */
};
#elif CT_VALUE_HAS_LAST_SEEN
#define CT_VALUE_BYTES 16
struct ct_value {
	__u64 made_in;
	__u64 last_seen; /* ns of CLOCK_MONOTONIC, renewed at each forward or reverse hit */
};
#else
#define CT_VALUE_BYTES 1
struct ct_value {
	__u8 made_in; /* always 1 to 1.1.6; one state in 1.2; a state pair from 1.3.0 */
};
#endif

struct event {
	struct addr src;
	__u32 src_port;
	struct addr dst;
	__u32 dst_port;
	__u32 protocol;
	__u32 verdict;
#if EVENT_HAS_SIZE
	__u32 packet_size;
	__u8 is_egress;
	__u8 tier; /* zero before 1.3.0, where it is padding */
	__u8 pad[2];
#endif
};

#define CT_KEY_BYTES                                                                                                  \
	(CT_KEY_IS_PACKED ? 38 : 8 + 8 * ADDR_WORDS + CT_KEY_HAS_OWNER * 4 * ADDR_WORDS + CT_KEY_HAS_IFINDEX * 4)

_Static_assert(sizeof(struct lpm_key) == 4 + 4 * ADDR_WORDS, "LPM key");
_Static_assert(sizeof(struct np_value) == 12 * NP_SLOTS, "NetworkPolicy value");
_Static_assert(sizeof(struct cp_value) == 16 * CP_SLOTS, "cluster policy value");
_Static_assert(sizeof(struct ct_key) == CT_KEY_BYTES, "conntrack key");
_Static_assert(sizeof(struct ct_value) == CT_VALUE_BYTES, "conntrack value");
_Static_assert(sizeof(struct event) == 16 + 8 * ADDR_WORDS + EVENT_HAS_SIZE * 8, "event record");

#endif
