"""The work of krew/build: wheel -> PyInstaller -> archive and SBOM."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

from krew import machine, sbom
from release.archive import Member, epoch, tar_gz
from release.sbom import complete, environment, installed_files, text

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / ".build"
PRODUCT = BUILD / "product"


def interpreter() -> Path:
    """Of the environment with the product's dependencies."""
    return next(each for each in (PRODUCT / "bin" / "python", PRODUCT / "Scripts" / "python.exe") if each.exists())


def site_packages() -> Path:
    script = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(
        subprocess.run([interpreter(), "-c", script], check=True, capture_output=True, text=True).stdout.strip()
    )


def frozen(work: Path, source: Path, packages: Path) -> Path:
    """The folder that PyInstaller makes. Hashes of strings are fixed, since it writes sets of them."""
    environment = {
        **os.environ,
        "NETPOL_SOURCE": str(source),
        "NETPOL_PACKAGES": str(packages),
        "PYTHONPATH": os.pathsep.join((str(source), str(packages))),
        "PYTHONHASHSEED": "0",
        "PYINSTALLER_CONFIG_DIR": str(work / "config"),
    }
    flags = [
        "--noconfirm",
        "--log-level",
        "ERROR",
        "--distpath",
        str(work / "frozen"),
        "--workpath",
        str(work / "made"),
    ]
    argv = [sys.executable, "-m", "PyInstaller", *flags, str(ROOT / "krew" / "netpol-ebpf.spec")]
    done = subprocess.run(argv, env=environment, cwd=work, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"error: PyInstaller: {done.stderr.strip()}")
    return work / "frozen" / "netpol-ebpf"


def members(folder: Path) -> dict[str, Member]:
    """The files of a folder by their name in the archive. krew refuses archives with links: what a link leads to is
    taken in its place."""
    found = {}
    for directory, _, names in os.walk(folder, followlinks=True):
        for name in names:
            file = Path(directory, name)
            if not file.resolve().is_relative_to(folder.resolve()):
                raise SystemExit(f"error: {file} leads out of the folder")
            path = file.relative_to(folder).as_posix()
            found[path] = Member(path, file.read_bytes(), os.access(file, os.X_OK))
    return found


def check_glibc(folder: Path, allowed: str | None) -> str:
    """What the archive asks of the C library, in words."""
    major, minor = machine.glibc(file for file in folder.rglob("*") if file.is_file())
    if allowed and (major, minor) > tuple(int(part) for part in allowed.split(".")):
        raise SystemExit(
            f"error: needs glibc {major}.{minor}, and not more than {allowed} is wanted: use an older build of Python"
        )
    return f"needs glibc {major}.{minor} or newer"


def glibc_version(text: str) -> str:
    if not re.fullmatch(r"\d+\.\d+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a version such as 2.28")
    return text


def write_whole(file: Path, data: bytes) -> None:
    """Under its name there is all of it or nothing: krew/manifest takes what is there."""
    half = file.with_name(f".{file.name}.new")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            half.write_bytes(data)
            half.replace(file)
        finally:
            half.unlink(missing_ok=True)
    except OSError as error:
        raise SystemExit(f"error: {file} could not be written: {error.strerror}") from None


def main() -> None:
    flags = argparse.ArgumentParser(prog="krew/build")
    flags.add_argument("--work", type=Path, required=True, help=argparse.SUPPRESS)
    flags.add_argument("--from", dest="start", type=Path, default=Path(), help=argparse.SUPPRESS)
    flags.add_argument(
        "--max-glibc", type=glibc_version, help="fail where the archive needs a newer GNU C library, as in 2.28"
    )
    flags.add_argument("output", nargs="?", type=Path, help="directory; without: dist of the checkout")
    given = flags.parse_args()
    work = given.work.resolve()

    (wheel,) = work.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(work / "wheel")
    packages = site_packages()
    folder = frozen(work, work / "wheel", packages)

    system, arch = machine.here()
    needs = check_glibc(folder, given.max_glibc) if system == "linux" else ""
    held = members(folder)
    held["LICENSE"] = Member("LICENSE", (ROOT / "LICENSE").read_bytes())
    packed = tar_gz(held.values(), epoch())

    report = json.loads((BUILD / "product.json").read_text())
    bom = complete(environment(interpreter()), installed_files(report), wheel)
    listed = text(sbom.extend(bom, held, packages, BUILD / "wheels", packed))

    output = given.start / given.output if given.output else Path("dist")
    version = wheel.name.split("-")[1]
    file = output / f"netpol-ebpf_v{version}_{system}_{arch}.tar.gz"
    write_whole(file, packed)
    write_whole(file.with_name(file.name.replace(".tar.gz", ".cdx.json")), listed.encode())
    print(f"{file}: {len(packed) / 1e6:.1f} MB", *filter(None, [needs]), sep=", ")


if __name__ == "__main__":
    main()
