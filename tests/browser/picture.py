"""`python -m tests.browser.picture`: docs/report.png, of the shipped bundle in a real browser."""

from __future__ import annotations

import base64
import contextlib
import io
import struct
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from kubectl_netpol import bundle
from kubectl_netpol.cli import run
from tests.browser import cdp

ROOT = Path(__file__).resolve().parents[2]
QUESTION = ["explain", "pod/nginx", "--from", "pod/accessfalse", "--port", "80"]
WIDTH = 1180


def main() -> None:
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        run([*QUESTION, "-o", "html", "--bundle", str(Path(bundle.__file__).parent / "examples" / "article.tar.gz")])
    with tempfile.TemporaryDirectory() as folder, cdp.browser() as seen:
        page = Path(folder) / "report.html"
        page.write_text(told.getvalue())
        seen.open(page.as_uri(), width=WIDTH)
        # Up to the end of the first chain: what the page is about.
        height = round(seen.value("document.querySelector('.chain').getBoundingClientRect().bottom")) + 8
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": height, "scale": 1}
        shot = seen.call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        (ROOT / "docs" / "report.png").write_bytes(smaller(base64.b64decode(shot["data"])))


def smaller(png: bytes) -> bytes:
    """The same picture in RGB without row filters: plain areas and repeated letters are a third smaller so."""
    at, data, head = 8, b"", b""
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        content = png[at + 8 : at + 8 + length]
        head = content if kind == b"IHDR" else head
        data += content if kind == b"IDAT" else b""
        at += 12 + length
    width, _, depth, colour, *_ = struct.unpack(">IIBBBBB", head)
    assert (depth, colour) == (8, 2), "RGB, 8 bits"
    rows = b"".join(b"\0" + row for row in _unfiltered(zlib.decompress(data), width * 3))
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return png[:8] + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def _unfiltered(data: bytes, size: int) -> Iterator[bytes]:
    """The rows of a picture of three bytes a pixel (PNG specification, section 9)."""
    above = bytearray(size)
    for start in range(0, len(data), size + 1):
        way, row = data[start], bytearray(data[start + 1 : start + 1 + size])
        for at in range(size):
            left, up, corner = (row[at - 3], above[at], above[at - 3]) if at >= 3 else (0, above[at], 0)
            row[at] = row[at] + (0, left, up, (left + up) // 2, _paeth(left, up, corner))[way] & 255
        yield bytes(row)
        above = row


def _paeth(left: int, up: int, corner: int) -> int:
    guess = left + up - corner
    return min((left, up, corner), key=lambda one: abs(guess - one))


if __name__ == "__main__":
    main()
