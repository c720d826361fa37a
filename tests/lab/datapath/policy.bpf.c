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
SEC("maps") struct map_def CP_MAP = {
	BPF_MAP_TYPE_LPM_TRIE, sizeof(struct lpm_key), sizeof(struct cp_value), 65536, BPF_F_NO_PREALLOC,
};
SEC("maps") struct map_def STATE_MAP = {
	BPF_MAP_TYPE_HASH, sizeof(__u32), sizeof(__u8), POD_STATE_KEYS, BPF_F_NO_PREALLOC,
};
SEC("maps") struct map_def aws_conntrack_map = {
	BPF_MAP_TYPE_LRU_HASH, sizeof(struct ct_key), sizeof(struct ct_value), CT_ENTRIES, 0,
};
SEC("maps") struct map_def policy_events = {BPF_MAP_TYPE_RINGBUF, 0, 0, EVENT_BYTES, 0};

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

struct ipv4_header {
	__u8 version_ihl;
	__u8 tos;
	__u16 total;
	__u16 id;
	__u16 fragment;
	__u8 ttl;
	__u8 protocol;
	__u16 checksum;
	__u32 src;
	__u32 dst;
};

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
	struct ipv4_header *ip = (void *)(eth + 1);
	void *l4 = (void *)(ip + 1); /* fixed offset: the header length field is not honoured */
	struct ports *ports = l4;

	if ((void *)(eth + 1) > end || NTOHS(eth->type) != FAMILY_ETHERTYPE)
		return 0;
	if (l4 > end || ip->version_ihl >> 4 != 4)
		return 0;
	flow->src.word[0] = ip->src;
	flow->dst.word[0] = ip->dst;
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

INLINE void fill_ct_keys(const struct flow *flow, __u32 ifindex, struct ct_key *forward, struct ct_key *reverse)
{
	__builtin_memset(forward, 0, sizeof(*forward));
	__builtin_memset(reverse, 0, sizeof(*reverse));
	forward->src = flow->src;
	forward->src_port = flow->src_port;
	forward->dst = flow->dst;
	forward->dst_port = flow->dst_port;
	forward->protocol = flow->protocol;
	forward->owner = IS_EGRESS ? flow->src : flow->dst;
	forward->ifindex = ifindex;
	reverse->src = flow->dst;
	reverse->src_port = flow->dst_port;
	reverse->dst = flow->src;
	reverse->dst_port = flow->src_port;
	reverse->protocol = flow->protocol;
	reverse->owner = forward->owner;
	reverse->ifindex = ifindex;
}

/* Every pair with a denying NetworkPolicy state falls through to 7, as does (applied, applied). */
INLINE __u8 state_pair(__u8 np, __u8 cp)
{
	if (np == STATE_ALLOW)
		return cp == STATE_ALLOW ? 2 : cp == STATE_DENY ? 3 : 4;
	if (np == STATE_APPLIED)
		return cp == STATE_ALLOW ? 5 : cp == STATE_DENY ? 6 : 7;
	return 7;
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
	event.packet_size = skb->len;
	event.is_egress = IS_EGRESS;
	event.tier = tier;
	ringbuf_output(&policy_events, &event, sizeof(event), 0);
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

enum np_answer { NP_DENY, NP_ALLOW, NP_PASS };

INLINE int np_slot_matches(const struct np_slot *slot, __u32 protocol, __u32 port)
{
	if (slot->protocol != PROTO_ANY && slot->protocol != protocol)
		return 0;
	return slot->start_port == 0 || port == slot->start_port ||
	       (port > slot->start_port && port <= slot->end_port);
}

/* Unused slots are all zero and are not skipped: IP protocol 0 matches them. */
INLINE enum np_answer scan_network_policy(const struct lpm_key *peer, const struct flow *flow, __u8 np_state)
{
	const struct np_value *value = map_lookup(&NP_MAP, peer);

	if (!value)
		return np_state == STATE_APPLIED ? NP_DENY : NP_PASS;
#pragma clang loop unroll(disable)
	for (int i = 0; i < NP_SLOTS; i++) {
		const struct np_slot *slot = &value->slot[i];

		if (slot->protocol == PROTO_RESERVED)
			return NP_DENY;
		if (np_slot_matches(slot, flow->protocol, flow->dst_port))
			return NP_ALLOW;
	}
	return NP_DENY;
}

/* 1 accept, 0 deny; which tier said so in *tier */
INLINE __u32 evaluate(const struct flow *flow, __u8 np_state, __u8 *tier)
{
	struct lpm_key peer = {.prefixlen = FAMILY_PREFIX};
	struct winner overall = {0}, baseline = {0};
	enum np_answer answer;

	peer.addr = IS_EGRESS ? flow->dst : flow->src;
	scan_cluster_policy(&peer, flow, &overall, &baseline);
	if (overall.found && overall.priority <= LAST_ADMIN_PRIORITY && overall.action != ACTION_PASS) {
		*tier = TIER_ADMIN;
		return overall.action == ACTION_ACCEPT;
	}
	answer = scan_network_policy(&peer, flow, np_state);
	if (answer != NP_PASS) {
		*tier = TIER_NETWORK_POLICY;
		return answer == NP_ALLOW;
	}
	if (baseline.found && baseline.action != ACTION_PASS) {
		*tier = TIER_BASELINE;
		return baseline.action == ACTION_ACCEPT;
	}
	*tier = TIER_DEFAULT;
	return np_state == STATE_ALLOW;
}

INLINE void seen(struct ct_value *value)
{
#if NPA_GEN >= 10402
	value->last_seen = ktime_get_ns();
#endif
}

SEC("tc_cls") int HANDLER(struct __sk_buff *skb)
{
	struct flow flow = {0};
	struct ct_key forward, reverse;
	struct ct_value fresh, *known, *back;
	__u32 np_key = KEY_NETWORK_POLICY, cp_key = KEY_CLUSTER_POLICY, verdict;
	__u8 *np_state, *cp_state, tier = TIER_ERROR;

	if (!parse(skb, &flow))
		return TC_ACT_OK;
	cp_state = map_lookup(&STATE_MAP, &cp_key);
	np_state = map_lookup(&STATE_MAP, &np_key);
	if (!cp_state || !np_state) {
		report(skb, &flow, 0, TIER_ERROR);
		return TC_ACT_SHOT;
	}
	fresh.pair = state_pair(*np_state, *cp_state);
	fill_ct_keys(&flow, skb->ifindex, &forward, &reverse);
	known = map_lookup(&aws_conntrack_map, &forward);
	if (known && known->pair == fresh.pair) {
		seen(known);
		return TC_ACT_OK;
	}
	/* An entry of another state pair is judged again; the reverse direction is not asked then. */
	if (!known && (back = map_lookup(&aws_conntrack_map, &reverse))) {
		seen(back);
		return TC_ACT_OK;
	}
	verdict = evaluate(&flow, *np_state, &tier);
	report(skb, &flow, verdict, tier);
	if (!verdict) {
		map_delete(&aws_conntrack_map, &forward);
		return TC_ACT_SHOT;
	}
	seen(&fresh);
	map_update(&aws_conntrack_map, &forward, &fresh, BPF_ANY);
	return TC_ACT_OK;
}

SEC("license") char _license[] = "GPL";
