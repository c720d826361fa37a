"""What runs against what the agent believes: each break is a real kernel object, each answer is looked at."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import article, breakage
from tests.lab.agent import Agent
from tests.lab.article import NGINX, NGINX_IP, NODE
from tests.lab.require import require_lab, require_tools
from tests.system.conftest import User, reaches, with_a_cluster_of_its_own

POD = ("default", NGINX)


@pytest.fixture
def user(plugin_bin: Path) -> Iterator[User]:
    yield from with_a_cluster_of_its_own(plugin_bin)


def agent(user: User) -> Agent:
    return user.lab.agents[NODE]


def data(user: User, *arguments: str) -> tuple[int, Any]:
    done = user.run(*arguments, "-o", "json")
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def codes_in(maps: Any, direction: str) -> list[str]:
    side = next(d for d in maps["directions"] if d["direction"] == direction)
    return [difference["code"] for difference in side["differences"]]


def codes_of_both(user: User) -> tuple[list[str], list[str]]:
    """(ingress, egress) of nginx."""
    _, maps = data(user, "maps", "pod/nginx")
    return codes_in(maps, "ingress"), codes_in(maps, "egress")


def codes(user: User) -> list[str]:
    return codes_of_both(user)[0]


def attached(user: User, pod: str = "accessfalse", *more: str) -> tuple[int, str, str]:
    """(exit code, verdict, code of the ATTACHED layer) of a flow to nginx."""
    code, answer = data(user, "explain", "pod/nginx", "--from", f"pod/{pod}", "--port", "80", *more)
    layer = next(x for x in answer["legs"][0]["layers"] if x["layer"] == "ATTACHED")
    return code, answer["verdict"], layer["code"]


def test_a_filter_on_one_hook_only(user: User) -> None:
    agent(user).remove_filter(*POD, "ingress")
    assert reaches(user.lab, "accessfalse")
    assert codes_of_both(user) == (["NO_FILTER", "ONE_HOOK_ONLY"], [])
    assert attached(user) == (0, "ALLOW", "NO_FILTER")


def test_no_clsact(user: User) -> None:
    agent(user).remove_clsact(*POD)
    assert reaches(user.lab, "accessfalse")
    assert codes_of_both(user) == (["NO_CLSACT"], ["NO_CLSACT"])
    assert attached(user) == (0, "ALLOW", "NO_FILTER")
    code, answer = data(user, "explain", "pod/nginx", "--direction", "ingress")
    assert (code, answer["layersAgree"]) == (1, False)


@pytest.mark.parametrize(
    ("returns", "true_passes", "false_passes"),
    [(breakage.OK, True, True), (breakage.SHOT, False, False), (breakage.UNSPEC, True, False)],
)
@pytest.mark.parametrize("how", ["filter", "tcx"])
def test_a_foreign_program_in_front(user: User, how: str, returns: int, true_passes: bool, false_passes: bool) -> None:
    """The packets show that the agent's program does not decide alone, so the tool does not say that it does."""
    if how == "tcx":
        number = agent(user).add_tcx(*POD, "ingress", returns)
    else:
        number = agent(user).add_foreign_filter(*POD, "ingress", returns)
    assert (reaches(user.lab, "accesstrue"), reaches(user.lab, "accessfalse")) == (true_passes, false_passes)
    assert codes(user) == ["FOREIGN_FIRST"]
    done = user.run("maps", "pod/nginx", "--direction", "ingress")
    assert f"program {number}" in done.stdout
    for pod in ("accesstrue", "accessfalse"):
        assert attached(user, pod) == (3, "UNKNOWN", "FOREIGN_FIRST")
    # What the agent's program would say does not settle it.
    assert attached(user, "accesstrue", "--ask-kernel") == (3, "UNKNOWN", "FOREIGN_FIRST")


def test_a_foreign_filter_behind_changes_nothing(user: User) -> None:
    agent(user).add_foreign_filter(*POD, "ingress", breakage.SHOT, "behind")
    assert (reaches(user.lab, "accesstrue"), reaches(user.lab, "accessfalse")) == (True, False)
    assert codes(user) == []
    assert attached(user, "accesstrue") == (0, "ALLOW", "ENTRY_ALLOWS")
    assert "other filter    pref 2 bpf foreign" in user.run("maps", "pod/nginx").stdout


def test_a_shared_block_of_filters(user: User) -> None:
    """The kernel answers for the block and not for the veth: the filter is seen all the same."""
    require_tools("tc")
    agent(user).share_block(*POD, "ingress")
    assert (reaches(user.lab, "accesstrue"), reaches(user.lab, "accessfalse")) == (True, False)
    assert codes(user) == []
    assert attached(user) == (1, "DROP", "NO_ENTRY")
    assert attached(user, "accesstrue") == (0, "ALLOW", "ENTRY_ALLOWS")
    # tc shows it too, and without a pinned program to compare with it may be anybody's.
    assert attached(user, "accessfalse", "--via", "tools", "--image", "busybox") == (3, "UNKNOWN", "FOREIGN_ONLY")


@pytest.mark.parametrize("how", ["protocol arp", "protocol ipv6", "protocol all chain 5"])
def test_a_filter_that_no_packet_meets(user: User, how: str) -> None:
    require_tools("tc")
    agent(user).replace_filter(*POD, "ingress", *how.split())
    assert reaches(user.lab, "accessfalse")
    assert codes(user) == ["NEVER_RUNS", "NO_FILTER", "ONE_HOOK_ONLY"]
    assert attached(user) == (0, "ALLOW", "NO_FILTER")
    code, answer = data(user, "explain", "pod/nginx", "--direction", "ingress")
    assert (code, answer["layersAgree"]) == (1, False)


def test_a_filter_for_the_pods_family_alone(user: User) -> None:
    require_tools("tc")
    agent(user).replace_filter(*POD, "ingress", "protocol", "ip")
    assert not reaches(user.lab, "accessfalse")
    assert codes(user) == []
    assert attached(user) == (1, "DROP", "NO_ENTRY")


def test_the_program_of_the_other_direction(user: User) -> None:
    """It takes the pod's own address for the peer: what it does follows from no map of this direction."""
    agent(user).run_other_direction(*POD, "ingress")
    assert "OTHER_DIRECTION" in codes(user)
    assert attached(user) == (3, "UNKNOWN", "OTHER_DIRECTION")
    code, verdict, _ = attached(user, "accessfalse", "--ask-kernel")
    assert (code, verdict) == ((0, "ALLOW") if reaches(user.lab, "accessfalse") else (1, "DROP"))
    code, answer = data(user, "explain", "pod/nginx", "--direction", "ingress")
    assert (code, answer["layersAgree"]) == (1, False)


@pytest.mark.parametrize(("returns", "passes"), [(breakage.XDP_PASS, True), (breakage.XDP_DROP, False)])
def test_an_xdp_program(user: User, returns: int, passes: bool) -> None:
    """It sees what the pod sends, before tc does: nothing of what is sent to the pod."""
    with agent(user).xdp(*POD, returns) as number:
        assert reaches(user.lab, "accesstrue") is passes  # the pod's answers meet it
        assert codes_of_both(user) == ([], ["FOREIGN_FIRST"])
        assert f"xdp             program {number}" in user.run("maps", "pod/nginx").stdout
        assert attached(user, "accesstrue") == (0, "ALLOW", "ENTRY_ALLOWS")
        out = ("explain", "pod/nginx", "--to", "pod/accesstrue", "--port", "80")
        code, answer = data(user, *out)
        assert (code, answer["legs"][0]["layers"][4]["code"]) == (3, "FOREIGN_FIRST")


def test_a_route_that_leads_elsewhere(user: User) -> None:
    agent(user).reroute(NGINX_IP, "lo")
    with pytest.raises(OSError, match="No route to host"):
        reaches(user.lab, "accesstrue")
    assert attached(user, "accesstrue") == (3, "UNKNOWN", "VETH_DISPUTED")
    done = user.run("explain", "pod/nginx")
    assert done.returncode == 3
    assert f"the route to {NGINX_IP} goes to lo" in done.stdout.splitlines()[0]


def test_another_load_of_the_program_runs(user: User) -> None:
    number = agent(user).reload_filter(*POD, "ingress")
    assert not reaches(user.lab, "accesstrue")
    found = codes(user)
    assert found[0] == "OTHER_PROGRAM"
    assert set(found[1:]) == {"OTHER_MAP"}
    # Its maps are empty, and a pod state that is missing drops everything.
    assert attached(user, "accesstrue") == (1, "DROP", "POD_STATE_MISSING")
    done = user.run("explain", "pod/nginx", "--direction", "ingress")
    assert f"but the filter runs program {number}, the pin " in done.stdout.splitlines()[0]
    # Both are shown: the empty map that packets meet, and the one that the agent fills.
    _, shown = data(user, "maps", "pod/nginx", "--direction", "ingress")
    [side] = shown["directions"]
    sizes = {kind: {m["name"]: len(m["entries"] or ()) for m in side[kind]} for kind in ("maps", "pinnedMaps")}
    assert (sizes["maps"]["ingress_map"], sizes["pinnedMaps"]["ingress_map"]) == (0, 2)
    text = user.run("maps", "pod/nginx", "--direction", "ingress").stdout
    assert "what the agent writes, and this program does not use:" in text


def test_a_replaced_conntrack_map(user: User) -> None:
    """As after an upgrade that met other objects: programs keep the old table, the agent cleans the new one."""
    before, after = agent(user).replace_global_map()
    assert codes_of_both(user) == (["OTHER_MAP"], ["OTHER_MAP"])
    text = user.run("maps", "pod/nginx", "--direction", "ingress").stdout
    assert f"the program uses aws_conntrack_map {before}, held by no pin; the agent writes map {after}" in text
    assert reaches(user.lab, "accesstrue")
    code, found = data(user, "conntrack", "pod/nginx")
    assert code == 0
    assert {flow["mapId"] for flow in found["flows"]} == {before}


def test_pins_are_gone(user: User) -> None:
    agent(user).remove_pins(*POD)
    _, whole = data(user, "maps", "pod/nginx")
    found = codes_in(whole, "ingress")
    assert found[0] == "NO_PROGRAM_PIN"
    assert set(found[1:]) == {"UNPINNED_MAP"}
    # The kernel goes on: what is attached decides, pinned or not.
    assert attached(user) == (1, "DROP", "NO_ENTRY")
    assert [d["code"] for d in whole["nodeDifferences"]] == ["POD_WITHOUT_PIN"]


def test_a_pin_of_one_map_is_gone(user: User) -> None:
    agent(user).remove_pins(*POD, "_ingress_pod_state_map")
    assert codes(user) == ["UNPINNED_MAP"]
    _, answer = data(user, "explain", "pod/nginx", "--from", "pod/accesstrue", "--port", "80")
    pinned = next(x for x in answer["legs"][0]["layers"] if x["layer"] == "PINNED")
    assert (pinned["verdict"], pinned["code"]) == ("UNKNOWN", "NOT_PINNED")
    assert answer["verdict"] == "ALLOW"
    # The agent cannot write the state any more, and says so.
    assert all("pod_state_map" in str(error) for error in user.lab.server.errors)
    user.lab.server.errors.clear()


def test_pins_of_both_forms(user: User) -> None:
    agent(user).pin_other_form(*POD)
    _, found = data(user, "maps", "pod/nginx")
    assert [d["code"] for d in found["differences"]] == ["BOTH_FORMS"]
    assert [d["code"] for d in found["nodeDifferences"]] == ["BOTH_FORMS"]
    assert found["podIdentifier"] == "nginx-f8d9c6576@default"
    assert attached(user, "accesstrue") == (0, "ALLOW", "ENTRY_ALLOWS")


def test_pins_that_point_to_the_maps_of_another(user: User) -> None:
    agent(user).swap_map_pins(POD, ("default", "accesstrue"))
    assert set(codes(user)) == {"OTHER_MAP"}
    user.lab.kubectl("label", "pod", "accessfalse", "access=true", "--overwrite")
    user.lab.settle()
    # The agent wrote the new rule into the maps that its pins show; packets meet others.
    assert not reaches(user.lab, "accessfalse")
    _, answer = data(user, "explain", "pod/nginx", "--from", "pod/accessfalse", "--port", "80")
    layers = {x["layer"]: x["verdict"] for x in answer["legs"][0]["layers"]}
    assert (layers["PINNED"], layers["ATTACHED"]) == ("ALLOW", "DROP")
    assert answer["cause"] == "kernel"


def test_pins_without_a_pod(user: User) -> None:
    agent(user).faults.add("leave_pins")
    user.lab.kubectl("delete", "pod", "accessfalse", "--now")
    user.lab.settle()
    _, found = data(user, "maps", "pod/nginx")
    [left] = found["nodeDifferences"]
    assert left["code"] == "PIN_WITHOUT_POD"
    assert "accessfalse@default" in left["text"]


@pytest.mark.parametrize("attach_second", [True, False])
def test_a_pod_with_two_interfaces(plugin_bin: Path, attach_second: bool) -> None:
    require_lab()
    require_tools("kubectl")
    with article.cluster(generation="1.4.2", links={"nginx": ["172.31.104.77"]}) as lab:
        article.build(lab)
        if not attach_second:
            lab.agents[NODE].remove_clsact(*POD, interface=1)
        _, found = data(User(lab, plugin_bin), "maps", "pod/nginx")
        [second] = found["otherInterfaces"]
        assert second["index"] == 1
        kinds = [[d["code"] for d in side["differences"]] for side in second["directions"]]
        assert kinds == ([[], []] if attach_second else [["NO_CLSACT"], ["NO_CLSACT"]])
        code, answer = data(User(lab, plugin_bin), "explain", "pod/nginx")
        assert (code, answer["layersAgree"]) == ((0, True) if attach_second else (1, False))
        assert ("its interface 1 is not like that" in answer["answer"]) is not attach_second


def test_a_branch_interface(plugin_bin: Path) -> None:
    """A pod with security groups of its own hangs on a vlan link."""
    require_lab()
    require_tools("kubectl")
    with article.cluster(veth_prefixes={"nginx": "vlan"}) as lab:
        article.build(lab)
        code, found = data(User(lab, plugin_bin), "explain", "pod/nginx")
        assert (code, found["kernel"]["hostVeth"], found["kernel"]["hostVethConfirmed"]) == (
            0,
            "vlan9c515deae49",
            True,
        )
