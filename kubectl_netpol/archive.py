"""The members of a tar.gz, one by one, in memory: whatever the file says of itself, only so much of it is unpacked."""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Iterator
from typing import IO

from kubectl_netpol.node import json_text

MOST_HEADER = 1 << 20
"""Bytes before a member: its header, and extended ones. tarfile reads these whole, however long they say they are."""
SLACK = 2 * tarfile.RECORDSIZE
"""What tarfile reads ahead."""
CHUNK = 1 << 20


class Metered:
    """Unpacked bytes for tarfile, as many as it was allowed to read. Raises ``ValueError`` at the next one."""

    def __init__(self, file: gzip.GzipFile) -> None:
        self._file = file
        self._left = MOST_HEADER + SLACK

    def allow(self, size: int) -> None:
        """The contents of a member, and the header of the next one."""
        self._left = size + MOST_HEADER + SLACK

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise ValueError("a header that does not end")
        return data


def members(plain: gzip.GzipFile) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Every member, of any type, with its archive. Raises ``ValueError`` and what tarfile raises."""
    metered = Metered(plain)
    # Not tarfile's own "r|gz": that one neither checks the checksum nor misses the end of a truncated file.
    with tarfile.open(fileobj=metered, mode="r|") as tar:  # type: ignore[call-overload]
        for member in tar:
            # A sparse member has another size in the file than it says, and may be nothing but holes.
            if member.issparse():
                raise ValueError("a sparse file in it")
            metered.allow(member.size)
            yield tar, member


def text_of(content: IO[bytes], left: int) -> tuple[bytes, int]:
    """A JSON member, read no further than ``left`` values; how many are left after it. Raises ``ValueError``."""
    parts: list[bytes] = []
    while part := content.read(CHUNK):
        left -= json_text.values(part)
        if left < 0:
            raise ValueError(f"more than {json_text.MOST_VALUES} values")
        parts.append(part)
    return b"".join(parts), left
