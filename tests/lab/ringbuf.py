"""A consumer of a BPF ring buffer, for tests that look at the datapath's event records."""

from __future__ import annotations

import mmap
import struct
from typing import Self

from . import bpfsys

LENGTH_BITS = 0x3FFFFFFF


class RingBuffer:
    """Takes what the programs put in. Single-consumer: two of these on one map steal from each other."""

    def __init__(self, fd: int) -> None:
        self._size, page = bpfsys.map_info(fd).max_entries, mmap.PAGESIZE
        self._consumer = mmap.mmap(fd, page, offset=0)
        # The data area is mapped twice in a row by the kernel, so a record never wraps.
        self._producer = mmap.mmap(fd, page + 2 * self._size, prot=mmap.PROT_READ, offset=page)
        self._page = page

    def close(self) -> None:
        self._consumer.close()
        self._producer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def read(self) -> list[bytes]:
        """All records that are new, oldest first."""
        found = []
        position = struct.unpack_from("<Q", self._consumer, 0)[0]
        end = struct.unpack_from("<Q", self._producer, 0)[0]
        while position < end:
            at = self._page + position % self._size
            length = struct.unpack_from("<I", self._producer, at)[0] & LENGTH_BITS
            found.append(self._producer[at + 8 : at + 8 + length])
            position += (length + 8 + 7) & ~7
        struct.pack_into("<Q", self._consumer, 0, position)
        return found
