"""`--ask-kernel`: what is asked, what an answer means, and who is right where two differ."""

from __future__ import annotations

import base64

import pytest

from kubectl_netpol.diagnose import asking
from kubectl_netpol.diagnose.explain import explain
from kubectl_netpol.diagnose.layers import Cause
from kubectl_netpol.diagnose.plan import Question, make_plan
from kubectl_netpol.errors import UsageError
from kubectl_netpol.model.snapshot import NodeReading, Snapshot
from kubectl_netpol.policy.world import World
from kubectl_netpol.report import explain as explain_report
from tests.unit.builders import ACCESS_MAP, NGINX, NODE, article, ct_key, map_row, pod_document, tc_filter

DOC = pod_document(NGINX, ingress=ACCESS_MAP)
INGRESS = "ingress default/nginx-f8d9c6576-8b4vf"


def plan_of(snapshot, source="accessfalse", source_port=None):
    question = Question("pod/nginx", source=source, port="80", source_port=source_port, ask_kernel=True)
    return make_plan(question, "default", World(snapshot))


def answer(verdict=2, entry="none", reason="", port=61234):
    return {"id": INGRESS, "verdict": verdict, "source_port": port, "entry": entry, "reason": reason}


def explained(doc=DOC, answers=(), unasked=(), source="accessfalse", source_port=None):
    plain = article(doc)
    reading = NodeReading(doc, answers={a["id"]: a for a in answers}, unasked=dict(unasked))
    snapshot = Snapshot(plain.collections, {NODE: reading}, plain.taken_at, plain.tool_version)
    return explain(plan_of(snapshot, source, source_port), snapshot)


def ingress(found):
    return found.legs[0]


def test_the_attached_program_is_asked_about_the_leg():
    plan = plan_of(article(DOC))
    [asked] = [a for a in asking.to_ask(plan.legs, NODE, DOC) if a.id == INGRESS]
    assert (asked.ifindex, asked.program_id, asked.conntrack.id) == (7, 432, 21)
    assert (str(asked.flow.source), str(asked.owner), asked.flow.source_port) == ("10.0.96.116", "10.0.4.5", None)
    assert list(asking.to_ask(plan.legs, "another-node", DOC)) == []


def test_without_an_attached_program_nothing_is_asked():
    doc = {**DOC, "filters": []}
    assert [a.id for a in asking.to_ask(plan_of(article(doc)).legs, NODE, doc) if a.id == INGRESS] == []
    found = explained(doc)
    assert (ingress(found).asked.word, ingress(found).asked.code) == ("-", "NO_PROGRAM")


@pytest.mark.parametrize(
    ("given", "word", "code"),
    [
        (answer(2), "DROP", "TEST_RUN"),
        (answer(None, reason="EPERM", port=None), "UNKNOWN", "NOT_ANSWERED"),
        (answer(7), "UNKNOWN", "TEST_RUN"),
    ],
)
def test_answers(given, word, code):
    found = explained(answers=[given])
    assert (ingress(found).asked.word, ingress(found).asked.code) == (word, code)
    assert (found.decision.value, found.cause) == ("deny", Cause.SELECTOR)


def test_the_answer_is_a_row_of_the_table_and_of_the_data():
    found = explained(answers=[answer()])
    text = explain_report.as_text(found, False, True)
    assert (
        "TEST RUN   DROP     program 432 itself returned 2 (TC_ACT_SHOT) for a test packet from source port 61234"
        in text
    )
    layer = explain_report.as_data(found)["legs"][0]["layers"][-1]
    assert (layer["layer"], layer["decidedBy"]["sourcePort"]) == ("TEST RUN", 61234)


def test_a_question_that_was_not_put_has_a_reason():
    found = explained(unasked={INGRESS: "python3 is missing"})
    assert (ingress(found).asked.word, ingress(found).asked.why) == ("UNKNOWN", "python3 is missing")
    assert found.decision.value == "deny"


def test_the_kernel_is_right_where_the_two_differ():
    found = explained(answers=[answer(0, "made and removed")])
    leg = ingress(found)
    assert (leg.decision.value, leg.asked.code, leg.break_between) == ("allow", "DIFFERS", ("ATTACHED", "TEST RUN"))
    assert "NOT what the maps say" in leg.asked.why
    assert leg.asked.evidence == ("its conntrack entry was made and removed",)


def test_the_next_step_of_a_difference_is_a_report():
    found = explained(answers=[answer(2)], source="accesstrue")
    assert (found.decision.value, found.cause) == ("deny", Cause.UNKNOWN)
    assert "please report it" in found.next_step


def test_the_answer_settles_a_program_of_unknown_generation():
    odd = {**DOC, "maps": [map_row(102, 11, 8, 400) if m["id"] == 102 else m for m in DOC["maps"]]}
    before = explained(odd)
    assert (before.decision.value, ingress(before).decided_by.code) == ("unknown", "UNKNOWN_PROGRAM")
    after = explained(odd, [answer(2)])
    assert (after.decision.value, after.cause) == ("deny", Cause.SELECTOR)
    assert after.answer.startswith("DROP")


def test_the_answer_does_not_settle_what_a_foreign_program_may_do():
    filters = [tc_filter(7, "egress", "other", 9, pref=0), *DOC["filters"]]
    found = explained({**DOC, "filters": filters}, [answer(2)])
    assert (found.decision.value, ingress(found).decided_by.code) == ("unknown", "FOREIGN_FIRST")
    assert ingress(found).asked.word == "DROP"


def test_an_entry_that_could_not_be_removed_is_a_warning():
    readings = {NODE: NodeReading(DOC, answers={INGRESS: answer(0, "made, not removed: EPERM")})}
    assert "made, not removed: EPERM" in next(asking.left_behind(readings))
    assert list(asking.left_behind({NODE: NodeReading(DOC, answers={INGRESS: answer(0, "made and removed")})})) == []


def test_it_needs_a_flow():
    with pytest.raises(UsageError, match="--ask-kernel needs a flow"):
        make_plan(Question("pod/nginx", ask_kernel=True), "default", World(article(DOC)))


def test_a_program_with_another_map_that_it_may_write_is_not_run():
    """What it wrote there could not be told, and so not be removed."""
    for type_, wanted in ((9, None), (1, None), (27, 21)):
        programs = [{**p, "map_ids": [*p["map_ids"], 900]} if p["id"] == 432 else p for p in DOC["programs"]]
        doc = {**DOC, "programs": programs, "maps": [*DOC["maps"], map_row(900, type_, 4, 4, None)]}
        [asked] = [a for a in asking.to_ask(plan_of(article(doc)).legs, NODE, doc) if a.id == INGRESS]
        assert (asked.conntrack.id if asked.conntrack else None) == wanted


def test_an_allowing_program_of_unknown_generation_may_have_left_an_entry():
    odd = {**DOC, "maps": [map_row(101, 11, 8, 400, []) if m["id"] == 101 else m for m in DOC["maps"]]}
    evidence = ingress(explained(odd, [answer(0)])).asked.evidence
    assert any("is still there" in line for line in evidence)
    assert not any("is still there" in line for line in ingress(explained(DOC, [answer(0)])).asked.evidence)
    assert ingress(explained(odd, [answer(2)])).asked.evidence == ()


def test_a_foreign_program_in_front_is_not_settled_by_the_answer():
    """Also where the agent's program alone would be open: here its rule map is of an unknown layout."""
    odd = [map_row(101, 11, 8, 400, []) if m["id"] == 101 else m for m in DOC["maps"]]
    doc = {**DOC, "maps": odd, "filters": [tc_filter(7, "egress", "other", 9, pref=0), *DOC["filters"]]}
    found = explained(doc, [answer(2)])
    assert (found.decision.value, ingress(found).decided_by.code) == ("unknown", "FOREIGN_FIRST")


@pytest.mark.parametrize("open_to_the_program", [False, True], ids=["rules-known", "rules-unknown"])
def test_an_established_flow_is_not_ended_by_what_the_program_says_of_a_new_one(open_to_the_program):
    key = ct_key("10.0.96.116", 45000, "10.0.4.5", 80, "10.0.4.5", 7)
    # 1.2.x leaves open what a slot of any protocol with ports means.
    slots = [(254, 443, 0)] if open_to_the_program else [(6, 443, 0)]
    doc = pod_document(NGINX, ingress={"10.0.96.116/32": slots}, conntrack=[(key, 1 if open_to_the_program else 5)])
    if open_to_the_program:
        doc = of_1_2(doc)
    assert explained(doc, [answer(2)]).decision.value == "deny"
    found = explained(doc, [answer(2)], source_port=45000)
    assert (ingress(found).decision.value, ingress(found).decided_by.code) == ("allow", "ESTABLISHED")
    word = "whether a new one would pass is not known" if open_to_the_program else "a new one would be dropped"
    assert ingress(found).only_established == word


def of_1_2(doc):
    """The same maps as an agent 1.2.x has them: one pod state, conntrack keys of 20 bytes, no cluster policies."""
    maps = []
    for one in doc["maps"]:
        if one["id"] in (102, 202):
            continue
        if one["id"] == 21:
            one = {**one, "key_size": 20}
            keys = base64.b64decode(one["contents"]["keys"])
            short = b"".join(keys[at : at + 20] for at in range(0, len(keys), 24))
            one["contents"] = {**one["contents"], "keys": base64.b64encode(short).decode()}
        if one["id"] in (103, 203):
            one = {**map_row(one["id"], 1, 4, 1, [(bytes(4), bytes(1))]), "max_entries": 1}
        maps.append(one)
    programs = [{**p, "map_ids": [n for n in p["map_ids"] if n not in (102, 202)]} for p in doc["programs"]]
    pins = [p for p in doc["pins"] if p["id"] not in (102, 202)]
    return {**doc, "maps": maps, "programs": programs, "pins": pins}
