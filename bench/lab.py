"""What the benchmarks share of the lab: a node, commands inside it, and the reader as the plugin sends it."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.timing import Command
from kubectl_netpol.node import transport
from tests.lab import netns
from tests.lab.node import Fabric, Node

NODE_IP = "172.31.103.129"


@contextlib.contextmanager
def node() -> Iterator[tuple[Node, Path]]:
    """A node, and a directory for files; both are gone afterwards."""
    with (
        tempfile.TemporaryDirectory() as directory,
        Fabric("172.31.96.0/20") as fabric,
        Node("bench", NODE_IP, fabric) as made,
    ):
        yield made, Path(directory)


def inside(node: Node, *argv: str) -> list[str]:
    """The command inside the node's namespaces."""
    return netns.nsenter_command(node.pid, argv)


def reader(
    node: Node,
    directory: Path,
    name: str,
    request: dict[str, Any],
    then: Callable[[bytes], None] | None = None,
) -> Command:
    """The reader inside the node with the request on stdin; ``then``: what decodes its answer."""
    packed = transport.packed_request(request)
    stdin = directory / f"request-{os.urandom(4).hex()}"
    stdin.write_bytes(packed)
    return Command(name, inside(node, *transport.command(sys.executable, len(packed))), str(stdin), then)
