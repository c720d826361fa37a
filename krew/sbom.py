"""The list of what an archive is made of: the packages, the interpreter, and libraries of the machine that built it."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution, distributions
from pathlib import Path, PurePosixPath

from cyclonedx.model import Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from packageurl import PackageURL
from packaging.utils import canonicalize_name

from release.archive import Member
from release.sbom import sha256

INTERNAL = "_internal"
NATIVE = (".so", ".dylib", ".dll")


def _held(package: Distribution, names: set[str]) -> bool:
    """Whether any module or library of a package is in the archive."""
    for file in package.files or ():
        path = PurePosixPath(INTERNAL, file)
        if ".dist-info" not in str(file) and {str(path), str(path.with_suffix(".pyc"))} & names:
            return True
    return False


def _interpreter() -> Component:
    version = platform.python_version()
    return Component(
        type=ComponentType.PLATFORM,
        name="cpython",
        version=version,
        bom_ref=f"cpython=={version}",
        purl=PackageURL("generic", name="cpython", version=version),
        cpe=f"cpe:2.3:a:python:python:{version}:*:*:*:*:*:*:*",
    )


def _bootloader(wheels: Path) -> Component:
    """PyInstaller's part of the program, by the wheel that it is from."""
    (wheel,) = wheels.glob("pyinstaller-*.whl")
    version = wheel.name.split("-")[1]
    return Component(
        type=ComponentType.APPLICATION,
        name="pyinstaller",
        version=version,
        bom_ref=f"pyinstaller=={version}",
        description="its bootloader and start-up modules",
        purl=PackageURL("pypi", name="pyinstaller", version=version),
        hashes=[sha256(wheel.read_bytes())],
    )


def _is_native(name: str) -> bool:
    return any(part in NATIVE for part in PurePosixPath(name).suffixes) and "lib-dynload" not in name


def _libraries(members: Iterable[Member], packaged: set[str]) -> list[Component]:
    """Libraries that are of no package: the interpreter's own and those of the system that it was built on."""
    return [
        Component(
            type=ComponentType.FILE,
            name=member.name,
            bom_ref=f"file:{member.name}",
            hashes=[sha256(member.data)],
        )
        for member in members
        if _is_native(member.name) and member.name not in packaged
    ]


def extend(bom: Bom, members: Mapping[str, Member], packages: Path, wheels: Path, archive: bytes) -> Bom:
    """``bom`` of the product's wheel -> of the archive. Packages of which nothing is in it stay listed, as excluded."""
    installed = list(distributions(path=[str(packages)]))
    held = {canonicalize_name(each.name): _held(each, set(members)) for each in installed}
    for component in bom.components:
        inside = held[canonicalize_name(component.name)]
        component.scope = ComponentScope.REQUIRED if inside else ComponentScope.EXCLUDED
    packaged = {str(PurePosixPath(INTERNAL, file)) for each in installed for file in each.files or ()}
    added = [_interpreter(), _bootloader(wheels), *_libraries(members.values(), packaged)]
    bom.components.update(added)
    root = bom.metadata.component
    assert root is not None
    root.hashes.clear()
    root.hashes.add(sha256(archive))
    root.properties.add(Property(name="kubectl-netpol-ebpf:machine", value=f"{platform.system()} {platform.machine()}"))
    bom.register_dependency(root, added)
    return bom
