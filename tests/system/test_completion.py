"""Completions as a user gets them: the real kubectl asks the plugin, which asks an API server; and a real bash."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from kubectl_netpol import bundle
from tests.lab.api_http import Request
from tests.lab.apiserver import ApiServer
from tests.lab.require import require_tools
from tests.unit.test_completion import KINDS, NODE, fill, pod

BUNDLE = Path(bundle.__file__).parent / "examples" / "article.tar.gz"
BASH_COMPLETION = Path("/usr/share/bash-completion/bash_completion")


@dataclass
class Typist:
    """Somebody who types `kubectl netpol-ebpf …` and presses TAB."""

    server: ApiServer
    bin: Path
    home: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        keep = {name: os.environ[name] for name in ("LANG", "PYTHONPATH", "TMPDIR") if name in os.environ}
        path = f"{self.bin}:{os.environ['PATH']}"
        return {**keep, "PATH": path, "HOME": str(self.home), "KUBECONFIG": str(self.home / "config"), **self.env}

    def asks(self, *words: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        """`kubectl __complete netpol-ebpf WORDS`."""
        return subprocess.run(
            ["kubectl", "__complete", "netpol-ebpf", *words],
            env=self.environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def gets(self, *words: str) -> tuple[list[str], int]:
        """(the candidates with their notes, the directive)."""
        done = self.asks(*words)
        assert done.returncode == 0, done.stderr
        *lines, directive = done.stdout.splitlines()
        assert all("netpol" not in line or line.startswith("[Debug]") for line in done.stderr.splitlines())
        return lines, int(directive.removeprefix(":"))

    def words(self, *words: str) -> list[str]:
        return [line.partition("\t")[0] for line in self.gets(*words)[0]]

    def lists(self) -> list[str]:
        """Paths of what was listed since the last call."""
        found = [request.path for request in self.requests()]
        self.server.requests.clear()
        return found

    def requests(self) -> list[Request]:
        """The plugin's own: kubectl may ask for versions."""
        return [one for one in self.server.requests if one.user_agent.startswith("kubectl-netpol-ebpf")]

    def files(self) -> set[Path]:
        """In the home directory: less kubectl's cache, and what a test made itself."""
        return {path for path in self.home.rglob("*") if not {".kube", "made"} & set(path.parts)}


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    with ApiServer() as made:
        fill(made)
        made.add_user("nobody")
        yield made
    assert made.errors == []


@pytest.fixture
def typist(server: ApiServer, plugin_bin: Path, tmp_path: Path) -> Iterator[Typist]:
    require_tools("kubectl")
    server.write_kubeconfig(tmp_path / "config", extra_users=["nobody"])
    server.requests.clear()
    found = Typist(server, plugin_bin, tmp_path)
    yield found
    server.faults.clear()
    assert found.files() == {tmp_path / "config"}


def test_through_kubectl(typist: Typist) -> None:
    lines, directive = typist.gets("")
    assert directive == 4
    assert [line.partition("\t")[0] for line in lines][:3] == ["explain", "maps", "check"]
    assert typist.words("explain", "pod/x", "--fr") == ["--from"]
    assert typist.words("maps", "x", "--direction=e") == ["egress"]
    assert typist.gets("explain", "-f", "") == ([], 0)
    assert typist.lists() == []
    assert typist.gets("explain", "") == ([*KINDS, "db-0\tRunning", "web-66b6c48dd5-x2x7k\tRunning"], 4)
    assert typist.lists() == ["/api/v1/namespaces/default/pods"]
    assert typist.gets("explain", "sho") == (["shop/\tnamespace"], 6)
    assert typist.words("check", "--node", "") == [NODE]
    assert typist.words("maps", f"--bundle={BUNDLE}", "deploy/") == ["deploy/nginx"]


def test_connection_flags_count(typist: Typist) -> None:
    assert typist.words("explain", "-n", "shop", "c") == ["cart"]
    assert typist.words("explain", "--namespace=shop", "pod/") == ["pod/cart"]
    assert typist.gets("explain", "--context", "nobody", "pod/") == ([], 4)
    other = typist.home / "other" / "made"
    other.parent.mkdir()
    (typist.home / "config").rename(other)
    assert typist.words("explain", "pod/") == []
    assert typist.words("explain", "--kubeconfig", str(other), "pod/d") == ["pod/db-0"]
    assert typist.words("maps", "--kubeconfig", str(other), "--context", "") == ["admin", "nobody"]
    other.rename(typist.home / "config")
    other.parent.rmdir()


def test_what_fails_says_nothing(typist: Typist) -> None:
    typist.server.faults.http(500, "/pods")
    assert typist.gets("explain", "pod/") == ([], 4)
    (typist.home / "config").write_text("apiVersion: v1\nkind: [")
    assert typist.gets("explain", "pod/") == ([], 4)


def test_nobody_waits_for_a_slow_server(typist: Typist) -> None:
    """The server would take a minute: the answer comes, and without candidates."""
    typist.server.faults.slow(60, "/pods")
    assert typist.gets("explain", "pod/") == ([], 4)


def test_a_credentials_plugin_that_asks_or_hangs_does_not_hold_the_shell(typist: Typist) -> None:
    """It finds no terminal, and is ended. It would print where the user types."""
    told = typist.home / "made"
    told.mkdir()
    plugin = told / "plugin"
    plugin.write_text(
        f"#!/bin/sh\necho asking >&2\nread answer && echo answered > {told}/answered\n"
        f"ps -o sid= -p $$ > {told}/session\necho $$ > {told}/pid\nexec sleep 300\n"
    )
    plugin.chmod(0o755)
    config = yaml.safe_load((typist.home / "config").read_text())
    api = "client.authentication.k8s.io/v1beta1"
    config["users"][0]["user"] = {"exec": {"apiVersion": api, "command": str(plugin), "interactiveMode": "Never"}}
    (typist.home / "config").write_text(yaml.safe_dump(config))
    # Not through kubectl, of which there are some that ask the server for its version before anything else.
    completer = [typist.bin / "kubectl_complete-netpol_ebpf", "explain", "pod/"]
    done = subprocess.run(
        completer, env=typist.environment, input="secret\n", capture_output=True, text=True, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == (":4\n", "")
    assert int((told / "session").read_text()) != os.getsid(0)
    assert not (told / "answered").exists()
    pid = int((told / "pid").read_text())
    until = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()


# ---- a real shell


class Bash:
    """A bash with kubectl's completion script, which is asked as the line editor asks it."""

    SCRIPT = """
source {library}
source <(kubectl completion bash)
compopt() {{ :; }}
COMP_TYPE=9 COMP_KEY=9 COLUMNS=200
press() {{
    COMP_LINE=$1 COMP_POINT=${{#1}}
    shift
    COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
    __start_kubectl kubectl
    printf '%s\\n' "${{COMPREPLY[@]}}" .
}}
{presses}
"""

    def __init__(self, typist: Typist) -> None:
        self.typist = typist

    def tab(self, *lines: str) -> list[list[str]]:
        """What bash offers behind each of these lines, without the notes."""
        presses = "\n".join(f"press {shlex.quote(line)} {shlex.join(self._words(line))}" for line in lines)
        done = subprocess.run(
            ["bash", "--norc", "-c", self.SCRIPT.format(library=BASH_COMPLETION, presses=presses)],
            env=self.typist.environment,
            cwd=self.typist.home,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.stderr == "", done.stderr
        answers = done.stdout.split("\n.\n")[:-1]
        return [[word.split("  ")[0] for word in answer.splitlines()] for answer in answers]

    @staticmethod
    def _words(line: str) -> list[str]:
        """As the line editor splits it: = and : stand alone."""
        words = shlex.split(line.replace("=", " = ").replace(":", " : "))
        return [*words, ""] if line.endswith((" ", "=")) else words


@pytest.fixture
def bash(typist: Typist) -> Bash:
    require_tools("bash")
    if not BASH_COMPLETION.exists():
        if os.environ.get("NETPOL_LAB_REQUIRED"):
            pytest.fail("the Debian package bash-completion is not installed")
        pytest.skip("the Debian package bash-completion is not installed")
    return Bash(typist)


def test_bash(bash: Bash) -> None:
    answers = {
        "ex": ["explain"],
        "explain --fr": ["--from"],
        "explain db": ["db-0"],
        "explain -n shop ": [*KINDS, "cart"],
        "explain db-0 --to=svc/": ["svc/front"],
        "maps --direction=e": ["egress"],
        "maps --context ad": ["admin"],
    }
    assert bash.tab(*(f"kubectl netpol-ebpf {line}" for line in answers)) == list(answers.values())


def test_bash_runs_no_names(bash: Bash) -> None:
    """Candidates without notes go through `compgen -W`, which expands them."""
    server = bash.typist.server
    name = "$(touch${IFS}evil)"
    server.put(pod("x", owner=("StatefulSet", name)))
    try:
        assert bash.tab("kubectl netpol-ebpf explain sts/") == [["sts/db"]]
        assert not (bash.typist.home / "evil").exists()
    finally:
        server.store.remove(server.registry.of("Pod"), "default", "x")


# ---- the file by which kubectl finds it


@pytest.fixture
def krew(typist: Typist, monkeypatch: pytest.MonkeyPatch) -> Typist:
    """As krew leaves it: a directory on PATH with a link to the plugin, and nothing else."""
    # The environment of the tests has the completer of pip on PATH.
    name = "kubectl_complete-netpol_ebpf"
    kept = [place for place in os.environ["PATH"].split(os.pathsep) if not (Path(place) / name).exists()]
    monkeypatch.setenv("PATH", os.pathsep.join(kept))
    links = typist.home / "made"
    links.mkdir()
    (links / "kubectl-netpol_ebpf").symlink_to((typist.bin / "kubectl-netpol_ebpf").resolve())
    typist.bin = links
    return typist


def verb(typist: Typist, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["kubectl", "netpol-ebpf", *words],
        env={**typist.environment, **env},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_completion_install_and_uninstall(krew: Typist) -> None:
    shim = krew.bin / "kubectl_complete-netpol_ebpf"
    try:
        assert krew.words("explain", "d") == []
        done = verb(krew, "completion", "install")
        assert (done.returncode, done.stdout) == (0, f"wrote {shim}\n")
        assert os.access(shim, os.X_OK)
        assert krew.words("explain", "d") == ["deploy/", "ds/", "db-0", "default/"]
        assert krew.gets("explain", "--bundle", "") == ([], 0)
        again = verb(krew, "completion", "install")
        assert (again.returncode, again.stdout) == (0, f"{shim} is there already\n")
        assert shim.read_text() == verb(krew, "completion", "script").stdout
        done = verb(krew, "completion", "uninstall")
        assert (done.returncode, done.stdout) == (0, f"removed {shim}\n")
        assert verb(krew, "completion", "uninstall").stdout == "nothing to remove\n"
        assert [path.name for path in krew.bin.iterdir()] == ["kubectl-netpol_ebpf"]
    finally:
        for path in krew.bin.iterdir():
            path.unlink()


def test_a_krew_that_may_not_be_written(krew: Typist) -> None:
    """A file stands in its way as for everybody, also for root, who may write anywhere."""
    shim = krew.bin / "kubectl_complete-netpol_ebpf"
    shim.write_text("#!/bin/sh\necho mine\n")
    shim.chmod(0o755)
    try:
        done = verb(krew, "completion", "install")
        assert (done.returncode, done.stdout) == (3, "")
        assert (
            done.stderr.splitlines()[0]
            == f"error: {shim} is there already and was not written by this tool: it is left as it is"
        )
        done = verb(krew, "completion", "uninstall")
        assert (done.returncode, done.stdout) == (0, "nothing to remove\n")
        assert done.stderr == f"note: {shim} was not written by `completion install`: left alone\n"
        assert shim.read_text() == "#!/bin/sh\necho mine\n"
    finally:
        for path in krew.bin.iterdir():
            path.unlink()


def test_an_interrupt_says_nothing(typist: Typist) -> None:
    slow = typist.server.faults.slow(20, "/pods")
    completer = typist.bin / "kubectl_complete-netpol_ebpf"
    process = subprocess.Popen(
        [completer, "explain", "pod/"],
        env=typist.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 20
    while not slow.hits and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20) == ("", "")
    assert process.returncode == 130
