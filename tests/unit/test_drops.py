"""`drops`: what a logged DENY means by the maps of now, and what is said where there is no log."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from kubectl_netpol import dropping
from kubectl_netpol.cli import run
from kubectl_netpol.diagnose.drops import DropReport, Kind, drops, log_request
from kubectl_netpol.diagnose.plan import KINDS
from kubectl_netpol.errors import NodeError
from kubectl_netpol.kernel.flowlog import parse_time, time_text
from kubectl_netpol.model.snapshot import Collection, NodeReading, Snapshot
from kubectl_netpol.policy.world import World
from kubectl_netpol.report import drops as report
from tests.unit.builders import (
    ACCESS_ENDPOINT,
    ACCESS_FALSE,
    ACCESS_MAP,
    ACCESS_TRUE,
    ANY,
    NGINX,
    NODE,
    NODE_IP,
    article,
    container_port,
    ct_key,
    match,
    meta,
    node,
    pod,
    pod_document,
    policy,
    service,
    service_port,
)

Json = dict[str, Any]
NGINX_IP, TRUE_IP, FALSE_IP = (p["status"]["podIP"] for p in (NGINX, ACCESS_TRUE, ACCESS_FALSE))
NOW = parse_time("2026-01-02T12:00:00Z")
assert NOW is not None
OPEN = {"0.0.0.0/0": [ANY], f"{NODE_IP}/32": [ANY]}
SHUT = {f"{NODE_IP}/32": [ANY]}
FAR = "203.0.113.9"


def line(
    source: str, destination: str, port: int = 80, *, sport: int = 40000, ago: float = 60, way: str = "ingress",
    verdict: str = "DENY", proto: str = "TCP", tier: str = ", Tier DEFAULT",
) -> str:  # fmt: skip
    direction = f" Direction {way}" if way else ""
    msg = (
        f"Flow Info: Src IP: {source} Src Port: {sport} Dest IP: {destination} Dest Port: {port} Proto {proto} "
        f"Verdict {verdict}{direction}{tier if way else ''}"
    )
    return json.dumps({"level": "info", "ts": time_text(NOW - ago).replace("Z", ".000Z"), "msg": msg})


def section(*lines: str, **more: Any) -> Json:
    found: Json = {
        "path": "/host/x.log", "lines": list(lines), "complete": True, "left_out": 0, "seen": len(lines),
        "position": {"inode": 1, "offset": 2}, "files": ["x.log"], "reason": "", "addresses": [NGINX_IP, FALSE_IP],
        "since_ns": 0, "all": True,
    }  # fmt: skip
    return {**found, **more}


def aws_node(*args: str, image: str = "agent:v1.4.1-eksbuild.1") -> Json:
    containers = [{"name": "aws-node", "image": "cni:v1.23.0"}, {"name": "aws-eks-nodeagent", "image": image}]
    containers[1]["args"] = list(args)  # type: ignore[assignment]
    return {"metadata": meta("aws-node", "kube-system"), "spec": {"template": {"spec": {"containers": containers}}}}


LOGGING = ("--enable-policy-event-logs=true",)


def document(log: Json | None, **more: Any) -> Json:
    clocks = {"monotonic_ns": 1, "boottime_ns": 1, "realtime_ns": int(NOW * 1e9)}
    found = pod_document(NGINX, **{"ingress": ACCESS_MAP, **more}, clock={"begin": clocks, "end": clocks})
    return found if log is None else {**found, "flow_log": log}


def made(doc: Json, args: tuple[str, ...] | None = LOGGING, image: str = "agent:v1.4.1", **objects: Any) -> Snapshot:
    found = article(doc, **objects)
    daemonsets = Collection((aws_node(*args, image=image),)) if args is not None else Collection(reason="forbidden")
    more = {"daemonsets": daemonsets, "configmaps": Collection()}
    return Snapshot({**found.collections, **more}, {NODE: NodeReading(doc)}, found.taken_at, "0")


def asked(*lines: str, of: Json = NGINX, everything: bool = False, args: Any = LOGGING, **more: Any) -> DropReport:
    objects = {key: more.pop(key) for key in list(more) if key in KINDS}
    image = more.pop("image", "agent:v1.4.1")
    log = section(*lines, **more.pop("log", {}))
    return drops(of, made(document(log, **more), args, image, **objects), seconds=3600, everything=everything)


def kinds(found: DropReport) -> list[str]:
    return [str(row.kind) for row in found.rows]


def only(found: DropReport) -> Any:
    [row] = found.rows
    return row


# ---- kinds


def test_what_the_rules_still_deny() -> None:
    found = asked(line(FALSE_IP, NGINX_IP), line(FALSE_IP, NGINX_IP, sport=40001, ago=30))
    row = only(found)
    assert (row.kind, row.count, row.first, row.last) == (Kind.STILL_DENIED, 2, NOW - 60, NOW - 30)
    assert (row.source, row.destination) == ("pod default/accessfalse", "pod default/nginx-f8d9c6576-8b4vf")
    assert row.why.endswith("; INTENT denies it too")
    assert dropping.exit_code(found) == 1
    assert report.summary(found).endswith("2 drops of 1 flow in the last 1h: 1 still denied.")


def test_a_denial_that_the_yaml_does_not_want() -> None:
    row = only(asked(line(TRUE_IP, NGINX_IP), ingress=SHUT))
    assert row.kind is Kind.STILL_DENIED
    assert "although INTENT allows it" in row.why and "PINNED" in row.why and "(cause: kernel)" in row.why


def test_what_the_rules_allow_now() -> None:
    found = asked(line(TRUE_IP, NGINX_IP))
    assert kinds(found) == ["ALLOWED_NOW"]
    assert dropping.exit_code(found) == 0


@pytest.mark.parametrize(("seconds", "kind"), [(0, "STARTUP"), (30, "STARTUP"), (31, "ALLOWED_NOW")])
def test_a_pod_that_was_new(seconds: float, kind: str) -> None:
    new = {**NGINX, "status": {**NGINX["status"], "startTime": time_text(NOW - 60 - seconds)}}
    found = asked(line(TRUE_IP, NGINX_IP), of=new, pods=[new, ACCESS_TRUE, ACCESS_FALSE])
    assert kinds(found) == [kind]
    if kind == "STARTUP":
        assert time_text(NOW - 60) in found.rows[0].why and new["status"]["startTime"] in found.rows[0].why
    # What the rules deny is no matter of the start.
    assert kinds(asked(line(FALSE_IP, NGINX_IP), of=new, pods=[new, ACCESS_TRUE, ACCESS_FALSE])) == ["STILL_DENIED"]


@pytest.mark.parametrize(("seconds", "kind"), [(-1, "ALLOWED_NOW"), (10, "STARTUP"), (11, "ALLOWED_NOW")])
def test_rules_that_were_new(seconds: float, kind: str) -> None:
    when = time_text(NOW - 60 - seconds)
    annotated = {**ACCESS_ENDPOINT, "metadata": {**ACCESS_ENDPOINT["metadata"]}}
    annotated["metadata"]["annotations"] = {"networking.k8s.aws/last-change-trigger-time": when}
    found = asked(line(TRUE_IP, NGINX_IP), policyendpoints=[annotated])
    assert kinds(found) == [kind]
    assert kind == "ALLOWED_NOW" or when in found.rows[0].why


def test_lines_of_the_pod_that_had_the_address_before() -> None:
    new = {**NGINX, "status": {**NGINX["status"], "startTime": time_text(NOW - 50)}}
    found = asked(line(FALSE_IP, NGINX_IP), of=new, pods=[new, ACCESS_FALSE])
    assert found.rows == ()
    assert "1 lines are older than the pod" in found.notes[0]


def test_a_late_reply() -> None:
    late = line(FAR, NGINX_IP, 51000, sport=443)
    row = only(asked(late))
    assert row.kind is Kind.STALE_REPLY
    assert f"an answer to egress {NGINX_IP} -> {FAR} on 443/TCP" in row.why
    assert "every 300 s" in row.why and "issue 462" in row.why
    more = ("--conntrack-cache-cleanup-period=60", *LOGGING)
    row = only(asked(late, args=more, image="agent:v1.4.2"))
    assert "every 60 s" in row.why and "462" not in row.why
    # The same ports the other way round are a request.
    assert kinds(asked(line(FAR, NGINX_IP, 443, sport=51000))) == ["STILL_DENIED"]
    # And where the pod may not have asked, it is no answer.
    assert kinds(asked(late, egress=SHUT)) == ["STILL_DENIED"]
    assert kinds(asked(line(FAR, NGINX_IP, 51000, sport=443, proto="ICMP"))) == ["STILL_DENIED"]


@pytest.mark.parametrize(
    ("source", "port", "sport", "kind"),
    [
        # A request to a port that the pod serves, whatever it comes from.
        (FAR, 80, 53, "STILL_DENIED"),
        (FAR, 2049, 800, "STILL_DENIED"),
        (FAR, 8080, 443, "STILL_DENIED"),
        # Both from where clients begin: a request, unless the other pod says that it serves it.
        (FAR, 50051, 40000, "STILL_DENIED"),
        (FALSE_IP, 40000, 50051, "STALE_REPLY"),
        (FAR, 40000, 50051, "STILL_DENIED"),
        (FAR, 40000, 5432, "STALE_REPLY"),
    ],
)
def test_what_an_answer_is(source: str, port: int, sport: int, kind: str) -> None:
    serving = pod("accessfalse", FALSE_IP, labels={"access": "false"}, ports=[container_port(50051)])
    found = asked(line(source, NGINX_IP, port, sport=sport), pods=[NGINX, serving])
    assert kinds(found) == [kind]


def test_a_request_and_an_answer_are_two_rows() -> None:
    both = (line(FAR, NGINX_IP, 40000, sport=443), line(FAR, NGINX_IP, 40000, sport=55000))
    assert sorted(kinds(asked(*both))) == sorted(kinds(asked(*both[::-1]))) == ["STALE_REPLY", "STILL_DENIED"]


def test_a_late_reply_to_a_new_pod_is_of_its_start() -> None:
    new = {**NGINX, "status": {**NGINX["status"], "startTime": time_text(NOW - 65)}}
    row = only(asked(line(FAR, NGINX_IP, 51000, sport=443), of=new, pods=[new]))
    assert row.kind is Kind.STARTUP and "an answer to egress" in row.why and "5 s after" in row.why


@pytest.mark.parametrize("destination", ["224.0.0.251", "239.255.255.250", "255.255.255.255"])
def test_noise(destination: str) -> None:
    found = asked(line(NGINX_IP, destination, 5353, way="egress", proto="UDP"), egress=SHUT)
    assert kinds(found) == ["NOISE"]
    assert dropping.exit_code(found) == 0


def test_noise_of_ipv6() -> None:
    six = {**NGINX, "status": {**NGINX["status"], "podIP": "2001:db8::5", "podIPs": [{"ip": "2001:db8::5"}]}}
    mld = line("2001:db8::5", "ff02::16", 0, way="egress", proto="UNKNOWN", tier=" Tier: ERROR")
    found = asked(mld, of=six, pods=[six], log={"addresses": ["2001:db8::5"]})
    assert (kinds(found), found.rows[0].tier) == (["NOISE"], "ERROR")


def test_an_unknown_protocol_is_unknown() -> None:
    found = asked(line(FAR, NGINX_IP, proto="UNKNOWN"))
    assert kinds(found) == ["UNKNOWN"]
    assert dropping.exit_code(found) == 3
    assert report.as_data(found)["flows"][0]["protocol"] is None


def test_maps_that_were_not_read_are_unknown() -> None:
    found = asked(line(FALSE_IP, NGINX_IP), maps=None)
    assert kinds(found) == ["UNKNOWN"]
    assert dropping.exit_code(found) == 3


def test_the_address_of_another_node() -> None:
    nodes = [node(), node("node-b", "10.0.0.2")]
    row = only(asked(line("10.0.0.2", NGINX_IP), nodes=nodes))
    assert row.kind is Kind.STILL_DENIED and "10.0.0.2 is node node-b" in row.why and "ipBlock" in row.why
    # The own node's always passes, but where its entry was lost.
    row = only(asked(line(NODE_IP, NGINX_IP), nodes=nodes, ingress={f"{FAR}/32": [ANY]}))
    assert row.kind is Kind.STILL_DENIED and "ipBlock" not in row.why


def test_a_service_is_judged_as_one() -> None:
    shop = service("shop", "10.100.0.7", selector={"app": "nginx"}, ports=[service_port(80)])
    row = only(asked(line(NGINX_IP, "10.100.0.7", way="egress"), services=[shop], egress=SHUT))
    assert (row.kind, row.destination) == (Kind.STILL_DENIED, "service default/shop")


def test_the_yaml_is_asked_about_the_pods_behind_a_service() -> None:
    shop = service("shop", "10.100.0.7", selector={"access": "true"}, ports=[service_port(80)])
    out = policy("out", selects={"app": "nginx"}, egress=[{"to": [{"podSelector": match(access="true")}]}])
    denied = line(NGINX_IP, "10.100.0.7", way="egress")
    row = only(asked(denied, services=[shop], networkpolicies=[out], egress=SHUT))
    assert row.kind is Kind.STILL_DENIED and "INTENT allows it" in row.why


def test_an_established_flow_is_judged_as_a_new_one() -> None:
    kept = [(ct_key(FALSE_IP, 40000, NGINX_IP, 80, NGINX_IP, 7), 5)]
    assert kinds(asked(line(FALSE_IP, NGINX_IP, sport=40000), conntrack=kept)) == ["STILL_DENIED"]


def test_what_the_other_pod_of_the_node_drops() -> None:
    found = asked(line(FALSE_IP, NGINX_IP), of=ACCESS_FALSE)
    row = only(found)
    assert row.kind is Kind.OTHER_END and "drops nginx-f8d9c6576-8b4vf -n default" in row.why
    assert dropping.exit_code(found) == 0
    row = only(asked(line(NGINX_IP, TRUE_IP, way="")))
    assert row.kind is Kind.OTHER_END and "at which end" in row.why
    assert kinds(asked(line(FALSE_IP, NGINX_IP, way=""))) == ["STILL_DENIED"]
    assert kinds(asked(line(NGINX_IP, FAR, way=""))) == ["ALLOWED_NOW"]


# ---- rows


def test_rows_by_flow_and_the_newest_first() -> None:
    lines = [
        line(FALSE_IP, NGINX_IP, ago=90),
        line(FALSE_IP, NGINX_IP, 81, ago=80),
        line(TRUE_IP, NGINX_IP, verdict="ACCEPT", ago=70),
        line(FALSE_IP, NGINX_IP, ago=10),
        line(FALSE_IP, NGINX_IP, ago=4000),
        line(FALSE_IP, "10.9.9.9", way="egress"),
    ]
    found = asked(*lines)
    assert [(row.flow.port, row.count) for row in found.rows] == [(80, 2), (81, 1)]
    found = asked(*lines, everything=True)
    assert [(row.verdict, row.kind) for row in found.rows][1] == ("ACCEPT", None)
    assert "3 drops of 2 flows in the last 1h: 2 still denied; 1 accepted packet." in report.summary(found)


def test_the_forms() -> None:
    found = asked(line(FALSE_IP, NGINX_IP, sport=40001))
    text = report.as_text(found, False, True)
    assert text.split("\n")[2].split() == list(report.COLUMNS)
    assert f"default/accessfalse ({FALSE_IP})" in text and "80/TCP" in text and "still denied" in text
    assert "40001" not in text and "40001" in report.as_text(found, True, True)
    [flow] = report.as_data(found)["flows"]
    assert (flow["kind"], flow["sourcePort"], flow["last"]) == ("STILL_DENIED", 40001, time_text(NOW - 60))


def test_a_line_cannot_steer_the_terminal() -> None:
    evil = {**ACCESS_FALSE, "metadata": {**ACCESS_FALSE["metadata"], "name": "x\x1b[31m"}}
    found = asked(line(FALSE_IP, NGINX_IP), pods=[NGINX, evil])
    assert "\x1b" not in report.as_text(found, True, True)
    assert "\x1b" not in "".join(report.followed(found.rows, True))


# ---- without a log


def said(found: DropReport) -> str:
    return report.as_text(found, False, True)


@pytest.mark.parametrize(("given", "enforce"), [("true", '"enableNetworkPolicy":"true",'), ("false", "")])
def test_switching_the_log_on_leaves_the_enforcement_as_it_is(given: str, enforce: str) -> None:
    """All configuration values of the add-on are replaced by those of the command."""
    found = asked(args=(f"--enable-network-policy={given}",))
    assert f"""--configuration-values '{{{enforce}"nodeAgent":{{"enablePolicyEventLogs":"true"}}}}'""" in said(found)


def test_logging_that_is_off_is_said() -> None:
    found = asked(args=())
    assert "NPE615 info CONFIG: the agent logs no flows (--enable-policy-event-logs" in said(found)
    assert [one.code for one in found.findings] == ["NPE615"] and not asked().findings
    assert "aws eks update-addon" in said(found) and '"enablePolicyEventLogs":"true"' in said(found)
    assert "addon.configurationValues` shows" in said(found)
    assert "no drops are known of" in said(found)
    assert dropping.exit_code(found) == 3
    again = asked(line(TRUE_IP, NGINX_IP), args=())
    assert "policy event logs are off now" in said(again)
    assert dropping.exit_code(again) == 0


def test_no_drops_where_the_agent_logs() -> None:
    found = asked()
    assert report.summary(found).endswith("no drops in the last 1h.")
    assert dropping.exit_code(found) == 0
    assert dropping.exit_code(asked(log={"seen": 5}, args=None)) == 0
    unknown = asked(args=None)
    assert "could not be read: " in said(unknown) and "forbidden" in said(unknown)
    assert dropping.exit_code(unknown) == 3


def test_a_log_on_stdout() -> None:
    agent = pod("aws-node-x1", "10.0.0.1", namespace="kube-system", labels={"k8s-app": "aws-node"}, host_network=True)
    found = asked(args=(*LOGGING, "--log-file=stdout"), pods=[NGINX, agent])
    assert "kubectl logs -n kube-system -c aws-eks-nodeagent aws-node-x1" in said(found)
    assert dropping.exit_code(found) == 3


@pytest.mark.parametrize(
    ("log", "text"),
    [
        ({"complete": False, "reason": "/host/x.log: EACCES"}, "EACCES"),
        ({"complete": False, "left_out": 7}, "7 older lines"),
        ({"complete": False}, "not read to its end"),
        ({"addresses": ["10.1.1.1"]}, f"{NGINX_IP} was not asked for"),
        ({"since_ns": int((NOW - 600) * 1e9)}, "from 2026-01-02T11:50:00Z on only"),
        ({"lines": ["nonsense"]}, "1 lines of the log are in a form that is not known"),
    ],
)
def test_what_was_not_read_of_the_log(log: Json, text: str) -> None:
    found = asked(log=log)
    assert text in said(found)
    assert dropping.exit_code(found) == 3


def test_accepted_flows_that_are_not_logged() -> None:
    assert "logs ACCEPT with --log-level=debug only" in said(asked(everything=True))
    assert "ACCEPT" not in said(asked(everything=True, image="agent:v1.2.1"))
    assert "ACCEPT" not in said(asked(everything=True, args=(*LOGGING, "--log-level=debug")))
    assert "without the lines of ACCEPT" in said(asked(everything=True, log={"all": False}))


def test_a_document_without_the_section() -> None:
    old = drops(NGINX, made(document(None)), seconds=60)
    assert "made without the agent's log" in said(old)
    assert dropping.exit_code(old) == 3
    failed = document(None, errors=[{"what": "flow_log", "error": "EIO: x"}])
    assert "EIO: x" in said(drops(NGINX, made({**failed, "flow_log": None}), seconds=60))


def test_the_request() -> None:
    found = log_request([NGINX], World(made(document(None))), seconds=60, everything=True, most=5)
    assert (found["addresses"], found["last_ns"], found["all"], found["path"]) == ([NGINX_IP], 60 * 10**9, True, "")
    other = made(document(None), ("--log-file=/var/log/np.log",))
    assert log_request([NGINX], World(other), seconds=60, everything=True, most=5)["path"] == "/var/log/np.log"


# ---- the verb


class Origin:
    """A source whose node answers with these documents, one after the other."""

    namespace, taken_at, tool_version = "default", "2026-01-02T12:00:00Z", "0"

    def __init__(self, *documents: Json, args: tuple[str, ...] = LOGGING) -> None:
        self.documents, self.snapshot = list(documents), made(documents[0], args)
        self.requests: list[Json] = []
        self.lists = 0

    def collections(self, kinds: Any, namespaces: Any) -> Any:
        self.lists += 1
        return {kind: self.snapshot.get(kind) for kind in kinds}

    of_namespaces = collections

    def read(self, request: Json) -> Json:
        self.requests.append(request)
        if not self.documents:
            raise KeyboardInterrupt
        found = self.documents.pop(0)
        if isinstance(found, Exception):
            raise found
        return found


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """What went to stdout. Polls do not wait."""
    monkeypatch.setattr(dropping.time, "sleep", lambda seconds: None)
    return lambda: capsys.readouterr().out


def following(origin: Origin, output: str = "table", deadline: int = 300) -> dropping._Followed:
    from types import SimpleNamespace

    from kubectl_netpol.progress import Progress
    from kubectl_netpol.report.output import Format

    progress = Progress(enabled=False)
    connection = SimpleNamespace(context="", kubeconfig="", cluster="", user="", server="", as_user="", as_groups=())
    common: Any = SimpleNamespace(
        output=Format(output), no_headers=False, deadline=deadline, bundle="", connection=connection
    )
    logged = dropping._Logged(origin, dropping.Asked("nginx"), 3600.0, progress)  # type: ignore[arg-type]
    return dropping._Followed(logged, common, progress)


def test_following_prints_new_rows_as_they_come(printed: Callable[[], str]) -> None:
    first = section(line(FALSE_IP, NGINX_IP, ago=60))
    nothing = section(position={"inode": 1, "offset": 9})
    second = section(line(TRUE_IP, NGINX_IP, 8080, ago=5), position={"inode": 2, "offset": 3})
    origin = Origin(document(first), document(nothing), document(second))
    followed = following(origin)
    lists = origin.lists
    with pytest.raises(KeyboardInterrupt):
        followed.watch(origin.read)
    afters = [request["log"]["after"] for request in origin.requests]
    assert afters == [None, {"inode": 1, "offset": 2}, {"inode": 1, "offset": 9}, {"inode": 2, "offset": 3}]
    lines = printed().splitlines()
    assert lines[0].endswith("1 drop of 1 flow in the last 1h: 1 still denied.")
    assert lines[2].split() == list(report.COLUMNS)
    assert [("8080/TCP" in one, "80/TCP" in one) for one in lines[3:]] == [(False, True), (True, True)]
    # The objects are read again for what is new, and not for nothing.
    assert origin.lists == lists + 2


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_following_for_machines(form: str, printed: Callable[[], str]) -> None:
    origin = Origin(document(section(line(FALSE_IP, NGINX_IP), line(FALSE_IP, NGINX_IP, 81, ago=9))))
    with pytest.raises(KeyboardInterrupt):
        following(origin, form).watch(origin.read)
    text = printed()
    found = [json.loads(one) for one in text.splitlines()] if form == "json" else list(yaml.safe_load_all(text))
    assert [row["port"] for row in found] == [80, 81]


def test_following_ends_where_the_agent_logs_nothing(printed: Callable[[], str]) -> None:
    origin = Origin(document(section()), args=())
    followed = following(origin)
    followed.watch(origin.read)
    assert followed.ended
    assert "aws eks update-addon" in printed()


def test_a_debug_pod_that_ends_is_followed_by_another(printed: Callable[[], str]) -> None:
    origin = Origin(document(section()), NodeError("it reached its deadline"))  # type: ignore[arg-type]
    followed = following(origin)
    followed.watch(origin.read)
    assert not followed.ended
    with pytest.raises(KeyboardInterrupt):
        followed.watch(origin.read)
    broken = Origin(document(section()))
    broken.documents = [NodeError("refused")]  # type: ignore[list-item]
    with pytest.raises(NodeError, match="refused"):
        following(broken).watch(broken.read)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--via", "tools"], "needs --via python"),
        (["--via", "agent"], "needs --via python"),
        (["--since", "soon"], '--since "soon" is not a duration'),
        (["--since", "0"], "is not a duration"),
        (["--bundle", "x", "--follow"], "--follow needs the live node"),
    ],
)
def test_usage(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["drops", "pod/nginx", *arguments]) == 2
    assert text in capsys.readouterr().err


def test_a_bundle_with_the_log(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from kubectl_netpol import bundle

    path = str(tmp_path / "b.tar.gz")
    bundle.write(made(document(section(line(FALSE_IP, NGINX_IP), line(TRUE_IP, NGINX_IP, verdict="ACCEPT")))), path)
    assert run(["drops", "pod/nginx", "--bundle", path, "-o", "json", "--all"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["drops"], found["kinds"]["STILL_DENIED"], len(found["flows"])) == (1, 1, 2)
    assert run(["drops", "pod/accesstrue", "--bundle", path]) == 3
    assert "read for other pods" in capsys.readouterr().out


def test_paths_are_those_of_the_node() -> None:
    reason = "/host/var/log/x: ENOENT: no such file; /var/log/x: ENOENT: no such file"
    found = asked(log={"reason": reason, "complete": False})
    assert "/host" not in said(found) and said(found).count("/var/log/x: ENOENT") == 1
