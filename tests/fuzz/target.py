"""What a target of fuzzing is, and what must hold of each of its cases."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from kubectl_netpol.errors import NetpolError

CORPUS = Path(__file__).parent / "corpus"
"""Inputs that once did harm, a folder a target: run in every test run."""
LARGEST = 200_000
"""Bytes of one input."""


class NoInput(Exception):
    """Of bytes that the target itself cannot make an input of: a mutation went too far. No finding."""


def loaded(data: bytes) -> Any:
    """The JSON of an input, for targets whose subject comes after json.loads."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise NoInput from error


@dataclass(frozen=True)
class Target:
    """``run``: one input; its value must be the same each time. ``errors``: what it may raise, as documented."""

    name: str
    run: Callable[[bytes], Any]
    seeds: Callable[[], Sequence[bytes]]
    mutate: Callable[[bytes, Random], bytes]
    errors: tuple[type[Exception], ...] = (NetpolError,)
    short: int = 300
    """Cases of every test run."""
    long: int = 100_000
    """Cases of the long run."""
    writes: bool = False
    """Whether the target makes its own input files: writing is then looked at elsewhere."""

    def outcome(self, data: bytes) -> str:
        """Value or documented error as text. Raises whatever else comes, and ``SideEffect``."""
        with unchanged_world(self.writes):
            try:
                return f"value {self.run(data)!r}"
            except NoInput:
                return "no input"
            except self.errors as error:
                return f"{type(error).__name__} {error}"

    def case(self, seed: int) -> bytes:
        """An input of the short run."""
        random = Random(f"{self.name} {seed}")
        data = random.choice(self.seeds())
        for _ in range(random.choice((1, 1, 2, 5))):
            changed = self.mutate(data, random)
            data = changed if len(changed) <= LARGEST else data
        return data

    def kept(self) -> Iterator[Path]:
        """Inputs of the corpus of regressions."""
        folder = CORPUS / self.name
        yield from sorted(folder.iterdir()) if folder.is_dir() else ()


# ---- nothing is written, started or sent


class SideEffect(Exception):
    """A case did what reading must not do."""


_seen: list[str] | None = None
_TELLING = frozenset(
    (
        *("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"),
        *("os.chown", "os.utime", "os.mkfifo", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.putenv"),
        *("subprocess.Popen", "socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "os.kill"),
        *("shutil.copyfile", "shutil.move", "shutil.rmtree", "tempfile.mkstemp", "tempfile.mkdtemp"),
    )
)


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
    if _seen is None:
        return
    if event in _TELLING:
        _seen.append(f"{event} {arguments!r}"[:200])
    elif event == "open" and _for_writing(*arguments) and "__pycache__" not in str(arguments[0]):
        _seen.append(f"open for writing: {arguments!r}"[:200])


def _for_writing(_: Any, mode: Any, flags: Any) -> bool:
    if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
        return True
    return isinstance(mode, str) and bool(set(mode) & set("wax+"))


_heard_from = False


@contextmanager
def unchanged_world(allowed: bool = False) -> Iterator[None]:
    """Raises ``SideEffect`` at the end if something was written, started or sent; ``allowed``: does not look."""
    global _seen, _heard_from
    if not _heard_from:
        # An audit hook cannot be taken away again: it is made once, and listens inside of this block only.
        sys.addaudithook(_heard)
        _heard_from = True
    _seen = None if allowed else []
    try:
        yield
        if _seen:
            raise SideEffect("; ".join(_seen))
    finally:
        _seen = None
