"""Command lines as a shell runs them: exit codes, one-line errors, never a traceback."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import pytest
import yaml

from kubectl_netpol import bundle, cli, verbs
from kubectl_netpol.errors import ApiError, ConnectionFailed, ExitCode, Interrupted, NodeError, UsageError
from kubectl_netpol.model.snapshot import NodeReading, Snapshot
from tests.unit.builders import ACCESS_MAP, ACCESS_TRUE, ANY, NGINX, NODE, NODE_IP, article, pod, pod_document
from tests.unit.test_explain import both_pods


def save(path, snapshot) -> str:
    bundle.write(snapshot, str(path))
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Bundles: the sound cluster of the article, one whose node was not read, one whose map lacks an entry."""
    folder = tmp_path_factory.mktemp("bundles")
    others = ACCESS_TRUE, pod("accessfalse", "10.0.96.116")
    good = both_pods(pod_document(NGINX, ingress=ACCESS_MAP), *others)
    bad = both_pods(pod_document(NGINX, ingress={f"{NODE_IP}/32": [ANY]}), *others)
    unread = Snapshot(article().collections, {NODE: NodeReading(None, "no image")})
    return {
        "good": save(folder / "good.tar.gz", article(good)),
        "bad": save(folder / "bad.tar.gz", article(bad)),
        "unread": save(folder / "unread.tar.gz", unread),
    }


def run(capsys, *arguments):
    code = cli.run(list(arguments))
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    assert type(code) is int or isinstance(code, ExitCode)
    return int(code), out, err


def said(err: str, file: str) -> str:
    """stderr less the line that says where the answer comes from."""
    first, _, rest = err.partition("\n")
    assert first == f"from {file}, taken 2026-01-02T03:04:05Z"
    return rest


FLOW = ("--port", "80", "--from")


@pytest.mark.parametrize(
    ("which", "arguments", "code", "starts"),
    [
        ("good", ("explain", "nginx"), 0, "default/nginx-f8d9c6576-8b4vf on node node-a: ingress is restricted by"),
        ("good", ("explain", "nginx", *FLOW, "accesstrue"), 0, "ALLOW: "),
        ("good", ("explain", "nginx", *FLOW, "accessfalse"), 1, "DROP: "),
        ("good", ("explain", "accesstrue", "--to", "nginx"), 0, "ALLOW: "),
        ("bad", ("explain", "nginx"), 1, "default/nginx-f8d9c6576-8b4vf on node node-a: "),
        ("bad", ("explain", "nginx", "--direction", "egress"), 0, "default/nginx-f8d9c6576-8b4vf on node node-a: "),
        ("bad", ("explain", "nginx", *FLOW, "accesstrue"), 1, "DROP, although the YAML allows it: "),
        ("good", ("explain", "nginx", "--api-only"), 0, "default/nginx-f8d9c6576-8b4vf on node node-a: "),
        ("good", ("explain", "nginx", *FLOW, "accessfalse", "--api-only"), 1, "DROP by the API objects alone: "),
        ("good", ("explain", "nginx", *FLOW, "accessfalse", "--without", "access-nginx"), 0, "ALLOW with the change, "),
        ("good", ("explain", "nginx", "--without", "access-nginx"), 0, "With the change (without NetworkPolicy "),
        ("bad", ("explain", "nginx", "--api-only"), 0, "default/nginx-f8d9c6576-8b4vf on node node-a: "),
        ("unread", ("explain", "nginx"), 3, "default/nginx-f8d9c6576-8b4vf on node node-a: "),
        ("unread", ("explain", "nginx", *FLOW, "accesstrue"), 3, "UNKNOWN: "),
        ("good", ("maps", "nginx"), 0, "default/nginx-f8d9c6576-8b4vf on node node-a"),
        ("unread", ("maps", "nginx"), 3, ""),
    ],
)
def test_exit_codes_of_answers(which, arguments, code, starts, files, capsys):
    found, out, err = run(capsys, *arguments, "--bundle", files[which])
    assert found == code, err
    assert out.startswith(starts)
    if which == "unread":
        assert "no image" in err
        assert bool(out) is (arguments[0] == "explain")


def test_a_completed_name_is_said_on_stderr_only(files, capsys):
    _, out, err = run(capsys, "maps", "nginx", "-o", "json", "--bundle", files["good"])
    assert said(err, files["good"]) == "pod/nginx is pod default/nginx-f8d9c6576-8b4vf\n"
    assert json.loads(out)["kind"] == "Maps"


@pytest.mark.parametrize(("form", "load"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_formats(form, load, files, capsys):
    for verb in ("explain", "maps"):
        _, out, _ = run(capsys, verb, "nginx", "-o", form, "--bundle", files["good"])
        assert load(out)["pod"] == "default/nginx-f8d9c6576-8b4vf"


def test_no_headers(files, capsys):
    _, with_, _ = run(capsys, "maps", "nginx", "--bundle", files["good"])
    _, without, _ = run(capsys, "maps", "nginx", "--no-headers", "--bundle", files["good"])
    assert "ENTRIES" in with_
    assert "ENTRIES" not in without


def test_the_namespace_flag_reaches_a_bundle_too(files, capsys):
    code, _, err = run(capsys, "maps", "nginx", "-n", "shop", "--bundle", files["good"])
    assert (code, said(err, files["good"])) == (2, 'error: namespace "shop" not found\n')


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["explain"], "Missing argument 'POD'"),
        (["nope"], "No such command 'nope'"),
        (["explain", "x", "--bogus"], "No such option: --bogus"),
        (["explain", "x", "-o", "xml"], "Invalid value for '--output'"),
        (["explain", "x", "--deadline", "3"], "Invalid value for '--deadline'"),
        (["explain", "x", "--start-timeout", "0"], "Invalid value for '--start-timeout'"),
        (["explain", "x", "--direction", "up"], '--direction "up" is not one of ingress, egress, both'),
        (["explain", "x", "--request-timeout", "soon"], "is not a duration"),
        (["explain", "x", "--bundle", "/no/such/file"], "could not be read"),
        (["capture", "x"], "Missing option '--file'"),
        (["maps", "x", "y"], "unexpected extra argument"),
        (["maps", "x", "--port", "80"], "No such option: --port"),
    ],
)
def test_wrong_usage_is_2_and_one_line(arguments, says, capsys):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    first, *hints = err.splitlines()
    assert first.startswith("error: ")
    assert says in first
    assert len(hints) <= 1
    if hints and hints[0].endswith(" --help"):
        verb = "" if arguments == ["nope"] else f" {arguments[0]}"
        assert hints == [f"hint: see kubectl netpol-ebpf{verb} --help"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["explain", "nope"],
        ["explain", "nginx", "--from", "nope", "--port", "80"],
        ["explain", "nginx", "--from", "accesstrue", "--to", "accesstrue"],
        ["explain", "nginx", "--port", "80"],
        ["explain", "NGINX"],
        ["maps", "10.0.4.5"],
        ["maps", "node/node-a"],
    ],
)
def test_questions_that_make_no_sense_are_2(arguments, files, capsys):
    code, out, err = run(capsys, *arguments, "--bundle", files["good"])
    assert (code, out) == (2, "")
    assert said(err, files["good"]).startswith("error: ")


def test_without_arguments_there_is_help(capsys):
    code, _, err = run(capsys)
    assert code == 2
    assert err.startswith("Usage: kubectl netpol-ebpf ")


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["explain", "--help"], ["maps", "-h"], ["capture", "-h"]])
def test_help(arguments, capsys):
    code, out, err = run(capsys, *arguments)
    assert (code, err) == (0, "")
    assert out.startswith("Usage: kubectl netpol-ebpf")


@pytest.mark.parametrize(
    ("error", "code", "err"),
    [
        (UsageError("no"), 2, "error: no\n"),
        (NodeError("no", "do that"), 3, "error: no\nhint: do that\n"),
        (ApiError(403, "Forbidden", "no"), 3, "error: no\n"),
        (ConnectionFailed("a\nb\x1b[2J"), 3, "error: a b[2J\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (Interrupted(), 130, "error: interrupted\n"),
        (
            ZeroDivisionError("x\ny"),
            3,
            "error: internal error: ZeroDivisionError: x y\n"
            "hint: please report it; NETPOL_EBPF_DEBUG=1 shows the traceback\n",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_every_error_is_an_exit_code_and_at_most_two_lines(error, code, err, monkeypatch, capsys):
    def fail(*_):
        raise error

    monkeypatch.delenv("NETPOL_EBPF_DEBUG", raising=False)
    monkeypatch.setattr(verbs, "maps", fail)
    assert run(capsys, "maps", "x") == (code, "", err)


def test_debugging_shows_the_traceback_of_internal_errors_only(monkeypatch, capsys):
    monkeypatch.setenv("NETPOL_EBPF_DEBUG", "1")
    monkeypatch.setattr(verbs, "maps", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.run(["maps", "x"])
    assert run(capsys, "maps")[0] == 2


def test_a_closed_pipe_is_not_an_error(files):
    """`| head -1`: the reader is gone before everything is written."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "kubectl_netpol", "maps", "nginx", "-o", "json", "--bundle", files["good"]]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writer)
    assert done.returncode == 0
    assert said(done.stderr, files["good"]) == "pod/nginx is pod default/nginx-f8d9c6576-8b4vf\n"


def test_colours_reach_a_terminal_and_no_file(files, monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    arguments = ["explain", "nginx", "--from", "accessfalse", "--port", "80", "--bundle", files["good"]]
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\033[" not in run(capsys, *arguments)[1]
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    assert cli.run(arguments) == 1
    assert "\033[31;1mDROP\033[0m" in terminal.getvalue()


def test_a_bundle_touches_no_cluster(files, monkeypatch, capsys):
    monkeypatch.setattr("kubectl_netpol.cluster.connection.connect", lambda *_: pytest.fail("connected"))
    assert run(capsys, "explain", "nginx", "--bundle", files["good"])[0] == 0


def test_a_closed_pipe_does_not_change_the_answer(files):
    """`explain ... | true` must not turn a drop into success."""
    reader, writer = os.pipe()
    os.close(reader)
    question = ["explain", "nginx", "--from", "accessfalse", "--port", "80", "--bundle", files["good"]]
    done = subprocess.run(
        [sys.executable, "-m", "kubectl_netpol", *question],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    os.close(writer)
    assert done.returncode == 1
    assert "error" not in done.stderr


def test_a_full_disk_is_one_line(files):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "kubectl_netpol", "maps", "nginx", "--bundle", files["good"]],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=60,
        )  # fmt: skip
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1] == "error: the output could not be written: No space left on device"


def run_in_shell(redirections: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Without kubectl, which opens what its caller closed."""
    command = [sys.executable, "-m", "kubectl_netpol", *arguments]
    return subprocess.run(
        ["bash", "-c", f'exec "$@" {redirections}', "bash", *command], capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("arguments", [["version", "--client"], ["--help"], ["maps", "--help"]])
def test_a_full_disk_is_one_line_for_all_that_is_printed(arguments):
    done = run_in_shell("> /dev/full", *arguments)
    assert (done.returncode, done.stderr) == (
        3,
        "error: the output could not be written: No space left on device\n",
    )


@pytest.mark.parametrize("redirections", ["2> /dev/full", "2>&-", "2> >(true)", "<&- 2>&-"])
def test_the_exit_code_is_the_same_where_stderr_takes_nothing(redirections, files):
    done = run_in_shell(redirections, "maps", "nobody", "--bundle", files["good"])
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")
    done = run_in_shell(
        redirections, "explain", "nginx", "--from", "accessfalse", "--port", "80", "--bundle", files["good"]
    )
    assert (done.returncode, done.stdout[:5], done.stderr) == (1, "DROP:", "")


def test_a_closed_stdout_leaves_the_exit_code(files):
    done = run_in_shell(">&-", "explain", "nginx", "--from", "accessfalse", "--port", "80", "--bundle", files["good"])
    assert done.returncode == 1
    assert "error" not in done.stderr


@pytest.mark.parametrize("flag", ["--from", "--to", "--bundle", "--image", "--debug-namespace"])
def test_an_empty_value_is_not_no_value(flag, files, capsys):
    code, out, err = run(capsys, "explain", "nginx", "--bundle", files["good"], flag, "")
    assert (code, out) == (2, "")
    assert f"error: {flag} is empty" in err
