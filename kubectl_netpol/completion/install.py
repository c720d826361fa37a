"""The file by which kubectl finds the completions, for installations that bring none: krew links the plugin alone.

It is four lines of sh that hold no path, so that an upgrade of the plugin is one of the completions too.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kubectl_netpol.errors import NetpolError, UsageError

PLUGIN = "kubectl-netpol_ebpf"
NAME = "kubectl_complete-netpol_ebpf"
SCRIPT = f"""#!/bin/sh
# Written by `kubectl netpol-ebpf completion install`, and removed by `kubectl netpol-ebpf completion uninstall`.
# kubectl runs it when the words behind `kubectl netpol-ebpf` are to be completed.
exec {PLUGIN} __complete "$@" 2>/dev/null
"""
WRITTEN = (SCRIPT,)
"""What was ever written, by any version: a file that is something else is somebody else's."""
LARGEST = 64 << 10


@dataclass(frozen=True)
class Done:
    """``text``: what was done, for stdout; ``notes``: what else has to be known, for stderr."""

    text: str
    notes: tuple[str, ...] = ()


def install(directory: str = "") -> Done:
    """Write the file. ``directory``: where; without it into the first directory that is fit.

    Raises ``UsageError`` where there is none, and ``NetpolError`` for a file of others or one that cannot be written.
    """
    if os.name == "nt":
        raise UsageError("completion install writes a file for sh, which Windows does not run")
    brought = _brought_along()
    if brought and not directory:
        return Done(f"{brought} is there already: it came with the installation of the plugin")
    path = _place(directory) / NAME
    if _is_ours(path) and path.read_text() == SCRIPT:
        return Done(f"{path} is there already", _notes(path))
    try:
        if _is_ours(path):
            path.unlink()
        _write(path)
    except FileExistsError:
        raise NetpolError(
            f"{path} is there already and was not written by this tool: it is left as it is",
            "move it away, or choose another directory of PATH with --dir",
        ) from None
    except OSError as error:
        raise NetpolError(f"{path} could not be written: {error.strerror or error}") from error
    return Done(f"wrote {path}", _notes(path))


def uninstall(directory: str = "") -> Done:
    """Remove what ``install`` wrote: there, or wherever it is on PATH. Files of others stay. Raises ``NetpolError``."""
    places = [_given(directory)] if directory else _on_path()
    found = [path for path in (place / NAME for place in places) if os.path.lexists(path)]
    others = [path for path in found if not _is_ours(path)]
    removed = []
    for path in filter(_is_ours, found):
        try:
            path.unlink()
        except OSError as error:
            raise NetpolError(f"{path} could not be removed: {error.strerror or error}") from error
        removed.append(f"removed {path}")
    return Done(
        "\n".join(removed) or "nothing to remove",
        tuple(f"note: {one} was not written by `completion install`: left alone" for one in others),
    )


def _brought_along() -> Path | None:
    """The script that pip or pipx made, if kubectl finds it first."""
    found = shutil.which(NAME)
    # pipx puts links on PATH.
    text = _text(Path(found).resolve()) if found else None
    return Path(found) if found and text and text not in WRITTEN and "kubectl_netpol.start" in text else None


def _place(directory: str) -> Path:
    if directory:
        place = _given(directory)
        # Path.is_dir raises for a name that is too long, and below a directory that may not be searched.
        if not os.path.isdir(place):  # noqa: PTH112
            raise UsageError(f"--dir {directory} is not a directory")
        return place
    plugin = shutil.which(PLUGIN)
    if plugin is None:
        raise UsageError(f"{PLUGIN} is not on PATH, where kubectl looks for it and for its completions")
    for place in (Path(plugin).parent, *_own()):
        if place.is_dir() and os.access(place, os.W_OK | os.X_OK):
            return place
    raise UsageError(
        f"no directory of PATH can be written, neither {Path(plugin).parent} nor one of your home",
        "--dir DIRECTORY writes there; or `kubectl netpol-ebpf completion script` prints the file",
    )


def _given(directory: str) -> Path:
    try:
        return Path(directory).expanduser().absolute()
    except RuntimeError as error:
        raise UsageError(f"--dir {directory}: {error}") from error
    except OSError as error:
        raise UsageError(f"--dir {directory}: the working directory is gone ({error.strerror})") from error


def _own() -> Iterator[Path]:
    """Directories of PATH in the user's home, ~/.local/bin first."""
    home = Path.home()
    places = [place for place in _on_path() if home in place.parents]
    yield from sorted(places, key=lambda place: place != home / ".local" / "bin")


def _on_path() -> list[Path]:
    """Those of PATH, as often as they are in it once; relative ones mean another place every time."""
    places = map(Path, dict.fromkeys(os.environ.get("PATH", "").split(os.pathsep)))
    return [place for place in places if place.is_absolute()]


def _notes(path: Path) -> tuple[str, ...]:
    found = shutil.which(NAME)
    if path.parent not in _on_path():
        return (f"warning: {path.parent} is not on PATH: kubectl does not look there",)
    if found and Path(found) != path:
        return (f"warning: {found} stands before it on PATH: kubectl takes that one",)
    return ("note: kubectl 1.26 or newer runs it, if kubectl's own completion is set up (`kubectl completion --help`)",)


def _is_ours(path: Path) -> bool:
    return _text(path) in WRITTEN


def _text(path: Path) -> str | None:
    """Of a file; None for links and whatever else it is."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode) or path.lstat().st_size > LARGEST:
            return None
        return path.read_text()
    except (OSError, ValueError):
        return None


def _write(path: Path) -> None:
    """A new file, whole or not at all. Raises ``FileExistsError`` and other ``OSError``."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o755)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(SCRIPT)
    except BaseException:
        path.unlink()
        raise
