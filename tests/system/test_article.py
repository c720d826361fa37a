"""The article's scenario for real: real kubectl, real programs on real veths, real packets."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path

import pytest

from tests.lab.article import FALSE_IP, NGINX, NGINX_IP, NODE, NODE_IP, TRUE_IP
from tests.lab.cluster import LabCluster
from tests.system.conftest import User
from tests.timeless import timeless

VETH = "eni9c515deae49"
"""What the article's own output shows for this pod's name."""
REQUESTS_PER_EXPLAIN = 19
"""Nine lists, four for the VPC CNI, and for the node: get node, list debug pods, create, watch, exec, delete."""


def wget(lab: LabCluster, pod: str) -> int:
    return lab.kubectl("exec", pod, "--", "wget", "--spider", "-T", "1", "-t", "1", "nginx", check=False).returncode


def tc_program_ids(lab: LabCluster) -> dict[str, int]:
    """Direction -> program id, as `tc` prints it."""
    found = {}
    for hook in ("ingress", "egress"):
        text = lab.nodes[NODE].run(["tc", "filter", "show", "dev", VETH, hook], check=True).stdout
        match = re.search(r"handle_(ingress|egress) .*?\bid (\d+)", text)
        assert match, text
        found[match[1]] = int(match[2])
    return found


def bpftool_program_ids(lab: LabCluster) -> set[int]:
    """Program ids on the veth, as `bpftool net` prints them."""
    text = lab.nodes[NODE].run(["bpftool", "-j", "net", "show", "dev", VETH], check=True).stdout
    return {int(number) for number in re.findall(r'"id":(\d+)', text)}


def bpftool_map_ids(lab: LabCluster, program: int) -> set[int]:
    text = lab.nodes[NODE].run(["bpftool", "-j", "prog", "show", "id", str(program)], check=True).stdout
    return set(json.loads(text)["map_ids"])


def test_the_packets_of_the_article(lab: LabCluster) -> None:
    assert wget(lab, "accesstrue") == 0
    assert wget(lab, "accessfalse") == 4  # wget: network failure, here a time-out


def test_explain_says_drop_with_its_reason(user: User) -> None:
    done = user.run("explain", "pod/nginx", "--from", "pod/accessfalse", "--port", "80")
    assert done.returncode == 1
    first = done.stdout.splitlines()[0]
    assert first.startswith(f"DROP: default/accessfalse ({FALSE_IP}) -> default/{NGINX} ({NGINX_IP}) 80/TCP")
    assert re.search(
        rf"no entry of ingress_map \(id \d+\) matches {FALSE_IP}, and the pod state is POLICIES_APPLIED",
        first,
    )
    assert "access=true is wanted, it has access=false" in done.stdout
    assert "Cause: selector" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("Next: ")
    assert done.stderr == f"pod/nginx is pod default/{NGINX}\n"
    assert user.debug_pods() == []


def test_explain_says_allow_with_the_entry(user: User) -> None:
    done = user.run("explain", "pod/nginx", "--from", "pod/accesstrue", "--port", "80")
    assert done.returncode == 0, done.stderr
    first = done.stdout.splitlines()[0]
    assert first.startswith(f"ALLOW: default/accesstrue ({TRUE_IP}) -> default/{NGINX} ({NGINX_IP}) 80/TCP")
    assert re.search(rf"entry {TRUE_IP}/32 of ingress_map \(id \d+\) allows all ports", first)
    assert "access-nginx spec.ingress[0].from[0] allows pods access=true" in done.stdout


def test_explain_shows_yaml_beside_the_kernel(user: User) -> None:
    done = user.run("explain", "pod/nginx")
    assert done.returncode == 0, done.stderr
    programs = tc_program_ids(user.lab)
    assert VETH in done.stdout
    for direction, number in programs.items():
        assert f"program         {number} (handle_{direction}, tag " in done.stdout
    rule = next(line for line in done.stdout.splitlines() if "spec.ingress[0].from[0]" in line)
    assert re.search(rf"pod default/accesstrue {TRUE_IP} .*access-nginx-\w+ ingress\[0\]: all ports .* ok$", rule)
    node = next(line for line in done.stdout.splitlines() if f"{NODE} {NODE_IP}" in line)
    assert node.endswith("ok: own node")
    assert "the kubelet's probes" in done.stdout


def test_maps_agrees_with_tc_and_bpftool(user: User) -> None:
    done = user.run("maps", "pod/nginx", "--direction", "ingress")
    assert done.returncode == 0, done.stderr
    programs = tc_program_ids(user.lab)
    assert set(programs.values()) == bpftool_program_ids(user.lab)
    assert f"tc egress hook of {VETH}" in done.stdout
    assert f"program         {programs['ingress']} (handle_ingress" in done.stdout
    maps_line = next(line for line in done.stdout.splitlines() if line.startswith("  maps "))
    assert {int(n) for n in re.findall(r" (\d+)", maps_line)} == bpftool_map_ids(user.lab, programs["ingress"])
    assert re.search(rf"ingress_map +\d+ +{TRUE_IP}/32 +pod default/accesstrue +all ports", done.stdout)
    assert re.search(rf"ingress_map +\d+ +{NODE_IP}/32 +node {NODE} +all ports", done.stdout)
    assert FALSE_IP not in done.stdout.split("aws_conntrack_map")[0]
    both = user.run("maps", "pod/nginx", "-o", "json")
    ids = {d["direction"]: d["program"]["id"] for d in json.loads(both.stdout)["directions"]}
    assert ids == programs


@pytest.mark.parametrize("pod", ["deploy/nginx", "rs/nginx-f8d9c6576", "svc/nginx", f"default/{NGINX}", NGINX])
def test_other_names_for_the_same_pod(user: User, pod: str) -> None:
    done = user.run("explain", pod, "--direction", "ingress", "-o", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["pod"] == f"default/{NGINX}"


def test_several_matches_are_listed(user: User) -> None:
    for name in ("twin-a", "twin-b"):
        user.lab.kubectl("run", name, "--image=busybox", "--labels", "app=twins", "--", "sleep", "infinity")
    done = user.run("explain", "pod/twin")
    assert done.returncode == 2
    assert "pod/twin means 2 pods in default: twin-a, twin-b" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "code", "first"),
    [
        (["accesstrue", "--to", "svc/nginx", "--port", "80"], 0, "ALLOW: "),
        (["accessfalse", "--to", "svc/nginx", "--port", "80"], 1, "DROP: "),
        (["accessfalse", "--to", NGINX_IP, "--port", "80/TCP"], 1, "DROP: "),
        (["pod/nginx", "--from", f"node/{NODE}", "--port", "80"], 0, "ALLOW: "),
        (["pod/nginx", "--from", "198.51.100.7", "--port", "80"], 1, "DROP: "),
        (["pod/nginx", "--to", "198.51.100.7", "--port", "443"], 0, "ALLOW: "),
    ],
)
def test_flows_of_every_kind(user: User, arguments: list[str], code: int, first: str) -> None:
    done = user.run("explain", *arguments)
    assert (done.returncode, done.stdout[: len(first)]) == (code, first), done.stdout + done.stderr


def test_requests_are_a_constant(user: User) -> None:
    counts = []
    for arguments in (["pod/nginx"], ["pod/nginx", "--from", "pod/accesstrue", "--port", "80"]):
        before = len(user.lab.server.requests)
        assert user.run("explain", *arguments).returncode == 0
        counts.append(len(user.lab.server.requests) - before)
    assert counts == [REQUESTS_PER_EXPLAIN] * 2


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: content.read() for member in tar if (content := tar.extractfile(member))}


@pytest.mark.parametrize("form", ["table", "wide", "json", "yaml"])
def test_a_bundle_answers_as_the_live_cluster(user: User, form: str, tmp_path: Path) -> None:
    bundle = tmp_path / "article.tar.gz"
    done = user.run("capture", "pod/nginx", "-f", str(bundle))
    assert done.returncode == 0, done.stderr
    again = tmp_path / "again.tar.gz"
    assert user.run("capture", "pod/nginx", "-f", str(again), "--bundle", str(bundle)).returncode == 0
    assert members(again) == members(bundle)
    assert again.read_bytes() == bundle.read_bytes()
    for arguments in (
        ["explain", "pod/nginx"],
        ["explain", "pod/nginx", "--from", "pod/accessfalse", "--port", "80"],
        ["maps", "pod/nginx"],
    ):
        live = user.run(*arguments, "-o", form)
        before = len(user.lab.server.requests)
        offline = user.run(*arguments, "-o", form, "--bundle", str(bundle), KUBECONFIG="/nonexistent")
        assert timeless(offline.stdout) == timeless(live.stdout)
        source, _, rest = offline.stderr.partition("\n")
        assert source.startswith(f"from {bundle}, taken 20")
        assert rest == live.stderr
        assert offline.returncode == live.returncode
        assert len(user.lab.server.requests) == before
