"""Changes that keep most of an input's structure, so that it gets past the first check: of bytes, texts and JSON.

The same random generator gives the same change, on every machine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from random import Random
from typing import Any

NUMBERS: tuple[Any, ...] = (
    *(0, 1, -1, 2, 7, 8, 24, 32, 33, 64, 128, 129, 254, 255, 256, 443, 65535, 65536, 70000),
    *(sign * (1 << bits) + more for bits in (31, 32, 63, 64) for more in (-1, 0) for sign in (1, -1)),
    *(10**18, 10**30, 10**400, 0.5, -0.0, 1e308, 5e-324, float("nan"), float("inf"), float("-inf")),
)
STEERING = (
    *("\x1b[31m", "\x1b]0;title\x07", "\x1b[2J", "\x9b31m", "\r", "\b", "\x00", "\x7f", "\n", "\u202e", "\u2066"),
    *("\u200b", "\u2028", "\u2029", "\ud800", "\udfff", "\ue000", "\ufeff", "\U000e0041"),
)
"""What steers a terminal, or is no character at all."""
TEXTS = (
    *(
        "",
        " ",
        "0",
        "-1",
        "1e999",
        "null",
        "true",
        "~",
        "*",
        ".",
        "..",
        "/",
        "../../etc/passwd",
        "%",
        "%s",
        "{}",
        "${x}",
    ),
    *(
        "10.0.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "1.2.3",
        "01.02.03.04",
        "10.0.0.0/8",
        "10.0.0.1/8",
        "0.0.0.0/0",
        "1.2.3.4/33",
    ),
    *("::", "::1", "::ffff:1.2.3.4", "fe80::1%eth0", "fe80::1%\x1b[31m", "2001:db8::/32", "::/129", "1:2:3", ":::"),
    *("TCP", "UDP", "SCTP", "ICMP", "ingress", "egress", "Ingress", "In", "Exists", "DoesNotExist", "handle_ingress"),
    *("a" * 300, "a" * 5000, "9" * 5000, "\u0663", "\u00b2", "\uff11", "é", "日本", *STEERING),
)
PLAIN: tuple[Any, ...] = (None, True, False, [], {}, [[]], {"": ""}, [None], {"a": None})
WORD = re.compile(r"\w+|\s+|[^\w\s]")
DEEP = 400


def of_bytes(data: bytes, random: Random) -> bytes:
    """A few changes of bytes, of numbers in them, and of blocks."""
    found = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        random.choice(_BYTE_CHANGES)(found, random)
    return bytes(found)


def _flip(data: bytearray, random: Random) -> None:
    if data:
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _set(data: bytearray, random: Random) -> None:
    if data:
        data[random.randrange(len(data))] = random.choice((0, 1, 2, 4, 0x1B, 0x7F, 0x80, 0xFF, random.randrange(256)))


def _number(data: bytearray, random: Random) -> None:
    size = random.choice((2, 4, 8))
    if len(data) >= size:
        start = random.randrange(len(data) - size + 1)
        number = random.choice((0, 1, 3, 4, 5, 8, 15, 16, 255, 1 << 15, (1 << 31) - 1, (1 << 32) - 1, len(data), -1))
        data[start : start + size] = (number % (1 << 8 * size)).to_bytes(size, random.choice(("little", "big")))


def _cut(data: bytearray, random: Random) -> None:
    start, end = sorted(random.randrange(len(data) + 1) for _ in range(2))
    del data[start : min(end, start + random.choice((1, 4, 64, len(data) + 1)))]


def _insert(data: bytearray, random: Random) -> None:
    start = random.randrange(len(data) + 1)
    data[start:start] = random.choice((b"\0", b"\0" * 16, b"\xff" * 4, random.randbytes(random.randrange(1, 32))))


def _repeat(data: bytearray, random: Random) -> None:
    if data:
        start = random.randrange(len(data))
        block = data[start : start + random.choice((4, 16, 64, 512))]
        where = random.randrange(len(data) + 1)
        data[where:where] = block * random.choice((1, 1, 2, 16))


_BYTE_CHANGES: tuple[Callable[[bytearray, Random], None], ...] = (_flip, _set, _number, _cut, _insert, _repeat)


def of_text(text: str, random: Random) -> str:
    """A few changes of words and lines."""
    for _ in range(random.choice((1, 1, 2, 4))):
        text = random.choice((_words, _words, _lines, _characters))(text, random)
    return text


def _words(text: str, random: Random) -> str:
    words = WORD.findall(text) or [""]
    at = random.randrange(len(words))
    change = random.randrange(6)
    if change == 0:
        words[at] = random.choice(TEXTS)
    elif change == 1 and words[at].isdecimal():
        words[at] = str(random.choice(NUMBERS))
    elif change == 2:
        words.insert(at, random.choice(words))
    elif change == 3:
        del words[at]
    elif change == 4:
        other = random.randrange(len(words))
        words[at], words[other] = words[other], words[at]
    else:
        words[at] += random.choice(TEXTS)
    return "".join(words)


def _lines(text: str, random: Random) -> str:
    lines = text.split("\n")
    at = random.randrange(len(lines))
    change = random.randrange(4)
    if change == 0:
        del lines[at]
    elif change == 1:
        lines.insert(at, random.choice(lines))
    elif change == 2:
        lines = lines[:at]
    else:
        lines[at:at] = lines[: random.randrange(len(lines) + 1)]
    return "\n".join(lines[:2000])


def _characters(text: str, random: Random) -> str:
    at = random.randrange(len(text) + 1)
    return text[:at] + random.choice(("", random.choice(TEXTS), chr(random.randrange(0x110000)))) + text[at + 1 :]


def of_json(value: Any, random: Random, typed: bool = False) -> Any:
    """A few changes of values and keys, anywhere in a JSON value, which is changed in place where that can be.

    ``typed``: values become others of their type, and objects keep their members.
    """
    for _ in range(random.choice((1, 1, 1, 2, 3, 6))):
        value = _changed(value, random, typed)
    return value


def _changed(value: Any, random: Random, typed: bool) -> Any:
    """One change at a random place: the deeper, the fewer places there are, so each level is as likely as another."""
    if not isinstance(value, (dict, list)) or not value or (random.random() < 0.12 and not typed):
        return _alike(value, random) if typed else _other(value, random)
    if isinstance(value, dict):
        key = random.choice(list(value))
        if random.random() < 0.12 and not typed:
            _members(value, key, random)
        else:
            value[key] = _changed(value[key], random, typed)
        return value
    at = random.randrange(len(value))
    if random.random() < 0.2:
        _elements(value, at, random)
    else:
        value[at] = _changed(value[at], random, typed)
    return value


def _alike(value: Any, random: Random) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return random.choice(TEXTS) if random.random() < 0.5 else of_text(value[:500], random)
    if isinstance(value, int):
        return random.choice([value + 1, max(0, value - 1), *(n for n in NUMBERS[:20] if n >= 0), 21, 101, 432, 433, 7])
    return value if value is not None else random.choice((None, 0, "x", 5))


def _other(value: Any, random: Random) -> Any:
    if isinstance(value, str) and random.random() < 0.5:
        return of_text(value, random) if len(value) < 2000 else value[: random.randrange(len(value))]
    if isinstance(value, int) and random.random() < 0.3:
        return value + random.choice((-1, 1))
    change = random.randrange(10)
    if change < 4:
        return random.choice(TEXTS)
    if change < 7:
        return random.choice(NUMBERS)
    if change == 7 and random.random() < 0.05:
        return _deep(random)
    if change == 8 and isinstance(value, (dict, list)):
        return [value, value] if isinstance(value, dict) else {"a": value}
    return json.loads(json.dumps(random.choice(PLAIN)))


def _deep(random: Random) -> Any:
    found: Any = None
    for _ in range(random.choice((60, 70, DEEP))):
        found = [found] if random.random() < 0.5 else {"a": found}
    return found


def _members(value: dict[str, Any], key: str, random: Random) -> None:
    change = random.randrange(4)
    if change == 0:
        del value[key]
    elif change == 1:
        value[random.choice(TEXTS)] = value.pop(key)
    elif change == 2:
        value[key + random.choice(TEXTS)] = value[key]
    else:
        value[key] = value[random.choice(list(value))]


def _elements(value: list[Any], at: int, random: Random) -> None:
    change = random.randrange(4)
    if change == 0:
        del value[at]
    elif change == 1 and len(value) < 100:
        value.append(value[at])
    elif change == 2:
        value[:] = value[:at]
    else:
        value[at] = value[random.randrange(len(value))]


# ---- inputs are bytes: what is kept in a corpus


def text_input(data: bytes, random: Random) -> bytes:
    try:
        text = data.decode("utf-8", "surrogatepass")
    except ValueError:
        return of_bytes(data, random)
    if random.random() < 0.05:
        return of_bytes(data, random)
    return of_text(text, random).encode("utf-8", "surrogatepass")


def json_input(data: bytes, random: Random) -> bytes:
    """JSON that stays JSON, mostly."""
    try:
        value = json.loads(data)
        if random.random() < 0.02:
            return of_bytes(data, random)
        return dumped(of_json(value, random))
    except (ValueError, RecursionError):
        return of_bytes(data, random)


def dumped(value: Any) -> bytes:
    return json.dumps(value).encode()
