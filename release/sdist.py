"""`python -m release.sdist FILE`: makes an sdist reproducible. The build backend puts the time of the build into it."""

from __future__ import annotations

import sys
import tarfile
from pathlib import Path

from release.archive import Member, epoch, tar_gz


def members(file: Path) -> list[Member]:
    """Its files. Whatever is neither a file nor a directory has no place in an sdist."""
    found = []
    with tarfile.open(file) as tar:
        for header in tar:
            if header.isdir():
                continue
            data = tar.extractfile(header) if header.isfile() else None
            if data is None:
                raise SystemExit(f"error: {file}: {header.name} is not a regular file")
            found.append(Member(header.name, data.read(), bool(header.mode & 0o100)))
    return found


def main() -> None:
    file = Path(sys.argv[1])
    file.write_bytes(tar_gz(members(file), epoch()))


if __name__ == "__main__":
    main()
