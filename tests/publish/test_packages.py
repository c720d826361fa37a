"""Wheel and sdist: what is in them, what they say of themselves, and pip on every Python that is promised."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.metadata import Metadata
from packaging.specifiers import SpecifierSet

from kubectl_netpol import __version__

from .packages import ROOT, THIS, VERSIONS, Dists, build, check_installed, interpreter, pip, run

INFO = f"kubectl_netpol_ebpf-{__version__}.dist-info"


@pytest.fixture(scope="module")
def dists(tmp_path_factory: pytest.TempPathFactory) -> Dists:
    return build(tmp_path_factory.mktemp("build"))


def package_files() -> set[str]:
    """The tracked files of the package."""
    listed = subprocess.run(["git", "ls-files", "kubectl_netpol"], cwd=ROOT, check=True, capture_output=True, text=True)
    return {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}


def test_the_wheel_holds_the_whole_package_and_nothing_else(dists: Dists) -> None:
    assert dists.wheel.name == f"kubectl_netpol_ebpf-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(dists.wheel) as wheel:
        names = set(wheel.namelist())
        assert wheel.read(f"{INFO}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert {name for name in names if not name.startswith(f"{INFO}/")} == package_files()
    assert {"kubectl_netpol/py.typed", "kubectl_netpol/examples/article.tar.gz"} <= names


def test_the_sdist_holds_what_the_wheel_is_made_of(dists: Dists) -> None:
    top = f"kubectl_netpol_ebpf-{__version__}"
    with tarfile.open(dists.sdist) as archive:
        names = {member.name.removeprefix(f"{top}/") for member in archive if member.isfile()}
        assert all(member.isfile() or member.isdir() for member in archive)
    assert package_files() | {"LICENSE", "README.md", "setup.cfg", "pyproject.toml", "PKG-INFO"} <= names


def test_what_it_says_of_itself(dists: Dists) -> None:
    """As `twine check` and the index read it, and as the index needs it to be found."""
    with zipfile.ZipFile(dists.wheel) as wheel:
        raw = wheel.read(f"{INFO}/METADATA").decode()
        points = configparser.ConfigParser()
        points.read_string(wheel.read(f"{INFO}/entry_points.txt").decode())
    with tarfile.open(dists.sdist) as archive:
        member = archive.extractfile(f"kubectl_netpol_ebpf-{__version__}/PKG-INFO")
        assert member is not None and member.read().decode() == raw
    found = Metadata.from_email(raw, validate=True)
    assert (found.name, str(found.version)) == ("kubectl-netpol-ebpf", __version__)
    assert found.summary and "\n" not in found.summary
    assert found.description_content_type == "text/markdown"
    assert found.description and found.description.startswith("# kubectl netpol-ebpf")
    assert "Apache-2.0" in (found.license_expression, found.license) and found.license_files == ["LICENSE"]
    promised = {one.rsplit(" ", 1)[1] for one in found.classifiers or () if re.search(r":: Python :: 3\.\d+$", one)}
    assert promised == set(VERSIONS)
    assert found.requires_python == SpecifierSet(">=3.11")
    needed = {one.name for one in found.requires_dist or () if one.marker is None}
    assert needed == {"kubernetes", "typer", "tabulate", "pyyaml"}
    assert dict(points["console_scripts"]) == {
        "kubectl-netpol_ebpf": "kubectl_netpol.start:main",
        "kubectl_complete-netpol_ebpf": "kubectl_netpol.start:complete",
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_pip(dists: Dists, version: str, tmp_path: Path) -> None:
    """Every Python but the one of these tests, which test_pipx.py is about.

    The newest gets the sdist, the others the wheel: without the kubernetes package, which takes most of the time, and
    with NETPOL_EVERY_PYTHON=1 with it.
    """
    python = interpreter(version)
    if python is None:
        pytest.skip(f"Python {version} is not on this machine: not tested there")
    if version == THIS:
        pytest.skip(f"Python {version} is the one of these tests: see test_pipx.py")
    newest = version == [one for one in VERSIONS if one != THIS and interpreter(one)][-1]
    run(python, "-m", "venv", "--without-pip", tmp_path / "env")
    own = tmp_path / "env" / "bin" / "python"
    install, package = ("install", "--quiet", "--no-compile"), dists.sdist if newest else dists.wheel
    if os.environ.get("NETPOL_EVERY_PYTHON"):
        pip(*install, package, python=own)
        assert pip("check", python=own) == "No broken requirements found.\n"
        check_installed(tmp_path / "env" / "bin")
        return
    with zipfile.ZipFile(dists.wheel) as wheel:
        found = Metadata.from_email(wheel.read(f"{INFO}/METADATA"), validate=True)
    light = [str(one) for one in found.requires_dist or () if one.marker is None and one.name != "kubernetes"]
    pip(*install, *light, python=own)
    pip(*install, "--no-deps", package, python=own)
    check_installed(tmp_path / "env" / "bin", with_kubernetes=False)
