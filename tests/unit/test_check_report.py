"""`check` on paper: rows as they come, one pod, the end of many, JSON and YAML, JUnit, Prometheus; hostile names."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable
from dataclasses import replace
from xml.etree import ElementTree

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kubectl_netpol.diagnose import findings
from kubectl_netpol.diagnose.check import PodRow, Report
from kubectl_netpol.kernel.identity import identifiers
from kubectl_netpol.model.finding import Evidence, Finding, Remedy, Severity
from kubectl_netpol.model.flow import Direction
from kubectl_netpol.report import check as form
from kubectl_netpol.report.output import Format, emit, write_text

ERROR, WARNING, INFO = Severity.ERROR, Severity.WARNING, Severity.INFO
NODE = "ip-10-0-0-1.eu-west-1.compute.internal"


def row(name="web-1", namespace="shop", **more):
    fields = {
        "node": NODE,
        "identifier": f"{name}@{namespace}",
        "intent": "1 policy",
        "endpoints": "1",
        "pinned": "ok",
        "attached": "ok",
        "state": "POLICIES_APPLIED",
        "codes": (),
    }
    return PodRow(namespace, name, **{**fields, **more})


def finding(kind=findings.MISSING_ENTRIES, title="the map lacks 10.0.0.7/32", pods=(("shop", "web-1"),), **more):
    fields = {
        "evidence": (Evidence("PolicyEndpoint shop/web-abcde", "10.0.0.7/32"), Evidence("map 101", "no entry")),
        "remedies": (Remedy("kubectl restart one", "restarts"), Remedy("kubectl restart two", "more of it")),
        "subject": "pod shop/web-1",
    }
    return Finding(kind, title, pods=frozenset(pods), **{**fields, **more})


def report(*found, rows=(row(),), unread=(), **more):
    return Report(tuple(rows), tuple(found), tuple(unread), **more)


# ---- rows


def test_rows_have_the_widths_of_all_that_will_come():
    """Of the pods that are still to be read too: nothing moves when a long name comes last."""
    long = "a-very-long-name-5f6d8-x2x4z"
    last = row(long, identifier=identifiers("shop", long)[0], node="n2", state="DEFAULT_DENY", codes=("NPE301",))
    rows = [row("a"), last]
    writer = form.Rows([(r.namespace, r.name, r.node) for r in rows], wide=False)
    lines = [writer.header(), *(writer.line(r) for r in rows)]
    starts = [[m.start() for m in re.finditer(r"(?<=  )\S|^\S", line)] for line in lines]
    assert starts[0] == starts[1] == starts[2]
    assert lines[0].split() == list(form.COLUMNS)
    assert lines[1].split() == ["shop/a", "ip-10-0-0-1", "a@shop", "1", "policy", "1", "ok", "ok", "applied", "-"]
    assert lines[2].split()[-2:] == ["deny", "NPE301"]


def test_wide_rows_have_whole_names_and_states():
    one = row(state="POLICIES_APPLIED/DEFAULT_ALLOW")
    assert form.cells(one, wide=True)[1] == NODE
    assert form.cells(one, wide=True)[7] == "POLICIES_APPLIED/DEFAULT_ALLOW"
    assert form.cells(one, wide=False)[1] == "ip-10-0-0-1"
    assert form.cells(one, wide=False)[7] == "applied/allow"
    assert form.cells(row(state="7"), wide=False)[7] == "7"
    writer = form.Rows([("shop", "web-1", NODE)], wide=True)
    assert writer.header().index("IDENTIFIER") == writer.line(one).index("web-1@")


@pytest.mark.parametrize("wide", [False, True])
def test_a_header_without_rows(wide):
    assert form.Rows([], wide=wide).header().split() == list(form.COLUMNS)


def test_a_row_of_an_unread_node_says_why():
    blind = row(identifier="", pinned="?", attached="?", state="?", reason="the exec failed")
    assert form.cells(blind, wide=False)[2:] == ("-", "1 policy", "1", "?", "?", "?", "unread")
    assert form.cells(replace(blind, codes=("NPE201",)), wide=False)[-1] == "NPE201 unread"
    assert form.cells(blind, wide=True)[-1] == form.cells(blind, False, reason=True)[-1] == "unread: the exec failed"


def test_a_row_lists_its_codes():
    assert form.cells(row(codes=("NPE201", "NPE301")), wide=False)[-1] == "NPE201,NPE301"
    assert form.cells(row(), wide=False)[-1] == "-"


# ---- one pod


def test_one_pod_is_told_the_answer_the_findings_and_the_row():
    text = form.one_pod(report(finding(), rows=[row(codes=("NPE301",))], unread=["events: forbidden"]), False, True)
    assert text.splitlines() == [
        f"pod shop/web-1 on node {NODE}: 1 error; 1 reading failed.",
        "not read: events: forbidden",
        "",
        "NPE301 error PINNED: the map lacks 10.0.0.7/32",
        "    PolicyEndpoint shop/web-abcde: 10.0.0.7/32",
        "    map 101: no entry",
        "  try: kubectl restart one",
        "    side effect: restarts",
        "  try: kubectl restart two",
        "    side effect: more of it",
        "  see: docs/findings/NPE301.md",
        "",
        "  POD         NODE         IDENTIFIER  INTENT    ENDPOINTS  PINNED  ATTACHED  STATE    FINDINGS",
        "  shop/web-1  ip-10-0-0-1  web-1@shop  1 policy  1          ok      ok        applied  NPE301",
    ]


def test_one_pod_without_headers():
    text = form.one_pod(report(), True, False)
    assert "POD " not in text
    assert text.splitlines()[-1].split()[:2] == ["shop/web-1", NODE]


def test_one_pod_that_is_not_on_a_node_yet_has_no_row():
    text = form.one_pod(report(rows=(), unread=["pod shop/web-1 is not on a node"]), False, True)
    assert text.splitlines() == [
        "0 pods on 0 nodes: no findings in what could be read; 1 reading failed.",
        "not read: pod shop/web-1 is not on a node",
    ]


# ---- the end of many


def test_of_findings_that_are_alike_three_are_told():
    found = [finding(title=f"the map of web-{n} lacks it", subject=f"web-{n}") for n in range(5)]
    text = form.after_rows(report(*found, finding(findings.STILL_OPEN)), wide=False)
    assert [text.count(f"the map of web-{n} lacks it") for n in range(5)] == [1, 1, 1, 0, 0]
    assert text.count("NPE301 error: 2 more like it; -o wide tells all") == 1
    assert text.count("NPE501 warning CONNTRACK:") == 1
    assert "kubectl restart two" not in text
    wide = form.after_rows(report(*found), wide=True)
    assert [wide.count(f"the map of web-{n} lacks it") for n in range(5)] == [1] * 5
    assert "more like it" not in wide
    assert wide.count("kubectl restart two") == 5


def test_the_sum_comes_last():
    text = form.after_rows(report(finding(), unread=["node n2: timed out", "events: forbidden"]), wide=False)
    assert text.splitlines()[0].startswith("NPE301")
    assert text.splitlines()[-4:] == [
        "not read: node n2: timed out",
        "not read: events: forbidden",
        "",
        f"pod shop/web-1 on node {NODE}: 1 error; 2 readings failed.",
    ]


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (report(rows=[row("a"), row("b")]), "2 pods on 1 node: no findings."),
        (report(rows=[row("a"), row("b", node="n2")]), "2 pods on 2 nodes: no findings."),
        (report(rows=[]), "0 pods on 0 nodes: no findings."),
        (
            report(rows=[row("a"), row("b")], unread=["x"]),
            "2 pods on 1 node: no findings in what could be read; 1 reading failed.",
        ),
        (
            report(rows=[row("a"), row("b")], api_only=True),
            "2 pods on 1 node: no findings (--api-only: nodes were not read).",
        ),
        (
            report(
                finding(),
                finding(findings.NO_POD_STATE),
                finding(findings.STILL_OPEN),
                finding(findings.ICMP),
                rows=[row("a"), row("b")],
            ),
            "2 pods on 1 node: 2 errors, 1 warning, 1 info.",
        ),
    ],
)
def test_the_sum(made, text):
    assert form.summary(made) == text


# ---- data


def test_data_has_all_of_it():
    one = finding(node="", directions=(Direction.INGRESS,))
    everywhere = finding(findings.CONTROLLER_OFF, "off", pods=(), subject="cluster", everywhere=True)
    on_node = finding(findings.AGENT_DOWN, "down", pods=(), subject="node n1", node="n1")
    made = report(everywhere, one, on_node, rows=[row(codes=("NPE301",)), row("b", reason="broken")], unread=["u"])
    data = form.as_data(made)
    assert data["counts"] == {"error": 3, "warning": 0, "info": 0}
    assert [f["everywhere"] for f in data["findings"]] == [True, False, False]
    assert [f["node"] for f in data["findings"]] == [None, None, "n1"]
    assert data["findings"][1] == {
        "code": "NPE301",
        "severity": "error",
        "layer": "PINNED",
        "title": "the map lacks 10.0.0.7/32",
        "subject": "pod shop/web-1",
        "pods": ["shop/web-1"],
        "node": None,
        "everywhere": False,
        "directions": ["ingress"],
        "evidence": [
            {"source": "PolicyEndpoint shop/web-abcde", "value": "10.0.0.7/32"},
            {"source": "map 101", "value": "no entry"},
        ],
        "remedies": [
            {"command": "kubectl restart one", "sideEffect": "restarts"},
            {"command": "kubectl restart two", "sideEffect": "more of it"},
        ],
        "page": "docs/findings/NPE301.md",
    }
    assert [(p["pod"], p["findings"], p["unread"]) for p in data["pods"]] == [
        ("shop/web-1", ["NPE301"], None),
        ("shop/b", [], "broken"),
    ]
    assert data["pods"][0]["node"] == NODE, "the whole name"
    assert (data["kind"], data["apiOnly"], data["unread"]) == ("Check", False, ["u"])


@pytest.mark.parametrize("kind", [Format.JSON, Format.YAML])
def test_both_data_forms_read_back_alike(kind):
    made = report(finding(title="ä \x1b[2J ☃ \"'\\"), rows=[row("b\x1b"), row("c:- ")])
    stream = io.StringIO()
    emit(stream, kind, lambda: form.as_data(made), lambda wide: "")
    load = json.loads if kind is Format.JSON else yaml.safe_load
    assert load(stream.getvalue()) == form.as_data(made)


# ---- JUnit


def suite(made, failing=(ERROR,)):
    return ElementTree.fromstring(form.as_junit(made, failing))


def case(found, name):
    [one] = [c for c in found if c.get("name") == name]
    return one


def test_junit_has_one_case_a_pod_and_one_for_the_cluster():
    found = suite(report(finding(), rows=[row(), row("b")]))
    assert found.tag == "testsuite"
    assert [(c.get("classname"), c.get("name")) for c in found] == [
        ("shop", "web-1"),
        ("shop", "b"),
        ("cluster", "cluster"),
    ]
    assert (found.get("tests"), found.get("failures"), found.get("errors")) == ("3", "1", "0")
    [failure] = case(found, "web-1")
    assert (failure.tag, failure.get("type")) == ("failure", "NPE301")
    assert failure.get("message") == "the map lacks 10.0.0.7/32"
    assert "map 101: no entry" in (failure.text or "")
    assert "kubectl restart two" in (failure.text or "")
    assert not len(case(found, "b"))


@pytest.mark.parametrize(
    ("failing", "codes"),
    [
        ((ERROR,), ["NPE301"]),
        ((ERROR, WARNING), ["NPE301", "NPE501"]),
        ((ERROR, WARNING, INFO), ["NPE301", "NPE501", "NPE114"]),
    ],
)
def test_junit_fails_from_the_threshold_on(failing, codes):
    found = suite(report(finding(), finding(findings.STILL_OPEN), finding(findings.ICMP)), failing)
    assert [one.get("type") for one in case(found, "web-1")] == codes
    assert found.get("failures") == "1", "of one test case, however many findings it has"


def test_junit_tells_what_could_not_be_read_as_an_error():
    found = suite(
        report(finding(), rows=[row(reason="node lost"), row("b")], unread=["node n: node lost", "events: no"])
    )
    assert [(e.tag, e.get("message"), e.get("type")) for e in case(found, "web-1")][1:] == [
        ("error", "node lost", "unread")
    ]
    assert [e.get("message") for e in case(found, "cluster")] == ["node n: node lost", "events: no"]
    assert (found.get("failures"), found.get("errors")) == ("1", "2")


@pytest.mark.parametrize(
    "one",
    [
        finding(findings.CONTROLLER_OFF, pods=(), subject="cluster", everywhere=True),
        finding(findings.AGENT_DOWN, pods=(), subject="node n", node="n"),
        finding(findings.NO_SANDBOX, pods=[("other", "pod-that-was-not-asked-about")]),
    ],
    ids=["everywhere", "a node", "a pod without a row"],
)
def test_junit_loses_no_finding(one):
    """The exit code counts them: a pipeline must not be green beside it."""
    found = suite(report(one))
    assert [f.get("type") for f in case(found, "cluster")] == [one.code]
    assert (found.get("failures"), len(case(found, "web-1"))) == ("1", 0)


def test_a_finding_of_two_pods_fails_both():
    found = suite(report(finding(pods=[("shop", "web-1"), ("shop", "b")]), rows=[row(), row("b"), row("c")]))
    assert (found.get("failures"), [len(c) for c in found]) == ("2", [1, 1, 0, 0])


# ---- Prometheus


SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? ([0-9.eE+-]+)")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)')
ESCAPES = {r"\\": "\\", r"\"": '"', r"\n": "\n"}


def parsed(text):
    """Text format 0.0.4, read strictly: samples as {(name, labels): value}; HELP and TYPE once, before the samples."""
    assert text.endswith("\n")
    described: dict[str, list[str]] = {}
    found = {}
    for line in text[:-1].split("\n"):
        if line.startswith("#"):
            _, word, name, rest = line.split(" ", 3)
            assert word in ("HELP", "TYPE")
            assert word not in described.setdefault(name, []), f"{word} of {name} twice"
            assert word != "TYPE" or rest in ("gauge", "counter", "untyped")
            assert name not in {one for one, _ in found}, "after its samples"
            described[name].append(word)
            last = name
            continue
        match = SAMPLE.fullmatch(line)
        assert match is not None, f"no sample: {line!r}"
        name, labels, value = match.groups()
        assert name == last, f"{name} is not in its own group"
        assert described[name] == ["HELP", "TYPE"]
        key = name, frozenset(labels_of(labels or ""))
        assert key not in found, f"the same series twice: {line!r}"
        found[key] = float(value)
    return found


def labels_of(text):
    at, found = 0, {}
    while at < len(text):
        match = LABEL.match(text, at)
        assert match is not None, f"no label: {text[at:]!r}"
        assert match[1] not in found
        found[match[1]] = re.sub(r'\\[\\"n]', lambda e: ESCAPES[e[0]], match[2])
        at = match.end()
    return found.items()


def value(found, name, **labels):
    return found.get((f"netpol_ebpf_{name}", frozenset(labels.items())))


def test_prometheus_counts_by_code_and_tells_pods():
    rows = [row(codes=("NPE301",)), row("b", codes=("NPE301", "NPE501"), node="n2"), row("c")]
    two = [finding(subject="a"), finding(subject="b"), finding(findings.STILL_OPEN)]
    found = parsed(form.as_prometheus(report(*two, rows=rows, unread=["x", "y"])))
    assert value(found, "findings", code="NPE301", severity="error", layer="PINNED") == 2
    assert value(found, "findings", code="NPE501", severity="warning", layer="CONNTRACK") == 1
    assert value(found, "pod_findings", namespace="shop", pod="b", node="n2", code="NPE501") == 1
    assert value(found, "pods") == 3
    assert value(found, "unread") == 2
    blind = [row(attached="?"), row("b")]
    assert value(parsed(form.as_prometheus(report(rows=blind))), "pods_unread") == 1
    assert len(found) == 2 + 3 + 4


def test_prometheus_of_a_healthy_cluster():
    assert parsed(form.as_prometheus(report())) == {
        ("netpol_ebpf_pods", frozenset()): 1,
        ("netpol_ebpf_pods_unread", frozenset()): 0,
        ("netpol_ebpf_unread", frozenset()): 0,
        ("netpol_ebpf_in_progress", frozenset()): 0,
    }


def test_prometheus_escapes_labels():
    odd = row('a\\b"c\\', namespace="n\ns", node='"}', codes=("NPE301",))
    found = parsed(form.as_prometheus(report(rows=[odd])))
    assert value(found, "pod_findings", namespace="n s", pod='a\\b"c\\', node='"}', code="NPE301") == 1


def test_prometheus_has_each_series_once():
    """Names that differ by what is not printed alone; the same pod twice in a bundle that somebody made."""
    rows = [row("a", codes=("NPE301",)), row("a\x07", codes=("NPE301",)), row("a", codes=("NPE301",))]
    found = parsed(form.as_prometheus(report(rows=rows)))
    assert value(found, "pod_findings", namespace="shop", pod="a", node=NODE, code="NPE301") == 1


# ---- hostile names


EVIL = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e\u2028\x85\x0b\x00\x7f\ud800\ufffe]]>&<>\"'\\\r\nNPE999 nothing is wrong"
"""Terminal escapes in both forms, direction marks, all kinds of line ends, what XML does not know, and markup."""
FORBIDDEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\ud800-\udfff\ufffe\uffff]")
"""What no output may have: all control and formatting characters but the newline."""


def hostile(evil):
    bad = finding(
        title=f"title {evil}",
        evidence=[Evidence(f"source {evil}", f"value {evil}")],
        remedies=[Remedy(f"command {evil}", f"effect {evil}")],
        subject=evil,
        pods=[(evil, evil)],
        node=evil,
    )
    everywhere = finding(findings.VETH_PREFIX, evil, pods=(), everywhere=True)
    bad_row = row(evil, namespace=evil, node=evil, identifier=evil, state=evil, reason=evil, codes=("NPE301",))
    return report(bad, everywhere, rows=[bad_row, row("b")], unread=[f"node {evil}: {evil}"])


def written(made: Report) -> Iterable[tuple[str, str]]:
    """Every form that there is."""
    for wide in (False, True):
        writer = form.Rows([(r.namespace, r.name, r.node) for r in made.rows], wide)
        yield f"rows {wide}", text_of("\n".join(writer.line(r) for r in made.rows))
        yield f"after {wide}", text_of(form.after_rows(made, wide))
        yield f"one {wide}", text_of(form.one_pod(made, wide, True))
        yield f"single {wide}", text_of(form.one_pod(replace(made, rows=made.rows[:1]), wide, True))
    yield "junit", text_of(form.as_junit(made, (ERROR, WARNING)))
    yield "prometheus", text_of(form.as_prometheus(made))
    for kind in (Format.JSON, Format.YAML):
        stream = io.StringIO()
        emit(stream, kind, lambda: form.as_data(made), lambda wide: "")
        yield kind.value, stream.getvalue()


def text_of(text):
    stream = io.StringIO()
    write_text(stream, text)
    return stream.getvalue()


FORMS = [name for name, _ in written(report())]


@pytest.mark.parametrize("name", FORMS)
def test_names_never_steer_a_terminal(name):
    text = dict(written(hostile(EVIL)))[name]
    assert FORBIDDEN.search(text) is None


@pytest.mark.parametrize("name", [name for name in FORMS if name not in ("json", "yaml", "junit")])
def test_names_never_make_a_line_of_their_own(name):
    """A name with a newline could forge a finding, a pod or the sum."""
    harmless = dict(written(hostile("harmless")))[name]
    assert len(dict(written(hostile(EVIL)))[name].splitlines()) == len(harmless.splitlines())


def test_junit_of_hostile_names_is_xml():
    found = suite(hostile(EVIL))
    assert [len(c) for c in found] == [2, 0, 2]
    assert "]]>&<>\"'\\" in (found[0].get("name") or "")
    assert "]]>&<>\"'\\" in (found[0][0].text or "")


def test_prometheus_of_hostile_names_can_be_read():
    found = parsed(form.as_prometheus(hostile(EVIL)))
    assert [n for n, labels in found if n.endswith("pod_findings")] == ["netpol_ebpf_pod_findings"]


@given(st.text(st.characters(), max_size=20))
def test_any_name_at_all(evil):
    made = hostile(evil)
    for name, text in written(made):
        assert FORBIDDEN.search(text) is None, name
    suite(made)
    parsed(form.as_prometheus(made))
    assert json.loads(dict(written(made))["json"]) == form.as_data(made)
