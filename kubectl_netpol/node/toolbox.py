"""Reading a node with the tools of the article instead of the reader: tc, ip and aws-eks-na-cli.

For images without Python, and for who wants to see each command. The answer is the reader's document with one key
more, ``via``; what the tools do not tell is null or left out, with an entry in ``errors``.

`tools`: in the debug pod, which needs `sh` and `chroot` only. Three execs at least: which tools there are; links,
routes, filters and what is pinned; the contents of the maps, then of those that these named. tc is looked for on
the node, then in the image, and installed in the container where there is none. aws-eks-na-cli is the node's own,
run below `chroot /host` by its full path: a Bottlerocket node has no shell.

`agent`: see ``toolbox_agent``.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kubectl_netpol.errors import NodeError
from kubectl_netpol.node import na_cli, reader, tc, toolbox_bpf, toolbox_commands, toolbox_ip
from kubectl_netpol.node.document import check_document
from kubectl_netpol.node.toolbox_agent import read_node_through_agent
from kubectl_netpol.node.toolbox_bpf import Findings
from kubectl_netpol.node.toolbox_shell import Output, Shell
from kubectl_netpol.node.transport import ExecPod

__all__ = ["ToolOptions", "read_node_through_agent", "read_node_with_tools"]

Json = dict[str, Any]
Show = Callable[[str], None]

NO_TCX = "tc does not show programs that are attached by tcx"
TCX_SINCE = reader.TCX_SINCE
MOST_ROUNDS = 3


@dataclass(frozen=True)
class ToolOptions:
    """``install_on_host``: where tc is missing, install it on the node itself and not in the container. The host's
    file system must be writable below /host for it."""

    install_on_host: bool = False


@dataclass
class _Tools:
    """What the first exec found, each as the words of a command; empty where there is none."""

    tc: str
    ip: str
    cli: toolbox_commands.Cli
    links: list[str]
    bpffs: Json
    no_tc: str = ""


def read_node_with_tools(pod: ExecPod, request: Json, options: ToolOptions, show: Show) -> Json:
    """The document of the node that the debug pod ``pod`` runs on. ``request`` is the reader's.

    Raises ``NodeError``: no shell in the image, a cut answer, or neither tc nor aws-eks-na-cli.
    """
    shell = Shell(pod, show)
    tools = _find_tools(shell, options)
    if not tools.tc and not tools.cli.any:
        raise NodeError(
            f"nothing to read the node with from {shell.who}: no tc ({tools.no_tc}) and no aws-eks-na-cli on the node",
            hint="is this a node with the VPC CNI? The default reader needs neither, but an image with python3",
        )
    return check_document(_Reading(shell, tools, request).document())


def _find_tools(shell: Shell, options: ToolOptions) -> _Tools:
    tc_out, ip_out, cli_out, links, mounts = shell.run(
        [
            toolbox_commands.FIND_TC,
            toolbox_commands.FIND_IP,
            toolbox_commands.FIND_CLI,
            toolbox_commands.LIST_LINKS,
            toolbox_commands.BPF_MOUNTS,
        ]
    )
    found = _Tools(
        tc=toolbox_commands.chosen(tc_out, toolbox_commands.tool("tc")),
        ip=toolbox_commands.chosen(ip_out, toolbox_commands.tool("ip")),
        cli=toolbox_commands.cli_of(cli_out.stdout.split("\n")),
        links=[line for line in links.stdout.split("\n") if line and line != "*"],
        bpffs=toolbox_commands.bpffs_of(mounts.stdout),
    )
    if not found.tc:
        install = toolbox_commands.INSTALL_ON_HOST if options.install_on_host else toolbox_commands.INSTALL
        done, again = shell.run([install, toolbox_commands.FIND_TC])
        found.tc = toolbox_commands.chosen(again, toolbox_commands.tool("tc"))
        found.no_tc = "" if found.tc else f"neither the node nor the image has one; `{install}`: {done.said}"
    return found


class _Reading:
    """One reading by the tools: the texts of all commands, and the document that they give."""

    def __init__(self, shell: Shell, tools: _Tools, request: Json) -> None:
        self.shell, self.tools, self.request = shell, tools, request
        self.found = Findings()
        self.pods = [pod for pod in request.get("pods") or () if isinstance(pod, dict)]
        self.everything = bool(request.get("all"))
        self.filters: dict[tuple[int, str], list[Json]] = {}
        self.asked: set[tuple[int, str]] = set()
        self.jited: dict[int, bool] = {}

    def document(self) -> Json:
        texts = self._state()
        document = toolbox_bpf.empty("tools")
        document["uname"] = toolbox_commands.system(texts["system"])
        document["clock"] = {
            "begin": toolbox_commands.clocks(texts["clocks"]),
            "end": toolbox_commands.clocks(texts["clocks"]),
        }
        document["bpffs"] = self.tools.bpffs
        self._network(document, texts)
        self._take_filters(document, texts)
        self._objects(document, texts)
        self._rounds(document)
        self._finish(document)
        return document

    # the second exec

    def _state(self) -> dict[str, Output]:
        tools = self.tools
        commands = {"clocks": toolbox_commands.CLOCKS, "system": toolbox_commands.SYSTEM}
        if tools.ip:
            commands["links"] = f"{tools.ip} -d link show"
            commands["addresses"] = f"{tools.ip} addr show"
            commands["routes 4"] = f"{tools.ip} -4 route show"
            commands["routes 6"] = f"{tools.ip} -6 route show"
        else:
            commands["links"] = toolbox_commands.SYSFS_LINKS
        if tools.tc:
            commands["qdiscs"] = f"{tools.tc} -s qdisc show"
            names = {str(name) for pod in self.pods for name in pod.get("links") or ()}
            for name in sorted(names.intersection(tools.links)) if not self.everything else ():
                commands.update(self._filter_commands(name))
        if tools.cli.any:
            commands["programs"] = f"{tools.cli.any} ebpf loaded-ebpfdata"
            commands["maps"] = f"{tools.cli.any} ebpf maps"
            commands["program list"] = f"{tools.cli.any} ebpf progs"
        if tools.bpffs["path"]:
            commands["pins"] = toolbox_commands.list_pins(tools.bpffs["path"])
        return dict(zip(commands, self.shell.run(list(commands.values())), strict=True))

    def _filter_commands(self, name: str) -> dict[str, str]:
        return {
            f"filters {name} {hook}": f"{self.tools.tc} filter show dev {shlex.quote(name)} {hook}"
            for hook in ("ingress", "egress")
        }

    def _network(self, document: Json, texts: dict[str, Output]) -> None:
        parse = toolbox_ip.parse_links if self.tools.ip else toolbox_ip.parse_sysfs_links
        document["links"] = self._parsed("links", texts, parse)
        names = {row["name"]: row["ifindex"] for row in document["links"] or ()}
        if self.tools.ip:
            document["addresses"] = self._parsed("addresses", texts, toolbox_ip.parse_addresses)
            document["routes"] = self._routes(texts, names)
        else:
            for section in ("addresses", "routes"):
                self.found.fail(section, "neither the node nor the image has `ip`")
        if self.tools.tc:
            document["qdiscs"] = self._parsed("qdiscs", texts, tc.parse_qdiscs, names)
        release = re.match(r"(\d{1,4})\.(\d{1,4})", document["uname"]["release"])
        if release is not None and (int(release[1]), int(release[2])) < TCX_SINCE:
            document["tcx"] = []
            self.found.notes.append(f"kernel {document['uname']['release']} has no tcx")
        else:
            self.found.fail("tcx", NO_TCX)

    def _routes(self, texts: dict[str, Output], names: dict[str, int]) -> list[Json] | None:
        found = []
        for family in (4, 6):
            rows = self._parsed("routes", {"routes": texts[f"routes {family}"]}, toolbox_ip.parse_routes, family, names)
            if rows is None:
                return None
            found += rows
        return found

    def _parsed(self, key: str, texts: dict[str, Output], parse: Callable[..., Any], *more: Any) -> Any:
        """The parsed output of one command; None, and an entry of ``errors``, where it failed."""
        output = texts[key]
        if output.status != 0 and parse is not toolbox_ip.parse_sysfs_links:
            self.found.fail(key, output.said)
            return None
        return self.found.attempt(key, parse, output.stdout, *more)

    # filters

    def _take_filters(self, document: Json, texts: dict[str, Output]) -> None:
        names = {row["name"]: row["ifindex"] for row in document["links"] or ()}
        for key in texts:
            kind, _, rest = key.partition(" ")
            name, _, hook = rest.rpartition(" ")
            if kind != "filters" or name not in names:
                continue
            place = names[name], hook
            self.asked.add(place)
            rows = self._parsed(key, texts, tc.parse_filters, *place)
            for row in rows or ():
                jited = row.pop("jited")
                if row["program_id"] is not None:
                    self.jited[row["program_id"]] = jited
            self.filters[place] = rows or []
        if self.tools.tc and document["links"] is not None:
            document["filters"] = [row for _, rows in sorted(self.filters.items(), key=_hook_order) for row in rows]

    def _missing_filters(self, document: Json) -> dict[str, str]:
        """Commands for hooks that were not asked about yet: of links that only a route names, or of all links."""
        if not self.tools.tc or document["links"] is None:
            return {}
        names = {row["ifindex"]: row["name"] for row in document["links"]}
        wanted = set(names)
        if not self.everything:
            wanted = reader.requested_links(document, self.pods, toolbox_bpf.addresses(self.request))
        if document["qdiscs"] is not None:
            wanted &= {row["ifindex"] for row in document["qdiscs"] if row["kind"] in ("clsact", "ingress")}
        commands: dict[str, str] = {}
        for ifindex in sorted(wanted):
            if (ifindex, "ingress") not in self.asked and ifindex in names:
                commands.update(self._filter_commands(names[ifindex]))
        return commands

    # programs, maps, pins

    def _objects(self, document: Json, texts: dict[str, Output]) -> None:
        listed = self._listed(texts.get("pins"))
        if not self.tools.cli.any:
            for section in ("programs", "maps"):
                self.found.fail(section, "there is no aws-eks-na-cli on the node that can be run")
            pinned = None
        else:
            pinned = self._parsed("programs", texts, na_cli.parse_pinned)
            loaded = self._parsed("program list", texts, na_cli.parse_programs)
            document["maps"] = self._parsed("maps", texts, na_cli.parse_maps)
            toolbox_bpf.objects(document, pinned, loaded, self.found)
        if listed is None and not self.tools.bpffs["path"]:
            self.found.fail("pins", self.tools.bpffs["reason"])
        if listed is not None or pinned is not None:
            document["pins"] = toolbox_bpf.pin_rows(pinned, listed)

    def _listed(self, output: Output | None) -> list[str] | None:
        if output is None:
            return None
        top = f"{self.tools.bpffs['path']}/{reader.AGENT_DIRECTORY}"
        lines = output.stdout.split("\n")
        if top not in lines:
            self.found.notes.append(f"{top} does not exist: the agent loaded nothing since the node's boot")
        return [line.removeprefix(f"{top}/") for line in lines if line.startswith(f"{top}/")]

    # the third exec, and one more where its filters name programs that were not known before

    def _rounds(self, document: Json) -> None:
        for _ in range(MOST_ROUNDS):
            commands = self._missing_filters(document)
            rows = {}
            for row in toolbox_bpf.wanted_rows(document, self.request, self.found):
                command = toolbox_bpf.dump(self.tools.cli, row, self.found)
                if command:
                    rows[f"map {row['id']}"] = row
                    commands[f"map {row['id']}"] = command
            if not commands:
                return
            commands["clocks"] = toolbox_commands.CLOCKS
            texts = dict(zip(commands, self.shell.run(list(commands.values())), strict=True))
            document["clock"]["end"] = toolbox_commands.clocks(texts["clocks"])
            self._take_filters(document, texts)
            for key, row in rows.items():
                toolbox_bpf.fill(row, texts[key], self.request, self.found)

    def _finish(self, document: Json) -> None:
        if not self.tools.tc:
            for section in ("qdiscs", "filters"):
                self.found.fail(section, f"no tc: {self.tools.no_tc}")
        elif document["filters"] is None:
            self.found.fail("filters", "without the links it is not known whose hooks to read")
        if document["programs"] is not None:
            toolbox_bpf.add_attached(document, self.jited, self.found)
        document["notes"], document["errors"] = self.found.notes, self.found.errors


def _hook_order(item: tuple[tuple[int, str], list[Json]]) -> tuple[int, bool]:
    """As the reader: by link, ingress before egress."""
    (ifindex, hook), _ = item
    return ifindex, hook == "egress"
