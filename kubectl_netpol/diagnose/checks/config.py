"""CONFIG: versions, settings and rights of the VPC CNI, its agent and controller."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kubectl_netpol.diagnose import findings
from kubectl_netpol.diagnose.checks.base import (
    ADD_ON,
    ROLLS,
    UPGRADE,
    VALUES,
    NodeCase,
    Scope,
    agent_values,
    restart_agent,
)
from kubectl_netpol.model.finding import NO_EFFECT, Evidence, Finding, Kind, Remedy
from kubectl_netpol.policy import cni as settings
from kubectl_netpol.policy import nodes as node_kinds
from kubectl_netpol.policy.cni import Version
from kubectl_netpol.policy.nodes import AUTO_MODE
from kubectl_netpol.policy.world import World, labels_of, name_of, namespace_of, node_of, pod_ip, ref

Json = dict[str, Any]

DAEMONSET = "DaemonSet kube-system/aws-node"
SHOWN = 3
MANY_RESTARTS = 5
ENGINES = ("calico-node", "cilium", "antrea-agent", "kube-router", "weave-net", "canal", "ovnkube-node")
"""DaemonSets of others that enforce NetworkPolicy."""


def of_cluster(scope: Scope, *, wanted: bool = False) -> Iterator[Finding]:
    """All that concerns the whole cluster; of a single pod too, since it may be the reason of all the rest.

    ``wanted``: that nothing is enforced is told even where there is no policy yet.
    """
    yield from _controller(scope, wanted=wanted)
    yield from _switched_off(scope, wanted=wanted)
    yield from _crds(scope, wanted=wanted)
    yield from _versions(scope)
    yield from _rights(scope, wanted=wanted)
    yield from _agents(scope)
    yield from _plugins(scope, wanted=wanted)
    yield from _engines(scope)
    yield from _sandboxes(scope)


def _made(
    kind: Kind, title: str, evidence: Iterable[Evidence], remedies: Iterable[Remedy], subject: str = "cluster"
) -> Finding:
    return Finding(kind, title, tuple(evidence), tuple(remedies), subject=subject, everywhere=subject == "cluster")


def policies_of(world: World) -> list[Json]:
    """All policies that were read."""
    kinds = ("networkpolicies", "applicationnetworkpolicies", "clusternetworkpolicies")
    return [policy for kind in kinds for policy in world.snapshot.items(kind)]


def _endpoints_of(world: World) -> list[Json]:
    return [e for kind in ("policyendpoints", "clusterpolicyendpoints") for e in world.snapshot.items(kind)]


def _controller(scope: Scope, *, wanted: bool) -> Iterator[Finding]:
    """Agent facts 9, row 1. On clusters where it was never needed the key may lack while PolicyEndpoints are made."""
    cni, world = scope.cni, scope.world
    count = len(policies_of(world))
    if cni.controller_enabled is not False or not (count or wanted):
        return
    if cni.controller_setting is None and (_endpoints_of(world) or world.unread("policyendpoints")):
        return
    value = "no such key" if cni.controller_setting is None else f'"{cni.controller_setting}"'
    key = settings.CONTROLLER_KEY
    what = "the only policy" if count == 1 else f"the {count} policies" if count else "policies"
    title = f"the network policy controller is off ({key}: {value}): nobody resolves {what}"
    evidence = (
        Evidence(f"ConfigMap kube-system/{settings.CONFIG_MAP} {settings.CONTROLLER_KEY}", value),
        Evidence("PolicyEndpoints in the API", str(len(_endpoints_of(world)))),
    )
    if any(name_of(one) == settings.CONFIG_MAP for one in world.snapshot.items("configmaps")):
        command = f"""patch configmap {settings.CONFIG_MAP} --type merge -p '{{"data":{{"{key}":"true"}}}}'"""
    else:
        # EKS Auto Mode makes none.
        command = f"create configmap {settings.CONFIG_MAP} --from-literal={key}=true"
    switch = Remedy(f"kubectl -n kube-system {command}", "all policies of the cluster begin to be enforced")
    yield _made(findings.CONTROLLER_OFF, title, evidence, (switch,))


def _switched_off(scope: Scope, *, wanted: bool) -> Iterator[Finding]:
    cni, world = scope.cni, scope.world
    if cni.policy_enabled is not False:
        return
    policies, left = len(policies_of(world)), len(_endpoints_of(world))
    given = cni.flags.get("enable-network-policy")
    said = f"--enable-network-policy={given}" if given else "--enable-network-policy is not given"
    said = said if cni.agent_image else f"it has no container {settings.AGENT}"
    if policies or wanted:
        effect = "1 policy has" if policies == 1 else f"{policies or ''} policies have".strip()
        title = f"the agent is told not to enforce network policies ({said}): {effect} no effect on new pods"
        evidence = (
            Evidence(f"{DAEMONSET}, container {settings.AGENT}", said),
            Evidence("policies in the API", str(policies)),
        )
        on = Remedy(
            f"""{ADD_ON} --configuration-values '{{"enableNetworkPolicy":"true"}}'""",
            f"{VALUES}; all policies of the cluster begin to be enforced",
        )
        yield _made(findings.AGENT_OFF, title, evidence, (on,))
    if left:
        endpoints = f"{left} PolicyEndpoint{'' if left == 1 else 's'}"
        title = f"network policies are switched off ({said}), and {endpoints} and what was made of them are left"
        evidence = (
            Evidence(f"{DAEMONSET}, container {settings.AGENT}", said),
            Evidence("PolicyEndpoints in the API", str(left)),
        )
        clean = Remedy(
            "kubectl get networkpolicies -A",
            "none: it only reads; delete the policies before the feature is switched off, then replace the nodes: "
            "programs stay attached to pods until these or their node are gone",
        )
        yield _made(findings.LEFT_ON, title, evidence, (clean,))


def _crds(scope: Scope, *, wanted: bool) -> Iterator[Finding]:
    """Agent facts 8.6: the agent waits for what it watches, from 1.3.0 on for ClusterPolicyEndpoints too."""
    world, cni = scope.world, scope.cni
    on = cni.policy_enabled is True or (wanted and cni.known)
    newer = cni.agent is not None and cni.agent >= settings.FIRST_WITH_CLUSTER_POLICIES
    for kind, needed in (("policyendpoints", on or bool(policies_of(world))), ("clusterpolicyendpoints", on and newer)):
        if not needed or not world.snapshot.get(kind).absent:
            continue
        agent = f"agent {cni.agent}" if cni.agent else "the agent"
        title = f"the CRD {kind}.networking.k8s.aws is not installed: {agent} cannot watch what it has to enforce"
        evidence = (
            Evidence(f"/apis/networking.k8s.aws/v1alpha1/{kind}", "404"),
            Evidence(DAEMONSET, f"{agent}, network policies {'on' if cni.policy_enabled else 'off or not known'}"),
        )
        apply = Remedy(
            "kubectl apply -f https://raw.githubusercontent.com/aws/amazon-network-policy-controller-k8s/main/config/crd/"
            f"bases/networking.k8s.aws_{kind}.yaml",
            "adds the CRD; on EKS the control plane adds it by itself once the platform version is new enough",
        )
        yield _made(findings.NO_CRD, title, evidence, (apply,))


def _versions(scope: Scope) -> Iterator[Finding]:
    cni, world = scope.cni, scope.world
    server = settings.kubernetes_version(world)
    for what, version, first in (
        ("Kubernetes", server, settings.FIRST_KUBERNETES),
        ("the VPC CNI", cni.cni, settings.FIRST_WITH_POLICIES),
    ):
        if version is not None and version < first:
            title = f"{what} is {version}, and network policies need {first} or newer"
            evidence = (Evidence(what, str(version)), Evidence("EKS user guide, network policies", f"{first} or newer"))
            newer = UPGRADE
            if what == "Kubernetes":
                newer = Remedy(
                    "aws eks update-cluster-version --name CLUSTER --kubernetes-version VERSION",
                    "updates the control plane, one minor version at a time",
                )
            yield _made(findings.TOO_OLD, title, evidence, (newer,))
    yield from _defects(scope)
    if cni.cni is not None and cni.agent is not None and (why := settings.mismatch(cni.cni, cni.agent)):
        title = f"VPC CNI {cni.cni} and agent {cni.agent} do not go together: {why}"
        evidence = (
            Evidence(f"{DAEMONSET}, images", f"{cni.cni_image}, {cni.agent_image}"),
            Evidence(f"VPC CNI {cni.cni}", f"comes with agent {settings.EXPECTED_AGENT.get(str(cni.cni), 'unknown')}"),
        )
        yield _made(findings.MISMATCH, title, evidence, (Remedy(f"{ADD_ON} --resolve-conflicts OVERWRITE", ROLLS),))


def _defects(scope: Scope) -> Iterator[Finding]:
    cni, world = scope.cni, scope.world
    crd = world.snapshot.get("clusterpolicyendpoints")
    known = settings.defects(cni, without_crd=crd.absent)
    if not known:
        return
    worst = sorted(known, key=lambda one: ("error", "warning", "info").index(one.severity))
    title = f"VPC CNI {cni.cni} with agent {cni.agent}: {worst[0].text}"
    if len(known) > 1:
        title += f" (and {len(known) - 1} more known defects)"
    evidence = (
        Evidence(f"{DAEMONSET}, images", f"VPC CNI {cni.cni}, agent {cni.agent}"),
        *(Evidence(f"{one.of} {_span(one)}, {one.reference}", one.text) for one in worst),
    )
    yield _made(findings.KNOWN_DEFECT, title, evidence, (UPGRADE,))


def _span(one: settings.Defect) -> str:
    return f"{one.first} to {one.last}" if one.first != one.last else str(one.first)


# ---- rights


def _rights(scope: Scope, *, wanted: bool) -> Iterator[Finding]:
    """Agent facts 8.6; user pain, rows 14 and 15."""
    world, cni = scope.world, scope.cni
    role = next((r for r in world.snapshot.items("clusterroles") if name_of(r) == settings.AWS_NODE), None)
    if role is None or not cni.known:
        return
    kinds = ["policyendpoints"]
    if cni.agent is not None and cni.agent >= settings.FIRST_WITH_CLUSTER_POLICIES:
        kinds.append("clusterpolicyendpoints")
    verbs = {kind: [verb for verb in READ if not may(role, verb, AWS, kind)] for kind in kinds}
    lost = [f"{', '.join(missing)} {kind}" for kind, missing in verbs.items() if missing]
    if lost and (cni.policy_enabled or wanted):
        title = (
            f"ClusterRole {settings.AWS_NODE} lacks the right to {' and '.join(lost)}: the agent learns of no change"
        )
        evidence = (
            Evidence(f"ClusterRole {settings.AWS_NODE} rules for {AWS}", _given(role, AWS) or "none"),
            Evidence(
                f"agent {cni.agent or 'of an unknown release'} needs", ", ".join(f"get, list, watch {k}" for k in kinds)
            ),
        )
        yield _made(findings.AGENT_RIGHTS, title, evidence, (Remedy(f"{ADD_ON} --resolve-conflicts OVERWRITE", ROLLS),))
    if cni.is_on("ANNOTATE_POD_IP") and not may(role, "patch", "", "pods"):
        title = (
            f"ANNOTATE_POD_IP is on, and ClusterRole {settings.AWS_NODE} may not patch pods: addresses are seen late"
        )
        evidence = (
            Evidence(f"{DAEMONSET} ANNOTATE_POD_IP", cni.env.get("ANNOTATE_POD_IP", "")),
            Evidence(f"ClusterRole {settings.AWS_NODE} rules for pods", _given(role, "") or "none"),
        )
        add = Remedy(
            f"kubectl edit clusterrole {settings.AWS_NODE}",
            "changes the role: add the verb patch for the resource pods",
        )
        yield _made(findings.ANNOTATE, title, evidence, (add,))


AWS = "networking.k8s.aws"
READ = ("get", "list", "watch")


def may(role: Json, verb: str, group: str, resource: str) -> bool:
    """Whether the rules of a role allow it."""
    for rule in role.get("rules") or ():
        verbs, groups, resources = (rule.get(key) or () for key in ("verbs", "apiGroups", "resources"))
        if rule.get("resourceNames"):
            continue
        if {verb, "*"} & {*verbs} and {group, "*"} & {*groups} and {resource, "*"} & {*resources}:
            return True
    return False


def _given(role: Json, group: str) -> str:
    rules = [r for r in role.get("rules") or () if group in (r.get("apiGroups") or ())]
    return "; ".join(f"{', '.join(r.get('verbs') or ())} {', '.join(r.get('resources') or ())}" for r in rules)


# ---- the agent on its nodes


def _agents(scope: Scope) -> Iterator[Finding]:
    if scope.world.unread("pods", "nodes"):
        return
    if scope.cni.installed is False:
        yield from _no_daemonset(scope)
    if not scope.cni.known:
        return
    nodes = {node_of(pod) for pod in scope.pods}
    for name in sorted(nodes):
        node = scope.world.nodes.get(name)
        if node is None or not has_daemonset(node):
            continue
        yield from _agent(name, scope.agent_pods.get(name), scope)
        yield from _kernel(name, node)


def _no_daemonset(scope: Scope) -> Iterator[Finding]:
    """EKS Auto Mode needs none; on other nodes nobody writes maps then."""
    nodes = [scope.world.nodes[name] for name in sorted({node_of(p) for p in scope.pods}) if name in scope.world.nodes]
    without = [name_of(node) for node in nodes if has_daemonset(node)]
    count = len(policies_of(scope.world))
    if not without or not count:
        return
    names = ", ".join(without[:SHOWN]) + (f" and {len(without) - SHOWN} more" if len(without) > SHOWN else "")
    title = f"there is no {DAEMONSET}: no agent enforces policies on {names}"
    evidence = (Evidence("DaemonSets in kube-system", "no aws-node"), Evidence("policies in the API", str(count)))
    add = Remedy(
        "aws eks create-addon --cluster-name CLUSTER --addon-name vpc-cni "
        """--configuration-values '{"enableNetworkPolicy":"true"}'""",
        "installs the VPC CNI: pods of another CNI plugin have to be replaced",
    )
    yield _made(findings.AGENT_DOWN, title, evidence, (add,))


def old_kernels(world: World) -> Iterator[Finding]:
    """Of all nodes, also of those without pods."""
    for name, node in sorted(world.nodes.items()):
        if has_daemonset(node):
            yield from _kernel(name, node)


def has_daemonset(node: Json) -> bool:
    """Whether it is a node on which the DaemonSet aws-node runs."""
    labels = labels_of(node)
    system = labels.get("kubernetes.io/os") or ((node.get("status") or {}).get("nodeInfo") or {}).get("operatingSystem")
    foreign = labels.get("eks.amazonaws.com/compute-type") in ("fargate", "hybrid")
    return not foreign and node_kinds.kind_of(node) is not AUTO_MODE and system in (None, "", "linux")


def _agent(name: str, pod: Json | None, scope: Scope) -> Iterator[Finding]:
    status = agent_status(pod)
    if pod is None:
        title, there = f"no pod of aws-node is on node {name}: nobody writes the maps of its pods", "none"
    elif status is not None and not status.get("ready"):
        waiting = ((status.get("state") or {}).get("waiting") or {}).get("reason") or _last(status) or "not ready"
        title = f"the agent on node {name} does not run ({waiting}): changes of policies do not reach its pods"
        there = f"pod {ref(pod)} container {settings.AGENT}: {waiting}, {status.get('restartCount', 0)} restarts"
    else:
        yield from _restarts(name, pod, status, scope)
        return
    evidence = (
        Evidence(f"pods k8s-app=aws-node on node {name}", there),
        Evidence(f"pods with a network of their own on node {name}", str(sum(node_of(p) == name for p in scope.pods))),
    )
    logs = (
        Remedy(f"kubectl -n kube-system logs {name_of(pod)} -c {settings.AGENT} --previous", NO_EFFECT) if pod else None
    )
    look = logs or Remedy("kubectl -n kube-system describe daemonset aws-node", NO_EFFECT)
    remedies = (look, restart_agent(name)) if pod else (look, Remedy(f"kubectl describe node {name}", NO_EFFECT))
    found = _made(findings.AGENT_DOWN, title, evidence, remedies, f"node {name}")
    yield _on_node(found, name)


def _restarts(name: str, pod: Json, status: Json | None, scope: Scope) -> Iterator[Finding]:
    """User pain, row 21: memory, file descriptors, crash loops."""
    count = int((status or {}).get("restartCount") or 0)
    last = _last(status or {})
    if count < MANY_RESTARTS and "OOMKilled" not in last:
        return
    times, why = "once" if count == 1 else f"{count} times", f", last because of {last}" if last else ""
    title = f"the agent on node {name} was restarted {times}{why}"
    evidence = (
        Evidence(f"pod {ref(pod)} container {settings.AGENT} restartCount", str(count)),
        Evidence("its last end", last or "not known"),
    )
    logs = Remedy(f"kubectl -n kube-system logs {name_of(pod)} -c {settings.AGENT} --previous", NO_EFFECT)
    memory = agent_values(scope.cni, '{"resources":{"limits":{"memory":"1Gi"}}}')
    found = _made(findings.AGENT_RESTARTS, title, evidence, (logs, memory), f"node {name}")
    yield _on_node(found, name)


def _on_node(found: Finding, node: str) -> Finding:
    return Finding(found.kind, found.title, found.evidence, found.remedies, found.subject, node=node)


def agent_status(pod: Json | None) -> Json | None:
    """What a pod of aws-node says of its agent; None where it says nothing."""
    statuses: Iterable[Json] = ((pod or {}).get("status") or {}).get("containerStatuses") or ()
    return next((one for one in statuses if one.get("name") == settings.AGENT), None)


def _last(status: Json) -> str:
    ended: Mapping[str, Any] = (status.get("lastState") or {}).get("terminated") or {}
    words = [str(ended.get("reason") or ""), f"exit code {ended['exitCode']}" if "exitCode" in ended else ""]
    return ", ".join(filter(None, words))


def kernel_version(release: str) -> Version | None:
    """Of `6.1.147-172.266.amzn2023.x86_64`."""
    return Version.parse(".".join(release.replace("-", ".").split(".")[:3]))


def _kernel(name: str, node: Json) -> Iterator[Finding]:
    release = str(((node.get("status") or {}).get("nodeInfo") or {}).get("kernelVersion") or "")
    version = kernel_version(release)
    if version is None or version >= settings.FIRST_KERNEL:
        return
    needs = f"the agent's programs need {settings.FIRST_KERNEL}"
    title = f"node {name} has kernel {release}, and {needs}: they cannot be loaded"
    evidence = (
        Evidence(f"node {name} kernelVersion", release),
        Evidence("ring buffers in the kernel", f"from {settings.FIRST_KERNEL} on"),
    )
    newer = Remedy(
        "aws eks update-nodegroup-version --cluster-name CLUSTER --nodegroup-name GROUP", "replaces its nodes"
    )
    yield _on_node(_made(findings.OLD_KERNEL, title, evidence, (newer,), f"node {name}"), name)


# ---- what gets in the agent's way


def _plugins(scope: Scope, *, wanted: bool) -> Iterator[Finding]:
    cni = scope.cni
    if cni.is_on("ENABLE_BANDWIDTH_PLUGIN"):
        title = "the bandwidth plugin is on and takes the tc hooks that the agent needs: policies do not go with it"
        evidence = (
            Evidence(f"{DAEMONSET} ENABLE_BANDWIDTH_PLUGIN", cni.env.get("ENABLE_BANDWIDTH_PLUGIN", "")),
            Evidence("VPC CNI README", "the bandwidth plugin does not go with network policies"),
        )
        off = Remedy(
            "kubectl -n kube-system set env daemonset aws-node ENABLE_BANDWIDTH_PLUGIN=false",
            f"{ROLLS}; pods made before keep their shaping until they are replaced",
        )
        yield _made(findings.BANDWIDTH, title, evidence, (off,))
    if cni.veth_prefix not in ("", settings.VETH_PREFIX):
        names = f"host veths are called {cni.veth_prefix}…, and the agent looks for eni… and vlan…"
        title = f"{names}: it attaches to no new pod"
        evidence = (
            Evidence(f"{DAEMONSET} AWS_VPC_K8S_CNI_VETHPREFIX", cni.veth_prefix),
            Evidence("prefixes of the agent", "eni, vlan"),
        )
        back = Remedy(
            "kubectl -n kube-system set env daemonset aws-node AWS_VPC_K8S_CNI_VETHPREFIX=eni",
            f"{ROLLS}; pods made before keep their veths: replace them",
        )
        yield _made(findings.VETH_PREFIX, title, evidence, (back,))
    # On where it is not set (README of the VPC CNI, ENABLE_V4_EGRESS).
    if cni.is_on("ENABLE_V4_EGRESS", default=True) and ipv6(scope) and (wanted or _restrict_egress(scope.world)):
        title = "pods of this IPv6 cluster also have an IPv4 way out (ENABLE_V4_EGRESS), which no policy restricts"
        evidence = (
            Evidence(f"{DAEMONSET} ENABLE_V4_EGRESS", cni.env.get("ENABLE_V4_EGRESS") or "not set, which is on"),
            Evidence("the agent's programs", "look at the cluster's own family, on eth0 alone"),
        )
        off = Remedy(
            "kubectl -n kube-system set env daemonset aws-node ENABLE_V4_EGRESS=false", f"{ROLLS}; pods lose IPv4"
        )
        yield _made(findings.V4_EGRESS, title, evidence, (off,))
    if cni.is_on("ENABLE_V6_EGRESS") and not ipv6(scope) and (wanted or _restrict_egress(scope.world)):
        title = "pods of this IPv4 cluster also have an IPv6 way out (ENABLE_V6_EGRESS), which no policy restricts"
        evidence = (
            Evidence(f"{DAEMONSET} ENABLE_V6_EGRESS", cni.env.get("ENABLE_V6_EGRESS", "")),
            Evidence("the agent's programs", "look at the cluster's own family, on eth0 alone"),
        )
        off = Remedy(
            "kubectl -n kube-system set env daemonset aws-node ENABLE_V6_EGRESS=false",
            f"{ROLLS}; pods made before keep IPv6 until they are replaced",
        )
        yield _made(findings.V4_EGRESS, title, evidence, (off,))
    yield from _mode(scope)


def _mode(scope: Scope) -> Iterator[Finding]:
    """Agent facts 8.1: where it is not set, the CNI plugin does not call the agent; other values are refused."""
    cni = scope.cni
    value = cni.variable(settings.MODE_VARIABLE)
    if cni.mode or value is None or cni.cni is None or not cni.policy_enabled:
        return
    if cni.cni < (settings.FIRST_WITH_MODE if value else settings.FIRST_THAT_CALLS):
        return
    said = (
        f'"{value}", neither standard nor strict' if value else "not set: the CNI plugin tells the agent of no new pod"
    )
    title = f"{settings.MODE_VARIABLE} of {DAEMONSET} is {said}"
    evidence = (
        Evidence(f"{DAEMONSET} {settings.MODE_VARIABLE}", value or "not set"),
        Evidence(f"VPC CNI {cni.cni}", "standard or strict"),
    )
    back = Remedy(f"kubectl -n kube-system set env daemonset aws-node {settings.MODE_VARIABLE}=standard", ROLLS)
    yield _made(findings.BAD_MODE, title, evidence, (back,))


def _restrict_egress(world: World) -> bool:
    """Whether any policy does: where none does, nothing gets past one."""
    specs = (policy.get("spec") or {} for policy in policies_of(world))
    return any(spec.get("egress") or "Egress" in (spec.get("policyTypes") or ()) for spec in specs)


def ipv6(scope: Scope) -> bool:
    """By the agent's flag, else by the pods' addresses."""
    if scope.cni.ipv6 is not None and "enable-ipv6" in scope.cni.flags:
        return bool(scope.cni.ipv6)
    first = next((a for pod in scope.pods if (a := pod_ip(pod)) is not None), None)
    return first is not None and first.version == 6


def _engines(scope: Scope) -> Iterator[Finding]:
    found = [d for d in scope.world.snapshot.items("daemonsets") if name_of(d) in ENGINES]
    if not found:
        return
    names = ", ".join(f"DaemonSet {ref(one)}" for one in found)
    title = f"another engine enforces NetworkPolicies too: {names}; what one lets pass the other may drop"
    evidence = (
        Evidence("DaemonSets in the API", names),
        Evidence(DAEMONSET, f"network policies {'on' if scope.cni.policy_enabled else 'off or not known'}"),
    )
    look = Remedy(
        f"kubectl -n {namespace_of(found[0])} get daemonset {name_of(found[0])}",
        "none: it only reads; use one engine: remove the other and replace the nodes, whose rules stay behind",
    )
    yield _made(findings.OTHER_ENGINE, title, evidence, (look,))


def _sandboxes(scope: Scope) -> Iterator[Finding]:
    """Agent facts 8.5: the CNI plugin asks the agent for every new pod, and fails without an answer."""
    found = [
        event
        for event in scope.world.snapshot.items("events")
        if "failed to setup network policy" in str(event.get("message") or "") and _still_waiting(event, scope.world)
    ]
    if not found:
        return
    about = found[0].get("involvedObject") or {}
    names = f"{about.get('namespace')}/{about.get('name')}"
    title = f"pod {names} cannot be created: the CNI plugin got no answer from the agent" + (
        f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    )
    evidence = (
        Evidence(f"event FailedCreatePodSandBox of pod {names}", str(found[0].get("message") or "")[:200]),
        Evidence("last seen", f"{found[0].get('lastTimestamp') or 'not known'}, {found[0].get('count') or 1} times"),
    )
    look = Remedy("kubectl -n kube-system get pods -l k8s-app=aws-node -o wide", NO_EFFECT)
    made = _made(findings.NO_SANDBOX, title, evidence, (look,), f"pod {names}")
    yield Finding(
        made.kind,
        made.title,
        made.evidence,
        made.remedies,
        made.subject,
        pods=frozenset({(str(about.get("namespace")), str(about.get("name")))}),
    )


def _still_waiting(event: Json, world: World) -> bool:
    """Whether its pod is still there without an address: events outlive what they tell of."""
    about = event.get("involvedObject") or {}
    pod = world.pod(str(about.get("namespace") or ""), str(about.get("name") or ""))
    return pod is not None and pod_ip(pod) is None


def no_flow_log(cni: settings.Cni) -> Iterator[Finding]:
    """The agent logs no flow. That is the default, and only a question about drops brings it up."""
    if cni.event_logs is not False:
        return
    given = f"--enable-policy-event-logs={cni.flags['enable-policy-event-logs']}" if _given_flag(cni) else "not set"
    title = "the agent logs no flows (--enable-policy-event-logs of aws-eks-nodeagent is off): drops leave no trace"
    evidence = (
        Evidence(f"{DAEMONSET}, container {settings.AGENT}", given),
        Evidence("the agent's flow log", "written only with --enable-policy-event-logs=true"),
    )
    yield _made(findings.NO_FLOW_LOG, title, evidence, (agent_values(cni, '{"enablePolicyEventLogs":"true"}'),))


def _given_flag(cni: settings.Cni) -> bool:
    return "enable-policy-event-logs" in cni.flags


def of_node(case: NodeCase) -> Iterator[Finding]:
    """Filters of the agent on a node whose agent is told not to enforce."""
    if case.scope.cni.policy_enabled is not False:
        return
    filters = [one for rows in case.view.filters.values() for one in rows if str(one["name"]).startswith("handle_")]
    if not filters or _endpoints_of(case.scope.world):
        # With PolicyEndpoints left the cluster's own finding says so.
        return
    left = f"{len(filters)} filters of the agent are still attached"
    title = f"network policies are switched off, and {left} on node {case.name}"
    evidence = (
        Evidence(f"tc filters on node {case.name}", f"{len(filters)} of handle_ingress and handle_egress"),
        Evidence(f"{DAEMONSET}, container {settings.AGENT}", "--enable-network-policy=false"),
    )
    drain = Remedy(
        f"kubectl drain {case.name} --ignore-daemonsets", "moves its pods to other nodes; then replace the node"
    )
    yield case.made(findings.LEFT_ON, title, evidence, (drain,))
