"""The page of injected faults is in step with the table, and the table has what it promises."""

from __future__ import annotations

import re

from kubectl_netpol.cluster.rights import needed
from tests.system.injected import page

ROWS = list(page.rows())


def test_the_page_is_the_table() -> None:
    assert page.PAGE.read_text() == page.page(), "run python -m tests.system.injected"


def test_names_are_unique() -> None:
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)


def test_errors_are_one_line_and_at_most_one_hint() -> None:
    for row in ROWS:
        kinds = [text.split(": ")[0] for text in row.says]
        assert kinds.count("error") == (1 if row.code in (2, 130) and row.says else kinds.count("error")), row.name
        assert kinds.count("error") <= 1 and kinds.count("hint") <= kinds.count("error"), row.name


def test_every_right_is_taken_away_once() -> None:
    wanted = {f"no right to {right.text}" for right in needed("kube-system")}
    assert wanted <= {row.broken for row in ROWS if row.command[0] == "explain"}


def test_every_verb_is_refused_killed_cut_and_interrupted() -> None:
    verbs = {"explain", "check", "maps", "conntrack", "drops", "doctor", "capture", "cleanup"}
    for kind, but in (("403-", set()), ("cut-", {"cleanup"}), ("int-", {"conntrack"})):
        tried = {row.command[0] for row in ROWS if row.name.startswith(kind)}
        assert verbs - tried == but, kind


def test_patterns_match_themselves() -> None:
    for row in ROWS:
        for number, text in enumerate(row.says):
            assert re.fullmatch(row.pattern(number), text.replace("…", "anything")), row.name
