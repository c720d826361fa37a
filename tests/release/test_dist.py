"""scripts/dist: the same bytes wherever it runs, and an SBOM that names what is shipped."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import tarfile
import zipfile
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kubectl_netpol import __version__
from release.archive import Member, tar_gz
from release.sbom import wrong_in

from .environment import BUILD, ROOT, require_build_env
from .test_locks import direct, locked, version

WHEN = 1_700_000_000
NAME = f"kubectl_netpol_ebpf-{__version__}"


def checkout(directory: Path) -> Path:
    """The tracked files as they are now, as a checkout of their own that builds with this one's environments."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout.decode()
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).is_file():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, directory / name)
    (directory / ".build").symlink_to(BUILD)
    for command in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", *command], cwd=directory, check=True, capture_output=True)
    return directory


def built(directory: Path, umask: int, zone: str) -> Path:
    """dist/ of a checkout, made under another umask and time zone."""
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(WHEN), "TZ": zone}
    argv = [str(directory / "scripts" / "dist")]
    done = subprocess.run(argv, cwd="/", env=environment, umask=umask, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return directory / "dist"


def source(directory: Path, to: Path) -> subprocess.CompletedProcess[str]:
    """scripts/source, in a directory with two files and a space in its name."""
    (directory / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "source", directory / "scripts")
    (directory / "kept").write_text("kept")
    (directory / "lost").write_text("lost")
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(directory.parent)}
    return subprocess.run(
        ["sh", "-c", 'cd "$1"; eval "$2"; scripts/source "$3"', "sh", directory, SETUPS[directory.name], to],
        env=environment,
        text=True,
        capture_output=True,
    )


SETUPS = {
    "all there": "git init -q; git add -A; echo new >untracked; echo changed >kept",
    "one is gone": "git init -q; git add -A; rm lost",
    "no checkout": "",
}


def test_the_source_is_what_is_tracked_as_it_is_now(tmp_path: Path) -> None:
    done = source(tmp_path / "all there", tmp_path / "to here")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(os.listdir(tmp_path / "to here")) == ["kept", "lost", "scripts"]
    assert (tmp_path / "to here" / "kept").read_text() == "changed\n"
    assert sorted(os.listdir(tmp_path)) == ["all there", "to here"]


@pytest.mark.parametrize(("name", "says"), [("one is gone", "lost"), ("no checkout", "not a git repository")])
def test_a_source_that_is_not_whole_is_not_built_from(name: str, says: str, tmp_path: Path) -> None:
    done = source(tmp_path / name, tmp_path / "to")
    assert done.returncode != 0 and says in done.stderr


@dataclass(frozen=True)
class Twice:
    first: Path
    second: Path

    def bom(self) -> Any:
        return json.loads((self.first / f"{NAME}.cdx.json").read_text())


@pytest.fixture(scope="module")
def dists(tmp_path_factory: pytest.TempPathFactory) -> Twice:
    require_build_env()
    here, there = tmp_path_factory.mktemp("a"), tmp_path_factory.mktemp("b") / "a longer" / "way"
    there.mkdir(parents=True)
    checkout(there)
    # What another build left, and what is not tracked, is no part of a release.
    (there / "build" / "lib" / "kubectl_netpol").mkdir(parents=True)
    (there / "build" / "lib" / "kubectl_netpol" / "left.py").write_text("left = 1")
    for file in (there / "kubectl_netpol").rglob("*.py"):
        os.utime(file, (WHEN + 1, WHEN + 1))
    first = built(checkout(here), 0o022, "UTC")
    (there / "kubectl_netpol" / "untracked.py").write_text("untracked = 1")
    return Twice(first, built(there, 0o077, "Asia/Kathmandu"))


def test_two_builds_are_equal_byte_by_byte(dists: Twice) -> None:
    names = {f"{NAME}.tar.gz", f"{NAME}-py3-none-any.whl", f"{NAME}.cdx.json"}
    assert {file.name for file in dists.first.iterdir()} == {file.name for file in dists.second.iterdir()} == names
    for name in names:
        assert (dists.first / name).read_bytes() == (dists.second / name).read_bytes(), name


def test_the_wheel_holds_the_package_as_it_is_in_the_source(dists: Twice) -> None:
    with zipfile.ZipFile(dists.first / f"{NAME}-py3-none-any.whl") as wheel:
        held = {name: wheel.read(name) for name in wheel.namelist() if name.startswith("kubectl_netpol/")}
        assert any(name.endswith("/licenses/LICENSE") for name in wheel.namelist())
        modes = {entry.filename: stat.S_IMODE(entry.external_attr >> 16) for entry in wheel.infolist()}
    tracked = subprocess.run(
        ["git", "ls-files", "kubectl_netpol"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert held == {name: (ROOT / name).read_bytes() for name in tracked.stdout.splitlines()}
    assert {modes[name] for name in held} == {0o644}


def test_the_sdist_tells_nothing_of_who_made_it(dists: Twice) -> None:
    with tarfile.open(dists.first / f"{NAME}.tar.gz") as archive:
        headers = archive.getmembers()
    assert {f"{NAME}/{name}" for name in ("LICENSE", "pyproject.toml", "setup.cfg")} <= {each.name for each in headers}
    for header in headers:
        assert header.isreg() or header.isdir(), header.name
        assert (header.uid, header.gid, header.uname, header.gname, header.mtime) == (0, 0, "", "", WHEN), header.name
        assert header.mode in (0o644, 0o755), header.name


def test_the_sbom_is_as_its_schema_wants_it(dists: Twice) -> None:
    text = (dists.first / f"{NAME}.cdx.json").read_text()
    assert wrong_in(text) is None
    broken = {**dists.bom(), "components": [{"type": "applications", "name": "x"}]}
    assert wrong_in(json.dumps(broken)) is not None


def test_the_sbom_names_exactly_the_locked_packages_with_hashes(dists: Twice) -> None:
    listed = {canonicalize_name(each["name"]): each for each in dists.bom()["components"]}
    lines = {name: line for name, line in locked("product").items() if line.marker is None or line.marker.evaluate()}
    assert set(listed) == set(lines)
    for name, component in listed.items():
        assert component["version"] == version(lines[name])
        assert component["purl"].startswith(f"pkg:pypi/{name}@{version(lines[name])}")
        (found,) = component["hashes"]
        assert found["alg"] == "SHA-256"
        assert f"sha256:{found['content']}" in lines[name].hash_options, name


def test_the_sbom_is_about_the_wheel_and_its_dependencies(dists: Twice) -> None:
    bom = dists.bom()
    root = bom["metadata"]["component"]
    assert (root["name"], root["version"], root["type"]) == ("kubectl-netpol-ebpf", __version__, "application")
    wheel = (dists.first / f"{NAME}-py3-none-any.whl").read_bytes()
    assert root["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(wheel).hexdigest()}]
    graph = {each["ref"]: {ref.split("==")[0] for ref in each.get("dependsOn", ())} for each in bom["dependencies"]}
    names = {canonicalize_name(name) for name in graph[root["bom-ref"]]}
    assert names == {canonicalize_name(each.name) for each in direct("product")}
    wanted = [Requirement(line) for line in distribution("typer").requires or ()]
    needed = {
        canonicalize_name(each.name) for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})
    }
    (typer,) = (ref for ref in graph if ref.startswith("typer=="))
    assert {canonicalize_name(name) for name in graph[typer]} == needed


def test_the_sbom_tells_nothing_of_the_machine_that_made_it(dists: Twice) -> None:
    text = (dists.first / f"{NAME}.cdx.json").read_text()
    assert "serialNumber" not in text
    assert dists.bom()["metadata"]["timestamp"] == "2023-11-14T22:13:20+00:00"
    for place in ("file:", str(ROOT), str(BUILD), "/tmp", "/home", os.uname().nodename):
        assert place not in text, place


def test_an_archive_has_the_order_and_modes_of_its_members() -> None:
    members = [Member("b/x", b"1", executable=True), Member("a", b"2")]
    packed = tar_gz(members, WHEN)
    assert packed == tar_gz(reversed(members), WHEN) != tar_gz(members, WHEN + 1)
