/* SPDX-License-Identifier: GPL-2.0
 *
 * What the kernel side stores, by generation of the agent. NPA_GEN is the agent's version as a number
 * (1.3.7 -> 10307). A field that a generation lacks is switched off here, and nowhere else.
 */
#ifndef LAB_LAYOUT_H
#define LAB_LAYOUT_H

#include <linux/types.h>

#ifndef NPA_GEN
#define NPA_GEN 10307
#endif

#if NPA_GEN < 10307
#error "only the generations from agent 1.3.7 on are written so far"
#endif
#ifdef NPA_IPV6
#error "only IPv4 is written so far"
#endif

/* switches, derived from the generation ------------------------------------------------------------------ */
#define NP_SLOTS 24
#define CP_SLOTS 24
#define POD_STATE_KEYS 2
#define CT_ENTRIES 524288
#define EVENT_BYTES 524288
#define ADDR_WORDS 1
#define FAMILY_ETHERTYPE 0x0800
#define FAMILY_PREFIX 32

/* map value words ---------------------------------------------------------------------------------------- */
#define STATE_APPLIED 0
#define STATE_ALLOW 1
#define STATE_DENY 2

#define KEY_NETWORK_POLICY 0
#define KEY_CLUSTER_POLICY 1

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
struct ct_key {
	struct addr src;
	__u16 src_port;
	__u16 pad1;
	struct addr dst;
	__u16 dst_port;
	__u8 protocol;
	__u8 pad2;
	struct addr owner;
	__u32 ifindex;
};

#if NPA_GEN >= 10402
#define CT_VALUE_BYTES 16
struct ct_value {
	__u64 pair;
	__u64 last_seen; /* ns of CLOCK_MONOTONIC, renewed at each forward or reverse hit */
};
#else
#define CT_VALUE_BYTES 1
struct ct_value {
	__u8 pair;
};
#endif

struct event {
	struct addr src;
	__u32 src_port;
	struct addr dst;
	__u32 dst_port;
	__u32 protocol;
	__u32 verdict;
	__u32 packet_size;
	__u8 is_egress;
	__u8 tier;
	__u8 pad[2];
};

_Static_assert(sizeof(struct lpm_key) == 4 + 4 * ADDR_WORDS, "LPM key");
_Static_assert(sizeof(struct np_value) == 12 * NP_SLOTS, "NetworkPolicy value");
_Static_assert(sizeof(struct cp_value) == 16 * CP_SLOTS, "cluster policy value");
_Static_assert(sizeof(struct ct_key) == 12 + 12 * ADDR_WORDS, "conntrack key");
_Static_assert(sizeof(struct ct_value) == CT_VALUE_BYTES, "conntrack value");
_Static_assert(sizeof(struct event) == 24 + 8 * ADDR_WORDS, "event record");

#endif
