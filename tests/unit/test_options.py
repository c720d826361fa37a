"""Shared flags: each one reaches ``Common``, under kubectl's names."""

from __future__ import annotations

import dataclasses

import pytest

from kubectl_netpol import capturing, cli, verbs
from kubectl_netpol.cluster.connection import ConnectionFlags
from kubectl_netpol.diagnose.plan import Question
from kubectl_netpol.errors import UsageError
from kubectl_netpol.options import DEFAULT_IMAGE, Common, DebugProfile, Way, seconds, with_flags
from kubectl_netpol.report.output import Format


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0.0),
        ("0", 0.0),
        ("30", 30.0),
        ("30s", 30.0),
        ("1m", 60.0),
        ("1m30s", 90.0),
        ("1h", 3600.0),
        ("1h0m5s", 3605.0),
        ("1.5h", 5400.0),
        ("1.5s", 1.5),
        ("500ms", 0.5),
        ("0s", 0.0),
    ],
)
def test_durations(text, expected):
    assert seconds(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text", ["x", "s", "5x", "-5s", "5 s", " 5s", "1m30", "1e3s", "nan", "inf", "٣٠", "5s\n", "9" * 400]
)
def test_not_a_duration(text):
    with pytest.raises(UsageError, match="is not a duration"):
        seconds(text)


@pytest.fixture
def seen(monkeypatch):
    """The arguments with which verbs were called."""
    calls = []
    for name, room in (("explain", verbs), ("maps", verbs), ("conntrack", verbs), ("capture", capturing)):
        monkeypatch.setattr(room, name, lambda *arguments, name=name: calls.append((name, *arguments)))
    return calls


FLAGS = [
    (["--namespace", "x"], "namespace", "x"),
    (["-n", "x"], "namespace", "x"),
    (["--context", "x"], "context", "x"),
    (["--kubeconfig", "x"], "kubeconfig", "x"),
    (["--as", "x"], "as_user", "x"),
    (["--as-group", "x", "--as-group", "y"], "as_groups", ("x", "y")),
    (["--as-uid", "x"], "as_uid", "x"),
    (["--request-timeout", "1m"], "request_timeout", 60.0),
    (["--cluster", "x"], "cluster", "x"),
    (["--user", "x"], "user", "x"),
    (["--server", "x"], "server", "x"),
    (["-s", "x"], "server", "x"),
    (["--token", "x"], "token", "x"),
    (["--certificate-authority", "x"], "certificate_authority", "x"),
    (["--client-certificate", "x"], "client_certificate", "x"),
    (["--client-key", "x"], "client_key", "x"),
    (["--tls-server-name", "x"], "tls_server_name", "x"),
    (["--insecure-skip-tls-verify"], "insecure_skip_tls_verify", True),
    (["--image", "x"], "image", "x"),
    (["--debug-namespace", "x"], "debug_namespace", "x"),
    (["--keep"], "keep", True),
    (["--deadline", "31"], "deadline", 31),
    (["--start-timeout", "5"], "start_timeout", 5),
    (["--bundle", "x"], "bundle", "x"),
    (["--via", "tools"], "via", Way.TOOLS),
    (["--via", "agent"], "via", Way.AGENT),
    (["--selinux-type", "super_t"], "selinux_type", "super_t"),
    (["--debug-profile", "minimal"], "debug_profile", DebugProfile.MINIMAL),
    (["--output", "json"], "output", Format.JSON),
    (["-o", "wide"], "output", Format.WIDE),
    (["--no-headers"], "no_headers", True),
]
READING_ONLY = ("output", "no_headers")
WITH_TOOLS = [
    (["--show-commands"], "show_commands", True),
    (["--install-on-host"], "install_on_host", True),
]
"""Flags that mean something with `--via tools` only."""


def fields(common: Common) -> dict:
    own = {f.name: getattr(common, f.name) for f in dataclasses.fields(common) if f.name != "connection"}
    return own | dataclasses.asdict(common.connection)


@pytest.mark.parametrize("verb", ["explain", "maps", "conntrack", "capture"])
@pytest.mark.parametrize(
    ("flag", "name", "value"), FLAGS, ids=lambda value: value[0] if isinstance(value, list) else ""
)
def test_every_flag_reaches_common_and_changes_nothing_else(verb, flag, name, value, seen, capsys):
    more = ["-f", "out"] if verb == "capture" else []
    code = cli.run([verb, "pod", *more, *flag])
    if verb == "capture" and name in READING_ONLY:
        assert code == 2
        assert "No such option" in capsys.readouterr().err
        return
    assert code == 0
    cli.run([verb, "pod", *more])
    given, default = (fields(call[1]) for call in seen)
    assert given[name] == value
    assert given == {**default, name: value}


@pytest.mark.parametrize(("flag", "name", "value"), WITH_TOOLS)
def test_flags_of_the_tools_need_them(flag, name, value, seen, capsys):
    assert cli.run(["maps", "pod", *flag]) == 2
    assert f"{flag[0]} goes with --via tools" in capsys.readouterr().err
    assert cli.run(["maps", "pod", *flag, "--via", "tools"]) == 0
    cli.run(["maps", "pod", "--via", "tools"])
    given, default = (fields(call[1]) for call in seen)
    assert given == {**default, name: value}


def test_no_field_is_without_a_flag():
    named = {name for _, name, _ in (*FLAGS, *WITH_TOOLS)}
    every = {f.name for cls in (Common, ConnectionFlags) for f in dataclasses.fields(cls)} - {"connection", "machine"}
    assert named == every


def test_defaults(seen):
    assert cli.run(["maps", "pod"]) == 0
    _, common, *_ = seen[0]
    assert common == Common(
        connection=ConnectionFlags(),
        bundle="",
        image=DEFAULT_IMAGE,
        debug_namespace="kube-system",
        keep=False,
        deadline=300,
        start_timeout=60,
        via=Way.PYTHON,
        show_commands=False,
        install_on_host=False,
        selinux_type="",
        output=Format.TABLE,
        no_headers=False,
    )


def test_the_verbs_own_arguments(seen):
    cli.run(["explain", "a", "--from", "b", "--to", "c", "--port", "80", "--direction", "egress"])
    cli.run(["capture", "a", "--file", "f"])
    cli.run(["explain", "a", "--from", "b", "--source-port", "4000", "--ask-kernel"])
    cli.run(["explain", "a", "--api-only", "-f", "x", "--file", "-", "--without", "p", "--without", "q"])
    (_, _, *explained), (_, _, *captured), (_, _, *asked), (_, _, *changed) = seen
    assert explained == [Question("a", (cli.Direction.EGRESS,), "b", "c", "80"), (), ()]
    assert captured == [capturing.Asked("a", "f")]
    assert asked[0] == Question("a", source="b", source_port=4000, ask_kernel=True)
    assert changed == [Question("a", api_only=True), ["x", "-"], ["p", "q"]]


def test_suggested_commands_ask_the_same_cluster(seen):
    cli.run(["explain", "a", "--context", "prod x", "--as", "me"])
    cli.run(["explain", "a", "--bundle", "b.tar.gz"])
    (_, live, *_), (_, offline, *_) = seen
    text = "see kubectl netpol-ebpf maps a -n b, then kubectl -n b edit networkpolicy c; `kubectl diff`"
    assert with_flags(text, live) == (
        "see kubectl netpol-ebpf maps --context 'prod x' --as me a -n b, "
        "then kubectl --context 'prod x' --as me -n b edit networkpolicy c; `kubectl --context 'prod x' --as me diff`"
    )
    assert with_flags(text, offline) == text
