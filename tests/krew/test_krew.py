"""The archive that krew/build makes: its bytes, what is in it, that it runs, and that the real krew takes it.

One module, so that the archive is built in one process: twice, in two checkouts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.utils import canonicalize_name

from krew import machine, make, manifest
from kubectl_netpol import __version__
from release.sbom import wrong_in
from tests.release.environment import ROOT, require_build_env
from tests.release.test_dist import WHEN, checkout
from tests.release.test_locks import locked, version

from .support import (
    ARCH,
    BUNDLE,
    FIVE,
    KREW,
    OS,
    PROGRAM,
    TAG,
    Archive,
    Site,
    User,
    build,
    file_name,
    newer,
    require_krew,
    served,
    stand_in,
)

NEXT = "99.0.0"


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Archive, Archive]:
    require_build_env()
    first = checkout(tmp_path_factory.mktemp("a"))
    second = tmp_path_factory.mktemp("b") / "a longer" / "way"
    second.mkdir(parents=True)
    checkout(second)
    (second / "kubectl_netpol" / "untracked.py").write_text("untracked = 1")
    out = tmp_path_factory.mktemp("archives")
    return build(first, out / "1", 0o022, "UTC"), build(second, out / "2", 0o077, "Asia/Kathmandu")


@pytest.fixture(scope="module")
def archive(archives: tuple[Archive, Archive]) -> Archive:
    return archives[0]


@pytest.fixture(scope="module")
def folder(archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive as krew unpacks it."""
    return archive.unpacked(tmp_path_factory.mktemp("unpacked"))


# what is in it ---------------------------------------------------------------------------------------------------


def test_two_builds_are_equal_byte_by_byte(archives: tuple[Archive, Archive]) -> None:
    first, second = archives
    assert first.file.read_bytes() == second.file.read_bytes()
    assert first.bom.read_bytes() == second.bom.read_bytes()


def test_it_holds_files_that_krew_takes(archive: Archive) -> None:
    """krew refuses links, and paths that lead out; it keeps modes."""
    for header in archive.headers:
        assert header.isfile() or header.isdir(), header.name
        assert not header.name.startswith("/") and ".." not in Path(header.name).parts, header.name
        assert header.mode in (0o644, 0o755), header.name
        assert (header.uid, header.gid, header.uname, header.gname, header.mtime) == (0, 0, "", "", WHEN), header.name
    assert {name.split("/")[0] for name in archive.members} == {"LICENSE", "_internal", PROGRAM}
    assert archive.members[PROGRAM].executable
    assert archive.members["LICENSE"].data == (ROOT / "LICENSE").read_bytes()


def test_scripts_for_nodes_and_the_bundle_are_in_it_as_they_are(archive: Archive) -> None:
    scripts = tomllib.loads((ROOT / "ruff.toml").read_text())["per-file-target-version"]
    assert len(scripts) >= 2, "ruff.toml knows which files are sent to nodes"
    for name in scripts:
        assert archive.members[f"_internal/{name}"].data == (ROOT / name).read_bytes()
    assert archive.members[BUNDLE].data == (ROOT / BUNDLE.removeprefix("_internal/")).read_bytes()


def test_every_module_of_the_product_is_in_it_and_none_of_the_tools(archive: Archive) -> None:
    tracked = subprocess.run(["git", "ls-files", "kubectl_netpol/*.py"], cwd=ROOT, check=True, capture_output=True)
    wanted = {f"_internal/{name[:-3]}.pyc" for name in tracked.stdout.decode().split()}
    # The module that runs the package is no part of the program; a page for docs/ is made of the help texts.
    wanted -= {f"_internal/kubectl_netpol/{name}.pyc" for name in ("__main__", "helptext")}
    assert wanted <= set(archive.members), sorted(wanted - set(archive.members))
    for name in ("chardet", "setuptools", "cyclonedx", "PyInstaller", "rich"):
        assert not any(each.startswith(f"_internal/{name}") for each in archive.members), name


def test_the_sbom_lists_the_locked_packages_and_all_else_that_is_in_it(archive: Archive) -> None:
    text = archive.bom.read_text()
    assert wrong_in(text) is None
    bom: Any = json.loads(text)
    by_type: dict[str, dict[str, Any]] = {}
    for each in bom["components"]:
        by_type.setdefault(each["type"], {})[each["name"]] = each

    packages = {canonicalize_name(name): each for name, each in by_type["library"].items()}
    lines = {name: line for name, line in locked("product").items() if line.marker is None or line.marker.evaluate()}
    assert set(packages) == set(lines)
    (packages["pyinstaller"],) = by_type["application"].values()
    lines["pyinstaller"] = locked("build")["pyinstaller"]
    for name, each in packages.items():
        assert each["version"] == version(lines[name])
        (found,) = each["hashes"]
        assert f"sha256:{found['content']}" in lines[name].hash_options, name

    assert set(by_type["platform"]) == {"cpython"}
    libraries = {name for name in archive.members if re.search(r"\.so(\.|$)", name) and "lib-dynload" not in name}
    packaged = {
        f"_internal/{file}" for each in distributions(path=[str(make.site_packages())]) for file in each.files or ()
    }
    assert set(by_type["file"]) == libraries - packaged
    for name, each in by_type["file"].items():
        assert each["hashes"][0]["content"] == hashlib.sha256(archive.members[name].data).hexdigest()
    root = bom["metadata"]["component"]
    assert root["version"] == __version__
    assert root["hashes"][0]["content"] == hashlib.sha256(archive.file.read_bytes()).hexdigest()


def test_the_sbom_says_of_which_packages_nothing_is_in_it(archive: Archive) -> None:
    listed = {
        canonicalize_name(each["name"]): each.get("scope") for each in json.loads(archive.bom.read_text())["components"]
    }
    assert {"aiohttp", "rich", "pygments"} <= {name for name, scope in listed.items() if scope == "excluded"}
    for package in distributions(path=[str(make.site_packages())]):
        tops = {str(file).split("/")[0] for file in package.files or () if ".dist-info" not in str(file)}
        inside = any(name.split("/")[1].removesuffix(".pyc") in {top.removesuffix(".py") for top in tops}
                     for name in archive.members if "/" in name)  # fmt: skip
        assert listed[canonicalize_name(package.name)] == ("required" if inside else "excluded"), package.name


def test_it_tells_nothing_of_where_it_was_built(archives: tuple[Archive, Archive]) -> None:
    places = [str(ROOT).encode(), *(str(each.directory.parent.parent).encode() for each in archives)]
    for archive in archives:
        for name, member in archive.members.items():
            assert not any(place in member.data for place in places), name


@pytest.mark.skipif(OS != "linux", reason="glibc is Linux's")
def test_what_it_needs_of_the_c_library_is_known_and_can_be_held(folder: Path) -> None:
    major, minor = machine.glibc(file for file in folder.rglob("*") if file.is_file())
    here = tuple(int(part) for part in os.confstr("CS_GNU_LIBC_VERSION").split()[1].split("."))  # type: ignore[union-attr]
    assert (2, 17) <= (major, minor) <= here
    assert make.check_glibc(folder, f"{major}.{minor}") == f"needs glibc {major}.{minor} or newer"
    with pytest.raises(SystemExit, match=rf"needs glibc {major}\.{minor}, and not more than 2\.5 is wanted"):
        make.check_glibc(folder, "2.5")


# that it runs ----------------------------------------------------------------------------------------------------


def frozen(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The program with nothing of this machine's but the kernel and the C library."""
    argv = [str(folder / PROGRAM), *arguments]
    return subprocess.run(argv, env={"COLUMNS": "100", **environment}, cwd="/", capture_output=True, text=True)


def from_source(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "kubectl_netpol", *arguments]
    return subprocess.run(argv, env={"COLUMNS": "100", **environment}, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
    "question",
    [
        "--help",
        "version",
        "explain --help",
        "explain pod/nginx --bundle BUNDLE",
        "explain pod/nginx --from pod/accessfalse --port 80 --bundle BUNDLE",
        "maps pod/nginx --bundle BUNDLE -o yaml",
        "check -A --bundle BUNDLE -o json",
        "check -A --bundle BUNDLE -o junit",
        "explain pod/nothing --bundle BUNDLE",
        "explain pod/nginx --bundle /nowhere",
        "explain pod/nginx --server https://127.0.0.1:1",
    ],
)
def test_it_answers_as_the_source_does(folder: Path, question: str) -> None:
    arguments = question.replace("BUNDLE", str(folder / BUNDLE)).split()
    here, there = frozen(folder, *arguments), from_source(*arguments)
    assert (here.returncode, here.stdout, here.stderr) == (there.returncode, there.stdout, there.stderr)
    assert "internal error" not in here.stderr


def test_running_it_writes_nothing_beside_it(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    frozen(folder, "check", "-A", "--bundle", str(folder / BUNDLE))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize("before", [{}, {"LD_LIBRARY_PATH": "/of/the/user"}], ids=["unset", "set"])
def test_credential_plugins_do_not_load_libraries_of_the_archive(
    folder: Path, tmp_path: Path, before: dict[str, str]
) -> None:
    """`aws eks get-token` is such a plugin, with an OpenSSL of its own. What this program was given, it is given."""
    plugin, seen = tmp_path / "plugin", tmp_path / "seen"
    credential = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "t"}}
    plugin.write_text(f"#!/bin/sh\n/usr/bin/env -0 >{seen}\necho '{json.dumps(credential)}'\n")
    plugin.chmod(0o755)
    command = {"apiVersion": credential["apiVersion"], "command": str(plugin), "interactiveMode": "Never"}
    kubeconfig = {
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {"exec": command}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }
    (tmp_path / "config").write_text(json.dumps(kubeconfig))
    done = frozen(folder, "explain", "pod/x", **before, KUBECONFIG=str(tmp_path / "config"))
    assert "no answer from https://127.0.0.1:1" in done.stderr, done.stderr
    given = dict(line.split("=", 1) for line in seen.read_text().split("\0") if line)
    ours = {name: value for name, value in given.items() if "LIBRARY" in name or "PYI" in name or "MEI" in name}
    assert ours == before


def test_it_reads_a_node_and_a_cluster(folder: Path) -> None:
    """The connection, the exec, and the reader that is sent as source text: against a real kernel."""
    # Not above: the lab is Linux's, and archives are made elsewhere too.
    from tests.lab import article
    from tests.lab.require import require_lab, require_tools

    require_lab()
    require_tools("kubectl")
    with article.cluster() as lab:
        article.build(lab)
        flow = ["explain", "pod/nginx", "--from", "pod/accessfalse", "--port", "80"]
        done = frozen(folder, *flow, "--ask-kernel", **lab.environment())
        assert done.returncode == 1, done.stderr
        assert re.search(r"(?m)^  ATTACHED +DROP ", done.stdout)
        assert re.search(r"(?m)^  TEST RUN +DROP ", done.stdout)
        check = ["check", "-A", "--api-only", "-o", "json"]
        here, there = frozen(folder, *check, **lab.environment()), from_source(*check, **lab.environment())
        assert (here.returncode, json.loads(here.stdout)["pods"]) == (
            there.returncode,
            json.loads(there.stdout)["pods"],
        )
        assert not lab.server.errors


# that krew takes it ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with served(tmp_path_factory.mktemp("site")) as made:
        made.add(TAG, {(OS, ARCH): archive.file.read_bytes()})
        made.publish(TAG)
        yield made


@pytest.fixture
def user(site: Site, tmp_path: Path) -> User:
    require_krew()
    return User(tmp_path, site)


def test_krew_accepts_the_manifest_of_all_five_machines(archive: Archive, tmp_path: Path) -> None:
    """krew's own validator, which installs each of them: this machine's archive, and stand-ins for the others."""
    require_krew()
    with served(tmp_path) as site:
        site.add(TAG, {(system, arch): stand_in(system) for system, arch in FIVE})
        site.add(TAG, {(OS, ARCH): archive.file.read_bytes()})
        file = tmp_path / "netpol-ebpf.yaml"
        file.write_text(site.manifest(TAG, only_built=False))
        argv = [KREW / "validate-krew-manifest", "-manifest", file]
        path = f"{KREW}:{os.environ['PATH']}"
        done = subprocess.run(argv, env={"PATH": path, "HOME": str(tmp_path)}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "all 5 spec.platforms installed fine" in done.stderr
        file.write_text(file.read_text().replace("sha256: ", "sha256: 0"))
        assert subprocess.run([*argv, "-skip-install"], capture_output=True).returncode != 0


def test_krew_installs_it_from_a_manifest_and_an_archive(
    user: User, site: Site, archive: Archive, tmp_path: Path
) -> None:
    file = tmp_path / "netpol-ebpf.yaml"
    file.write_text(site.manifest(TAG).replace(site.address, "https://192.0.2.1"))
    user("krew", "install", f"--manifest={file}", f"--archive={archive.file}")
    assert (user.krew / "receipts" / "netpol-ebpf.yaml").exists()
    assert user.installed() == [PROGRAM]
    assert stat.S_IMODE((user.krew / "store" / "netpol-ebpf" / TAG / PROGRAM).stat().st_mode) & 0o111
    assert str(user.krew / "bin" / PROGRAM) in user("plugin", "list")
    assert user("netpol-ebpf", "version").startswith(f"Client Version: {__version__}\n")

    bundle = str(user.krew / "store" / "netpol-ebpf" / TAG / BUNDLE)
    done = user.run(
        "netpol-ebpf", "explain", "pod/nginx", "--from", "pod/accessfalse", "--port", "80", "--bundle", bundle
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("DROP: default/accessfalse ")

    # krew uninstalls only where it has an index, whatever that holds.
    user("krew", "update")
    user("krew", "uninstall", "netpol-ebpf")
    assert (user.installed(), user.store()) == ([], [])
    assert user.run("netpol-ebpf", "version").returncode != 0


def test_krew_installs_it_from_an_index_upgrades_and_uninstalls_it(
    user: User, site: Site, archive: Archive, tmp_path: Path
) -> None:
    user("krew", "update")
    user("krew", "install", "netpol-ebpf")
    assert user("netpol-ebpf", "version").startswith(f"Client Version: {__version__}\n")
    assert user.store() == [TAG]

    site.add(f"v{NEXT}", {(OS, ARCH): newer(archive, NEXT, make.interpreter(), tmp_path)})
    site.publish(f"v{NEXT}")
    user("krew", "upgrade", "netpol-ebpf")
    assert user("netpol-ebpf", "version").startswith(f"Client Version: {NEXT}\n")
    assert user.store() == [f"v{NEXT}"]

    user("krew", "uninstall", "netpol-ebpf")
    assert (user.installed(), user.store()) == ([], [])


def test_krew_refuses_another_archive_than_that_of_the_manifest(
    user: User, site: Site, archive: Archive, tmp_path: Path
) -> None:
    file, other = tmp_path / "netpol-ebpf.yaml", tmp_path / "other.tar.gz"
    file.write_text(site.manifest(TAG))
    other.write_bytes(stand_in(OS))
    assert user.run("krew", "install", f"--manifest={file}", f"--archive={other}").returncode != 0
    assert user.installed() == []


# what cannot be done ---------------------------------------------------------------------------------------------


def test_what_cannot_be_written_leaves_nothing_half_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive that is there is one that krew/manifest puts its sum of into a manifest."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    file = tmp_path / "dist" / "archive.tar.gz"
    make.write_whole(file, b"old")
    monkeypatch.setattr(make.Path, "replace", full)
    with pytest.raises(SystemExit, match=r"^error: \S+archive\.tar\.gz could not be written: No space left on device"):
        make.write_whole(file, b"new")
    assert os.listdir(file.parent) == [file.name] and file.read_bytes() == b"old"
    with pytest.raises(SystemExit, match="could not be written: "):
        make.write_whole(file / "archive.tar.gz", b"new")


@pytest.mark.parametrize("wrong", ["abc", "2", "2.x", ""])
def test_a_version_of_glibc_that_is_none_is_a_wrong_argument(wrong: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"is not a version such as 2\.28"):
        make.glibc_version(wrong)
    assert make.glibc_version("2.28") == "2.28"


# the manifest ----------------------------------------------------------------------------------------------------


def test_a_manifest_of_a_release_needs_all_archives(tmp_path: Path) -> None:
    for system, arch in FIVE[:-1]:
        (tmp_path / file_name(TAG, system, arch)).write_bytes(system.encode())
    with pytest.raises(manifest.Missing, match="windows_amd64"):
        manifest.fill(manifest.body("a/b"), TAG, tmp_path, only_built=False)
    text = manifest.fill(manifest.body("a/b"), TAG, tmp_path, only_built=True)
    assert text.count("sha256:") == 4 and "windows" not in text
    assert hashlib.sha256(b"darwin").hexdigest() in text


def test_the_bots_template_differs_by_the_repository_alone() -> None:
    text = manifest.body("a/b")
    assert "@" not in text.replace("{{", "") and text.count("{{addURIAndSha ") == len(FIVE)
    for system, arch in FIVE:
        assert (
            f"https://github.com/a/b/releases/download/{{{{ .TagName }}}}/{file_name('{{ .TagName }}', system, arch)}"
            in text
        )


def manifest_command(*arguments: str, cwd: Path = Path("/")) -> subprocess.CompletedProcess[str]:
    return subprocess.run([ROOT / "krew" / "manifest", *arguments], cwd=cwd, text=True, capture_output=True)


def test_the_command_writes_the_manifest_and_says_what_is_missing(tmp_path: Path) -> None:
    out, flags = tmp_path / "netpol-ebpf.yaml", ("--repository", "a/b", "--archives", str(tmp_path))
    done = manifest_command(*flags, str(out))
    assert (done.returncode, out.exists()) == (1, False)
    assert re.fullmatch(r"error: \S+_linux_amd64\.tar\.gz is not there: .*\n", done.stderr)
    for system, arch in FIVE:
        (tmp_path / file_name(TAG, system, arch)).write_bytes(arch.encode())
    assert manifest_command(*flags, str(out)).returncode == 0
    assert out.read_text() == manifest.fill(manifest.body("a/b"), TAG, tmp_path, only_built=False)
    assert yaml.safe_load(out.read_text())["spec"]["version"] == TAG
    assert manifest_command(*flags, "--bot", str(out)).returncode == 0
    assert out.read_text() == manifest.body("a/b")
    for wrong in (("--repository", "https://example.org/a/b"), ("--repository", "a/b", "--tag", "v0.0.0")):
        done = manifest_command(*wrong, str(out))
        assert (done.returncode, "error: " in done.stderr) == (2, True)


def test_paths_are_those_of_who_calls_it(tmp_path: Path) -> None:
    (tmp_path / file_name(TAG, *FIVE[0])).write_bytes(b"archive")
    flags = ("--repository", "a/b", "--archives", ".", "--only-built", "out.yaml")
    done = manifest_command(*flags, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert hashlib.sha256(b"archive").hexdigest() in (tmp_path / "out.yaml").read_text()


def test_a_manifest_that_nobody_could_use_is_not_written(tmp_path: Path) -> None:
    flags = ("--only-built", "--archives", str(tmp_path))
    done = manifest_command("--repository", "a/b", *flags, str(tmp_path / "out.yaml"))
    assert (done.returncode, done.stderr) == (
        1,
        f"error: there is no archive of {TAG} in {tmp_path}: krew/build makes one\n",
    )
    (tmp_path / file_name(TAG, *FIVE[0])).write_bytes(b"archive")
    done = manifest_command("--repository", "a/b", *flags, "/dev/full")
    assert (done.returncode, done.stderr) == (1, "error: /dev/full could not be written: No space left on device\n")
    for wrong in ("a/..", "../..", "a_b/c", "\u00e9/b", "a/b\n"):
        done = manifest_command("--repository", wrong, *flags, str(tmp_path / "out.yaml"))
        assert (done.returncode, "is not OWNER/NAME" in done.stderr) == (2, True), wrong
    assert not (tmp_path / "out.yaml").exists()


def test_the_manifest_keeps_to_the_habits_of_krew_index() -> None:
    text = manifest.body("a/b")
    (short,) = re.findall(r"shortDescription: (.*)", text)
    assert len(short) <= 50 and not short.endswith(".")
    for block in re.findall(r"(?m)^  \w+: \|\n((?:    .*\n)+)", text):
        assert all(len(line) - 4 <= 80 for line in block.splitlines())


def test_the_release_builds_on_each_of_the_five() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
    rows = workflow["jobs"]["archive"]["strategy"]["matrix"]["include"]
    assert {(row["os"], row["arch"]) for row in rows} == set(FIVE)
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", step.get("uses", f"a@{'0' * 40}")), step
            for script in re.findall(r"(?:^|[\s\"])((?:krew|scripts)/[\w-]+)(?=\s|$)", step.get("run", "")):
                assert (ROOT / script).exists(), script
