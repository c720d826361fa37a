"""Archives as krew/build makes them, and a user with krew and an empty home."""

from __future__ import annotations

import http.server
import os
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from krew import machine, manifest
from kubectl_netpol import __version__
from release.archive import Member, tar_gz
from tests.release.environment import ROOT, cannot
from tests.release.test_dist import WHEN

OS, ARCH = machine.here() if os.name == "posix" else ("", "")
TAG = f"v{__version__}"
PROGRAM = "kubectl-netpol_ebpf"
BUNDLE = "_internal/kubectl_netpol/examples/article.tar.gz"
KREW = ROOT / ".build" / "krew"
FIVE = (("linux", "amd64"), ("linux", "arm64"), ("darwin", "amd64"), ("darwin", "arm64"), ("windows", "amd64"))


def require_krew() -> None:
    if shutil.which("kubectl") is None or shutil.which("git") is None:
        cannot("kubectl and git are needed: one of them is not installed")
    if not (KREW / "version").exists():
        why = (
            "krew/tools was not run"
            if shutil.which("go")
            else "go is not installed, so that krew/tools cannot build it"
        )
        cannot(f"the krew program is not there: {why}")


def file_name(tag: str, system: str, arch: str) -> str:
    return f"netpol-ebpf_{tag}_{system}_{arch}.tar.gz"


@dataclass(frozen=True)
class Archive:
    """What one run of krew/build left in ``directory``."""

    directory: Path

    @property
    def file(self) -> Path:
        return self.directory / file_name(TAG, OS, ARCH)

    @property
    def bom(self) -> Path:
        return self.file.with_name(self.file.name.replace(".tar.gz", ".cdx.json"))

    @cached_property
    def headers(self) -> list[tarfile.TarInfo]:
        with tarfile.open(self.file) as tar:
            return tar.getmembers()

    @cached_property
    def members(self) -> dict[str, Member]:
        found = {}
        with tarfile.open(self.file) as tar:
            for header in tar:
                if header.isfile():
                    data = tar.extractfile(header)
                    assert data
                    found[header.name] = Member(header.name, data.read(), bool(header.mode & 0o111))
        return found

    def unpacked(self, directory: Path) -> Path:
        subprocess.run(["tar", "-xzf", self.file, "-C", directory], check=True)
        return directory


def build(checkout: Path, output: Path, umask: int, zone: str) -> Archive:
    """krew/build of a checkout. Without GIT_DIR and the like of whoever runs the tests."""
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(WHEN), "TZ": zone}
    argv = [str(checkout / "krew" / "build"), str(output)]
    done = subprocess.run(argv, cwd="/", env=environment, umask=umask, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return Archive(output)


def newer(archive: Archive, version: str, python: Path, work: Path) -> bytes:
    """The same archive as it would be for another version: the one module that holds it is compiled anew, by the
    interpreter that the archive was built with."""
    source = work / "__init__.py"
    text = (ROOT / "kubectl_netpol" / "__init__.py").read_text()
    source.write_text(text.replace(f'"{__version__}"', f'"{version}"'))
    assert source.read_text() != text
    script = (
        "import py_compile, sys; py_compile.compile(*sys.argv[1:], doraise=True, "
        "invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)"
    )
    subprocess.run([python, "-c", script, source, work / "init.pyc"], check=True)
    name = "_internal/kubectl_netpol/__init__.pyc"
    return tar_gz({**archive.members, name: Member(name, (work / "init.pyc").read_bytes())}.values(), WHEN)


def stand_in(system: str) -> bytes:
    """An archive of the same layout for a machine that this one cannot build for."""
    program = PROGRAM + (".exe" if system == "windows" else "")
    return tar_gz([Member("LICENSE", (ROOT / "LICENSE").read_bytes()), Member(program, b"", executable=True)], WHEN)


@dataclass
class Site:
    """Archives on loopback, and a git repository with the manifest that points to them, as krew-index is one."""

    root: Path
    address: str = ""

    @property
    def index(self) -> Path:
        return self.root / "index"

    def add(self, tag: str, files: dict[tuple[str, str], bytes]) -> None:
        for (system, arch), data in files.items():
            (self.root / file_name(tag, system, arch)).write_bytes(data)

    def manifest(self, tag: str, only_built: bool = True) -> str:
        """krew/template.yaml, filled as krew/manifest does, but for where the archives are."""
        text = manifest.body("example/netpol")
        filled = manifest.fill(text, tag, self.root, only_built)
        release = f"https://github.com/example/netpol/releases/download/{tag}"
        assert release in filled
        return filled.replace(release, self.address)

    def publish(self, tag: str) -> None:
        """A commit to the index."""
        file = self.index / "plugins" / "netpol-ebpf.yaml"
        if not file.parent.exists():
            file.parent.mkdir(parents=True)
            self._git("init", "--quiet", "--initial-branch", "master")
        file.write_text(self.manifest(tag))
        self._git("add", "--all")
        self._git("-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "--quiet", "-m", tag)

    def _git(self, *arguments: str) -> None:
        subprocess.run(["git", *arguments], cwd=self.index, check=True, capture_output=True)


@contextmanager
def served(root: Path) -> Iterator[Site]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(root))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield Site(root, f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
            thread.join()


class User:
    """Somebody with kubectl, krew and git, an empty home and nothing else: no Python."""

    def __init__(self, directory: Path, site: Site) -> None:
        self.home = directory / "home"
        self.home.mkdir()
        tools = directory / "bin"
        tools.mkdir()
        for tool in ("kubectl", "git", "kubectl-krew"):
            (tools / tool).symlink_to(KREW / tool if tool == "kubectl-krew" else str(shutil.which(tool)))
        self.krew = self.home / ".krew"
        self.environment = {
            "HOME": str(self.home),
            "PATH": f"{self.krew / 'bin'}:{tools}",
            "KREW_DEFAULT_INDEX_URI": f"file://{site.index}",
            "KREW_NO_UPGRADE_CHECK": "1",
        }
        for name in ("python", "python3"):
            assert shutil.which(name, path=self.environment["PATH"]) is None

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["kubectl", *arguments],
            env=self.environment,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )

    def __call__(self, *arguments: str) -> str:
        """What a command that has to work says on stdout."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def store(self) -> list[str]:
        """Versions of the plugin that are on disk."""
        return sorted(path.name for path in self.krew.glob("store/netpol-ebpf/*"))

    def installed(self) -> list[str]:
        """Names of the programs that krew put on PATH."""
        return sorted(path.name for path in self.krew.glob("bin/*"))
