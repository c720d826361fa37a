"""Texts of tools and logs: aws-eks-na-cli, tc, ip, the agent's flow log as the reader and as the plugin read it."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from functools import cache
from typing import Any

from kubectl_netpol.errors import NodeError
from kubectl_netpol.kernel import flowlog
from kubectl_netpol.node import na_cli, reader, tc, toolbox_bpf, toolbox_commands, toolbox_ip
from kubectl_netpol.node.document import check_document
from kubectl_netpol.node.toolbox_shell import Output
from tests.fuzz import mutation
from tests.fuzz.target import Target
from tests.unit import builders, test_na_cli, test_tc_text

Json = dict[str, Any]
ROWS = (
    *(test_na_cli.row(11, 8, 288), test_na_cli.row(11, 20, 288), test_na_cli.row(11, 8, 384), test_na_cli.STATES),
    *(test_na_cli.row(9, 24, 16), test_na_cli.row(9, 20, 1), test_na_cli.row(9, 60, 16), test_na_cli.row(11, 8, 96)),
)
REQUEST = {"pods": [{"ips": ["10.0.1.5", "10.0.2.9"]}], "conntrack": "pods"}


def text_of(data: bytes) -> str:
    """As the shell's output is decoded."""
    return data.decode("utf-8", "replace")


def digest(value: Any) -> str:
    return hashlib.sha256(repr(value).encode("utf-8", "surrogatepass")).hexdigest()


def attempts(calls: list[tuple[Callable[..., Any], tuple[Any, ...]]]) -> tuple[list[Any], list[Json]]:
    """Values, and errors as they get into the document: a ValueError is one, anything else is not caught."""
    found = toolbox_bpf.Findings()
    return [found.attempt("x", call, *arguments) for call, arguments in calls], found.errors


def read_na_cli(data: bytes) -> str:
    text, found = text_of(data), toolbox_bpf.Findings()
    values, errors = attempts(
        [(na_cli.parse_programs, (text,)), (na_cli.parse_maps, (text,)), (na_cli.parse_pinned, (text,))]
    )
    programs, maps, pinned = values
    document = toolbox_bpf.empty("tools")
    document["maps"] = maps
    loaded = {program.id: program for program in programs} if programs is not None else None
    toolbox_bpf.objects(document, pinned, programs, found)
    document["pins"] = toolbox_bpf.pin_rows(pinned, None) if pinned is not None else None
    wanted = toolbox_bpf.wanted_rows(document, {"all": True, "conntrack": "all"}, found)
    document |= {"notes": found.notes, "errors": found.errors + errors}
    dumps = [{**row, "id": number, "max_entries": 5, "flags": 0, "name": ""} for number, row in enumerate(ROWS)]
    for row in dumps:
        toolbox_bpf.fill(row, Output(0, text, ""), REQUEST, found)
    checked = check_document(document)
    return digest((checked, check_document(builders.document(maps=dumps, errors=found.errors)), wanted, loaded))


def read_tc(data: bytes) -> str:
    text = text_of(data)
    values, errors = attempts(
        [(tc.parse_qdiscs, (text, {"eth0": 2, "eni123": 7})), (tc.parse_filters, (text, 7, "ingress"))]
    )
    qdiscs, filters = values
    return digest(check_document(builders.document(qdiscs=qdiscs, filters=filters, errors=errors)))


def read_ip(data: bytes) -> str:
    text = text_of(data)
    values, errors = attempts(
        [
            (toolbox_ip.parse_links, (text,)),
            (toolbox_ip.parse_sysfs_links, (text,)),
            (toolbox_ip.parse_addresses, (text,)),
            (toolbox_ip.parse_routes, (text, 4, {"eth0": 2})),
            (toolbox_ip.parse_routes, (text, 6, {"eth0": 2})),
        ]
    )
    links, sysfs, addresses, routes4, routes6 = values
    toolbox_commands.cli_of(text.split("\n"))
    toolbox_commands.bpffs_of(text)
    toolbox_commands.clocks(Output(0, text, ""))
    toolbox_commands.system(Output(0, text, ""))
    rows = {"addresses": addresses, "routes": [*(routes4 or ()), *(routes6 or ())], "errors": errors}
    first = check_document(builders.document(links=links, **rows))
    return digest((first, check_document(builders.document(links=sysfs))))


def read_flow_line(data: bytes) -> str:
    """Never raises."""
    found = flowlog.parse(text_of(data))
    if found is not None and found.time is not None:
        flowlog.time_text(found.time)
    return repr(found)


LOG_REQUEST = {"addresses": ["10.0.4.5", "10.0.5.0", "2001:db8::1"], "since_ns": 0, "all": True, "most": 50}


def read_log(data: bytes) -> str:
    """The reader's side of the agent's log: lines, their times, complaints."""
    result: Json = {"lines": [], "left_out": 0, "seen": 0}
    wanted = reader.LogWanted(LOG_REQUEST)
    for whole in (True, False):
        reader._take(io.BytesIO(data), wanted, result, whole)
    complaints = []
    for line, length in reader.log_lines(io.BytesIO(data), whole=True):
        assert length
        complaints.append((reader.line_time(line), reader._complains(line), reader.complaint(line)))
        assert len(complaints[-1][2]) <= 300
    log = {
        **result, "path": "/a.log", "complete": True, "files": [], "position": None, "reason": "",
        "addresses": [], "since_ns": 0, "all": True,
    }  # fmt: skip
    document = check_document(builders.document(flow_log=log))
    return digest((document["flow_log"], complaints))


# ---- what the tools print

IP = """\
1: lo: <LOOPBACK,UP,LOWER_UP> mtu 65536 qdisc noqueue state UNKNOWN mode DEFAULT group default qlen 1000
    link/loopback 00:00:00:00:00:00 brd 00:00:00:00:00:00 promiscuity 0 minmtu 0 maxmtu 0 addrgenmode eui64
    inet 127.0.0.1/8 scope host lo
7: eni5ba2b8d9bd3@if3: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 9001 qdisc noqueue state UP group default master br0
    link/ether 3e:52:8a:1b:7c:11 brd ff:ff:ff:ff:ff:ff link-netnsid 0 promiscuity 0
    veth addrgenmode eui64 numtxqueues 1 prog/xdp id 31 name x
    inet6 fe80::1/64 scope link
"""
SYSFS = "link eth0\nifindex 2\nflags 0x1003\noperstate up\nmtu 9001\niflink 3\naddress 3e:52:8a:1b:7c:11\ncarrier 1\n"
ROUTES = """\
default via 10.0.0.1 dev eth0
10.0.4.5 dev eth0 scope link
unreachable 2001:db8::/32 dev lo metric 1024
default via inet6 fe80::1 dev eth0 src 10.0.0.5
10.0.0.0/16 proto kernel scope link
\tnexthop via 10.0.0.1 dev eth0 weight 1
"""
TOOLS = (
    "/usr/sbin/tc\n/opt/cni/bin/aws-eks-na-cli\nbpf /sys/fs/bpf bpf rw 0 0\n123.45 99.1\nLinux 6.1.0 x86_64 node-a\n"
)
TC = """\
qdisc noqueue 0: dev eth0 root refcnt 2
 Sent 123 bytes 4 pkts (dropped 5, overlimits 0 requeues 0)
qdisc clsact ffff: dev eni123 parent ffff:fff1
 Sent 0 bytes 0 pkt (dropped 0, overlimits 0 requeues 0)
"""
FILTERS = (
    "filter protocol all pref 1 bpf chain 0 \n"
    "filter protocol all pref 1 bpf chain 0 handle 0x1 handle_egress direct-action not_in_hw id 433 name  "
    "tag 557a80b8403d758b jited \n"
    "filter protocol ip pref 2 u32 chain 0 fh 800::800 order 2048 key ht 800 bkt 0 terminal flowid ??? not_in_hw \n"
    "  match 01020304/ffffffff at 12\n"
    "filter protocol 802.1Q pref 3 flower chain 0 handle 0x1 \n"
)
FLOW = (
    '{"level":"info","ts":"2026-01-02T03:04:05.000Z","caller":"runtime/asm.s:1","msg":"Flow Info: Src IP: 10.0.4.5 '
    'Src Port: 40000 Dest IP: 10.0.5 Dest Port: 80 Proto TCP Verdict DENY Direction egress, Tier NETWORK_POLICY"}'
)
FIELDS = (
    '{"level":"info","timestamp":1767323045.25,"msg":"Flow Info:  ","Src IP":"10.0.4.5","Src Port":5,"Dest IP":'
    '"2001:db8::1","Dest Port":80,"Proto":"UNKNOWN","Verdict":"ACCEPT"}'
)
CLOUDWATCH = (
    "2026-01-02T03:04:05+01:00 Node: n;SIP: 10.0.4.5;SPORT: 5;DIP: 10.0.4.6;DPORT: 80;PROTOCOL: UDP;"
    "PolicyVerdict: DENY;Tier: ADMIN"
)
ERROR = (
    '{"level":"error","ts":"2026-01-02T03:04:05.000Z","msg":"BPF map update failed",'
    '"error":{"code":[1,null]},"stacktrace":"a\\nb"}'
)


def encoded(*texts: str) -> Callable[[], tuple[bytes, ...]]:
    return cache(lambda: tuple(text.encode() for text in texts))


NA_CLI = (
    *(test_na_cli.ARTICLE_LOADED, test_na_cli.ARTICLE_DUMP, test_na_cli.PROGS, test_na_cli.MAPS, test_na_cli.CONNTRACK),
    "Key : IP/Prefixlen - 10.0.0.1/32\nEntry 3:\nProtocol - TCP\nPriority - 5\nStartPort - 80\nEndPort - 90\n",
    "Key :  0\nState -  1\nKey :  1\nState -  2\nDone reading all entries\n",
    "Failed to execute the cmd -  unable to get first key: no such file or directory\n",
)
LINES = (*(json.dumps(json.loads(line)) for line in (FLOW, FIELDS)), FLOW, FIELDS, CLOUDWATCH)
TARGETS = (
    Target("na_cli", read_na_cli, encoded(*NA_CLI), mutation.text_input, (NodeError,), short=250, long=120_000),
    Target(
        "tc",
        read_tc,
        encoded(TC, FILTERS, test_tc_text.ARTICLE),
        mutation.text_input,
        (NodeError,),
        short=250,
        long=120_000,
    ),
    Target(
        "ip", read_ip, encoded(IP, SYSFS, ROUTES, TOOLS), mutation.text_input, (NodeError,), short=250, long=120_000
    ),
    Target("flow_line", read_flow_line, encoded(*LINES), mutation.text_input, (), short=300, long=150_000),
    Target(
        "log",
        read_log,
        encoded("\n".join((*LINES, ERROR, FLOW)), f"{ERROR}\n{FLOW}"),
        mutation.text_input,
        (NodeError,),
        short=250,
        long=100_000,
    ),
)
