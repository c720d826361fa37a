"""The list of what a release is made of, as CycloneDX JSON.

cyclonedx-py lists the environment that is built from. Added to its list are the product itself and the SHA-256 of the
file that each package was installed from, by pip's report of that installation: files that requirements/product.txt
allows.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def environment(python: Path) -> Bom:
    """The packages that an interpreter has, as cyclonedx-py finds them, without what changes from run to run."""
    # Validated is what is made of it.
    flags = ["--output-reproducible", "--no-validate", "--of", "JSON"]
    argv = [sys.executable, "-m", "cyclonedx_py", "environment", *flags, str(python)]
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"error: cyclonedx-py environment: {done.stderr.strip()}")
    bom: Bom = Bom.from_json(json.loads(done.stdout))  # type: ignore[attr-defined]
    return bom


def installed_files(report: Mapping[str, Any]) -> dict[str, str]:
    """Package -> SHA-256 of the file that it was installed from, of a report of pip."""
    return {
        canonicalize_name(each["metadata"]["name"]): each["download_info"]["archive_info"]["hashes"]["sha256"]
        for each in report["install"]
    }


def sha256(data: bytes) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=hashlib.sha256(data).hexdigest())


def product(wheel: Path) -> tuple[Component, list[Requirement]]:
    """The product, by its wheel, and its direct dependencies."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(archive.read(name).decode())
    version = metadata["Version"]
    component = Component(
        type=ComponentType.APPLICATION,
        name=metadata["Name"],
        version=version,
        bom_ref=f"{metadata['Name']}=={version}",
        description=metadata["Summary"],
        licenses=[LicenseExpression(metadata["License-Expression"] or metadata["License"])],
        purl=PackageURL("pypi", name=canonicalize_name(metadata["Name"]), version=version),
        hashes=[sha256(wheel.read_bytes())],
    )
    wanted = [Requirement(line) for line in metadata.get_all("Requires-Dist", ())]
    return component, [each for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]


def complete(bom: Bom, hashes: Mapping[str, str], wheel: Path) -> Bom:
    """Adds the product and the hashes."""
    by_name = {canonicalize_name(component.name): component for component in bom.components}
    if missing := set(by_name) ^ set(hashes):
        raise SystemExit(
            f"error: installed by pip and listed by cyclonedx-py are not the same: {', '.join(sorted(missing))}"
        )
    for name, component in by_name.items():
        component.hashes.add(HashType(alg=HashAlgorithm.SHA_256, content=hashes[name]))
    root, needs = product(wheel)
    bom.metadata.component = root
    bom.register_dependency(root, [by_name[canonicalize_name(each.name)] for each in needs])
    bom.serial_number = None  # type: ignore[assignment]
    return bom


def wrong_in(said: str) -> object:
    """What the schema of CycloneDX 1.6 does not accept; None: all is as it wants it."""
    # It compiles grammars when it is imported, which takes seconds.
    from cyclonedx.validation.json import JsonStrictValidator

    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(said)


def text(bom: Bom) -> str:
    """CycloneDX 1.6 JSON that its schema accepts."""
    said = JsonV1Dot6(bom).output_as_string(indent=2) + "\n"
    if wrong := wrong_in(said):
        raise SystemExit(f"error: the SBOM is not as its schema wants it: {wrong}")
    return said


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--python", type=Path, required=True, help="interpreter of the environment that is built from")
    flags.add_argument("--report", type=Path, required=True, help="pip's report of what it installed there")
    flags.add_argument("--wheel", type=Path, required=True, help="the product's own wheel")
    flags.add_argument("output", type=Path)
    given = flags.parse_args()
    report = json.loads(given.report.read_text())
    given.output.write_text(text(complete(environment(given.python), installed_files(report), given.wheel)))


if __name__ == "__main__":
    main()
