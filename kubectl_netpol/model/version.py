"""What runs where: this plugin, the API server, the VPC CNI and its agent."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Client:
    """This plugin. ``formats``: bundles that it reads; it writes ``format``."""

    version: str
    format: int
    formats: tuple[int, ...]
    reader: str
    python: str


@dataclass(frozen=True)
class Image:
    """One container of the DaemonSet aws-node. ``version``: the tag, where it is a version; else empty."""

    version: str
    image: str


@dataclass(frozen=True)
class Cluster:
    """What could be read of a cluster. Empty or None: not known, and ``unread`` says why, one line each."""

    server: str = ""
    installed: bool | None = None
    """Whether there is a DaemonSet aws-node."""
    cni: Image | None = None
    agent: Image | None = None
    """None with ``cni``: the DaemonSet has no such container."""
    updated: int | None = None
    """Nodes that have these versions already, of ``scheduled``."""
    scheduled: int | None = None
    unread: tuple[str, ...] = ()
