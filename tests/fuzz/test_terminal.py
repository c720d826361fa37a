"""No text from outside steers the terminal or forges a line of output: objects, nodes, names, errors, files.

`NETPOL_FUZZ_LONG=1` puts the text into one place at a time; without it, into some dozen places at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest

from kubectl_netpol.errors import NodeError
from kubectl_netpol.node.document import check_document
from kubectl_netpol.progress import Progress
from tests.fuzz import hostile
from tests.fuzz.hostile import BLANK, EVIL, FILE, LONG, NEWLINE, forms, problems
from tests.fuzz.targets import verbs
from tests.fuzz.targets.manifests import RULES
from tests.unit import builders

Json = dict[str, Any]
TOGETHER = 1 if LONG else 16


def command(words: list[str], form: str, path: Path) -> list[str]:
    return [*words, "-o", form, "--bundle", str(path)]


def groups(seed: int) -> Iterator[list[hostile.Path]]:
    places = hostile.places(hostile.whole())
    Random(seed).shuffle(places)
    for start in range(0, len(places), TOGETHER):
        yield places[start : start + TOGETHER]


@cache
def refused() -> frozenset[hostile.Path]:
    """Where a text makes a node's document one that is not taken: tried alone, since nothing else is shown then."""
    found = set()
    for place in hostile.places(hostile.whole()):
        if place[0] == "nodes":
            document = hostile.with_text(hostile.whole(), [place], EVIL)["nodes"][builders.NODE]
            try:
                check_document(document)
            except NodeError as error:
                assert not problems("", error.message), (place, error.message)
                found.add(place)
    return frozenset(found)


# ---- bundles


def test_there_are_many_places() -> None:
    places = hostile.places(hostile.whole())
    assert len(places) > 150
    for wanted in (
        ("collections", "pods", "*", "metadata", "labels", "key"),
        ("collections", "networkpolicies", "*", "metadata", "name"),
        ("nodes", "node-a", "flow_log", "lines", "*"),
        ("nodes", "node-a", "pins", "*", "path"),
        ("nodes", "node-a", "links", "*", "name"),
    ):
        assert wanted in places


@pytest.mark.parametrize("seed", [1] if LONG else [1, 2])
def test_texts_of_objects_and_nodes(seed: int, tmp_path: Path) -> None:
    path = tmp_path / "b.tar.gz"
    for group in groups(seed):
        kept = [place for place in group if place not in refused()]
        verbs.write(hostile.with_text(hostile.whole(), kept, EVIL), path)
        for number, words in enumerate(verbs.QUESTIONS):
            for form in forms(words) if LONG else [forms(words)[(number + seed) % len(forms(words))]]:
                code, out, err = verbs.answer(command(words, form, path))
                assert code in (0, 1, 2, 3) and not problems(out, err), (
                    kept,
                    words,
                    form,
                    problems(out, err),
                    out,
                    err,
                )
                verbs.parsed(form, out)


def test_places_that_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "b.tar.gz"
    for place in sorted(refused()) if LONG else sorted(refused())[::5]:
        verbs.write(hostile.with_text(hostile.whole(), [place], EVIL), path)
        code, out, err = verbs.answer(["maps", verbs.POD, "--bundle", str(path)])
        assert code == 2 and not problems(out, err), (place, out, err)
    assert {"destination", "keys", "hook"} <= {place[-1] for place in refused()}


@pytest.mark.parametrize("words", hostile.QUESTIONS, ids=" ".join)
def test_names_that_are_hostile_everywhere(words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "b.tar.gz"
    verbs.write(hostile.renamed(EVIL), path)
    for form in forms(words):
        code, out, err = verbs.answer(command(words, form, path), RULES.replace("shop", "default"))
        # The policy of --without has another name now, which the refusal tells.
        assert (code in (0, 1, 3)) is ("--without" not in words), (words, form, out, err)
        assert not problems(out, err), (words, form, problems(out, err), out, err)
        assert "FORGED" in out + err or words[0] == "doctor" or form == "prometheus"
        verbs.parsed(form, out)


@pytest.mark.parametrize("words", hostile.QUESTIONS, ids=" ".join)
def test_a_name_with_newlines_is_a_name_with_blanks(words: list[str], tmp_path: Path) -> None:
    """Not one line more, and each of them the same."""
    answers = []
    for text in (NEWLINE, BLANK):
        path = tmp_path / "b.tar.gz"
        verbs.write(hostile.renamed(text), path)
        answers.append([hostile.normal(verbs.answer(command(words, form, path))) for form in ("table", "wide")])
    assert answers[0] == answers[1]


def test_texts_with_newlines_are_texts_with_blanks(tmp_path: Path) -> None:
    paths = {text: tmp_path / f"{number}.tar.gz" for number, text in enumerate((NEWLINE, BLANK))}
    for group in groups(3):
        # Names that no longer meet would end most questions early; they are above.
        kept = [place for place in group if place[-1] not in ("name", "namespace", "lines", "gitVersion")]
        kept = [place for place in kept if place not in refused()]
        for text, path in paths.items():
            verbs.write(hostile.with_text(hostile.whole(), kept, text), path)
        for number, words in enumerate(verbs.QUESTIONS):
            form = ("table", "wide")[number % 2]
            answers = [hostile.normal(verbs.answer(command(words, form, path))) for path in paths.values()]
            told = [(code, out, err[1:]) for code, out, err in answers]
            assert told[0] == told[1], (kept, words, form)


def test_the_reason_why_a_node_was_not_read(tmp_path: Path) -> None:
    path = tmp_path / "b.tar.gz"
    verbs.write({**hostile.whole(), "nodes": {builders.NODE: EVIL}}, path)
    for words in verbs.QUESTIONS:
        for form in forms(words):
            _, out, err = verbs.answer(command(words, form, path))
            assert not problems(out, err), (words, form, problems(out, err), out, err)
            verbs.parsed(form, out)


def test_the_head_of_a_bundle(tmp_path: Path) -> None:
    from tests.fuzz.targets import bundles

    for field in ("taken_at", "tool_version", "namespace", "format"):
        found = bundles.members()
        found["bundle.json"][field] = EVIL
        path = tmp_path / "b.tar.gz"
        path.write_bytes(bundles.zlib_gzip(bundles.archive(found)))
        for words in (["check", "-A"], ["explain", "pod/nginx"], ["check"]):
            _, out, err = verbs.answer(command(words, "table", path))
            assert not problems(out, err), (field, words, out, err)


SHELL = "; $(reboot) `reboot` | reboot > x & '\" --all"


def commands(out: str) -> list[str]:
    """What a user would paste: from `kubectl` to the end of the line."""
    return [line[line.rindex("kubectl ") :] for line in out.split("\n") if "kubectl " in line]


def test_a_command_to_paste_is_one_command(tmp_path: Path) -> None:
    path, seen = tmp_path / "b.tar.gz", 0
    names = [place for place in hostile.places(hostile.whole()) if place[-1] in ("name", "namespace", "nodeName")]
    snapshots = [hostile.renamed(SHELL), hostile.renamed("--all")]
    snapshots += [hostile.with_text(hostile.whole(), [place], SHELL) for place in names if place not in refused()]
    for snapshot in snapshots:
        verbs.write(snapshot, path)
        for words in (["explain", "pod/nginx", "--from", "10.9.9.9"], ["explain", "pod/nginx"], ["check", "-A"]):
            _, out, err = verbs.answer([*words, "-o", "wide", "--bundle", str(path)])
            for line in commands(out + "\n" + err):
                seen += 1
                assert not re.search(r"[$`;|&>'\"]\W*reboot", line), line
                assert not re.search(r"\s--all\b(?!-)", line), line
    assert seen > 100


# ---- the command line, files


@pytest.mark.parametrize(
    "words",
    [
        ["explain", f"pod/{EVIL}"],
        ["explain", EVIL],
        ["explain", verbs.POD, "--from", EVIL],
        ["explain", verbs.POD, "--from", "10.0.0.1", "--port", EVIL],
        ["explain", verbs.POD, "--direction", EVIL],
        ["explain", verbs.POD, "--without", EVIL],
        ["explain", verbs.POD, "-n", EVIL],
        ["maps", f"{EVIL}/x"],
        ["check", "-l", EVIL],
        ["check", "--node", EVIL],
        ["check", "--ignore", EVIL],
        ["check", "--fail-on", EVIL],
        ["drops", verbs.POD, "--since", EVIL],
        ["maps", verbs.POD, "-o", EVIL],
        ["maps", verbs.POD, f"--{EVIL}"],
        [EVIL],
    ],
    ids=str,
)
def test_words_of_the_command_line(words: list[str], tmp_path: Path) -> None:
    """Scripts put names into commands."""
    path = tmp_path / "b.tar.gz"
    verbs.write(hostile.whole(), path)
    code, out, err = verbs.answer([*words, "--bundle", str(path)] if len(words) > 1 else words)
    assert code and not problems(out, err), (out, err)


@pytest.mark.parametrize("content", ["", "a: [", "kind: Service\nmetadata: {name: x}", None, "evil"])
def test_names_and_texts_of_files(content: str | None, tmp_path: Path) -> None:
    bundle = tmp_path / "b.tar.gz"
    verbs.write(hostile.whole(), bundle)
    file = tmp_path / f"{FILE}.yaml"
    texts = [content]
    if content == "evil":
        quoted = json.dumps(EVIL)
        head = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"
        texts = [
            f"kind: {quoted}",
            f"{head}metadata: {{name: {quoted}}}\nspec: {{}}",
            f"{head}metadata: {{name: a}}\nspec: {{podSelector: {{matchLabels: {{{quoted}: {quoted}}}}}}}",
            f"{head}metadata: {{name: a}}\nspec: {{podSelector: {{}}, {quoted}: 1, policyTypes: [{quoted}]}}",
            f"{head}metadata: {{name: a}}\nspec: {{ingress: [{{from: [{{ipBlock: {{cidr: {quoted}}}}}]}}]}}",
            f"{{{quoted}: 1, {quoted}: 2}}",
            f"a: !{FILE[:3].encode('ascii', 'ignore').hex()} x",
            f"{head}metadata: {{name: a}}\nspec: {{podSelector: {{}}, ingress: [{{ports: [{{port: {quoted}}}]}}]}}",
            EVIL.replace("\ud800", ""),
        ]
    for text in texts:
        if text is not None:
            file.write_text(text)
        for given in (str(file), str(tmp_path) if text is not None else str(tmp_path / FILE)):
            code, out, err = verbs.answer(["explain", verbs.POD, "-f", given, "--bundle", str(bundle)])
            assert code == 2 and not problems(out, err), (text, out, err)


def test_the_name_of_a_bundle(tmp_path: Path) -> None:
    good = tmp_path / f"{FILE}.tar.gz"
    verbs.write(hostile.whole(), good)
    bad = tmp_path / f"bad{FILE}.tar.gz"
    bad.write_bytes(b"x")
    for path in (good, bad, tmp_path / f"none{FILE}"):
        code, out, err = verbs.answer(["maps", verbs.POD, "--bundle", str(path)])
        assert (code == 0) is (path is good) and not problems(out, err), (path, out, err)


# ---- what is drawn while waiting


def test_steps_and_notes(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(enabled=True)
    progress._started -= 10
    for say in (progress.step, progress.note, progress.note_once):
        say(EVIL)
        say(f"x{EVIL}")
    progress.done()
    said = capsys.readouterr().err
    # Its own way to take a line away.
    assert "\r\033[K" in said
    assert not problems("", said.replace("\r\033[K", "\n> ")), said
