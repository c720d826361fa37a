"""The whole way, through the command line: a snapshot in which anything may be otherwise, and every verb.

An answer or one line `error: ...`; never a traceback, an "internal error", or a character that steers a terminal.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import tempfile
import unicodedata
from functools import cache
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch
from xml.etree import ElementTree

import typer
import yaml
from typer.main import get_command

from kubectl_netpol import bundle
from kubectl_netpol.cli import run
from kubectl_netpol.errors import BundleError
from kubectl_netpol.model.snapshot import Collection, NodeReading, Snapshot
from tests.fuzz import mutation
from tests.fuzz.target import NoInput, Target, loaded, unchanged_world
from tests.fuzz.targets.manifests import CLUSTER, RULES, stdin
from tests.fuzz.targets.node import EXAMPLE
from tests.unit import builders

Json = dict[str, Any]
POD = "pod/nginx-f8d9c6576-8b4vf"
QUESTIONS = (
    ["explain", POD, "--from", "pod/accessfalse", "--port", "80"],
    ["explain", POD],
    ["explain", "pod/accesstrue", "--to", POD, "--port", "80"],
    ["explain", POD, "--from", "10.9.9.9", "--port", "53/UDP", "--source-port", "4444"],
    ["explain", POD, "--from", "pod/accesstrue", "--port", "80", "-f", "-"],
    ["explain", POD, "--without", "access-nginx"],
    ["explain", POD, "--api-only"],
    ["maps", POD],
    ["conntrack", POD],
    ["drops", POD, "--all"],
    ["check", "-A"],
    ["check", POD],
    ["doctor"],
)
FORMS = ("table", "wide", "json", "yaml", "junit", "prometheus")


def controls(text: str) -> list[str]:
    """What must not reach a terminal: all of it but the end of a line."""
    return [
        f"{ord(c):#x}"
        for c in text
        if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    ]


SERIES = re.compile(r'(# (HELP|TYPE) netpol_ebpf_\w+ .*|netpol_ebpf_\w+(\{(\w+="([^"\\]|\\[\\"n])*",?)+\})? \d+)')


def parsed(form: str, out: str) -> None:
    """What is for machines is what they can read."""
    if not out:
        return
    if form == "json":
        json.loads(out, parse_constant=_refused)
    elif form == "yaml":
        yaml.load(out, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    elif form == "junit":
        ElementTree.fromstring(out)
    elif form == "prometheus":
        odd = [line for line in out.splitlines() if not SERIES.fullmatch(line)]
        assert not odd, odd


def _refused(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def asked(question: Any, form: Any) -> list[str]:
    number = question if isinstance(question, int) else 0
    words = QUESTIONS[number % len(QUESTIONS)]
    chosen = FORMS[(form if isinstance(form, int) else 0) % len(FORMS)]
    if chosen in ("junit", "prometheus") and words[0] != "check":
        chosen = "json"
    return [*words, "-o", chosen]


def read_snapshot(data: bytes) -> str:
    found = loaded(data)
    if not isinstance(found, dict):
        return ""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        path = Path(folder) / "b.tar.gz"
        write(found, path)
        code, out, err = answer(
            [*asked(found.get("question"), found.get("form")), "--bundle", str(path)], str(found.get("stdin"))
        )
    assert code in (0, 1, 2, 3), code
    assert "internal error" not in err, err
    assert not controls(out + err), (controls(out + err), out, err)
    parsed(asked(found.get("question"), found.get("form"))[-1], out)
    if found.get("nodes_only"):
        # A checked document has no shape that a verb does not know.
        assert "does not have the shape of its kind" not in err, err
    return hashlib.sha256(f"{code} {out} {err}".replace(folder, "").encode("utf-8", "surrogatepass")).hexdigest()


def answer(words: list[str], given: str = "", writes: bool = False) -> tuple[int, str, str]:
    """Exit code, stdout, stderr of one command line. ``writes``: it may write and send."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        stdin(given.encode("utf-8", "replace")),
        patch("typer.main.get_command", command),
        unchanged_world(writes),
    ):
        code = run(words)
    return code, out.getvalue(), err.getvalue()


@cache
def command(app: typer.Typer) -> Any:
    """The option parser, made once: that takes longer than most answers."""
    return get_command(app)


def write(found: Json, path: Path) -> None:
    """As a bundle; ``NoInput`` where the parts are none that one can be written of."""
    kinds, nodes = found.get("collections"), found.get("nodes")
    collections = {
        str(kind): Collection(tuple(items))
        for kind, items in (kinds if isinstance(kinds, dict) else {}).items()
        if isinstance(items, list)
    }
    readings = {
        str(name): NodeReading(document) if isinstance(document, dict) else NodeReading(None, str(document) or "x")
        for name, document in (nodes if isinstance(nodes, dict) else {}).items()
    }
    try:
        bundle.write(Snapshot(collections, readings, "2026-01-02T03:04:05Z", "1", "default"), str(path))
    except (BundleError, ValueError, TypeError, RecursionError, AttributeError) as error:
        raise NoInput from error


@cache
def _collections() -> bytes:
    """Objects of every kind: those of the shipped bundle, and of the policies that it has none of."""
    real = bundle.read(str(EXAMPLE))
    found = {kind: list(one.items) for kind, one in real.collections.items()}
    found["pods"] = [
        builders.NGINX,
        builders.ACCESS_TRUE,
        builders.ACCESS_FALSE,
        *(one for one in found["pods"] if one["metadata"]["namespace"] == "kube-system"),
    ]
    found["networkpolicies"] = [builders.ACCESS_NGINX, yaml_object(RULES)]
    found["policyendpoints"] = [builders.ACCESS_ENDPOINT]
    found["clusternetworkpolicies"] = [yaml_object(CLUSTER)]
    found["namespaces"].append(builders.namespace("shop", {"a": "b"}))
    found["nodes"] = [builders.node(), *found["nodes"]]
    rule = {"cidr": "10.0.0.0/8", "action": "Deny", "ports": [{"port": 80, "protocol": "TCP"}]}
    end = {"name": "accesstrue", "namespace": "default", "podIP": "10.0.1.218", "hostIP": "10.0.0.1"}
    found["clusterpolicyendpoints"] = [
        {
            "metadata": {"name": "deny-all-x1"},
            "spec": {
                "policyRef": {"name": "deny-all"}, "tier": "Admin", "priority": 5, "ingress": [rule], "egress": [],
                "podSelectorEndpoints": [end],
            },
        }
    ]  # fmt: skip
    found["events"] = [
        {
            "metadata": {"name": "e", "namespace": "default"},
            "involvedObject": {"kind": "Pod", "namespace": "default", "name": "accesstrue"},
            "reason": "x", "message": "no", "lastTimestamp": "2026-01-02T03:04:05Z", "count": 2,
        }
    ]  # fmt: skip
    return mutation.dumped(found)


def yaml_object(text: str) -> Json:
    return yaml.safe_load(text)  # type: ignore[no-any-return]


def collections() -> Json:
    return json.loads(_collections())  # type: ignore[no-any-return]


def log_line(verdict: str) -> str:
    return (
        '{"level":"info","ts":"2026-01-02T03:04:04.000Z","msg":"Flow Info: Src IP: 10.0.96.116 Src Port: 40000 '
        f'Dest IP: 10.0.4.5 Dest Port: 80 Proto TCP Verdict {verdict} Direction ingress, Tier NETWORK_POLICY"}}'
    )


@cache
def _document() -> bytes:
    flow = builders.ct_key("10.0.1.218", 4444, "10.0.4.5", 80, "10.0.4.5", 7)
    document = builders.pod_document(builders.NGINX, ingress=builders.ACCESS_MAP, conntrack=[(flow, 0)])
    seconds = 1767323045
    clock = {"monotonic_ns": 10**15, "boottime_ns": 10**15, "realtime_ns": seconds * 10**9}
    document["clock"] = {"begin": clock, "end": clock}
    document["flow_log"] = {
        "path": "/var/log/aws-routed-eni/network-policy-agent.log", "lines": [log_line("DENY"), log_line("ACCEPT")],
        "complete": True, "left_out": 0, "seen": 2, "files": ["network-policy-agent.log"], "position": None,
        "reason": "", "addresses": ["10.0.4.5"], "since_ns": 0, "all": True,
    }  # fmt: skip
    document["agent"] = {
        "errors": [{"line": "error: BPF map update failed", "count": 2, "file": "network-policy-agent.log"}],
        "npa_socket": True, "format_marker": None, "nf_conntrack_count": 5, "nf_conntrack_max": 9, "reason": "",
    }  # fmt: skip
    document["notes"] = ["a note"]
    document["errors"] = [{"what": "map 5", "error": "EPERM: Operation not permitted"}]
    return mutation.dumped(document)


def document() -> Json:
    return json.loads(_document())  # type: ignore[no-any-return]


def whole() -> Json:
    """An input that nothing is wrong with."""
    return {
        "question": 0,
        "form": 0,
        "stdin": RULES,
        "nodes": {builders.NODE: document()},
        "collections": collections(),
    }


@cache
def snapshots() -> tuple[bytes, ...]:
    return tuple(mutation.dumped({**whole(), "question": n, "form": n % 6}) for n in range(len(QUESTIONS)))


@cache
def with_documents() -> tuple[bytes, ...]:
    return tuple(mutation.dumped({**json.loads(one), "nodes_only": True}) for one in snapshots())


def other_snapshot(data: bytes, random: Random) -> bytes:
    return _other(data, random, ("nodes", "collections", "collections", "stdin"))


def other_documents(data: bytes, random: Random) -> bytes:
    return _other(data, random, ("nodes",))


def _other(data: bytes, random: Random, parts: tuple[str, ...]) -> bytes:
    try:
        found = json.loads(data)
        part = random.choice(parts)
        if part == "stdin":
            found[part] = mutation.of_text(found[part], random)
        elif part == "nodes":
            name = random.choice(list(found[part]))
            # Of the same types it mostly gets past the check of the document.
            found[part][name] = mutation.of_json(found[part][name], random, typed=random.random() < 0.8)
        else:
            kind = random.choice(list(found[part]))
            found[part][kind] = mutation.of_json(found[part][kind], random, typed=random.random() < 0.6)
        found["question"], found["form"] = random.randrange(len(QUESTIONS)), random.randrange(len(FORMS))
        return mutation.dumped(found)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return data


TARGETS = (
    Target("documents", read_snapshot, with_documents, other_documents, (), short=120, long=20_000, writes=True),
    Target("verbs", read_snapshot, snapshots, other_snapshot, (), short=180, long=20_000, writes=True),
)
