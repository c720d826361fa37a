"""requirements/*.txt are in step with setup.cfg and pyproject.toml, complete, and name packages and hashes alone."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pip_requirements_parser import InstallRequirement, RequirementsFile

from .environment import ROOT, WHEELS, require_build_env

LOCKS = ROOT / "requirements"
NAMES = ("backend", "build", "lock", "product", "test")
HERE = ("backend", "build", "product", "test")
"""Those whose packages are in the environment that the tests run in."""
DO = "run scripts/lock"


def locked(name: str) -> dict[str, InstallRequirement]:
    """The lines of requirements/NAME.txt by canonical name of the package."""
    found = RequirementsFile.from_file(str(LOCKS / f"{name}.txt"))
    assert not found.options and not found.invalid_lines, found.invalid_lines
    by_name = {canonicalize_name(line.name): line for line in found.requirements}
    assert len(by_name) == len(found.requirements), f"{name}: a package is listed twice"
    return by_name


def version(line: InstallRequirement) -> str:
    (specifier,) = line.specifier
    assert specifier.operator == "=="
    return str(specifier.version)


def direct(name: str) -> list[Requirement]:
    """What requirements/NAME.txt was made from."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    product = setup["options"]["install_requires"]
    backend = "\n".join(tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"])
    build = (LOCKS / "build.in").read_text()
    extras = setup["options.extras_require"]
    tests = extras["test"].replace("kubectl-netpol-ebpf[docs]", extras["docs"])
    lines = {
        "backend": backend,
        "build": f"{build}\n{backend}",
        "lock": (LOCKS / "lock.in").read_text(),
        "product": product,
        "test": f"{product}\n{tests}\n{build}\n{backend}",
    }[name].splitlines()
    found = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    assert found
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_lock_names_packages_and_hashes_alone(name: str) -> None:
    text = (LOCKS / f"{name}.txt").read_text()
    # Where packages come from is not written down.
    assert "://" not in text and not re.search(r"--(?!hash=sha256:)", text), (
        "where packages come from is not written down"
    )
    for package, line in locked(name).items():
        assert line.link is None, package
        assert version(line)
        assert line.hash_options, f"{package} has no hash"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in line.hash_options), package


@pytest.mark.parametrize("name", NAMES)
def test_every_direct_dependency_is_locked_within_its_range(name: str) -> None:
    lines = locked(name)
    for wanted in direct(name):
        line = lines.get(canonicalize_name(wanted.name))
        assert line, f"{wanted.name} is not in requirements/{name}.txt: {DO}"
        assert wanted.specifier.contains(version(line)), f"{wanted} but {version(line)} is locked: {DO}"


def test_a_package_has_one_version_in_all_that_is_built_shipped_and_tested() -> None:
    seen: dict[str, tuple[str, list[str]]] = {}
    for name in HERE:
        for package, line in locked(name).items():
            found = (version(line), sorted(line.hash_options))
            assert seen.setdefault(package, found) == found, f"{package} in requirements/{name}.txt: {DO}"


def test_the_build_backend_is_one_version() -> None:
    for wanted in direct("backend"):
        assert [specifier.operator for specifier in wanted.specifier] == ["=="], wanted


def closure(wanted: Iterable[Requirement]) -> set[str]:
    """All packages that are needed on this machine, by the metadata of those that are installed."""
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    todo = [(requirement, extra) for requirement in wanted for extra in ("", *requirement.extras)]
    while todo:
        requirement, extra = todo.pop()
        name = canonicalize_name(requirement.name)
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        found.add(name)
        for line in distribution(name).requires or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                todo += [(needed, each) for each in ("", *needed.extras)]
    return found


@pytest.mark.parametrize("name", HERE)
def test_a_lock_holds_what_is_needed_here_and_nothing_else(name: str) -> None:
    lines = {package: line for package, line in locked(name).items() if line.marker is None or line.marker.evaluate()}
    assert closure(direct(name)) == set(lines), DO


@pytest.mark.parametrize("name", HERE)
def test_what_is_tested_is_what_is_locked(name: str) -> None:
    for package, line in locked(name).items():
        if line.marker is None or line.marker.evaluate():
            assert distribution(package).version == version(line), f"{package}: run scripts/test"


def pip_accepts(lock: Path) -> subprocess.CompletedProcess[str]:
    """Asks pip whether it would install a lock from the files that scripts/build-env fetched, without a network."""
    argv = [sys.executable, "-m", "pip", "install", "--isolated", "--disable-pip-version-check", "--ignore-installed"]
    argv += ["--no-index", "--find-links", str(WHEELS), "--no-deps", "--dry-run", "--require-hashes", "-r", str(lock)]
    return subprocess.run(argv, text=True, capture_output=True)


@pytest.mark.parametrize("name", ["build", "product"])
def test_pip_takes_what_was_fetched_by_its_hashes(name: str) -> None:
    require_build_env()
    done = pip_accepts(LOCKS / f"{name}.txt")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("pattern", "by", "said"),
    [
        (r" \\\n +--hash=\S+", "", "Hashes are required"),
        (r"(--hash=sha256:)\w{8}", r"\g<1>00000000", "DO NOT MATCH"),
        (r"setuptools==\S+", "setuptools==1.0", "No matching distribution"),
    ],
    ids=["no hash", "another hash", "another version"],
)
def test_pip_refuses_anything_else(tmp_path: Path, pattern: str, by: str, said: str) -> None:
    require_build_env()
    text = (LOCKS / "backend.txt").read_text()
    broken = tmp_path / "broken.txt"
    broken.write_text(re.sub(pattern, by, text))
    assert broken.read_text() != text
    done = pip_accepts(broken)
    assert done.returncode != 0
    assert said in done.stderr
