"""What can be wrong on a node, made with real kernel objects: filters, qdiscs, foreign programs and pins.

Agent facts 9.2 and 9.3 list what such things look like from outside.
"""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from . import bpfsys, netns
from .netlink import TC_H_EGRESS_HOOK, TC_H_INGRESS_HOOK

if TYPE_CHECKING:
    from pathlib import Path

    from .agent import Generation
    from .elf import BpfObject, MapDef
    from .node import Node

# Direction inversion: what goes to the pod leaves the node through the veth, so it meets the egress hook.
HOOKS = {"ingress": TC_H_EGRESS_HOOK, "egress": TC_H_INGRESS_HOOK}
TC_NAMES = {"ingress": "egress", "egress": "ingress"}
TCX_HOOKS = {"ingress": bpfsys.TCX_EGRESS, "egress": bpfsys.TCX_INGRESS}

AGENT_PREF, AGENT_HANDLE = 1, 1
FOREIGN_HANDLE, FOREIGN_PREF = 2, 2
FOREIGN_LINKS = "/sys/fs/bpf/foreign"
DIRECTIONS = ("ingress", "egress")
GLOBAL_MAPS = ("aws_conntrack_map", "policy_events")

UNSPEC, OK, SHOT = -1, 0, 2
"""What a foreign program may return: go on with the next, accept without it, drop."""


XDP_DROP, XDP_PASS = 1, 2
XDP_PROGRAM, XDP_LINK = 6, 37
"""BPF_PROG_TYPE_XDP, and the attach type BPF_XDP."""


def constant_program(code: int, type_: int = bpfsys.SCHED_CLS) -> int:
    """File descriptor of a program that returns `code` for every packet: mov32 r0, code; exit."""
    instructions = struct.pack("<BBhi", 0xB4, 0, 0, code) + struct.pack("<BBhi", 0x95, 0, 0, 0)
    return bpfsys.prog_load(instructions, type_=type_)


class Breakages:
    """The part of Agent that spoils what the agent made. `direction` is always the pod's: ingress is to the pod."""

    if TYPE_CHECKING:  # what it uses of Agent
        node: Node
        generation: Generation
        _objects: dict[str, BpfObject]

        def _path(self, path: str) -> Path: ...
        def identifier(self, namespace: str, name: str) -> str: ...
        def map_pin(self, identifier: str, name: str) -> str: ...
        def program_pin(self, identifier: str, direction: str) -> str: ...
        def open_pin(self, path: str) -> contextlib.AbstractContextManager[int]: ...
        def _pin(self, fd: int, path: str) -> None: ...
        def _create_map(self, name: str, definition: MapDef) -> int: ...
        def _load(self, identifier: str) -> None: ...
        def _load_objects(self, direction: str, stack: contextlib.ExitStack) -> tuple[int, dict[str, int]]: ...

    # attachment ----------------------------------------

    def _host_index(self, namespace: str, name: str, interface: int) -> int:
        return self.node.pods[namespace, name].interfaces[interface].host_index

    def remove_filter(self, namespace: str, name: str, direction: str, interface: int = 0) -> None:
        """The agent's filter of one direction."""
        self.node._netlink.delete_filter(self._host_index(namespace, name, interface), HOOKS[direction])

    def remove_clsact(self, namespace: str, name: str, interface: int = 0) -> None:
        """The qdisc, and with it all filters of both hooks."""
        self.node._netlink.delete_clsact(self._host_index(namespace, name, interface))

    def add_foreign_filter(
        self,
        namespace: str,
        name: str,
        direction: str,
        code: int,
        where: Literal["front", "behind"] = "front",
        filter_name: str = "foreign",
        interface: int = 0,
    ) -> int:
        """A cls_bpf filter of somebody else, direct-action; returns its program's id.

        In front of pref 1 there is no lower pref: it shares the agent's pref with another handle, and the kernel
        puts the newest filter of a pref first. Behind, it has a higher pref. It makes the qdisc if need be.
        """
        index = self._host_index(namespace, name, interface)
        pref = AGENT_PREF if where == "front" else FOREIGN_PREF
        with contextlib.suppress(OSError):
            self.node._netlink.add_clsact(index)
        program = constant_program(code)
        try:
            self.node._netlink.add_bpf_filter(
                index, HOOKS[direction], program, filter_name, pref=pref, handle=FOREIGN_HANDLE
            )
            return bpfsys.prog_info(program).id
        finally:
            os.close(program)

    def remove_foreign_filter(
        self,
        namespace: str,
        name: str,
        direction: str,
        where: Literal["front", "behind"] = "front",
        interface: int = 0,
    ) -> None:
        pref = AGENT_PREF if where == "front" else FOREIGN_PREF
        index = self._host_index(namespace, name, interface)
        self.node._netlink.delete_filter(index, HOOKS[direction], pref=pref, handle=FOREIGN_HANDLE)

    def add_tcx(
        self,
        namespace: str,
        name: str,
        direction: str,
        code: int,
        how: Literal["link", "attach"] = "link",
        interface: int = 0,
    ) -> int:
        """A program of somebody else on the tcx hook, which comes before all tc filters; returns its id.

        A link is pinned on the node and ends with it, what is attached without one ends with the veth.
        """
        index = self._host_index(namespace, name, interface)
        program = constant_program(code)
        try:
            id_ = bpfsys.prog_info(program).id
            if how == "attach":
                # The kernel looks for the link in the network namespace of the caller.
                netns.in_netns(self.node.pid, lambda: bpfsys.prog_attach(program, index, TCX_HOOKS[direction]))
                return id_
            link = netns.in_netns(self.node.pid, lambda: bpfsys.link_create(program, index, TCX_HOOKS[direction]))
            try:
                directory = self._path(FOREIGN_LINKS)
                directory.mkdir(parents=True, exist_ok=True)
                bpfsys.pin(link, str(directory / f"tcx_{id_}"))
            finally:
                os.close(link)
            return id_
        finally:
            os.close(program)

    @contextlib.contextmanager
    def xdp(self, namespace: str, name: str, code: int) -> Iterator[int]:
        """A program of somebody else on the veth's XDP hook, which sees what the pod sends before tc does; its id."""
        program = constant_program(code, XDP_PROGRAM)
        index = self._host_index(namespace, name, 0)
        try:
            link = netns.in_netns(self.node.pid, lambda: bpfsys.link_create(program, index, XDP_LINK))
            try:
                yield bpfsys.prog_info(program).id
            finally:
                os.close(link)
        finally:
            os.close(program)

    def replace_filter(self, namespace: str, name: str, direction: str, *how: str) -> None:
        """The pinned program of a direction in a filter with other words: `protocol arp`, `chain 5`."""
        self.remove_filter(namespace, name, direction)
        pin = self.program_pin(self.identifier(namespace, name), direction)
        words = ("pref", "1", *how, "handle", "1", "bpf", "direct-action", "object-pinned", pin)
        self._tc("filter", "add", "dev", self._veth(namespace, name), TC_NAMES[direction], *words)

    def share_block(self, namespace: str, name: str, direction: str) -> None:
        """The pinned program in a block of filters, which several hooks can share."""
        veth, hook = self._veth(namespace, name), TC_NAMES[direction]
        self.remove_clsact(namespace, name)
        self._tc("qdisc", "add", "dev", veth, f"{hook}_block", "22", "clsact")
        pin = self.program_pin(self.identifier(namespace, name), direction)
        words = "protocol all pref 1 handle 1 bpf direct-action object-pinned"
        self._tc("filter", "add", "block", "22", *words.split(), pin)

    def run_other_direction(self, namespace: str, name: str, direction: str) -> None:
        """The filter of a direction runs the program of the other one."""
        other = next(one for one in DIRECTIONS if one != direction)
        self.remove_filter(namespace, name, direction)
        with self.open_pin(self.program_pin(self.identifier(namespace, name), other)) as program:
            index = self._host_index(namespace, name, 0)
            self.node._netlink.add_bpf_filter(index, HOOKS[direction], program, f"handle_{direction}")

    def _veth(self, namespace: str, name: str) -> str:
        return self.node.pods[namespace, name].interfaces[0].host_name

    def reroute(self, address: str, device: str) -> None:
        """The node sends what is for a pod to another link."""
        self._run("ip", "route", "replace", f"{address}/32", "dev", device)

    def _tc(self, *words: str) -> None:
        self._run("tc", *words)

    def _run(self, *words: str) -> None:
        subprocess.run(netns.nsenter_command(self.node.pid, words), check=True, capture_output=True)

    def reload_filter(self, namespace: str, name: str, direction: str, interface: int = 0) -> int:
        """The filter runs another load of the same program, with empty maps of its own that have no pins.

        Returns the new program's id. The pins stay what they were.
        """
        index = self._host_index(namespace, name, interface)
        with contextlib.ExitStack() as stack:
            program, _ = self._load_objects(direction, stack)
            self.node._netlink.delete_filter(index, HOOKS[direction])
            self.node._netlink.add_bpf_filter(index, HOOKS[direction], program, f"handle_{direction}")
            return bpfsys.prog_info(program).id

    # pins ----------------------------------------

    def replace_global_map(self, name: str = "aws_conntrack_map") -> tuple[int, int]:
        """As an upgrade does that met other objects: programs keep the old map, which has no pin any more.

        Returns (id of the map that the programs use, id of the new one at the pin).
        """
        path = self.map_pin("", name)
        with self.open_pin(path) as old:
            before = bpfsys.map_info(old).id
        fd = self._create_map(name, self._objects["ingress"].maps[name])
        try:
            self._pin(fd, path)
            return before, bpfsys.map_info(fd).id
        finally:
            os.close(fd)

    def pins_of(self, namespace: str, name: str) -> list[str]:
        """Paths on the node of what is pinned for a pod's identifier; global maps are not among them."""
        identifier = self.identifier(namespace, name)
        found = [self.program_pin(identifier, d) for d in DIRECTIONS]
        maps = {m for d in DIRECTIONS for m in self._objects[d].maps}
        found += [self.map_pin(identifier, m) for m in sorted(maps) if m not in GLOBAL_MAPS]
        return [path for path in found if os.path.exists(self._path(path))]

    def remove_pins(self, namespace: str, name: str, containing: str = "") -> list[str]:
        """Removes the pod's pins, or those whose path contains a text; filters go on. Returns what was removed."""
        removed = [path for path in self.pins_of(namespace, name) if containing in path]
        for path in removed:
            self._path(path).unlink()
        return removed

    def pin_other_form(self, namespace: str, name: str, same_objects: bool = False) -> str:
        """Leaves pins of the other separator beside the pod's own (agent facts 9.2 no. 54); returns the identifier.

        By default they are another load with empty maps, as a migration that did not happen leaves behind.
        """
        identifier = self.identifier(namespace, name)
        other = "-" if self.generation.separator == "@" else "@"
        twin = f"{identifier.removesuffix(f'{self.generation.separator}{namespace}')}{other}{namespace}"
        if not same_objects:
            self._load(twin)
            return twin
        for path in self.pins_of(namespace, name):
            with self.open_pin(path) as fd:
                self._pin(fd, path.replace(f"/{identifier}_", f"/{twin}_"))
        return twin

    def swap_map_pins(self, one: tuple[str, str], other: tuple[str, str]) -> None:
        """The map pins of the first pod's identifier point to the maps of the second's (agent facts 9.2 no. 50).

        Both are (namespace, name). The maps of the first live on in its programs only.
        """
        identifier, source = self.identifier(*one), self.identifier(*other)
        for direction in DIRECTIONS:
            for name in self._objects[direction].maps:
                if name in GLOBAL_MAPS:
                    continue
                with self.open_pin(self.map_pin(source, name)) as fd:
                    self._pin(fd, self.map_pin(identifier, name))
