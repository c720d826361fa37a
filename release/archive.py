"""Archives of which the bytes depend on nothing but what is in them: no clock, no user, no order of a file system."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Member:
    """One regular file of an archive. ``name`` is a relative path with slashes."""

    name: str
    data: bytes
    executable: bool = False


def epoch() -> int:
    """The time that everything made is given: https://reproducible-builds.org/specs/source-date-epoch/"""
    try:
        return int(os.environ["SOURCE_DATE_EPOCH"])
    except (KeyError, ValueError):
        raise SystemExit("error: SOURCE_DATE_EPOCH is not set to a number of seconds") from None


def _directories(names: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for name in names:
        parts = name.split("/")[:-1]
        found |= {"/".join(parts[: length + 1]) for length in range(len(parts))}
    return found


def tar_gz(members: Iterable[Member], when: int) -> bytes:
    """A .tar.gz of ``members`` and the directories above them, sorted by name; nothing in it is a link."""
    files = {member.name: member for member in members}
    said = io.BytesIO()
    # The name of the file and the time are left out of gzip's header. Level 9 takes three times as long for 1 % less.
    with (
        gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=said, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar,
    ):
        for name in sorted({*files, *_directories(files)}):
            member = files.get(name)
            header = tarfile.TarInfo(name)
            header.mtime = when
            if member is None:
                header.type, header.mode = tarfile.DIRTYPE, 0o755
            else:
                header.size, header.mode = len(member.data), 0o755 if member.executable else 0o644
            tar.addfile(header, io.BytesIO(member.data) if member else None)
    return said.getvalue()
