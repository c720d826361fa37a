"""Words that tell nothing about whose cluster it is, and that an answer may need."""

from __future__ import annotations

import re

KEPT_DOMAINS = ("kubernetes.io", "k8s.io", "k8s.aws", "amazonaws.com", "karpenter.sh")
"""Label keys of these domains stay; what they are set to is renamed like any other value."""
KEPT_LINKS = re.compile(r"lo|(eth|ens|eno|enp|dummy|docker|cni|bond|pod-id-link|kube-ipvs)[0-9a-z]{0,8}|nodelocaldns")
"""Network interfaces that are not called after a pod."""

_SYSTEM = """
    nodeagent default kube system public node lease kubernetes k8s io aws amazon vpc cni eks amazonaws com networking
    coredns dns local nodelocaldns proxy app name component metadata calico canal cilium antrea agent weave net
    router ovnkube kyverno gatekeeper linux windows amd64 arm64 fargate auto ec2 hybrid compute type os arch
    zone region topology true false yes no ingress egress map maps program programs handle pod state cp global
    policy events conntrack
"""
"""Of Kubernetes, EKS and the agent. A name of the user's that has one of them keeps that word."""
KEPT_WORDS = frozenset(_SYSTEM.split())

_PLAIN = """
    accessreviews versions
    a about above accept access account action add added address addresses admin after again agent all allow
    allowed already also an and annotation annotations any api apigroup apiserver applicationnetworkpolicies
    argument arguments array as assign associated at attach attached attaching available away back bad balance
    base64 baseline be because been before begin being below bigger bin binary bits boolean both bpf bpffs bps
    broken buffer but by bytes cache called caller cannot cap capability cat cause change changed changes check
    chroot cidr class classifier clean cleanup cli client close closed cluster clusternetworkpolicies
    clusterpolicyendpoint clusterpolicyendpoints clusterrole clusterroles cmd code column command complete
    config configmap configmaps configured connect connection connections container containerd contains context
    controller could count cpu crd crds create created creating creation cri current daemonset daemonsets
    damaged data deadline debug decode default delete deleted denied deny deployment deployments desc describe
    dest destination detach detail details dev device dial did different digest dip direction directory disabled
    does doing done down dpanic dport dropped dump duplicate during eacces each ebpf ebusy einval eks else empty
    enabled end endpoint endpoints eni enoent enomem enospc enosys enotsup enotsupp entries entry env eof
    eopnotsupp eperm erofs error errors etc event events every exceeded exec exist existing exists exit expected
    expired failed failedcreatepodsandbox failing failure false fatal fd few field file files filter filters
    find finished first flag flags flow followed for forbidden found four from fs function get getting gone got
    group groups grpc handle handler has have header here hit hook host hour hours http https i icmp id ids if
    ifindex ignored image in index info information initialize input instead int integer interface interfaces
    internal interrupted into invalid ip ipam ipamd ips iptables ipv4 ipv6 is it item items iteration its jit
    job json kb kernel key keys kill killed kind know known kubelet label labels large last layout left length
    level lib limit line lines link links list listed load loaded local lock log logger logs long longer lookup
    loop lpm machine make makes many map maps max maximum may memory message messages method metrics mib mnt
    mode module more mount mounted msg must na name names namespace namespaces near need needs net netlink netns
    network networkpolicies networkpolicy new next no node nodes none not nothing now npa null number object
    objects of off offset ok old on once one only open opened operation opt option options or order other others
    out outside over owner packet packets pair panic parse parser part path paths peer pending per permission
    permitted pf pid pin pinned pins place plugin pod pods point policies policy policyendpoint policyendpoints
    policyverdict port ports prefix prefixes present priority probe proc process prog program programs proto
    protocol put python python3 qdisc queue quota rate re reached read reading readonly ready reason received
    reconcile reconciler reconcilers recover recovery refused rejected release removed replaced replicaset
    replicasets request requests reserved reset resource resources response restart result resync ret retries
    retry retrying returned role root route routed routes rpc rule rules run running runtime rx same sandbox
    sbin scope sctp sdk second seconds section see selector selfsubjectaccessreviews send server service
    services set setup several shell should shut signal since sip size slice slices so sock socket some source
    specified sport src stacktrace start started starting state status stderr stdin stdout still stopped stream
    string struct success such supported sync sys system table tag target task tc tcp tcx text than that the
    their them then there these they this those three through tier time timed timeout times timestamp tls tmp to
    together token too took torn total transport trie tried tries try ts two tx type udp unable unauthorized
    under unexpected unix unknown unreachable until up update updated updates updating use used user using usr
    v6 validation value values var verb verdict version veth via wait waiting warn warning was watch way were
    what when where which while whole why will with within without work write writing written wrong xdp yet you
    zero
"""
"""Of the messages of Kubernetes, the kernel and the agent."""
PLAIN_WORDS = frozenset(_PLAIN.split()) | KEPT_WORDS
