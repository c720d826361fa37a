"""The exact output of every verb in every format on the shipped bundle.

`python -m pytest tests/golden --update` writes the files anew.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from kubectl_netpol import bundle, pages
from kubectl_netpol.cli import run
from kubectl_netpol.kernel.view import NodeView
from kubectl_netpol.report import html

HERE = Path(__file__).parent
BUNDLE = HERE.parents[1] / "kubectl_netpol" / "examples" / "article.tar.gz"
POLICY = "policy.yaml"


def established() -> str:
    """The source port of the flow that lives in the bundle."""
    snapshot = bundle.read(str(BUNDLE))
    view = NodeView(next(iter(snapshot.nodes.values())).document or {})
    entries = (entry for row in view.document["maps"] for entry in view.map(row["id"]).conntrack or ())
    return str(next(entry.source_port for entry in entries if entry.port == 80))


ESTABLISHED = established()
QUESTIONS = {
    "explain-drop": ["explain", "pod/nginx", "--from", "pod/accessfalse", "--port", "80"],
    "explain-allow": ["explain", "pod/nginx", "--from", "pod/accesstrue", "--port", "80"],
    "explain-service": ["explain", "accesstrue", "--to", "svc/nginx"],
    "explain": ["explain", "pod/nginx"],
    "explain-api-only": ["explain", "pod/nginx", "--from", "pod/accessfalse", "--port", "80", "--api-only"],
    "explain-api-only-pod": ["explain", "pod/nginx", "--api-only"],
    "explain-what-if": ["explain", "pod/nginx", "--from", "pod/accesstrue", "--port", "80", "-f", POLICY],
    "explain-what-if-pod": ["explain", "pod/nginx", "-f", POLICY],
    "maps": ["maps", "pod/nginx"],
    "explain-established": [
        "explain",
        "pod/nginx",
        "--from",
        "accesstrue",
        "--port",
        "80",
        "--source-port",
        ESTABLISHED,
    ],
    "conntrack": ["conntrack", "pod/nginx"],
    "maps-ingress": ["maps", "pod/nginx", "--direction", "ingress"],
    "check": ["check", "pod/nginx"],
    "check-all": ["check", "-A"],
    "drops": ["drops", "pod/nginx", "--all"],
}
CODES = {"explain-drop": 1, "explain-api-only": 1, "explain-what-if": 1, "explain-what-if-pod": 1, "drops": 1}


FORMS = ("table", "wide", "json", "yaml")
CASES = [*product(QUESTIONS, FORMS), *product(("check", "check-all"), ("junit", "prometheus"))]
CASES += [(name, "html") for name in QUESTIONS if name.startswith(("explain", "check"))]


@pytest.mark.parametrize(("name", "form"), CASES)
def test_output(
    name: str,
    form: str,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Names of files are in answers as the user gave them.
    monkeypatch.chdir(HERE)
    # How a page looks, and which version made it, is none of what is compared here.
    monkeypatch.setattr(html, "STYLE", "/* html_style.STYLE */")
    monkeypatch.setattr(pages, "__version__", "VERSION")
    code = run([*QUESTIONS[name], "-o", form, "--bundle", str(BUNDLE)])
    output = capsys.readouterr().out
    assert code == CODES.get(name, 0)
    expected = HERE / f"{name}.{form}"
    if request.config.getoption("--update"):
        expected.write_text(output)
    actual = expected.with_suffix(f".{form}.actual")
    if not expected.exists() or output != expected.read_text():
        actual.write_text(output)
        pytest.fail(f"{expected.name} differs: compare it with {actual.name}")
    actual.unlink(missing_ok=True)
