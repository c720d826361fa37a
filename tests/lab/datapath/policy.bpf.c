/* SPDX-License-Identifier: GPL-2.0
 *
 * The lab's datapath. It decides as the AWS network policy agent's tc programs are known to decide, and shares no
 * code with them. Built twice: -DDIRECTION_INGRESS gives handle_ingress (traffic to the pod), -DDIRECTION_EGRESS
 * gives handle_egress (traffic from the pod).
 */
#include "bpf_lite.h"
#include "layout.h"
#include <linux/pkt_cls.h>

#if defined(DIRECTION_INGRESS) == defined(DIRECTION_EGRESS)
#error "exactly one of DIRECTION_INGRESS and DIRECTION_EGRESS"
#endif

#ifdef DIRECTION_INGRESS
#define IS_EGRESS 0
#define HANDLER handle_ingress
#define NP_MAP ingress_map
#define CP_MAP cp_ingress_map
#define STATE_MAP ingress_pod_state_map
#else
#define IS_EGRESS 1
#define HANDLER handle_egress
#define NP_MAP egress_map
#define CP_MAP cp_egress_map
#define STATE_MAP egress_pod_state_map
#endif

SEC("maps") struct map_def NP_MAP = {
	BPF_MAP_TYPE_LPM_TRIE, sizeof(struct lpm_key), sizeof(struct np_value), 65536, BPF_F_NO_PREALLOC,
};
#if HAS_CLUSTER_POLICY
SEC("maps") struct map_def CP_MAP = {
	BPF_MAP_TYPE_LPM_TRIE, sizeof(struct lpm_key), sizeof(struct cp_value), 65536, BPF_F_NO_PREALLOC,
};
#endif
#if HAS_POD_STATE
SEC("maps") struct map_def STATE_MAP = {
	BPF_MAP_TYPE_HASH, sizeof(__u32), sizeof(__u8), POD_STATE_KEYS, BPF_F_NO_PREALLOC,
};
#endif
SEC("maps") struct map_def aws_conntrack_map = {
	BPF_MAP_TYPE_LRU_HASH, sizeof(struct ct_key), sizeof(struct ct_value), CT_ENTRIES, 0,
};
SEC("maps") struct map_def policy_events = {BPF_MAP_TYPE_RINGBUF, 0, 0, EVENT_BYTES, 0};

/* parsing (agent facts 3.1) ------------------------------------------------------------------------------ */

struct flow {
	struct addr src;
	struct addr dst;
	__u16 src_port;
	__u16 dst_port;
	__u8 protocol;
};

struct eth_header {
	__u8 dst[6];
	__u8 src[6];
	__u16 type;
};

#ifdef NPA_IPV6
struct ip_header {
	__u8 version_class;
	__u8 class_label[3];
	__u16 payload;
	__u8 protocol; /* the first next-header: extension headers are not walked */
	__u8 hop_limit;
	struct addr src;
	struct addr dst;
};
_Static_assert(sizeof(struct ip_header) == 40, "IPv6 header");
#else
struct ip_header {
	__u8 version_class;
	__u8 tos;
	__u16 total;
	__u16 id;
	__u16 fragment;
	__u8 ttl;
	__u8 protocol;
	__u16 checksum;
	struct addr src;
	struct addr dst;
};
_Static_assert(sizeof(struct ip_header) == 20, "IPv4 header");
#endif

struct ports {
	__u16 src;
	__u16 dst;
};

/* The length of the whole layer 4 header has to be in linear data, not only the ports. */
INLINE __u32 l4_header_size(__u8 protocol)
{
	switch (protocol) {
	case 6:
		return 20;
	case 17:
		return 8;
	case 132:
		return 12;
	default:
		return 0;
	}
}

/* 0 when the packet is not one that the program judges: it passes then. */
INLINE int parse(const struct __sk_buff *skb, struct flow *flow)
{
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;
	struct eth_header *eth = data;
	struct ip_header *ip = (void *)(eth + 1);
	void *l4 = (void *)(ip + 1); /* fixed offset: an IPv4 header's length field is not honoured */
	struct ports *ports = l4;

	if ((void *)(eth + 1) > end || NTOHS(eth->type) != FAMILY_ETHERTYPE)
		return 0;
	if (l4 > end || ip->version_class >> 4 != FAMILY_VERSION)
		return 0;
#ifdef NPA_IPV6
	if (ip->protocol == PROTO_ICMPV6)
		return 0;
#endif
	flow->src = ip->src;
	flow->dst = ip->dst;
	flow->protocol = ip->protocol;
	flow->src_port = 0;
	flow->dst_port = 0;
	switch (ip->protocol) {
	case 6:
		if (l4 + l4_header_size(6) > end)
			return 0;
		break;
	case 17:
		if (l4 + l4_header_size(17) > end)
			return 0;
		break;
	case 132:
		if (l4 + l4_header_size(132) > end)
			return 0;
		break;
	default:
		return 1;
	}
	flow->src_port = NTOHS(ports->src);
	flow->dst_port = NTOHS(ports->dst);
	return 1;
}

/* The address of the pod whose veth this is. */
INLINE const struct addr *pod_side(const struct flow *flow)
{
	return IS_EGRESS ? &flow->src : &flow->dst;
}

INLINE void report(const struct __sk_buff *skb, const struct flow *flow, __u32 verdict, __u8 tier)
{
	struct event event;

	__builtin_memset(&event, 0, sizeof(event));
	event.src = flow->src;
	event.src_port = flow->src_port;
	event.dst = flow->dst;
	event.dst_port = flow->dst_port;
	event.protocol = flow->protocol;
	event.verdict = verdict;
#if EVENT_HAS_SIZE
	event.packet_size = skb->len;
	event.is_egress = IS_EGRESS;
	event.tier = HAS_CLUSTER_POLICY ? tier : 0;
#endif
	ringbuf_output(&policy_events, &event, sizeof(event), 0);
}

/* conntrack (agent facts 1.5 and 1.6) -------------------------------------------------------------------- */

INLINE void fill_ct_keys(const struct flow *flow, __u32 ifindex, struct ct_key *forward, struct ct_key *reverse)
{
	__builtin_memset(forward, 0, sizeof(*forward));
	__builtin_memset(reverse, 0, sizeof(*reverse));
	forward->src = flow->src;
	forward->src_port = flow->src_port;
	forward->dst = flow->dst;
	forward->dst_port = flow->dst_port;
	forward->protocol = flow->protocol;
	reverse->src = flow->dst;
	reverse->src_port = flow->dst_port;
	reverse->dst = flow->src;
	reverse->dst_port = flow->src_port;
	reverse->protocol = flow->protocol;
#if CT_KEY_HAS_OWNER
	forward->owner = *pod_side(flow);
	reverse->owner = *pod_side(flow);
#endif
#if CT_KEY_HAS_IFINDEX
	forward->ifindex = ifindex;
	reverse->ifindex = ifindex;
#endif
}

INLINE void seen(struct ct_value *value)
{
#if CT_VALUE_HAS_LAST_SEEN
	value->last_seen = ktime_get_ns();
#endif
}

/* NetworkPolicy map (agent facts 3.2 steps 3 to 5, 3.5) -------------------------------------------------- */

enum np_answer { NP_DENY, NP_ALLOW, NP_NO_ENTRY };

INLINE int np_slot_matches(const struct np_slot *slot, __u32 protocol, __u32 port)
{
	if (slot->protocol == PROTO_ANY) {
		if (!ANY_SLOT_CHECKS_PORTS)
			return 1;
	} else if (slot->protocol != protocol) {
		return 0;
	}
	return slot->start_port == 0 || port == slot->start_port ||
	       (port > slot->start_port && port <= slot->end_port);
}

INLINE void fill_peer(const struct flow *flow, struct lpm_key *peer)
{
	peer->prefixlen = FAMILY_PREFIX;
	peer->addr = IS_EGRESS ? flow->dst : flow->src;
}

/* Unused slots are all zero and are not skipped: IP protocol 0 matches them. */
INLINE enum np_answer scan_network_policy(const struct lpm_key *peer, const struct flow *flow)
{
	const struct np_value *value = map_lookup(&NP_MAP, peer);

	if (!value)
		return NP_NO_ENTRY;
#pragma clang loop unroll(disable)
	for (int i = 0; i < NP_SLOTS_SCANNED; i++) {
		const struct np_slot *slot = &value->slot[i];

		if (slot->protocol == PROTO_RESERVED)
			return NP_DENY;
		if (np_slot_matches(slot, flow->protocol, flow->dst_port))
			return NP_ALLOW;
	}
	return NP_DENY;
}

#if HAS_CLUSTER_POLICY

/* 1.3.0 and later (agent facts 3.4) ---------------------------------------------------------------------- */

/* Every pair with a denying NetworkPolicy state falls through to 7, as does (applied, applied). */
INLINE __u8 state_pair(__u8 np, __u8 cp)
{
	if (np == STATE_ALLOW)
		return cp == STATE_ALLOW ? 2 : cp == STATE_DENY ? 3 : 4;
	if (np == STATE_APPLIED)
		return cp == STATE_ALLOW ? 5 : cp == STATE_DENY ? 6 : 7;
	return 7;
}

struct winner {
	__u32 priority;
	__u32 action;
	__u32 found;
};

INLINE void challenge(struct winner *best, __u32 priority, __u32 action)
{
	if (best->found && (priority > best->priority || (priority == best->priority && action >= best->action)))
		return;
	best->priority = priority;
	best->action = action;
	best->found = 1;
}

/* 254 ignores ports here, and the range has its own form: both differ from the NetworkPolicy slots. */
INLINE int cp_slot_matches(const struct cp_slot *slot, __u32 protocol, __u32 port)
{
	if (slot->protocol == PROTO_ANY)
		return 1;
	if (slot->protocol != protocol)
		return 0;
	return slot->start_port == 0 || port == slot->start_port ||
	       (slot->end_port > 0 && slot->start_port <= port && port <= slot->end_port);
}

INLINE void scan_cluster_policy(const struct lpm_key *peer, const struct flow *flow, struct winner *overall,
				struct winner *baseline)
{
	const struct cp_value *value = map_lookup(&CP_MAP, peer);

	if (!value)
		return;
#pragma clang loop unroll(disable)
	for (int i = 0; i < CP_SLOTS; i++) {
		const struct cp_slot *slot = &value->slot[i];
		__u32 priority = slot->word / 10;
		__u32 action = slot->word % 10;

		if (!cp_slot_matches(slot, flow->protocol, flow->dst_port))
			continue;
		challenge(overall, priority, action);
		if (priority > LAST_ADMIN_PRIORITY)
			challenge(baseline, priority, action);
	}
}

/* 1 accept, 0 deny; which tier said so in *tier */
INLINE __u32 evaluate(const struct flow *flow, __u8 np_state, __u8 *tier)
{
	struct winner overall = {0}, baseline = {0};
	struct lpm_key peer;
	enum np_answer answer;

	fill_peer(flow, &peer);
	scan_cluster_policy(&peer, flow, &overall, &baseline);
	/* An admin rule of any other action, also one that nobody defined, leaves the decision to the next tier. */
	if (overall.found && overall.priority <= LAST_ADMIN_PRIORITY &&
	    (overall.action == ACTION_DENY || overall.action == ACTION_ACCEPT)) {
		*tier = TIER_ADMIN;
		return overall.action == ACTION_ACCEPT;
	}
	answer = scan_network_policy(&peer, flow);
	if (answer != NP_NO_ENTRY || np_state == STATE_APPLIED) {
		*tier = TIER_NETWORK_POLICY;
		return answer == NP_ALLOW;
	}
	/* Not so here: everything but Pass ends it. */
	if (baseline.found && baseline.action != ACTION_PASS) {
		*tier = TIER_BASELINE;
		return baseline.action == ACTION_ACCEPT;
	}
	*tier = TIER_DEFAULT;
	return np_state == STATE_ALLOW;
}

INLINE int judge(struct __sk_buff *skb, const struct flow *flow)
{
	struct ct_key forward, reverse;
	struct ct_value fresh = {0}, *known, *back;
	__u32 np_key = KEY_NETWORK_POLICY, cp_key = KEY_CLUSTER_POLICY, verdict;
	__u8 *np_state, *cp_state, tier = TIER_ERROR;

	cp_state = map_lookup(&STATE_MAP, &cp_key);
	np_state = map_lookup(&STATE_MAP, &np_key);
	if (!cp_state || !np_state) {
		report(skb, flow, 0, TIER_ERROR);
		return TC_ACT_SHOT;
	}
	fresh.made_in = state_pair(*np_state, *cp_state);
	fill_ct_keys(flow, skb->ifindex, &forward, &reverse);
	known = map_lookup(&aws_conntrack_map, &forward);
	if (known && known->made_in == fresh.made_in) {
		seen(known);
		return TC_ACT_OK;
	}
	/* An entry of another state pair is judged again; the reverse direction is not asked then. */
	if (!known && (back = map_lookup(&aws_conntrack_map, &reverse))) {
		seen(back);
		return TC_ACT_OK;
	}
	verdict = evaluate(flow, *np_state, &tier);
	report(skb, flow, verdict, tier);
	if (!verdict) {
		map_delete(&aws_conntrack_map, &forward);
		return TC_ACT_SHOT;
	}
	seen(&fresh);
	map_update(&aws_conntrack_map, &forward, &fresh, BPF_ANY);
	return TC_ACT_OK;
}

#elif HAS_POD_STATE

/* 1.2.0 to 1.2.7 (agent facts 3.3) ----------------------------------------------------------------------- */

INLINE int judge(struct __sk_buff *skb, const struct flow *flow)
{
	struct ct_key forward, reverse;
	struct ct_value fresh = {0}, *known;
	struct lpm_key peer;
	__u32 key = KEY_NETWORK_POLICY, verdict = 1;
	__u8 *state;

	state = map_lookup(&STATE_MAP, &key);
	/* A denying state comes before conntrack: replies and the node's own packets are dropped as well. */
	if (!state || *state == STATE_DENY) {
		report(skb, flow, 0, TIER_ERROR);
		return TC_ACT_SHOT;
	}
	fresh.made_in = *state == STATE_APPLIED ? MADE_IN_APPLIED : MADE_IN_ALLOW;
	fill_ct_keys(flow, skb->ifindex, &forward, &reverse);
	known = map_lookup(&aws_conntrack_map, &forward);
	if (known && (known->made_in == fresh.made_in || fresh.made_in == MADE_IN_ALLOW)) {
		known->made_in = fresh.made_in;
		return TC_ACT_OK;
	}
	/* What began in DEFAULT_ALLOW is judged once a policy is there; the reverse direction is not asked then. */
	if (!known && map_lookup(&aws_conntrack_map, &reverse))
		return TC_ACT_OK;
	/* In DEFAULT_ALLOW the map is not read, so what a deleted policy left in it does no harm. */
	if (fresh.made_in == MADE_IN_APPLIED) {
		fill_peer(flow, &peer);
		verdict = scan_network_policy(&peer, flow) == NP_ALLOW;
	}
	report(skb, flow, verdict, TIER_ERROR);
	if (!verdict) {
		map_delete(&aws_conntrack_map, &forward);
		return TC_ACT_SHOT;
	}
	map_update(&aws_conntrack_map, &forward, &fresh, BPF_ANY);
	return TC_ACT_OK;
}

#else

/* 1.0.1 to 1.1.6 (agent facts 3.2) ----------------------------------------------------------------------- */

/*
 * To 1.0.4 the key does not name the pod, the value does. The facts ask for it at the forward hit in so many
 * words, and at the reverse hit for "the same owner", which has no other place than the value in these
 * generations (1.6: "checked on hit"). So both are asked: another pod's entry is as good as none.
 */
INLINE int is_hit(const struct ct_value *value, const struct flow *flow)
{
	if (!value)
		return 0;
#if CT_VALUE_IS_ADDRESS
	/* One word in either family: of an IPv6 address only the last four bytes are compared. */
	return value->owner.word[ADDR_WORDS - 1] == pod_side(flow)->word[ADDR_WORDS - 1];
#else
	return 1;
#endif
}

INLINE int judge(struct __sk_buff *skb, const struct flow *flow)
{
	struct ct_key forward, reverse;
	struct ct_value fresh = {0};
	struct lpm_key peer;
	__u32 verdict;

	fill_ct_keys(flow, skb->ifindex, &forward, &reverse);
	if (is_hit(map_lookup(&aws_conntrack_map, &forward), flow))
		return TC_ACT_OK;
	if (is_hit(map_lookup(&aws_conntrack_map, &reverse), flow))
		return TC_ACT_OK;
	fill_peer(flow, &peer);
	verdict = scan_network_policy(&peer, flow) == NP_ALLOW;
	report(skb, flow, verdict, TIER_ERROR);
	/* Nothing is deleted here: an entry that is not a hit belongs to another pod. */
	if (!verdict)
		return TC_ACT_SHOT;
#if CT_VALUE_IS_ADDRESS
	fresh.owner = *pod_side(flow);
#else
	fresh.made_in = 1;
#endif
	map_update(&aws_conntrack_map, &forward, &fresh, BPF_ANY);
	return TC_ACT_OK;
}

#endif

SEC("tc_cls") int HANDLER(struct __sk_buff *skb)
{
	struct flow flow = {0};

	if (!parse(skb, &flow))
		return TC_ACT_OK;
	return judge(skb, &flow);
}

SEC("license") char _license[] = "GPL";
