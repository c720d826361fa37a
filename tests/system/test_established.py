"""Established connections outlive a policy change: the packets show it, `conntrack` and `explain` say it."""

from __future__ import annotations

import ipaddress
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import article, bpfsys
from tests.lab.agent import lpm_key
from tests.lab.article import NGINX, NGINX_IP, NODE, TRUE_IP
from tests.lab.require import require_lab, require_tools
from tests.lab_selftest.helpers import connects
from tests.system.conftest import User, answers


@pytest.fixture
def user(plugin_bin: Path) -> Iterator[User]:
    require_lab()
    require_tools("kubectl")
    with article.cluster(generation="1.4.2") as lab:
        article.build(lab)
        yield User(lab, plugin_bin)
        assert not lab.server.errors


def data(user: User, *arguments: str) -> tuple[int, Any]:
    done = user.run(*arguments, "-o", "json")
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_a_connection_that_the_rules_would_drop_now(user: User) -> None:
    with user.lab.sandbox("default", "accesstrue").socket() as connection:
        connection.settimeout(2)
        connection.connect((NGINX_IP, 80))
        port = connection.getsockname()[1]
        user.lab.kubectl("label", "pod", "accesstrue", "access=false", "--overwrite")
        user.lab.settle()
        assert connects(user.lab.sandbox("default", "accesstrue"), NGINX_IP, 80) != "open"
        assert answers(connection)

        code, found = data(user, "conntrack", "pod/nginx")
        assert (code, found["onlyEstablished"]) == (0, 1)
        [flow] = [f for f in found["flows"] if f["onlyEstablished"]]
        assert (flow["source"], flow["sourcePort"], flow["rulesNow"]) == (TRUE_IP, port, "DROP")
        assert (flow["rulesCode"], flow["note"]) == ("NO_ENTRY", "allowed only because it was established")
        assert 0 <= flow["lastSeenAgoNs"] < 60e9
        first = user.run("conntrack", "pod/nginx").stdout.splitlines()[0]
        assert "1 is a flow that passes only because established" in first

        question = ("explain", "pod/nginx", "--from", "pod/accesstrue", "--port", "80")
        code, answer = data(user, *question)
        assert (code, answer["verdict"], answer["cause"]) == (1, "DROP", "selector")
        code, answer = data(user, *question, "--source-port", str(port))
        assert (code, answer["verdict"], answer["cause"]) == (0, "ALLOW", "none")
        assert "netpol-ebpf conntrack" in answer["nextStep"]
        code, answer = data(user, *question, "--source-port", str(port % 60000 + 1))
        assert (code, answer["verdict"]) == (1, "DROP")
        assert answers(connection)


def test_the_answer_to_a_flow_of_the_pod_passes_too(user: User) -> None:
    """What comes back to accesstrue is judged by its own ingress program, and passes as a reply."""
    with user.lab.sandbox("default", "accesstrue").socket() as connection:
        connection.settimeout(2)
        connection.connect((NGINX_IP, 80))
        port = connection.getsockname()[1]
        policy = article.POLICY.replace("name: access-nginx", "name: closed").replace("app: nginx", 'access: "true"')
        user.lab.kubectl("apply", "-f", "-", input=policy)
        user.lab.settle()
        assert answers(connection)
        # A packet from nginx's port 80 to the port of the connection.
        question = ("explain", "pod/accesstrue", "--from", "pod/nginx", "--port", str(port), "--direction", "both")
        code, answer = data(user, *question)
        assert (code, answer["verdict"]) == (1, "DROP")
        code, answer = data(user, *question, "--source-port", "80")
        assert (code, answer["verdict"]) == (0, "ALLOW")
        ingress = next(leg for leg in answer["legs"] if leg["direction"] == "ingress")
        assert next(x["code"] for x in ingress["layers"] if x["layer"] == "CONNTRACK") == "REPLY"


def test_flows_made_before_a_policy_are_judged_again(user: User) -> None:
    with user.lab.sandbox("default", "accessfalse").socket() as connection:
        connection.settimeout(2)
        user.lab.kubectl("delete", "networkpolicy", "access-nginx")
        user.lab.settle()
        connection.connect((NGINX_IP, 80))
        user.lab.kubectl("apply", "-f", "-", input=article.POLICY)
        user.lab.settle()
        _, found = data(user, "conntrack", "pod/nginx")
        [flow] = [f for f in found["flows"] if f["direction"] == "ingress" and f["rulesNow"] == "DROP"]
        assert (flow["passes"], flow["note"]) == (False, "the rules decide again with its next packet")
        assert flow["madeUnder"] == "DEFAULT_ALLOW (cluster policies: DEFAULT_ALLOW)"
        assert not answers(connection)
        # The packet that was dropped took the entry along.
        _, found = data(user, "conntrack", "pod/nginx")
        assert not [f for f in found["flows"] if f["direction"] == "ingress" and f["rulesNow"] == "DROP"]


def test_the_test_run_leaves_conntrack_as_it_was(user: User) -> None:
    agent = user.lab.agents[NODE]

    def entries() -> dict[bytes, bytes]:
        """Without when they were last hit: the end of the connection is still on its way."""
        with agent.open_map("default", NGINX, "aws_conntrack_map") as fd:
            return {key: value[:8] for key, value in bpfsys.map_items(fd).items()}

    assert connects(user.lab.sandbox("default", "accesstrue"), NGINX_IP, 80) == "open"
    before = entries()
    assert before
    for pod, verdict in (("accesstrue", "ALLOW"), ("accessfalse", "DROP")):
        _, answer = data(user, "explain", "pod/nginx", "--from", f"pod/{pod}", "--port", "80", "--ask-kernel")
        asked = next(x for x in answer["legs"][0]["layers"] if x["layer"] == "TEST RUN")
        assert (asked["verdict"], asked["code"]) == (verdict, "TEST_RUN")
        assert asked["decidedBy"]["conntrackEntry"] == ("made and removed" if verdict == "ALLOW" else "none")
    assert entries() == before


def test_the_program_settles_what_its_maps_leave_open(user: User, plugin_bin: Path) -> None:
    """1.2.3 and 1.2.4 have equal maps, and differ in slots of any protocol with ports."""
    for generation, verdict in (("1.2.3", "ALLOW"), ("1.2.7", "DROP")):
        with article.cluster(generation=generation) as lab:
            article.build(lab)
            agent = lab.agents[NODE]
            agent.faults.add("skip_map_update")
            with agent.open_map("default", NGINX, "ingress_map") as fd:
                key = lpm_key(ipaddress.ip_network(f"{TRUE_IP}/32"))
                bpfsys.map_update(fd, key, struct.pack("<3I", 254, 443, 0).ljust(288, b"\0"))
            passes = connects(lab.sandbox("default", "accesstrue"), NGINX_IP, 80) == "open"
            assert passes is (verdict == "ALLOW")
            question = ("explain", "pod/nginx", "--from", "pod/accesstrue", "--port", "80")
            code, answer = data(User(lab, plugin_bin), *question)
            assert (code, answer["verdict"]) == (3, "UNKNOWN")
            assert "agents 1.2.0 to 1.2.3 ignore such ports" in answer["answer"]
            code, answer = data(User(lab, plugin_bin), *question, "--ask-kernel")
            assert (code, answer["verdict"]) == ((0, "ALLOW") if passes else (1, "DROP"))
