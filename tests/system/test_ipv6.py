"""An IPv6 cluster from end to end: addresses in every form, Services, the node, what the datapath never filters."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import article
from tests.lab.article import FALSE_IP6, NGINX_IP6, NODE, NODE_IP6, TRUE_IP6
from tests.lab.require import require_lab, require_tools
from tests.lab_selftest.helpers import connects
from tests.system.conftest import User


@pytest.fixture(scope="module")
def user(plugin_bin: Path) -> Iterator[User]:
    require_lab()
    require_tools("kubectl", "wget")
    with article.cluster(generation="1.4.2", family=6) as lab:
        article.build(lab)
        yield User(lab, plugin_bin)
        assert not lab.server.errors


def ask(user: User, *arguments: str) -> tuple[int, Any]:
    done = user.run("explain", *arguments, "-o", "json")
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("form", [FALSE_IP6, f"[{FALSE_IP6}]", "2001:0db8:001f:9600:0060:0000:0000:0116"])
def test_an_address_in_any_form(user: User, form: str) -> None:
    code, answer = ask(user, "pod/nginx", "--from", form, "--port", "80")
    assert (code, answer["verdict"], answer["cause"]) == (1, "DROP", "selector")
    assert answer["flow"]["from"] == f"default/accessfalse ({FALSE_IP6})"


def test_a_service_is_judged_on_its_cluster_ip(user: User) -> None:
    passes = user.lab.kubectl("exec", "accesstrue", "--", "wget", "-q", "--spider", "-T", "2", "nginx", check=False)
    assert passes.returncode == 0
    code, answer = ask(user, "accesstrue", "--to", "svc/nginx", "--port", "80")
    assert (code, answer["verdict"]) == (0, "ALLOW")
    cluster_ip = user.lab.server.list("Service", namespace="default")
    address = next(s["spec"]["clusterIP"] for s in cluster_ip if s["metadata"]["name"] == "nginx")
    egress, ingress = answer["legs"]
    assert (egress["destination"], ingress["destination"]) == (address, NGINX_IP6)


def test_the_own_node_always_passes(user: User) -> None:
    assert connects(user.lab.nodes[NODE], NGINX_IP6, 80) == "open"
    code, answer = ask(user, "pod/nginx", "--from", f"node/{NODE}", "--port", "80")
    assert (code, answer["verdict"], answer["legs"][0]["source"]) == (0, "ALLOW", NODE_IP6)
    row = next(x for x in answer["legs"][0]["layers"] if x["layer"] == "ATTACHED")
    assert row["decidedBy"]["prefix"] == f"{NODE_IP6}/128"


def test_icmpv6_always_passes_and_that_is_no_fault(user: User) -> None:
    done = user.run("explain", "pod/nginx", "--from", "pod/accessfalse", "--port", "icmp", "--ask-kernel")
    assert done.returncode == 0
    assert "TEST RUN   ALLOW" in done.stdout
    assert "Cause: none: ENDPOINTS and EXPECTED differ, by design of the datapath" in done.stdout
    assert "nothing is broken: the program always lets ICMPv6 through" in done.stdout


def test_the_other_family_has_no_address_here(user: User) -> None:
    done = user.run("explain", "pod/nginx", "--from", "10.0.0.1", "--port", "80")
    assert (done.returncode, done.stdout) == (2, "")
    assert "has no IPv4 address" in done.stderr


def test_the_pod_and_its_maps(user: User) -> None:
    code, answer = ask(user, "pod/nginx")
    assert (code, answer["layersAgree"]) == (0, True)
    prefixes = {row["prefix"] for row in answer["directions"][0]["rows"]}
    assert prefixes == {f"{TRUE_IP6}/128", f"{NODE_IP6}/128"}
    assert {row["prefix"] for row in answer["directions"][1]["rows"]} == {"::/0", f"{NODE_IP6}/128"}


def test_a_bundle_of_it(user: User, tmp_path: Path) -> None:
    file = str(tmp_path / "b.tar.gz")
    assert user.run("capture", "pod/nginx", "-f", file).returncode == 0
    live = user.run("explain", "pod/nginx", "--from", "pod/accessfalse", "--port", "80", "-o", "json").stdout
    offline = user.run(
        "explain", "pod/nginx", "--from", "pod/accessfalse", "--port", "80", "-o", "json", "--bundle", file
    )
    assert json.loads(offline.stdout)["answer"] == json.loads(live)["answer"]
