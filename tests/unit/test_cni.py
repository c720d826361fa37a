"""How the VPC CNI is set up, as ``policy.cni`` reads it from its DaemonSet and ConfigMap."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kubectl_netpol.model.snapshot import Collection, Snapshot
from kubectl_netpol.policy import cni as settings
from kubectl_netpol.policy.cni import Cni, Version, cni_of
from kubectl_netpol.policy.world import World

Json = dict[str, Any]
MODE = settings.MODE_VARIABLE


def version(text: str) -> Version:
    found = Version.parse(text)
    assert found is not None, text
    return found


def image(name: str, tag: str) -> str:
    return f"602401143452.dkr.ecr.us-west-2.amazonaws.com/{name}:{tag}"


def daemonset(
    cni: str = "v1.23.1-eksbuild.1",
    agent: str | None = "v1.4.2-eksbuild.1",
    args: tuple[str, ...] = ("--enable-network-policy=true",),
    env: tuple[Json, ...] = ({"name": MODE, "value": "standard"},),
) -> Json:
    containers = [{"name": "aws-node", "image": image("amazon-k8s-cni", cni), "env": list(env)}]
    if agent is not None:
        containers.append(
            {"name": "aws-eks-nodeagent", "image": image("amazon/aws-network-policy-agent", agent), "args": list(args)}
        )
    metadata = {"name": "aws-node", "namespace": "kube-system"}
    return {"metadata": metadata, "spec": {"template": {"spec": {"containers": containers}}}}


def config_map(**data: str) -> Json:
    return {"metadata": {"name": "amazon-vpc-cni", "namespace": "kube-system"}, "data": data}


def read(*daemonsets: Json, maps: Collection | None = None, reason: str = "") -> Cni:
    collections = {"daemonsets": Collection(daemonsets, reason), "configmaps": maps or Collection()}
    return cni_of(World(Snapshot(collections)))


# ---- versions


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("v1.21.1-eksbuild.3", Version(1, 21, 1)),
        ("1.29", Version(1, 29, 0)),
        ("v1.31.4-eks-473151a", Version(1, 31, 4)),
        ("v1.0.8+dirty", Version(1, 0, 8)),
        ("  1.14.0 ", Version(1, 14, 0)),
        ("latest", None),
        ("v1", None),
        ("1.2.3.4", None),
        ("1.2.3rc1", None),
        ("١.٢.٣", None),
        ("1.999999.1", None),
        ("", None),
        (None, None),
        (1.29, Version(1, 29, 0)),
        ([1], None),
    ],
)
def test_versions(text: object, expected: Version | None) -> None:
    assert Version.parse(text) == expected


def test_versions_are_ordered_as_numbers() -> None:
    assert Version(1, 9, 0) < Version(1, 10, 0) < Version(1, 10, 1) < Version(2, 0, 0)
    assert str(Version(1, 14)) == "1.14.0"


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        (image("amazon-k8s-cni", "v1.23.1-eksbuild.1"), Version(1, 23, 1)),
        ("localhost:5000/cni:v1.2.3", Version(1, 2, 3)),
        ("localhost:5000/cni", None),
        ("x/cni:v1.2.3@sha256:" + "0" * 64, Version(1, 2, 3)),
        ("x/cni@sha256:" + "0" * 64, None),
        ("x/cni:edge", None),
        ("", None),
    ],
)
def test_the_version_of_an_image_is_its_tag(reference: str, expected: Version | None) -> None:
    assert settings.image_version({"image": reference}) == expected


def test_the_version_of_the_server() -> None:
    def of(*items: Json) -> Version | None:
        return settings.kubernetes_version(World(Snapshot({"versions": Collection(items)})))

    assert of({"metadata": {"name": "kubernetes"}, "gitVersion": "v1.32.9-eks-113cf36"}) == Version(1, 32, 9)
    assert of({"metadata": {"name": "kubernetes"}, "gitVersion": "tomorrow"}) is None
    assert of() is None


# ---- flags and variables


def test_flags_are_kept_as_they_are_given() -> None:
    given = ["--enable-network-policy=true", "-log-level=debug", "--enable-ipv6", "controller", "--x=a=b", "--y="]
    assert settings.parse_flags(given) == {
        "enable-network-policy": "true",
        "log-level": "debug",
        "enable-ipv6": "true",
        "x": "a=b",
        "y": "",
    }


@pytest.mark.parametrize("text", ["1", "t", "T", "true", "TRUE", "True"])
def test_what_go_reads_as_true(text: str) -> None:
    assert settings.truth(text)


@pytest.mark.parametrize("text", ["0", "false", "yes", "on", "tRUE", " true", "", "2"])
def test_what_go_does_not_read_as_true(text: str) -> None:
    assert not settings.truth(text)


@pytest.mark.parametrize(
    ("args", "enabled", "ipv6", "logs"),
    [
        ((), False, False, False),
        (("--enable-network-policy=true",), True, False, False),
        (("--enable-network-policy",), True, False, False),
        (("--enable-network-policy=false", "--enable-ipv6=true"), False, True, False),
        (("--enable-network-policy=true", "--enable-policy-event-logs=true"), True, False, True),
    ],
)
def test_flags_of_the_agent(args: tuple[str, ...], enabled: bool, ipv6: bool, logs: bool) -> None:
    found = read(daemonset(args=args))
    assert (found.policy_enabled, found.ipv6, found.event_logs) == (enabled, ipv6, logs)


def test_without_its_container_the_agent_enforces_nothing() -> None:
    found = read(daemonset(agent=None))
    assert found.known and found.has_agent is False
    assert (found.policy_enabled, found.agent, found.agent_image) == (False, None, "")


def test_variables() -> None:
    env = (
        {"name": "ENABLE_POD_ENI", "value": "true"},
        {"name": "ENABLE_BANDWIDTH_PLUGIN", "value": ""},
        {"name": "ENABLE_V4_EGRESS", "valueFrom": {}},
        {"value": "of no name"},
    )
    found = read(daemonset(env=env))
    assert found.is_on("ENABLE_POD_ENI") is True
    assert found.is_on("ENABLE_BANDWIDTH_PLUGIN") is False
    assert found.is_on("ENABLE_BANDWIDTH_PLUGIN", default=True) is True, "an empty variable is one that is not set"
    assert found.is_on("ENABLE_V4_EGRESS", default=True) is None and found.variable("ENABLE_V4_EGRESS") is None
    assert found.is_on("NOT_SET", default=True) is True and found.variable("NOT_SET", "x") == "x"
    assert found.hidden == {"ENABLE_V4_EGRESS"}


@pytest.mark.parametrize(
    ("cni", "env", "mode"),
    [
        ("v1.23.1", ({"name": MODE, "value": "strict"},), "strict"),
        ("v1.23.1", ({"name": MODE, "value": " Standard "},), "standard"),
        ("v1.23.1", ({"name": MODE, "value": "none"},), ""),
        ("v1.23.1", ({"name": MODE, "value": ""},), ""),
        ("v1.23.1", (), ""),
        ("v1.23.1", ({"name": MODE, "valueFrom": {}},), ""),
        ("v1.16.4", ({"name": MODE, "value": "strict"},), "standard"),
        ("v1.17.1", ({"name": MODE, "value": "strict"},), "strict"),
        ("edge", ({"name": MODE, "value": "strict"},), "strict"),
    ],
)
def test_the_enforcing_mode(cni: str, env: tuple[Json, ...], mode: str) -> None:
    assert read(daemonset(cni=cni, env=env)).mode == mode


@pytest.mark.parametrize(
    ("env", "prefix"),
    [
        ((), "eni"),
        (({"name": "AWS_VPC_K8S_CNI_VETHPREFIX", "value": "cali"},), "cali"),
        (({"name": "AWS_VPC_K8S_CNI_VETHPREFIX", "value": ""},), "eni"),
        (({"name": "AWS_VPC_K8S_CNI_VETHPREFIX", "valueFrom": {}},), ""),
    ],
)
def test_the_prefix_of_veths(env: tuple[Json, ...], prefix: str) -> None:
    assert read(daemonset(env=env)).veth_prefix == prefix


def test_where_the_agent_logs() -> None:
    assert read(daemonset()).log_file == "/var/log/aws-routed-eni/network-policy-agent.log"
    assert read(daemonset(args=("--log-file=stdout",))).log_file == "stdout"
    assert read(daemonset(args=("--log-file=",))).log_file == "/var/log/aws-routed-eni/network-policy-agent.log"


# ---- what was not read is not known


UNKNOWN = ("policy_enabled", "event_logs", "ipv6", "has_agent")


def test_a_daemonset_that_could_not_be_read() -> None:
    found = read(reason="daemonsets is forbidden")
    assert (found.installed, found.known, found.unread) == (None, False, "daemonsets is forbidden")
    assert {getattr(found, name) for name in UNKNOWN} == {None}
    assert (found.mode, found.veth_prefix) == ("", "")
    assert found.is_on("ENABLE_POD_ENI") is None and found.variable(MODE) is None


def test_a_daemonset_that_is_not_there() -> None:
    other = daemonset()
    other["metadata"] = {"name": "aws-node", "namespace": "default"}
    for found in (read(), read(other)):
        assert (found.installed, found.known, found.unread) == (False, False, "")
        assert {getattr(found, name) for name in UNKNOWN} == {None}


def test_of_all_daemonsets_that_one_alone_was_read() -> None:
    found = read(daemonset(), reason="only kube-system/aws-node was read: forbidden")
    assert found.known and found.cni == Version(1, 23, 1)


@pytest.mark.parametrize(
    ("maps", "enabled", "setting"),
    [
        (Collection((config_map(**{settings.CONTROLLER_KEY: "true"}),)), True, "true"),
        (Collection((config_map(**{settings.CONTROLLER_KEY: " True "}),)), True, " True "),
        (Collection((config_map(**{settings.CONTROLLER_KEY: "false"}),)), False, "false"),
        (Collection((config_map(),)), False, None),
        (Collection(), False, None),
        (Collection(reason="forbidden"), None, None),
    ],
)
def test_the_controller(maps: Collection, enabled: bool | None, setting: str | None) -> None:
    found = read(daemonset(), maps=maps)
    assert (found.controller_enabled, found.controller_setting) == (enabled, setting)
    assert found.controller_unread == maps.reason


def test_it_is_read_once_for_each_world() -> None:
    world = World(Snapshot({"daemonsets": Collection((daemonset(),))}))
    assert cni_of(world) is cni_of(world)
    assert cni_of(World(world.snapshot)) is not cni_of(world)


# ---- the agent's pods


def agent_pod(name: str, node: str, made: str, tag: str = "v1.4.2", **metadata: str) -> Json:
    return {
        "metadata": {
            "name": name,
            "namespace": "kube-system",
            "labels": {"k8s-app": "aws-node"},
            "creationTimestamp": made,
            **metadata,
        },
        "spec": {"nodeName": node, "containers": [{"name": "aws-eks-nodeagent", "image": f"agent:{tag}"}]},
    }


def test_of_two_pods_of_a_node_the_one_that_stays_counts() -> None:
    pods = [
        agent_pod("ending", "a", "2026-01-02T00:00:00Z", "v1.4.1", deletionTimestamp="2026-01-03T00:00:00Z"),
        agent_pod("old", "a", "2026-01-01T00:00:00Z"),
        agent_pod("older", "b", "2026-01-01T00:00:00Z"),
        agent_pod("newer", "b", "2026-01-02T00:00:00Z"),
        agent_pod("waits", "", "2026-01-02T00:00:00Z"),
        {**agent_pod("x", "c", ""), "metadata": {"name": "x", "namespace": "kube-system", "labels": {}}},
    ]
    for given in (pods, pods[::-1]):
        found = settings.agent_pods(World(Snapshot({"pods": Collection(tuple(given))})))
        assert {node: pod["metadata"]["name"] for node, pod in found.items()} == {"a": "old", "b": "newer"}


def test_the_agent_of_one_node() -> None:
    assert settings.agent_version_on(agent_pod("x", "a", "", "v1.4.1-eksbuild.1")) == Version(1, 4, 1)
    assert settings.agent_version_on({"metadata": {}, "spec": {"containers": [{"name": "aws-node"}]}}) is None
    assert settings.agent_version_on({"metadata": {}}) is None


# ---- releases that do not go together


def test_what_amazon_releases_together_goes_together() -> None:
    assert len(settings.EXPECTED_AGENT) > 30
    for cni, agent in settings.EXPECTED_AGENT.items():
        assert settings.mismatch(version(cni), version(agent)) == "", (cni, agent)


@pytest.mark.parametrize(
    ("cni", "agent", "text"),
    [
        ("1.23.0", "1.4.0", "ipamd.sock"),
        ("1.22.4", "1.4.1", "ipamd.sock"),
        ("1.20.2", "1.2.5", "npa.sock"),
        ("1.20.1", "1.2.6", "npa.sock"),
        ("1.23.0", "1.4.1", ""),
        ("1.24.0", "1.5.0", ""),
        ("1.19.2", "1.4.2", ""),
    ],
)
def test_each_side_of_a_changed_interface(cni: str, agent: str, text: str) -> None:
    found = settings.mismatch(version(cni), version(agent))
    assert text in found and bool(found) is bool(text)


# ---- known defects


def texts(found: Cni, **more: bool | None) -> list[str]:
    return [one.reference for one in settings.defects(found, **more)]


@pytest.mark.parametrize("defect", settings.KNOWN_DEFECTS, ids=lambda one: f"{one.of}-{one.first}-{one.last}")
def test_a_defect_covers_its_releases_and_no_others(defect: settings.Defect) -> None:
    after = replace(defect.last, patch=defect.last.patch + 1)
    before = replace(defect.first, patch=defect.first.patch - 1)
    assert defect.covers(defect.first) and defect.covers(defect.last)
    assert not defect.covers(after) and not defect.covers(before) and not defect.covers(None)
    assert defect.of in ("cni", "agent") and defect.severity in ("error", "warning", "info")
    assert defect.text and defect.reference


def test_each_text_says_what_mends_it() -> None:
    for defect in settings.KNOWN_DEFECTS:
        assert "mends" in defect.text, defect


def test_the_newest_release_has_none() -> None:
    assert settings.defects(read(daemonset())) == ()
    assert settings.defects(read(daemonset(cni="edge", agent="edge"))) == ()
    assert settings.defects(read()) == ()


def test_defects_of_the_cni_and_of_the_agent_are_told_apart() -> None:
    assert "amazon-vpc-cni-k8s issue 3553" in texts(read(daemonset("v1.21.0", "v1.3.1")))
    assert "amazon-vpc-cni-k8s issue 3553" not in texts(read(daemonset("v1.21.1", "v1.3.0")))


def test_a_defect_that_needs_the_crd_to_lack() -> None:
    found, reference = read(daemonset("v1.21.1", "v1.3.3")), "aws-network-policy-agent issue 553"
    assert reference in texts(found, without_crd=True)
    assert reference not in texts(found, without_crd=False) and reference not in texts(found)


def test_a_defect_of_ipv6_clusters() -> None:
    def count(ipv6: str) -> int:
        found = read(daemonset("v1.20.1", "v1.2.5", ("--enable-network-policy=true", f"--enable-ipv6={ipv6}")))
        return sum(one.ipv6 for one in settings.defects(found))

    assert (count("true"), count("false")) == (1, 0)
