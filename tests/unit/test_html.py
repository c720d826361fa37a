"""`-o html`: well-formed, without scripts or requests, says what the other forms say, and cannot be forged."""

from __future__ import annotations

import dataclasses
import io
import itertools
import re
import subprocess
import sys
import unicodedata
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import html5lib
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kubectl_netpol import bundle
from kubectl_netpol.cli import run
from kubectl_netpol.diagnose import findings
from kubectl_netpol.diagnose import plan as planning
from kubectl_netpol.diagnose.check import PodRow, Report
from kubectl_netpol.diagnose.explain import Explanation
from kubectl_netpol.errors import OutputError
from kubectl_netpol.model.finding import Evidence, Finding, InProgress, Remedy
from kubectl_netpol.model.verdict import Decision, Layer, Verdict
from kubectl_netpol.report import check as check_report
from kubectl_netpol.report import explain as explain_report
from kubectl_netpol.report import html_check, html_explain, html_style
from kubectl_netpol.report.html import About, Markup, el, escaped, joined, tone
from kubectl_netpol.report.output import write_page
from kubectl_netpol.report.what_if import API_LAYERS
from tests.html_pages import ABOUT, EXPLANATIONS, LISTED, REPORTS, SHIPPED, Page, explained, shipped
from tests.lab.apiserver import ApiServer

Json = dict[str, Any]


def written(made: Explanation | Report, about: About = ABOUT) -> str:
    form = html_explain.explanation if isinstance(made, Explanation) else html_check.checked
    return form(made, about)  # type: ignore[operator]


CASES = {**EXPLANATIONS, **REPORTS}


@pytest.fixture(params=CASES)
def made(request: pytest.FixtureRequest) -> Any:
    return CASES[request.param]()


# ---- the file


def test_a_strict_parser_finds_no_error(made):
    html5lib.HTMLParser(strict=True).parse(written(made))
    assert Page(written(made)).other == ["DOCTYPE html"]


def test_the_strict_parser_is_strict():
    with pytest.raises(html5lib.html5parser.ParseError):
        html5lib.HTMLParser(strict=True).parse("<!DOCTYPE html><p><b>x</p></b>")


FORBIDDEN = {"script", "iframe", "object", "embed", "link", "base", "form", "img", "svg", "input", "video", "audio"}


def test_nothing_is_asked_of_any_network(made):
    text = written(made)
    page = Page(text)
    assert not {tag for tag, _ in page.tags} & FORBIDDEN
    assert not {name for _, attributes in page.tags for name, _ in attributes} & {"src", "style", "srcset", "action"}
    assert all(href.startswith("#") for href in page.values("href"))
    assert not [name for _, attributes in page.tags for name, _ in attributes if name.startswith("on")]
    assert not re.search(r"url\(|@import|@font-face|https?:", html_style.STYLE)
    policy = dict(next(a for t, a in page.tags if ("http-equiv", "Content-Security-Policy") in a))["content"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    # Before all that was read.
    assert text.index("Content-Security-Policy") < text.index("<title>")


def test_links_lead_to_the_only_element_of_that_name(made):
    page = Page(written(made))
    ids = list(page.values("id"))
    assert len(ids) == len(set(ids))
    assert {href[1:] for href in page.values("href")} <= set(ids)


def test_headings_are_in_order_and_tables_have_heads(made):
    page = Page(written(made))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    heads = [dict(attributes).get("scope") for tag, attributes in page.tags if tag == "th"]
    assert set(heads) <= {"col", "row"}
    tags = [tag for tag, _ in page.tags]
    assert tags.count("caption") == tags.count("table") == tags.count("thead")
    assert ("html", (("lang", "en"),)) in page.tags


def test_the_file_is_ascii_wherever_it_is_written():
    found = explained(shipped(), **{"source": "accessfalse", "port": "80"})
    text = written(dataclasses.replace(found, answer="DROP: Ünï ☃ \U0001f600"))
    assert text.isascii()
    assert "DROP: Ünï ☃ \U0001f600" in Page(text).texts
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="latin-1")
    write_page(stream, text)
    assert raw.getvalue().decode("ascii") == text


def test_a_full_disk_is_an_error():
    with Path("/dev/full").open("w") as full, pytest.raises(OutputError, match="No space left"):
        write_page(full, "x" * 100_000)


# ---- what it says


def corpus(made: Explanation | Report) -> str:
    """All that the other forms say, on one line."""
    if isinstance(made, Explanation):
        forms = [explain_report.as_text(made, True, True), *strings(explain_report.as_data(made))]
    else:
        rows = [" ".join(check_report.cells(row, wide)) for row in made.rows for wide in (False, True)]
        forms = [check_report.one_pod(made, True, True), *rows, *strings(check_report.as_data(made))]
    return " ".join(" ".join(forms).split())


def strings(data: Any) -> Iterator[str]:
    if isinstance(data, Mapping):
        for value in data.values():
            yield from strings(value)
    elif isinstance(data, list):
        for value in data:
            yield from strings(value)
    elif data is not None:
        yield str(data)


OWN = re.compile(
    "|".join(
        (
            r"kubectl netpol-ebpf \w+|Answer|Not read|Findings|Cause|Next step|Where it is|Pods|Read|From|Captured by",
            r"LAYERS AGREE|LAYERS DIFFER|NOT KNOWN|now|then|-|,|:|try:|see:|side effect:|node|node \S+",
            r"Evidence: \d+|Pod identifier and host veth|Read from|Value|Who|STATUS|INTENT: the rule",
            r"ATTACHED: map entry|ENDPOINTS: (Cluster)?PolicyEndpoint|.*, layer by layer",
            r"\u2260 first difference(: (kernel|resolution)( by rule)?(, from \w+)?)?",
            r"(in|e)gress: rules|Policies against their PolicyEndpoints|DNS( with the change)?|The change|evidence",
            r"Map entries that the agent would write|map entries|Map|Entry|EXPECTED (now|then)|established flows",
            r"Established flows that would be denied: \d+ of \d+|what packets meet now|\S+ to \S+, \d+/\w+",
            r".* to .*, \d+/\w+|\d+ (errors?|warnings?|info)|(Errors|Warnings|To know): \d+|pods|Pods, layer by layer",
            r"Pod|Node|Identifier|State|\d+ pods, checked|.*, checked|all pods of the cluster|error|warning|info",
            r"Made by kubectl netpol-ebpf \w+, version 1\.2\.3\.|version 1\.2\.3|bundle article\.tar\.gz|2026-01-0\S+",
            *map(re.escape, html_explain.MEANING.values()),
        )
    )
)
"""The words of the templates."""


def test_it_says_nothing_that_the_other_forms_do_not_say(made):
    said = corpus(made)
    for text in Page(written(made)).texts:
        assert OWN.fullmatch(text) or text in said, text


def facts_of(found: Explanation | Report) -> Iterator[str]:
    """What must not be lost: every sentence of the data."""
    data = explain_report.as_data(found) if isinstance(found, Explanation) else check_report.as_data(found)
    wanted = {"answer", "nextStep", "why", "text", "title", "source", "value", "command", "sideEffect", "page", "note"}
    wanted |= {"summary", "reason", "verdict", "who", "prefix", "intent", "resolved", "kernel", "podIdentifier", "pin"}
    wanted |= {"pod", "node", "hostVeth", "path", "selects", "pinned", "attached", "endpoints", "identifier", "entry"}

    def walk(value: Any, key: str = "") -> Iterator[str]:
        if isinstance(value, Mapping):
            for name, inner in value.items():
                # What is pinned is the same as what is attached, or told as a difference.
                if name not in ("pinnedProgram", "filters", "otherInterfaces", "decidedBy", "tiers", "flow"):
                    if name == "program" and key == "legs":
                        continue
                    yield from walk(inner, name)
        elif isinstance(value, list):
            for inner in value:
                yield from walk(inner, "text" if key in ("evidence", "unread", "notes", "changes") else key)
        elif isinstance(value, str) and key in wanted and value:
            yield value

    return walk(data)


def test_it_leaves_nothing_out(made):
    said = " ".join(Page(written(made)).texts)
    if isinstance(made, Explanation) and made.what_if is not None:
        # Those of a change are told beside each other there, and what holds now in one column.
        wanted = [made.answer, made.next_step, *(one.key for one in made.what_if.maps)]
        wanted += [
            verdict.why for leg in made.what_if.legs for verdict in leg.then.verdicts if verdict.layer in API_LAYERS
        ]
    else:
        wanted = list(facts_of(made))
    assert len(wanted) > 2
    for fact in wanted:
        assert " ".join(fact.split()) in said, fact


def test_the_first_difference_is_marked_on_the_second_of_the_two():
    text = written(EXPLANATIONS["lost-entry"]())
    cards = re.findall(r'<li class="(good|bad|none)( differs)?">(.*?)<h3>(\w+)</h3>', text, re.S)
    differing = [(name, mark) for _, differs, mark, name in cards if differs]
    assert [name for name, _ in differing] == ["PINNED"]
    assert "\u2260 first difference: kernel" in Page(text).texts
    assert "differs" not in written(EXPLANATIONS["drop"]()).split("</style>")[1]


@pytest.mark.parametrize(
    ("pair", "text"),
    [
        ((Layer.ATTACHED, Layer.TEST_RUN), "\u2260 first difference: kernel, from ATTACHED"),
        ((Layer.ENDPOINTS, Layer.PINNED), "\u2260 first difference: kernel, from ENDPOINTS"),
        ((Layer.INTENT, Layer.ENDPOINTS), "\u2260 first difference: kernel"),
    ],
)
def test_a_difference_of_layers_that_are_not_neighbours_names_the_first(pair, text):
    """EXPECTED may have nothing to say between them; TEST RUN is shown behind CONNTRACK."""
    found = EXPLANATIONS["lost-entry"]()
    asked = Verdict(Layer.TEST_RUN, Decision.ALLOW, "ASKED", "the program returns 0")
    legs = (dataclasses.replace(found.legs[0], break_between=pair, asked=asked), *found.legs[1:])
    written_text = written(dataclasses.replace(found, legs=legs))
    assert text in Page(written_text).texts
    marked = re.findall(r'<li class="\w+ differs">.*?<h3>([\w ]+)</h3>', written_text, re.S)
    assert marked == [pair[1].value]


@pytest.mark.parametrize(
    ("case", "status", "place"),
    [("lost-entry-pod", "NOT IN MAP", "ATTACHED"), ("stale-endpoints", None, "ENDPOINTS")],
)
def test_the_first_difference_of_a_row_is_marked_in_its_cell(case, status, place):
    found = EXPLANATIONS[case]()
    rows = [row for report in found.directions for row in report.rows if not row.status.good]
    assert rows
    assert {html_explain._gap(row) for row in rows} == {place}
    assert status is None or {row.status.value for row in rows} == {status}
    marked = re.findall(r'<tr class="odd">(.*?)</tr>', written(found), re.S)
    assert len(marked) == len(rows)
    column = {"ENDPOINTS": 1, "ATTACHED": 2}[place]
    for row in marked:
        cells = re.findall(r"<td.*?</td>", row, re.S)
        assert ["differs" in cell for cell in cells].index(True) == column
        assert row.count("first difference") == 1


def test_what_could_not_be_read_is_told_under_the_answer():
    found = EXPLANATIONS["unread-node"]()
    about = dataclasses.replace(ABOUT, warnings=("no node was read: only the API",))
    texts = Page(written(found, about)).texts
    at = texts.index("Not read")
    assert texts[at + 1] == "no node was read: only the API"
    assert any("not in the bundle" in text for text in texts[at:])
    assert "UNKNOWN" in texts[:at]


def test_words_that_are_not_known_here_are_shown_plain():
    """Another state of a layer is a word of its own, and neither well nor broken."""
    row = PodRow("shop", "web", "n", "web@shop", "1 policy", "1", "busy", "in progress", "POLICIES_APPLIED", ())
    texts = Page(written(Report((row,), (), ()))).texts
    assert {"busy", "in progress", "applied"} <= set(texts)
    assert [
        tone(word) for word in ("busy", "in progress", "ok", "ok: own node", "DRIFT", "?", "-", "DROP", "ALLOW")
    ] == [*("plain", "plain", "good", "good", "bad", "unsure", "none", "bad", "good")]


# ---- many pods


def many(pods: int, faulty: int) -> Report:
    rows = [
        PodRow(
            "shop",
            f"web-{n}",
            f"node-{n // 30}",
            f"web-{n}@shop",
            "1 policy",
            "1",
            "ok",
            "ok",
            "POLICIES_APPLIED",
            ("NPE301",) if n < faulty else (),
            "the exec failed" if n == pods - 1 else "",
        )
        for n in range(pods)
    ]
    evidence = Evidence("PolicyEndpoint shop/web-abcde", "10.0.0.7/32"), Evidence("map 101", "no entry")
    found = [
        Finding(
            findings.MISSING_ENTRIES,
            f"the map of web-{n} lacks it",
            evidence,
            (Remedy("kubectl restart", "restarts"),),
            f"pod shop/web-{n}",
            frozenset({("shop", f"web-{n}")}),
        )
        for n in range(faulty)
    ]
    return Report(tuple(rows), tuple(found), ("node node-166: the exec failed",))


def test_of_many_pods_those_without_findings_are_folded():
    text = written(many(5000, 20))
    outside = re.sub(r"<details>.*?</details>", "", text, flags=re.S)
    assert [outside.count(f">shop/web-{n}<") > 0 for n in (0, 19, 20, 4998, 4999)] == [True, True, False, False, True]
    assert text.count('<tr id="pod-') == 5000
    assert "4979 of 5000 pods without findings of their own" in Page(text).texts
    assert outside.count("<article") == check_report.ALIKE
    assert "NPE301: 17 more like it" in Page(text).texts
    assert len(text) < 2_500_000


def test_of_many_pods_with_findings_the_first_are_shown():
    text = written(many(5000, 3000))
    outside = re.sub(r"<details>.*?</details>", "", text, flags=re.S)
    assert outside.count('<tr id="pod-') == html_check.MOST_TOLD
    assert text.count('<tr id="pod-') == 5000
    assert "2801 more pods of which there is something to say" in Page(text).texts


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({}, False),
        ({"pinned": "DRIFT"}, True),
        ({"attached": "?"}, True),
        ({"pinned": "busy"}, True),
        ({"state": "MISSING"}, True),
        ({"intent": "open", "endpoints": "-", "pinned": "-", "attached": "-", "state": "-"}, False),
        ({"intent": "12 policies", "endpoints": "12"}, False),
        ({"intent": "?"}, True),
    ],
)
def test_a_pod_whose_layers_are_not_well_is_not_folded(change, shown):
    """Its finding may be one of the whole cluster, and not of the pod."""
    rows = list(many(300, 0).rows)
    rows[7] = dataclasses.replace(rows[7], **change)
    outside = re.sub(r"<details>.*?</details>", "", written(Report(tuple(rows), (), ())), flags=re.S)
    assert (">shop/web-7<" in outside) is shown
    assert ">shop/web-8<" not in outside


def test_with_api_only_no_pod_is_told_of_for_its_node():
    blind = {"pinned": "?", "attached": "?", "state": "?", "identifier": ""}
    rows = tuple(dataclasses.replace(row, **blind, reason="") for row in many(300, 0).rows)
    page = Page(written(Report(rows, (), (), api_only=True)))
    assert "300 of 300 pods without findings of their own" in page.texts


def test_a_pod_that_is_there_twice_has_one_name_to_be_led_to():
    made = many(2, 1)
    page = Page(written(dataclasses.replace(made, rows=(*made.rows, *made.rows))))
    assert list(page.values("id")).count("pod-1") == 1
    assert [one for one in page.values("id") if one.startswith("pod-")] == ["pod-1", "pod-2"]
    assert "#pod-1" in page.values("href")


@pytest.mark.parametrize(("kind", "tone_"), [(findings.ICMP, "unsure"), (findings.STILL_OPEN, "unsure")])
def test_what_was_not_read_is_never_shown_as_well(kind, tone_):
    [row] = many(1, 0).rows
    for found in ((), (Finding(kind, "x", pods=frozenset({row.key})),)):
        text = written(Report((row,), found, ("events: forbidden",)))
        assert f'class="answer {tone_}"' in text


def test_pods_and_findings_lead_to_each_other():
    text = written(many(3, 2))
    assert re.search(r'<tr id="pod-2">.*?href="#finding-2">NPE301', text, re.S)
    assert re.search(r'id="finding-2">.*?href="#pod-2">shop/web-1', text, re.S)


def test_of_many_rows_those_without_a_difference_are_folded():
    found = EXPLANATIONS["lost-entry-pod"]()
    [ingress, egress] = found.directions
    good = next(row for row in ingress.rows if row.status.good)
    rows = (*ingress.alignment.rows, *([good] * 200))
    ingress = dataclasses.replace(ingress, alignment=dataclasses.replace(ingress.alignment, rows=rows))
    text = written(dataclasses.replace(found, directions=(ingress, egress)))
    assert "201 of 202 rows have no difference" in Page(text).texts
    outside = re.sub(r"<details>.*?</details>", "", text, flags=re.S)
    assert outside.count("NOT IN MAP") == 1
    assert LISTED in outside


# ---- where it is from


def page_of(capsys, *arguments: str) -> list[str]:
    run([*arguments, "-o", "html"])
    return Page(capsys.readouterr().out).texts


def test_a_page_says_where_it_is_from(capsys, tmp_path):
    copied = tmp_path / "incident-7.tar.gz"
    copied.write_bytes(SHIPPED.read_bytes())
    texts = page_of(capsys, "explain", "pod/nginx", "--bundle", str(copied))
    taken = bundle.read(str(SHIPPED)).taken_at
    assert texts[texts.index("Read") + 1] == taken
    assert texts[texts.index("From") + 1] == "bundle incident-7.tar.gz"
    assert not any(str(tmp_path) in text for text in texts), "where its author keeps files is nobody's business"


def test_a_page_of_a_redacted_bundle_says_so(capsys, tmp_path):
    redacted = tmp_path / "r.tar.gz"
    bundle.write(dataclasses.replace(shipped(), redacted=True), str(redacted))
    texts = page_of(capsys, "check", "-A", "--bundle", str(redacted))
    assert texts[texts.index("Redacted") + 1] == "names and addresses stand for others"


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory) -> Iterator[str]:
    """Of an API server that has the objects of the shipped bundle."""
    server = ApiServer(controllers=False)
    for kind in (*planning.CLUSTER_KINDS, *planning.OWN_KINDS, "daemonsets"):
        for one in shipped().items(kind):
            resource = server.registry.of(kind)
            server.put({**one, "kind": resource.kind, "apiVersion": resource.api_version})
    with server:
        yield str(server.write_kubeconfig(tmp_path_factory.mktemp("kube") / "config"))


@pytest.mark.parametrize("question", [["explain", "pod/nginx"], ["check"], ["check", "pod/nginx"]])
def test_a_page_of_a_live_cluster_names_what_the_flags_name(question, kubeconfig, capsys):
    flags = ["--kubeconfig", kubeconfig, "--api-only"]
    config = yaml.safe_load(Path(kubeconfig).read_text())
    context, token = config["current-context"], config["users"][0]["user"]["token"]
    texts = page_of(capsys, *question, *flags)
    assert texts[texts.index("From") + 1] == "live cluster"
    assert not {"Context", "Cluster", "Captured by"} & set(texts)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:]+Z", texts[texts.index("Read") + 1])
    texts = page_of(capsys, *question, *flags, "--context", context, "--token", token)
    assert texts[texts.index("Context") + 1] == context
    assert token not in " ".join(texts)


@pytest.mark.parametrize("verb", ["maps", "conntrack", "drops", "doctor", "cleanup"])
def test_other_verbs_have_no_pages(verb, capsys):
    pod = [] if verb in ("doctor", "cleanup") else ["pod/nginx"]
    source = [] if verb == "cleanup" else ["--bundle", str(SHIPPED)]
    assert run([verb, *pod, *source, "-o", "html"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "'html' is not one of 'table', 'wide', 'json', 'yaml'" in said.err


@pytest.mark.parametrize("arguments", [["explain", "pod/nginx", "--from", "accessfalse", "--port", "80"], ["check"]])
def test_exit_codes_are_those_of_the_table(arguments, capsys):
    codes = [run([*arguments, "--bundle", str(SHIPPED), "-o", form]) for form in ("table", "html")]
    assert codes[0] == codes[1]


# ---- hostile names

EVIL = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='x",
    "</title></style></head><body onload=x>",
    "--><!--",
    "<![CDATA[",
    "]]>",
    "<?php ?>",
    "&lt;b&gt;&#60;i&#62;&amp",
    "\x1b[2J\x07\x9b31m",
    "\u202egpj.exe\u2066\u2069",
    "\u2028\x85\x0b\x00\x7f\ud800\ufffe",
    "javascript:alert(1)",
    "<a href=//evil>",
    "`${x}`{{x}}",
    "</details></td></table>",
    '"finding-1',
)
HOSTILE = st.lists(st.sampled_from(EVIL) | st.text(max_size=8), min_size=1, max_size=5).map("".join).filter(bool)
"""Nothing at all is not hostile: a page with codes that are theirs has links to them."""
FIXED = {"role", "code", "layer", "kind", "severity", "lpm"}
"""Fields that hold words of the tool's own, or entries as numbers."""


def poisoned(value: Any, evil: str) -> Any:
    """The same answer from a cluster whose every name and text ends in ``evil``. What is empty stays empty."""
    if isinstance(value, Enum) or value is None or isinstance(value, bool | int | float | bytes):
        return value
    if isinstance(value, str):
        return f"{value}{evil}" if value else value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init and f.name not in FIXED}
        return dataclasses.replace(value, **{name: poisoned(inner, evil) for name, inner in fields.items()})
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return value
    if isinstance(value, tuple | list | frozenset):
        return type(value)(poisoned(inner, evil) for inner in value)
    if isinstance(value, dict):
        return {key: poisoned(inner, evil) for key, inner in value.items()}
    return value


LAYER_WORDS = ("intent", "endpoints", "pinned", "attached", "state")


def hostile(name: str, evil: str) -> str:
    made = CASES[name]()
    found = poisoned(made, evil)
    if isinstance(found, Report):
        # Words of the tool, which choose a colour.
        rows = zip(found.rows, made.rows, strict=True)
        kept = (dataclasses.replace(row, **{w: getattr(was, w) for w in LAYER_WORDS}) for row, was in rows)
        found = dataclasses.replace(found, rows=tuple(kept))
    return written(found, poisoned(ABOUT, evil))


FORBIDDEN_CHARACTERS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.mark.parametrize("name", ["pod", "lost-entry", "what-if", "many-faults-pod", "check-broken", "check-unread"])
@settings(max_examples=6, deadline=None)
@given(evil=HOSTILE)
def test_hostile_names_make_no_markup(name, evil):
    """Elements and attributes are, one by one, those of the same page with harmless names."""
    text = hostile(name, evil)
    assert text.isascii()
    page, harmless = Page(text), Page(hostile(name, "x"))
    assert page.tags == harmless.tags
    assert page.other == ["DOCTYPE html"]
    assert not any(FORBIDDEN_CHARACTERS.search(said) for said in page.texts)
    html5lib.HTMLParser(strict=True).parse(text)


@pytest.mark.parametrize("evil", EVIL)
def test_each_forgery_is_shown_as_text(evil):
    page = Page(hostile("check-broken", evil))
    assert page.tags == Page(hostile("check-broken", "x")).tags
    shown = "".join(c for c in evil if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Cn", "Zl", "Zp"))
    assert any(" ".join(shown.split()) in text for text in page.texts)


def test_the_layers_words_are_escaped_too():
    row = PodRow(*[f"<b>{n}</b>" for n in range(9)], ("<i>",), "<u>")
    text = written(Report((row,), (), ("<s>",)))
    assert not {"b", "i", "u", "s"} & {tag for tag, _ in Page(text).tags}
    assert "<i>" in Page(text).texts


@given(st.text())
def test_text_is_never_markup(text):
    made = el("p", text, class_=text or "x")
    page = Page(f"<body>{made}</body>")
    assert [tag for tag, _ in page.tags] == ["body", "p"]
    assert [name for _, attributes in page.tags for name, _ in attributes] == (
        ["class"] if escaped(text or "x") else []
    )


def test_only_what_was_escaped_passes_as_markup():
    assert joined(["<b>", el("b", "<i>"), 7]) == "&lt;b&gt;<b>&lt;i&gt;</b>7"
    assert el("p", "<b>" + el("b", "x")) == "<p>&lt;b&gt;&lt;b&gt;x&lt;/b&gt;</p>\n", "a plain str is text again"
    assert isinstance(el("p"), Markup)


# ---- colours


def luminance(colour: str) -> float:
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_contrast_is_computed_as_wcag_says():
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.478, abs=0.001)


@pytest.mark.parametrize("colours", [html_style.LIGHT, html_style.DARK], ids=["light", "dark"])
def test_every_text_can_be_read(colours):
    """WCAG 2.1 AA: 4.5 to 1."""
    assert set(html_style.LIGHT) == set(html_style.DARK)
    pairs = [(text, ground) for text in ("ink", "soft", "link") for ground in ("page", "card", "unsure-on", "bad-on")]
    pairs += [(one, f"{one}-on") for one in html_style.TONES]
    # Codes of findings, and marks, which are the other way round.
    pairs += [(one, "card") for one in html_style.TONES]
    for text, ground in pairs:
        assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)


def test_every_class_of_a_page_has_a_style(made):
    names = {name for value in Page(written(made)).values("class") for name in value.split()}
    assert {name for name in names if f".{name}" not in html_style.STYLE} == set()


def test_pages_do_not_start_slower():
    """The modules of pages are loaded for pages alone."""
    code = (
        "import sys; from kubectl_netpol.cli import run; run(sys.argv[1:]);"
        "sys.exit(str([m for m in sys.modules if m.startswith('kubectl_netpol.report.html')]))"
    )
    arguments = ["explain", "pod/nginx", "--bundle", str(SHIPPED)]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "[]", done.stderr


def test_what_is_in_progress_is_a_section_of_its_own():
    moved = (InProgress("<b>pod</b> lacks 10.0.0.1/32", "NPE301", "", 1_600_000_000),)
    for name in ("pod", "check"):
        made = CASES[name]()
        text = written(dataclasses.replace(made, in_progress=moved))
        assert "<h2>In progress</h2>" in text and "&lt;b&gt;pod&lt;/b&gt; lacks 10.0.0.1/32" in text
        assert "<h2>In progress</h2>" not in written(made)
