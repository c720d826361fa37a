"""Pages of `-o html` in a real browser that has no network: what it says of them, and how they look.

`NETPOL_PICTURES=DIR` keeps pictures of all pages in DIR, to be looked at.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kubectl_netpol.report import html_check, html_explain
from tests.browser import cdp
from tests.html_pages import ABOUT, EXPLANATIONS, REPORTS
from tests.unit.test_html import EVIL, hostile, many

REASON = cdp.missing()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)

WIDTHS = {"wide": 1400, "tablet": 800, "phone": 360}


def _page(name: str) -> str:
    if name in REPORTS:
        return html_check.checked(REPORTS[name](), ABOUT)
    if name == "check-many":
        return html_check.checked(many(5000, 20), ABOUT)
    if name == "warned":
        about = dataclasses.replace(ABOUT, warnings=("no node was read",))
        return html_explain.explanation(EXPLANATIONS["unread-node"](), about)
    return html_explain.explanation(EXPLANATIONS[name](), ABOUT)


NAMES = (*EXPLANATIONS, *REPORTS, "check-many", "warned")
Open = Callable[..., cdp.Browser]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def window() -> Iterator[cdp.Browser]:
    with cdp.browser() as found:
        yield found


@pytest.fixture
def opened(window: cdp.Browser, place: Path) -> Open:
    def open_it(name: str, text: str = "", **how: Any) -> cdp.Browser:
        file = place / f"{name}.html"
        if text or not file.exists():
            file.write_text(text or _page(name))
        window.open(file.as_uri(), **how)
        return window

    return open_it


# ---- the browser itself: it would tell


def test_the_browser_tells_of_what_a_page_must_not_do(opened):
    body = "<img src='http://192.0.2.1/x.png'><script>document.title='ran'</script><p onclick='x()' style='color:red'>x"
    seen = opened("free", f"<!DOCTYPE html><meta charset=utf-8><title>t</title>{body}")
    assert seen.value("document.title") == "ran"
    assert any("192.0.2.1" in url for url in seen.requests())
    assert any("ERR_INTERNET_DISCONNECTED" in text or "net::ERR" in text for text in seen.complaints()), (
        seen.complaints()
    )
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    seen = opened("bound", f'<!DOCTYPE html><meta http-equiv=Content-Security-Policy content="{policy}">{body}')
    assert seen.value("document.title") != "ran"
    assert any("Content Security Policy" in text for text in seen.complaints())


# ---- pages


@pytest.mark.parametrize("name", NAMES)
def test_the_browser_has_no_complaint_and_asks_for_nothing(name, opened):
    seen = opened(name)
    assert seen.complaints() == []
    assert [url for url in seen.requests() if not url.endswith(f"/{name}.html")] == []
    assert seen.value("document.compatMode") == "CSS1Compat"


CUT_OFF = """[...document.querySelectorAll('p,li,dd,h1,h2,h3,summary,.badge')].filter(one =>
    !one.closest('.scroll') && one.getBoundingClientRect().right > innerWidth + 1).map(one => one.textContent)"""
"""Texts that end outside of the window, but those in tables, which are moved sideways."""
SIDEWAYS = "[...document.querySelectorAll('.scroll')].some(one => one.scrollWidth > one.clientWidth + 1)"
UNFOLD = "document.querySelectorAll('details').forEach(one => one.open = true)"


def fits(seen: cdp.Browser) -> None:
    wide, window = seen.value("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= window
    assert seen.value(CUT_OFF) == []


@pytest.mark.parametrize("size", WIDTHS)
@pytest.mark.parametrize("name", NAMES)
def test_no_page_is_wider_than_its_window(name, size, opened):
    seen = opened(name, width=WIDTHS[size])
    if name != "check-many":
        seen.value(UNFOLD)
        assert size != "phone" or seen.value(SIDEWAYS) is False, "on a phone rows are stacked"
    fits(seen)


@pytest.mark.parametrize("size", WIDTHS)
@pytest.mark.parametrize("name", ["many-faults-pod", "lost-entry", "what-if", "check-broken"])
def test_names_that_do_not_end_are_broken(name, size, opened):
    seen = opened("long", hostile(name, "y" * 253), width=WIDTHS[size])
    seen.value(UNFOLD)
    fits(seen)


CARDS = """[...document.querySelectorAll('.chain')].map(chain => [...chain.children].map(one => {
    const box = one.getBoundingClientRect(), word = one.querySelector('.badge').getBoundingClientRect();
    return [one.querySelector('h3').textContent, box.left, box.top, box.right, word.top]}))"""


def test_layers_are_side_by_side_where_there_is_room(opened):
    chains = opened("lost-entry").value(CARDS)
    assert len(chains) == 2
    for cards in chains:
        assert [card[0] for card in cards] == ["INTENT", "ENDPOINTS", "EXPECTED", "PINNED", "ATTACHED", "CONNTRACK"]
        assert len({card[2] for card in cards}) == 1
        assert len({card[4] for card in cards}) == 1, "the words are on one line"
        lefts = [card[1] for card in cards]
        assert lefts == sorted(lefts)
    for cards in opened("lost-entry", width=360).value(CARDS):
        assert len({card[1] for card in cards}) == 1
        tops = [card[2] for card in cards]
        assert tops == sorted(set(tops))


def test_the_first_difference_stands_between_the_two_layers(opened):
    seen = opened("lost-entry")
    [expected, pinned] = [card for card in seen.value(CARDS)[0] if card[0] in ("EXPECTED", "PINNED")]
    bar = seen.value("""(() => {
        const one = document.querySelector('.chain .differs'), style = getComputedStyle(one, '::before');
        return [one.getBoundingClientRect().left + parseFloat(style.left) + 1, parseFloat(style.width)];
    })()""")
    middle = bar[0] + bar[1] / 2
    assert expected[3] < middle < pinned[1]
    assert seen.value("document.querySelectorAll('.chain .mark').length") == 1
    overlapped = """(() => {
        const mark = document.querySelector('.chain .mark').getBoundingClientRect();
        return [...document.querySelectorAll('.leg h2, .leg .place, .chain h3')].some(one => {
            const box = one.getBoundingClientRect();
            const beside = box.right <= mark.left || box.left >= mark.right;
            return !beside && box.bottom > mark.top + 1 && box.top < mark.bottom - 1;
        });
    })()"""
    for width in WIDTHS.values():
        assert opened("lost-entry", width=width).value(overlapped) is False


CONTRAST = """(() => {
    const parse = text => {
        const parts = text.match(/[\\d.]+/g).map(Number);
        return [parts.slice(0, 3), parts[3] ?? 1];
    };
    const light = rgb => {
        const [r, g, b] = rgb.map(c => c / 255).map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
        return .2126 * r + .7152 * g + .0722 * b;
    };
    const ground = one => {
        for (; one; one = one.parentElement) {
            const [rgb, alpha] = parse(getComputedStyle(one).backgroundColor);
            if (alpha === 1) return rgb;
        }
        return [255, 255, 255];
    };
    const found = [];
    for (const one of document.body.querySelectorAll('*')) {
        if (![...one.childNodes].some(child => child.nodeType === 3 && child.data.trim())) continue;
        const pair = [light(parse(getComputedStyle(one).color)[0]), light(ground(one))].sort((x, y) => x - y);
        const ratio = (pair[1] + .05) / (pair[0] + .05);
        if (ratio < 4.5) found.push([one.outerHTML.slice(0, 80), ratio]);
    }
    return found;
})()"""
"""Texts that cannot be read on what is behind them (WCAG AA), as the browser has computed them."""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "check-many"])
def test_every_text_can_be_read(name, dark, opened):
    assert opened(name, dark=dark).value(CONTRAST) == []


def test_dark_is_dark_and_paper_is_white(opened):
    seen = opened("pod", dark=True)
    colour = "getComputedStyle(document.body).backgroundColor"
    assert max(map(int, seen.value(colour)[4:-1].split(","))) < 50
    seen.media("print", dark=True)
    seen.settle()
    assert seen.value(colour) == "rgb(255, 255, 255)"
    assert seen.value(CONTRAST) == []


def test_what_is_folded_is_printed(opened):
    seen = opened("drop")
    height = "document.querySelector('.chain details ul').checkVisibility({contentVisibilityAuto: true})"
    assert seen.value(height) is False
    seen.media("print")
    seen.settle()
    assert seen.value(height) is True


def test_a_code_leads_to_its_finding_even_if_that_is_folded(opened):
    seen = opened("check-many")
    target = "document.querySelector('#pod-20 a').getAttribute('href')"
    assert seen.value(target) == "#finding-20"
    box = "document.querySelector('#finding-20').checkVisibility({contentVisibilityAuto: true})"
    assert seen.value(box) is False
    seen.value("document.querySelector('#pod-20 a').click()")
    seen.settle()
    assert seen.value("document.querySelector('#finding-20').closest('details').open") is True
    assert seen.value(box) is True
    assert 0 <= seen.value("document.querySelector('#finding-20').getBoundingClientRect().top") < 1000


@pytest.mark.parametrize("size", WIDTHS)
def test_tables_are_tables_for_those_who_hear_them(size, opened):
    """Stacked rows are still rows with headers."""
    seen = opened("check-broken", width=WIDTHS[size])
    nodes = seen.call("Accessibility.getFullAXTree")["nodes"]
    roles = [one["role"]["value"] for one in nodes if not one.get("ignored")]
    assert roles.count("table") == seen.value("document.querySelectorAll('table').length")
    assert roles.count("columnheader") == seen.value("document.querySelectorAll('thead th').length")
    assert roles.count("rowheader") == seen.value("document.querySelectorAll('tbody th').length")
    assert {"banner", "main", "contentinfo"} <= set(roles)
    nameless = [one for one in nodes if one["role"]["value"] == "link" and not one["name"]["value"]]
    assert nameless == []


@pytest.mark.parametrize("name", ["lost-entry", "many-faults-pod", "what-if", "check-broken"])
def test_forged_markup_is_text(name, opened):
    count = "document.querySelectorAll('*').length"
    harmless = opened("harmless", hostile(name, "x")).value(count)
    seen = opened("forged", hostile(name, "".join(EVIL)))
    assert seen.value(count) == harmless
    assert seen.complaints() == []
    assert [url for url in seen.requests() if not url.endswith("/forged.html")] == []
    assert seen.value("document.scripts.length + document.images.length") == 0
    assert "<script>alert(1)</script>" in seen.value("document.body.innerText")


# ---- to be looked at


@pytest.mark.skipif(not os.environ.get("NETPOL_PICTURES"), reason="NETPOL_PICTURES=DIR keeps pictures")
@pytest.mark.parametrize("name", NAMES)
def test_pictures(name, opened):
    place = Path(os.environ["NETPOL_PICTURES"])
    place.mkdir(parents=True, exist_ok=True)
    for size, width in WIDTHS.items():
        for dark in (False, True):
            opened(name, width=width, dark=dark).picture(place / f"{name}-{size}{'-dark' if dark else ''}.png")
