"""The style of `-o html`, in the page itself: a constant, so that a frozen program has it too. ASCII, and no url()."""

from __future__ import annotations

LIGHT = {
    "page": "#f4f5f7",
    "card": "#ffffff",
    "line": "#c9ced6",
    "ink": "#1b1f24",
    "soft": "#525a65",
    "link": "#0a4f9e",
    "good": "#0b6437",
    "good-on": "#e4f3ea",
    "bad": "#a5131b",
    "bad-on": "#fdebea",
    "unsure": "#7a4d00",
    "unsure-on": "#fcf1d9",
    "plain": "#1d4b86",
    "plain-on": "#e8effa",
    "none": "#525a65",
    "none-on": "#eceef1",
}
DARK = {
    "page": "#121518",
    "card": "#1b2025",
    "line": "#3b434c",
    "ink": "#e7eaed",
    "soft": "#aab3bd",
    "link": "#8fc0ff",
    "good": "#7ddba3",
    "good-on": "#15301f",
    "bad": "#ffa39c",
    "bad-on": "#421a1b",
    "unsure": "#f2c96d",
    "unsure-on": "#382b0c",
    "plain": "#a3c8f7",
    "plain-on": "#192a42",
    "none": "#aab3bd",
    "none-on": "#2a3038",
}
"""Colours by name; X-on is the ground under text in X. A test holds that each pair can be read (WCAG AA)."""

TONES = ("good", "bad", "unsure", "plain", "none")


def _variables(colours: dict[str, str]) -> str:
    return "".join(f"--{name}:{value};" for name, value in colours.items())


_TONES = "".join(f".{one}{{--tone:var(--{one});--ground:var(--{one}-on)}}\n" for one in TONES)

_LABELS = {
    "pods": ("", "Node", "Identifier", "INTENT", "ENDPOINTS", "PINNED", "ATTACHED", "State", "Findings"),
    "rows": ("", "INTENT", "ENDPOINTS", "ATTACHED", "STATUS"),
    "rows.api": ("", "INTENT", "ENDPOINTS", "STATUS"),
    "entries": ("", "Entry", "EXPECTED now", "EXPECTED then"),
    "flows": ("", "From", "To", "Port", "Source port", "Last seen", "Then", "Why"),
    "evidence": ("", "Value"),
}
"""Of tables whose rows are stacked on narrow screens: what stands in front of each cell then."""

_STACKED = "".join(
    f'.{name} td:nth-child({number})::before{{content:"{label}"}}\n'
    for name, labels in _LABELS.items()
    for number, label in enumerate(labels, 1)
    if label
)

STYLE = f"""
:root{{color-scheme:light dark;{_variables(LIGHT)}}}
@media (prefers-color-scheme:dark){{:root{{{_variables(DARK)}}}}}
{_TONES}
*{{box-sizing:border-box}}
html{{-webkit-text-size-adjust:100%;text-size-adjust:100%}}
body{{margin:0 auto;max-width:90rem;padding:1.5rem clamp(.75rem,3vw,2.5rem) 2rem;
background:var(--page);color:var(--ink);
font:1rem/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","DejaVu Sans",sans-serif;overflow-wrap:anywhere}}
h1,h2,h3,p,ul,ol,dl,dd{{margin:0;padding:0}}
h1{{font-size:1.6rem;line-height:1.25;margin:.1rem 0 .8rem}}
h2{{font-size:1.1rem;margin:0 0 .5rem}}
h3{{font-size:1rem}}
a{{color:var(--link)}}
code,.code,.command,.layer{{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;
font-size:.875em}}
span,code,a,b{{unicode-bidi:isolate}}
section{{margin-top:1.75rem}}
header .command,.meaning,.place,.when,.see,footer,.none,.of{{color:var(--soft)}}
footer{{margin-top:2.5rem;font-size:.85rem}}
.facts{{display:flex;flex-wrap:wrap;gap:.25rem 2rem;font-size:.9rem}}
.facts div{{display:flex;gap:.5rem}}
dt{{flex:none;max-width:50%;color:var(--soft)}}
.badge{{display:inline-block;padding:0 .5em;border:1px solid var(--tone);border-radius:.3em;background:var(--ground);
color:var(--tone);font-weight:700;font-size:.85em;white-space:nowrap}}

.answer{{border:1px solid var(--line);border-left:.5rem solid var(--tone);border-radius:.4rem;background:var(--card);
padding:1rem 1.25rem}}
.answer h2{{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}}
.said{{display:flex;flex-wrap:wrap;gap:.5rem 1rem;align-items:baseline}}
.said p{{flex:1 1 24rem;font-size:1.1rem}}
.said .cause{{flex-basis:100%;font-size:1rem}}
.said .cause .badge{{font-size:.9rem}}
.said .badge{{font-size:1.35rem}}
.unread{{border:1px solid var(--unsure);border-radius:.4rem;background:var(--unsure-on);padding:.75rem 1.25rem}}
.unread h2{{color:var(--unsure)}}
.next p{{border:1px solid var(--line);border-radius:.4rem;background:var(--card);padding:.75rem 1.25rem}}
section ul{{padding-left:1.1rem}}
.odd>li{{color:var(--bad)}}
.told{{margin-top:.6rem}}

.leg h2{{margin-bottom:0}}
.chain{{display:grid;grid-template-rows:repeat(4,auto) 1fr;grid-auto-flow:column;grid-auto-columns:minmax(0,1fr);
gap:0 .9rem;margin:.6rem 0;padding:0;list-style:none}}
.chain.broken{{margin-top:2.4rem}}
.chain>li{{position:relative;display:grid;grid-template-rows:subgrid;grid-row:span 5;align-items:start;font-size:.9rem;
border:1px solid var(--line);border-top:.35rem solid var(--tone);border-radius:.4rem;background:var(--card);
padding:.6rem .75rem .75rem;color:var(--ink)}}
.chain>li+li::after{{content:"";position:absolute;top:1.35rem;left:calc(-.9rem - 1px);width:.9rem;
border-top:2px solid var(--line)}}
.chain h3{{font-size:.95rem;letter-spacing:.03em}}
.chain .meaning{{font-size:.8rem;line-height:1.35;margin-bottom:.4rem}}
.chain .badge{{font-size:1.05rem}}
.chain .why{{margin-top:.4rem}}
.chain details{{margin-top:.5rem;font-size:.85rem}}
.chain>li.differs::before{{content:"";position:absolute;top:-2.2rem;bottom:-1px;left:calc(-.45rem - 3px);width:5px;
border-radius:3px;background:var(--bad)}}
.chain .mark{{position:absolute;top:-2.2rem;left:calc(-.45rem - 3px);z-index:1;width:max-content}}
.chain>li:last-child .mark{{left:auto;right:-1px}}
.mark{{display:inline-block;padding:.05rem .5em;border-radius:.3em;background:var(--bad);color:var(--card);
font-weight:700;font-size:.8rem}}

details>summary{{cursor:pointer;color:var(--link)}}
details>summary:hover{{text-decoration:underline}}
details>.facts,details>ul,details>.scroll,details>article{{margin-top:.5rem}}
section>details{{margin-top:.6rem}}
details .facts{{flex-direction:column}}
:focus-visible{{outline:3px solid var(--link);outline-offset:2px}}

.scroll{{overflow-x:auto;margin-top:.6rem;border:1px solid var(--line);border-radius:.4rem;background:var(--card)}}
table{{width:100%;border-collapse:collapse;font-size:.9rem}}
caption{{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}}
th,td{{text-align:left;vertical-align:top;padding:.4rem .75rem;border-top:1px solid var(--line);font-weight:400}}
thead th{{border-top:0;color:var(--soft);font-size:.8rem;font-weight:700;white-space:nowrap}}
tbody th code{{display:block}}
td p{{font-size:.85em;color:var(--soft)}}
tr.odd>*{{background:var(--bad-on)}}
td.differs{{border-left:4px solid var(--bad)}}
td .mark{{display:block;width:max-content;margin-bottom:.2rem}}
.rows{{table-layout:fixed;min-width:44rem}}
.rows thead th{{white-space:normal}}
.rows th:first-child{{width:26%}}
.rows th:last-child{{width:23%}}
.pods,.flows{{overflow-wrap:break-word}}
.pods tbody th{{font-weight:600}}
.evidence{{table-layout:fixed}}
.evidence thead th:first-child{{width:42%}}
.pods td:nth-child(4),.pods td:nth-child(9) a,.flows td:nth-child(4){{white-space:nowrap}}
:target,:target>*{{outline:3px solid var(--link);outline-offset:-1px}}

.finding{{border:1px solid var(--line);border-left:.35rem solid var(--tone);border-radius:.4rem;background:var(--card);
padding:.75rem 1.25rem;margin-top:.9rem}}
.finding .of{{margin-top:.15rem;font-size:.9rem}}
.finding .code{{color:var(--tone)}}
.remedies{{margin-top:.6rem}}
.remedies li{{margin-top:.3rem}}
.remedies li p{{font-size:.9rem;color:var(--soft)}}
.see{{margin-top:.6rem;font-size:.85rem}}

@media screen and (max-width:64rem){{
.chain,.chain.broken{{display:block;margin-top:.6rem}}
.chain>li{{display:block;margin-top:.7rem}}
.chain>li+li::after{{top:-.8rem;left:1.5rem;width:0;height:.75rem;border-top:0;border-left:2px solid var(--line)}}
.chain>li.differs{{margin-top:2.6rem}}
.chain>li.differs::before{{top:-1rem;bottom:auto;left:0;right:0;width:auto;height:5px}}
.chain>li.differs::after{{display:none}}
.chain .mark{{top:-2.2rem;left:0;right:auto;max-width:100%}}
}}
@media screen and (max-width:44rem){{
h1{{font-size:1.3rem}}
thead{{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}}
table,tbody,tr,tbody th,td{{display:block}}
.rows{{min-width:0}}
.rows th:first-child{{width:auto}}
tbody tr{{padding:.5rem 0;border-top:1px solid var(--line)}}
tbody tr:first-child{{border-top:0}}
th,td{{border:0;padding:.15rem .75rem}}
tbody th{{font-weight:600}}
td::before{{display:block;color:var(--soft);font-size:.75rem;font-weight:700}}
td.differs{{border-left:4px solid var(--bad)}}
.pods td::before,.entries td::before{{display:inline-block;width:8rem}}
{_STACKED}}}
@page{{size:landscape;margin:12mm}}
@media print{{
:root{{color-scheme:light;{_variables({**LIGHT, "page": "#ffffff"})}}}
html{{font-size:11px}}
body{{max-width:none;padding:0}}
details::details-content{{content-visibility:visible;block-size:auto}}
.scroll{{overflow:visible}}
.chain,.finding,tr{{break-inside:avoid}}
.rows{{min-width:0}}
h2,.place{{break-after:avoid}}
*{{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
}}
"""
