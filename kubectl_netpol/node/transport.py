"""Sends a script, mostly the reader, into a pod and takes its answer: frames, checksums, limits.

The command is ``python3 -IBS -c BOOTSTRAP <length>``. The bootstrap reads exactly <length> bytes of stdin, so
it needs no end of file, which older exec protocols cannot send. These bytes are zlib-compressed JSON: the
source of ``reader.py`` or ``asker.py``, and the request. -I: no PYTHON* variables and no user site; -B: no
.pyc is written; -S: no site.

``python3`` is looked up through PATH by the container runtime. Only when that fails a second exec tries
``/usr/libexec/platform-python``, where images of the RHEL family keep one. There is no ``sh -c`` that
would try both at once, since images without a shell are common; ``/usr/bin`` is always in PATH.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from functools import cache
from importlib.resources import files
from typing import Any, Protocol

from kubectl_netpol.cluster.stream import ExecResult
from kubectl_netpol.errors import NodeError
from kubectl_netpol.node import json_text
from kubectl_netpol.node.document import check_document

Json = dict[str, Any]

MAGIC = b"NPE1"
PYTHONS = ("python3", "/usr/libexec/platform-python")
MOST_COMPRESSED = 256 << 20
"""Bytes of an answer on the wire. A full conntrack table of 524,288 entries takes about 10 MiB."""
MOST_DOCUMENT = 768 << 20
"""Bytes of the JSON text. The reader stops at 256 MiB of raw map contents, 342 MiB as base64."""
HEADER = re.compile(rb"NPE1 (\d{1,12}) ([0-9a-f]{64})\n")
MOST_HEADER = 96
STDERR_TAIL = 400
KILLED_HINTS = {
    "reader": "its memory limit is the usual cause: ask for less, with pods instead of --all",
    "asker": "one conntrack entry of a flow that does not exist may be left; the agent removes such entries",
}

BOOTSTRAP = (
    "import sys,zlib,json;n=int(sys.argv[1]);d=sys.stdin.buffer.read(n)\n"
    "if len(d)<n: sys.exit('the request was cut: %d of %d bytes came'%(len(d),n))\n"
    "p=json.loads(zlib.decompress(d));g={'__name__':'netpol_reader'}\n"
    "exec(compile(p['script'],'reader.py','exec'),g);sys.exit(g['main'](p['request']))"
)


class ExecPod(Protocol):
    """A running pod that can run commands: ``debug_pod.DebugPod``, or a stand-in of a test."""

    @property
    def name(self) -> str: ...

    @property
    def namespace(self) -> str: ...

    def exec(self, argv: list[str], stdin: bytes = b"") -> ExecResult: ...


def read_node(pod: ExecPod, request: Json) -> Json:
    """Run the reader in the pod and return its checked document.

    Raises ``NodeError``: no Python in the image, the reader crashed, or the answer is damaged.
    """
    return check_document(run_script(pod, "reader", request))


def run_script(pod: ExecPod, script: str, request: Json) -> Any:
    """Run ``<script>.py`` of this package in the pod; the JSON that it answers, whatever it holds.

    Raises ``NodeError`` as ``read_node`` does.
    """
    stdin = packed_request(request, script)
    for python in PYTHONS:
        result = pod.exec(command(python, len(stdin)), stdin)
        if not python_is_missing(result):
            return _answer(result, _name(pod), script)
    raise NodeError(
        f"the image of {_name(pod)} has no python3: {_last_line(result) or 'executable file not found'}",
        hint="choose an image that has it with --image (the default, amazonlinux:2023, does; its minimal "
        "variant does not), or read the node with tc and aws-eks-na-cli instead: --via tools",
    )


def command(python: str, length: int) -> list[str]:
    """The argv of the exec for a request of ``length`` packed bytes."""
    return [python, "-IBS", "-c", BOOTSTRAP, str(length)]


def packed_request(request: Json, script: str = "reader") -> bytes:
    """What goes to stdin: zlib-compressed JSON of the script's source and the request."""
    return zlib.compress(json.dumps({"script": _source(script), "request": request}).encode(), 9)


@cache
def _source(script: str) -> str:
    return files(__package__).joinpath(f"{script}.py").read_text(encoding="utf-8")


def python_is_missing(result: ExecResult) -> bool:
    """Whether the container runtime could not start the interpreter.

    runc and crun report it as an error of the exec ("executable file not found in $PATH", "stat ...: no such
    file or directory"), and some runtimes as exit code 126 or 127 with that text on stdout.
    """
    if result.exit_code not in (126, 127) or result.stdout.startswith(MAGIC):
        return False
    said = " ".join((result.error, _text(result.stderr[:2000]), _text(result.stdout[:2000]))).lower()
    return bool(re.search(r"executable file .{0,120}not found|no such file or directory|: not found", said))


def parse_answer(result: ExecResult, who: str) -> Json:
    """The document inside an exec's stdout. ``who`` names the pod in messages."""
    return check_document(_answer(result, who, "reader"))


def _answer(result: ExecResult, who: str, script: str) -> Any:
    return _parsed(_inflated(_payload(result, who, script), who), who)


def _payload(result: ExecResult, who: str, script: str) -> bytes:
    header = HEADER.match(result.stdout[:MOST_HEADER])
    if header is None:
        raise _no_frame(result, who, script)
    length, digest = int(header[1]), header[2].decode()
    payload = result.stdout[header.end() :]
    if length > MOST_COMPRESSED:
        raise NodeError(f"the answer of {who} announces {length} bytes; more than {MOST_COMPRESSED} are not taken")
    if len(payload) < length:
        raise NodeError(
            f"the answer of {who} was cut: {len(payload)} of {length} bytes came{_because(result)}",
            hint="try again; a proxy or load balancer that ends long connections is the usual cause",
        )
    if len(payload) > length:
        raise NodeError(f"the answer of {who} is damaged: {len(payload) - length} bytes after its end")
    if hashlib.sha256(payload).hexdigest() != digest:
        raise NodeError(f"the answer of {who} is damaged: its checksum does not fit", hint="try again")
    return payload


def _no_frame(result: ExecResult, who: str, script: str) -> NodeError:
    """Nothing that looks like an answer: the script crashed, was killed, or something else spoke."""
    if result.exit_code == 137:
        return NodeError(
            f"the {script} in {who} was killed with exit code 137{_because(result)}",
            hint=KILLED_HINTS.get(script, ""),
        )
    if result.stdout and MAGIC.startswith(result.stdout[: len(MAGIC)]):
        return NodeError(f"the answer of {who} was cut inside its header ({len(result.stdout)} bytes came)")
    if result.exit_code is None:
        return NodeError(f"{who} did not answer{_because(result)}", hint="try again")
    said = f": {tail}" if (tail := _last_line(result)) else ""
    if result.exit_code == 126 and not result.stderr:
        # What `stream` makes of an exec that ended with an error instead of an exit code.
        return NodeError(f"the {script} could not be run in {who}{said}", hint="try again")
    if result.exit_code != 0:
        return NodeError(f"the {script} in {who} ended with exit code {result.exit_code}{said}")
    if not result.stdout:
        return NodeError(f"the {script} in {who} said nothing{said}")
    return NodeError(f"the answer of {who} is not one of the {script}: it begins with {result.stdout[:24]!r}")


def _because(result: ExecResult) -> str:
    reason = clean(result.error) or _last_line(result)
    return f" ({reason})" if reason else ""


def _inflated(payload: bytes, who: str) -> bytes:
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(payload, MOST_DOCUMENT + 1)
    except (zlib.error, MemoryError) as error:
        raise NodeError(f"the answer of {who} is damaged: {error or 'not enough memory'}") from error
    if len(text) > MOST_DOCUMENT or inflater.unconsumed_tail:
        raise NodeError(f"the answer of {who} is larger than {MOST_DOCUMENT} bytes when unpacked")
    if not inflater.eof or inflater.unused_data:
        raise NodeError(f"the answer of {who} is damaged: its compressed part does not end where it says")
    return text


def _parsed(text: bytes, who: str) -> Any:
    try:
        return json_text.loads(text)
    except ValueError as error:
        raise NodeError(f"the answer of {who} is damaged: not JSON ({error})") from error


def clean(text: str) -> str:
    """One printable line: control characters (terminal escapes among them) become spaces."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _last_line(result: ExecResult) -> str:
    """The last line on stderr (of a traceback: the exception), else what the runtime said."""
    lines = [line for line in map(clean, _text(result.stderr[-8000:]).splitlines()) if line]
    said = lines[-1] if lines else clean(result.error)
    return said[-STDERR_TAIL:]


def _name(pod: ExecPod) -> str:
    return f"pod {pod.namespace}/{pod.name}"
