"""What may follow on a command line, asked in this process: of the app, an API server, a bundle and a kubeconfig."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from kubectl_netpol import bundle
from kubectl_netpol.cli import app
from kubectl_netpol.completion import answer, install, kubeconfig
from kubectl_netpol.completion.protocol import Candidate, Directive, text
from kubectl_netpol.completion.values import FILES, NAMES, POD_KINDS, POLICIES, SEVERITIES, WORDS
from kubectl_netpol.errors import NetpolError, UsageError
from kubectl_netpol.policy import changes, targets
from tests.lab.apiserver import ApiServer, make_node

BUNDLE = str(Path(bundle.__file__).parent / "examples" / "article.tar.gz")
NODE = "ip-10-0-0-1.eu-west-1.compute.internal"
EVIL = (
    "$(touch${IFS}evil)",
    "`touch evil`",
    "evil\x1b]0;x\x07",
    "a'b",
    "-rf",
    ":4",
    "a\nb",
    "_activeHelp_ x",
    "x/../y",
)
KINDS = [f"{kind}/" for kind in POD_KINDS]
ROOT: Any = typer.main.get_command(app)


def pod(name: str, namespace: str = "default", owner: tuple[str, str] | None = None, **labels: str) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "namespace": namespace, "labels": labels}
    if owner:
        metadata["ownerReferences"] = [{"apiVersion": "apps/v1", "kind": owner[0], "name": owner[1], "uid": "u"}]
    spec = {"containers": [{"name": "main", "image": "i"}], "nodeName": NODE}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": {"phase": "Running"}}


def thing(kind: str, name: str, namespace: str = "", version: str = "v1", **more: Any) -> dict[str, Any]:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **more}


def fill(server: ApiServer) -> None:
    """A small cluster."""
    policy, active = "networking.k8s.io/v1", {"phase": "Active"}
    server.add_node(make_node(NODE, "10.0.0.1"))
    for one in (
        thing("Namespace", "shop", status=active),
        thing("Namespace", "shipping", status=active),
        pod("web-66b6c48dd5-x2x7k", owner=("ReplicaSet", "web-66b6c48dd5"), **{"pod-template-hash": "66b6c48dd5"}),
        pod("db-0", owner=("StatefulSet", "db")),
        pod("cart", "shop"),
        thing("Service", "front", "default", spec={"ports": [{"port": 80}], "clusterIP": "None", "type": "ClusterIP"}),
        thing("NetworkPolicy", "deny-all", "default", policy, spec={"podSelector": {}}),
        thing("NetworkPolicy", "allow-cart", "shop", policy, spec={"podSelector": {}}),
        thing("ClusterNetworkPolicy", "baseline", version="networking.k8s.aws/v1alpha1", spec={"tier": "Baseline"}),
    ):
        server.put(one)


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    with ApiServer() as made:
        fill(made)
        made.add_user("nobody")
        yield made
    assert made.errors == []


class Line:
    """Somebody who types a verb with --kubeconfig, and more words."""

    def __init__(self, server: ApiServer, directory: Path) -> None:
        self.server = server
        self.config = server.write_kubeconfig(directory / "config", extra_users=["nobody"])

    def gets(self, *words: str) -> tuple[list[str], int]:
        """(the candidates with their notes, the directive)."""
        verb, *rest = words
        return asked(verb, "--kubeconfig", str(self.config), *rest)

    def words(self, *words: str) -> list[str]:
        return [line.partition("\t")[0] for line in self.gets(*words)[0]]


def asked(*words: str) -> tuple[list[str], int]:
    *lines, directive = answer.complete(words).split("\n")[:-1]
    return lines, int(directive.removeprefix(":"))


def words(*typed: str) -> list[str]:
    return [line.partition("\t")[0] for line in asked(*typed)[0]]


@pytest.fixture
def line(server: ApiServer, tmp_path: Path) -> Iterator[Line]:
    server.requests.clear()
    yield Line(server, tmp_path)
    server.faults.clear()


# ---- what the app knows


def test_verbs() -> None:
    lines, directive = asked("")
    assert directive == Directive.NO_FILES
    assert [one.partition("\t")[0] for one in lines] == list(ROOT.commands)
    assert all(one.partition("\t")[2] for one in lines)
    assert words("ex") == ["explain"]
    assert words("--h") == ["--help"]
    assert words() == words("")
    assert words("nonsense", "") == words("__complete", "") == words("-n", "shop", "") == []


@pytest.mark.parametrize("verb", ROOT.commands)
def test_every_flag_of_a_verb(verb: str) -> None:
    shown = {
        flag for p in ROOT.commands[verb].params if p.param_type_name == "option" and not p.hidden for flag in p.opts
    }
    lines, directive = asked(verb, "-")
    assert directive == Directive.NO_FILES
    assert {one.partition("\t")[0] for one in lines} == shown | {"-h", "--help"}
    assert all(one.partition("\t")[2] for one in lines)
    assert set(words(verb, "--")) == {flag for flag in shown if flag.startswith("--")} | {"--help"}


def test_flags_that_are_there_already() -> None:
    assert "--from" in words("explain", "x", "--")
    assert "--from" not in words("explain", "x", "--from", "y", "--")
    assert "--from" not in words("explain", "--from=y", "x", "--")
    assert words("explain", "-n", "y", "--namesp") == []
    assert words("explain", "--without", "x", "--without") == ["--without"]
    # Hidden ones are for who begins to type them; behind -- there are none.
    assert words("explain", "--clu") == ["--cluster"]
    assert words("explain", "--", "--") == []


def test_fixed_values() -> None:
    assert words("check", "-o", "") == ["table", "wide", "json", "yaml", "junit", "prometheus", "html"]
    assert words("maps", "x", "--direction=e") == ["egress"]
    assert words("maps", "--direction", "") == ["ingress", "egress", "both"]
    assert words("check", "--fail-on", "") == ["error", "warning"]
    assert words("maps", "--via", "a") == ["agent"]
    assert asked("check", "--ignore", "NPE101", "--ignore", "NPE10")[0][0].startswith("NPE102\ta named port")
    assert words("completion", "") == ["install", "uninstall", "script"]
    assert words("maps", "--keep=") == words("maps", "--nonsense=") == words("maps", "--nonsense", "-o", "x") == []


@pytest.mark.parametrize("flag", ["-f", "--bundle", "--file=", "--kubeconfig"])
def test_files_are_the_shells_business(flag: str) -> None:
    typed = (flag,) if flag.endswith("=") else (flag, "")
    assert asked("explain", *typed) == ([], Directive.FILES)


def test_every_parameter_is_known() -> None:
    """What a flag takes is in `completion/values.py`, or the parser knows it, or it is listed here as anything."""
    anything = {
        "as_user", "as_group", "as_uid", "request_timeout", "server", "token", "tls_server_name", "image",
        "selinux_type", "port", "source_port", "selector", "wait", "since", "parallel", "deadline", "start_timeout",
    }  # fmt: skip
    taking = {
        parameter.name
        for command in ROOT.commands.values()
        for parameter in command.params
        if not getattr(parameter, "is_flag", False) and not getattr(parameter.type, "choices", ())
    }
    assert taking == anything | NAMES.keys() | WORDS.keys() | FILES


def test_the_words_are_those_of_the_verbs() -> None:
    assert {targets.KINDS[kind] for kind in POD_KINDS} == set(targets.KINDS.values()) - {"node"}
    assert {changes.KINDS[kind] for kind in POLICIES} == set(changes.KINDS.values())
    for severity in SEVERITIES:
        code = "from kubectl_netpol.cli import run; import sys; sys.exit(run(sys.argv[1:]))"
        argv = ["check", "-A", "--bundle", BUNDLE, "--fail-on", severity]
        assert subprocess.run([sys.executable, "-c", code, *argv], capture_output=True).returncode in (0, 1)


# ---- names of a cluster


def test_pods_in_every_form(line: Line) -> None:
    assert line.gets("explain", "") == ([*KINDS, "db-0\tRunning", "web-66b6c48dd5-x2x7k\tRunning"], 4)
    assert [request.path for request in line.server.requests] == ["/api/v1/namespaces/default/pods"]
    assert line.words("maps", "pod/") == ["pod/db-0", "pod/web-66b6c48dd5-x2x7k"]
    assert line.words("maps", "pods/d") == ["pods/db-0"]
    assert line.words("conntrack", "deploy/") == ["deploy/web"]
    assert line.words("conntrack", "deployment/") == ["deployment/web"]
    assert line.words("drops", "sts/") == ["sts/db"]
    assert line.words("drops", "rs/w") == ["rs/web-66b6c48dd5"]
    assert line.words("check", "ds/") == []
    assert line.gets("check", "svc/") == (["svc/front\tClusterIP"], 4)
    assert line.words("explain", "shop/") == ["shop/cart"]
    assert line.words("explain", "shop/pod/") == ["shop/pod/cart"]
    assert line.words("explain", "shop/p") == ["shop/pod/"]
    assert line.words("explain", "default/sts/") == ["default/sts/db"]
    assert line.words("explain", "a/b/c") == line.words("explain", "a/pod/c/") == line.words("explain", "node/") == []
    # No space behind a prefix, so that one can go on typing; one behind a name.
    assert line.gets("explain", "sho") == (["shop/\tnamespace"], 6)
    assert line.gets("explain", "dep") == (["deploy/"], 6)
    assert line.gets("explain", "deploym") == (["deployment/"], 6)
    assert line.words("explain", "pod/db-0", "") == []


def test_a_list_is_one_request_for_names_alone(line: Line) -> None:
    assert line.words("explain", "pod/d") == ["pod/db-0"]
    (request,) = line.server.requests
    assert (request.verb, request.query) == ("list", {"limit": ["500"], "includeObject": ["None"]})
    assert "as=Table" in request.headers["Accept"]
    line.server.requests.clear()
    assert line.words("explain", "deploy/") == ["deploy/web"]
    (request,) = line.server.requests
    assert request.query == {"limit": ["500"], "includeObject": ["Metadata"]}


def test_the_other_end(line: Line) -> None:
    assert line.words("explain", "db-0", "--from", "node/") == [f"node/{NODE}"]
    assert "svc/" not in line.words("explain", "db-0", "--from", "")
    assert line.words("explain", "db-0", "--to", "svc/") == ["svc/front"]
    assert line.words("explain", "db-0", "--to=we") == ["web-66b6c48dd5-x2x7k"]
    # Names are of POD's namespace.
    assert line.words("explain", "shop/cart", "--from", "c") == ["cart"]


def test_connection_flags_count(line: Line) -> None:
    assert line.words("explain", "-n", "shop", "c") == ["cart"]
    assert line.words("explain", "--namespace=shop", "pod/") == ["pod/cart"]
    assert line.gets("explain", "--context", "nobody", "pod/") == ([], 4)
    assert line.gets("explain", "--as", "nobody", "pod/") == ([], 4)
    assert line.words("explain", "--as", "admin", "pod/d") == ["pod/db-0"] or line.server.requests[-1].status == 403
    assert line.gets("explain", "-n", "../..", "pod/") == line.gets("explain", "A B/pod/") == ([], 4)


def test_other_names(line: Line) -> None:
    assert line.gets("explain", "-n", "sh") == (["shipping\tActive", "shop\tActive"], 4)
    assert line.words("maps", "--debug-namespace", "kube-s") == ["kube-system"]
    assert line.words("check", "--node", "") == line.words("capture", "--node=ip") == [NODE]
    assert line.words("maps", "--context", "n") == ["nobody"]
    assert line.words("maps", "--cluster", "") == ["lab"]
    assert line.words("maps", "--user=adm") == ["admin"]
    assert line.words("explain", "x", "--without", "d") == ["deny-all", "default/"]
    assert line.words("explain", "x", "--without", "networkpolicy/") == ["networkpolicy/deny-all"]
    assert line.words("explain", "x", "--without", "shop/") == ["shop/allow-cart"]
    assert line.words("explain", "x", "--without", "shop/netpol/") == ["shop/netpol/allow-cart"]
    assert line.words("explain", "x", "--without", "cnp/") == ["cnp/baseline"]


def test_what_fails_is_no_candidate(line: Line) -> None:
    faults = line.server.faults
    for fault in (lambda: faults.http(503, "/pods"), lambda: faults.cut(30, "/pods"), lambda: faults.close("/pods")):
        fault()
        assert line.gets("explain", "pod/") == ([], 4)
        assert len(line.server.requests) == 1, "no second try"
        # What is known without the server is there all the same.
        assert line.gets("explain", "po") == (["pod/"], 6)
        faults.clear()
        line.server.requests.clear()


def test_answers_of_another_shape(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    from kubectl_netpol.cluster.api import Api

    name = [{"name": "Name"}]
    for found in (
        {},
        {"kind": "PodList", "items": []},
        {"columnDefinitions": 1},
        {"columnDefinitions": [{"name": "x"}]},
        {"columnDefinitions": name, "rows": [{"cells": []}]},
        {"columnDefinitions": name, "rows": [{"cells": [{}], "object": []}]},
    ):
        monkeypatch.setattr(Api, "table", lambda *_, found=found, **__: found)
        assert line.gets("explain", "pod/") == line.gets("explain", "sts/") == ([], 4)


def test_nothing_that_a_shell_or_a_terminal_takes_for_more_gets_out(line: Line) -> None:
    server = line.server
    for number, name in enumerate(EVIL):
        server.put(pod(name))
        server.put(pod(f"owned-{number}", owner=("DaemonSet", name)))
    try:
        found = [one for one in line.words("explain", "pod/") if "owned" not in one]
        assert found == ["pod/db-0", "pod/web-66b6c48dd5-x2x7k"]
        assert line.words("explain", "ds/") == []
        config = yaml.safe_load(line.config.read_text())
        config["contexts"] += [{"name": name, "context": {}} for name in (*EVIL[:-1], "arn:aws:eks:eu:1:cluster/a")]
        line.config.write_text(yaml.safe_dump(config))
        assert line.words("maps", "--context", "") == ["admin", "nobody", "arn:aws:eks:eu:1:cluster/a"]
    finally:
        for number, name in enumerate(EVIL):
            server.store.remove(server.registry.of("Pod"), "default", name)
            server.store.remove(server.registry.of("Pod"), "default", f"owned-{number}")


# ---- names of files


def test_names_of_a_bundle(line: Line) -> None:
    for flag in (("--bundle", BUNDLE), (f"--bundle={BUNDLE}",)):
        assert line.gets("explain", *flag, "n") == (["nginx-f8d9c6576-8b4vf\tRunning"], 4)
    assert words("maps", "--bundle", BUNDLE, "deploy/") == ["deploy/nginx"]
    assert words("explain", "x", "--bundle", BUNDLE, "--without", "a") == ["anp/", "access-nginx"]
    assert words("explain", "--bundle", BUNDLE, "-n", "de") == ["default"]
    assert asked("maps", "--bundle", "/dev/null", "deploy/") == asked("maps", "--bundle", "/", "deploy/") == ([], 4)
    assert line.server.requests == []


def test_kubeconfig_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("contexts: [{name: a}, {name: 1}, 2, {}, {name: -x}]")
    two.write_text("contexts: [{name: b}, {name: a}]")
    monkeypatch.setenv("KUBECONFIG", f"{one}:{tmp_path}:/no/such:{two}")
    assert list(kubeconfig.names("contexts")) == ["a", "b", "a"]
    assert words("maps", "--context", "") == ["a", "b"]
    assert list(kubeconfig.names("contexts", str(two))) == ["b", "a"]
    for wrong in ("contexts: {", "contexts: 1", "- 1", "", "!!python/object:os.x {}", "\x00"):
        one.write_text(wrong)
        assert list(kubeconfig.names("contexts", str(one))) == []
    os.mkfifo(tmp_path / "pipe")
    assert list(kubeconfig.names("contexts", str(tmp_path / "pipe"))) == []


# ---- the text


def test_the_text() -> None:
    assert text([], Directive.NO_FILES) == ":4\n"
    assert text([Candidate("a", "b"), Candidate("a", "c"), Candidate("d")], Directive.NO_FILES) == "a\tb\nd\n:4\n"
    assert text([Candidate("a/"), Candidate("b/", "x")], Directive.NO_FILES) == "a/\nb/\tx\n:6\n"
    assert text([Candidate("a", "b\tc\n:0\x1b[2J$(x)`é" + "x" * 200)], Directive.NO_FILES).split("\n")[0] == (
        "a\tb c :0 [2J (x) " + "x" * 82 + "..."
    )
    assert text([Candidate(word) for word in (*EVIL, ":1", "", "a b", "é")], Directive.FILES) == "-rf\nx/../y\n:0\n"


def test_a_look_that_takes_too_long_gives_what_it_has() -> None:
    def look(found: list[Candidate]) -> None:
        found.append(Candidate("a"))
        time.sleep(30)

    assert answer.within(0.2, look, False) == [Candidate("a")]


@pytest.mark.parametrize(
    "typed", [("explain", "--fr"), ("check", "--ignore", ""), ("maps", "--context", ""), ("explain", "pod/"), ("",)]
)
def test_what_needs_no_cluster_does_not_import_what_asks_one(typed: tuple[str, ...], tmp_path: Path) -> None:
    code = (
        "import sys; from kubectl_netpol.completion.answer import complete; complete(sys.argv[1:]); "
        "sys.exit([m for m in sys.modules if m.split('.')[0] in ('kubernetes', 'websocket', 'urllib3')][:1] or None)"
    )
    # Without a kubeconfig there is no cluster to ask either.
    keep = {name: value for name, value in os.environ.items() if not name.startswith("KUBE")}
    env = {**keep, "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code, *typed], env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


# ---- the file by which kubectl finds it


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the plugin, alone on PATH beside one of the home."""
    found, home = tmp_path / "krew", tmp_path / "home"
    for directory in (found, home / "bin", home / ".local" / "bin"):
        directory.mkdir(parents=True)
    (found / install.PLUGIN).write_text("#!/bin/sh\n")
    (found / install.PLUGIN).chmod(0o755)
    monkeypatch.setenv("PATH", f"{found}:{home}/bin:{home}/.local/bin:relative::/usr/bin:/bin")
    monkeypatch.setenv("HOME", str(home))
    return found


def test_install_beside_the_plugin(place: Path) -> None:
    path = place / install.NAME
    done = install.install()
    assert done.text == f"wrote {path}"
    assert path.read_text() == install.SCRIPT and stat.S_IMODE(path.stat().st_mode) & 0o111
    assert install.install().text == f"{path} is there already"
    assert install.uninstall().text == f"removed {path}"
    assert install.uninstall() == install.Done("nothing to remove")
    assert os.listdir(place) == [install.PLUGIN]


def test_install_where_the_plugins_directory_is_not_the_users(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`os.access` is asked, which says yes to root."""
    refused = {place}
    access = os.access
    monkeypatch.setattr(install.os, "access", lambda path, mode: Path(path) not in refused and access(path, mode))
    home = place.parent / "home"
    assert install.install().text == f"wrote {home}/.local/bin/{install.NAME}"
    install.uninstall()
    refused.add(home / ".local" / "bin")
    assert install.install().text == f"wrote {home}/bin/{install.NAME}"
    install.uninstall()
    refused.add(home / "bin")
    with pytest.raises(UsageError, match="no directory of PATH can be written"):
        install.install()


def test_install_into_a_directory(place: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    done = install.install(str(other))
    assert done.text == f"wrote {other}/{install.NAME}"
    assert done.notes == (f"warning: {other} is not on PATH: kubectl does not look there",)
    assert install.uninstall().text == "nothing to remove"
    assert install.uninstall(str(other)).text == f"removed {other}/{install.NAME}"
    with pytest.raises(UsageError, match="is not a directory"):
        install.install(str(tmp_path / "none"))
    first = place / install.NAME
    install.install()
    (note,) = install.install(str(place.parent / "home" / "bin")).notes
    assert note == f"warning: {first} stands before it on PATH: kubectl takes that one"
    assert install.uninstall().text.count("removed") == 2


def test_a_directory_that_cannot_be_one(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for do in (install.install, install.uninstall):
        with pytest.raises(UsageError, match="--dir ~nobody-of-that-name/bin: Could not determine home directory"):
            do("~nobody-of-that-name/bin")
    with pytest.raises(UsageError, match="is not a directory"):
        install.install("x" * 300)
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for do in (install.install, install.uninstall):
        with pytest.raises(UsageError, match=r"--dir \.: the working directory is gone"):
            do(".")


def test_files_of_others_stay(place: Path, tmp_path: Path) -> None:
    path, target = place / install.NAME, tmp_path / "target"
    target.write_text("theirs")
    for make in (
        lambda: path.write_text("theirs"),
        lambda: path.symlink_to(target),
        lambda: path.symlink_to(tmp_path / "nowhere"),
        lambda: path.mkdir(),
        lambda: path.write_text(install.SCRIPT + "# and more\n"),
    ):
        make()
        before = path.lstat()
        with pytest.raises(NetpolError, match="was not written by this tool: it is left as it is"):
            install.install()
        done = install.uninstall()
        assert (done.text, done.notes) == (
            "nothing to remove",
            (f"note: {path} was not written by `completion install`: left alone",),
        )
        assert path.lstat() == before
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    assert target.read_text() == "theirs" and not (tmp_path / "nowhere").exists()


def test_what_an_older_version_wrote_is_replaced(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "WRITTEN", (install.SCRIPT, "old"))
    (place / install.NAME).write_text("old")
    assert install.install().text.startswith("wrote ")
    assert (place / install.NAME).read_text() == install.SCRIPT


@pytest.mark.parametrize("linked", [False, True])
def test_an_installation_that_brings_it(place: Path, tmp_path: Path, linked: bool) -> None:
    """As pip writes console scripts, and pipx links to them."""
    path = place / install.NAME
    script = tmp_path / "script" if linked else path
    script.write_text("#!/usr/bin/python3\nfrom kubectl_netpol.start import complete\n")
    script.chmod(0o755)
    if linked:
        path.symlink_to(script)
    assert install.install().text == f"{path} is there already: it came with the installation of the plugin"
    assert install.uninstall().text == "nothing to remove"


def test_what_cannot_be_written_is_an_error(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(install.os, "fdopen", full)
    with pytest.raises(NetpolError, match="could not be written: No space left on device"):
        install.install()
    assert os.listdir(place) == [install.PLUGIN]


def test_without_the_plugin_on_the_path(place: Path) -> None:
    (place / install.PLUGIN).unlink()
    with pytest.raises(UsageError, match="is not on PATH"):
        install.install()
