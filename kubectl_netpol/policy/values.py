"""Checks of single values of a policy, and how they are put together for lists and objects.

A check takes a value and its path and yields what is wrong, one clear sentence each. Code after a ``yield from`` of a
check may rely on it only where nothing was yielded: callers take the first problem and stop.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from ipaddress import ip_address, ip_network
from typing import Any

from kubectl_netpol.model.flow import Network

Problems = Iterator[str]
Check = Callable[[Any, str], Problems]

LONGEST_SHOWN = 60
LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
SUBDOMAIN = re.compile(rf"{LABEL.pattern}(\.{LABEL.pattern})*")
QUALIFIED = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
PORT_NAME = re.compile(r"(?=.*[a-z])(?!.*--)[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?")
PREFIX = re.compile(r"([0-9a-fA-F.:]{1,45})/([0-9]{1,3})")
# As the CRDs have it, `A-z` included.
DOMAIN = re.compile(r"(\*\.)?([a-zA-z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.)+[a-zA-z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.?")
PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]{1,60}")

PARTS = '"-", "_" and "." only, and a letter or digit first and last'


# ---- in words


def printable(text: str) -> str:
    """What a terminal can take, on one line and not too long."""
    cut = text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in cut)


def shown(value: Any) -> str:
    """A value as YAML has it: `true`, `"tcp"`, `80`; `a list`, `an object`."""
    if isinstance(value, str):
        return printable(json.dumps(value[: LONGEST_SHOWN + 1], ensure_ascii=False))
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, dict):
        return "an object"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return _number_text(value) if isinstance(value, int | float) else type(value).__name__


def _number_text(value: Any) -> str:
    # Python refuses to write very long numbers.
    return "a very long number" if isinstance(value, int) and value.bit_length() > 200 else repr(value)


def member(path: str, key: object) -> str:
    """The path of a field: `spec.ingress`, `metadata.labels["a/b"]`."""
    text = str(key)
    return f"{path}.{text}" if PLAIN_KEY.fullmatch(text) else f"{path}[{shown(text)}]"


def names(words: Collection[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    *head, tail = words
    return f"{', '.join(head)} {last} {tail}" if head else tail


# ---- lists and objects


def any_value(value: object, path: str) -> Problems:
    """What is not looked at."""
    yield from ()


def listed(check: Check, *, least: int = 0, most: int = 0, unique: bool = False) -> Check:
    """A list of values that are each checked. ``most`` 0: any number; ``unique``: of strings."""

    def found(value: Any, path: str) -> Problems:
        if not isinstance(value, list):
            yield f"{path} is {shown(value)}, not a list"
            return
        for number, one in enumerate(value):
            yield from check(one, f"{path}[{number}]")
        if len(value) < least:
            yield f"{path} is empty: it needs at least {least}"
        if most and len(value) > most:
            yield f"{path} has {len(value)} elements: at most {most} are allowed"
        seen: set[str] = set()
        for one in value if unique else ():
            if one in seen:
                yield f"{path} has {shown(one)} twice"
            seen.add(one)

    return found


def fields(known: Mapping[str, Check], *, required: Collection[str] = ()) -> Check:
    """An object with these fields and no others."""

    def found(value: Any, path: str) -> Problems:
        if not isinstance(value, dict):
            yield f"{path} is {shown(value)}, not an object"
            return
        for key in value:
            if key not in known:
                yield f"{member(path, key)} is unknown: {names(known)} {'are' if len(known) > 1 else 'is'} known"
        for key in required:
            if key not in value:
                yield f"{path}.{key} is missing"
        for key, check in known.items():
            if key in value:
                yield from check(value[key], f"{path}.{key}")

    return found


def mapping(key_check: Check, value_check: Check) -> Check:
    """An object with keys of the user's own."""

    def found(value: Any, path: str) -> Problems:
        if not isinstance(value, dict):
            yield f"{path} is {shown(value)}, not an object"
            return
        for key, one in value.items():
            yield from key_check(key, path)
            yield from value_check(one, member(path, key))

    return found


def exactly_one(value: Mapping[str, object], path: str, forms: Collection[str]) -> Problems:
    """Of an object whose fields exclude each other."""
    there = [form for form in forms if form in value]
    if not there:
        yield f"{path} is empty: one of {names(forms, 'or')} is needed"
    elif len(there) > 1:
        yield f"{path} has {names(there)}: only one of {names(forms, 'or')} is possible"


# ---- scalars


def text(value: Any, path: str) -> Problems:
    """YAML's `true`, `yes` and `1` are no strings, and the API server takes nothing else."""
    if isinstance(value, bool | int | float):
        yield f"{path} is {shown(value)}, not a string: put it in quotes"
    elif not isinstance(value, str):
        yield f"{path} is {shown(value)}, not a string"


def short_text(most: int) -> Check:
    def found(value: Any, path: str) -> Problems:
        yield from text(value, path)
        if len(value) > most:
            yield f"{path} has {len(value)} characters: at most {most} are allowed"

    return found


def boolean(value: Any, path: str) -> Problems:
    if not isinstance(value, bool):
        yield f"{path} is {shown(value)}, neither true nor false"


def one_of(*words: str) -> Check:
    def found(value: Any, path: str) -> Problems:
        if not isinstance(value, str) or value not in words:
            yield f"{path} is {shown(value)}: {names(words, 'or')}"

    return found


def whole(low: int, high: int) -> Check:
    """A number between these, both included."""

    def found(value: Any, path: str) -> Problems:
        if isinstance(value, bool) or not isinstance(value, int):
            quoted = isinstance(value, str) and re.fullmatch("[0-9]+", value)
            yield f"{path} is {shown(value)}, not a whole number{': take off the quotes' if quoted else ''}"
        elif not low <= value <= high:
            yield f"{path} is {shown(value)}: {low} to {high} is possible"

    return found


port_number = whole(1, 65535)
protocol = one_of("TCP", "UDP", "SCTP")


def port_name(value: Any, path: str) -> Problems:
    """An IANA service name, as ports of containers have it."""
    yield from text(value, path)
    if re.fullmatch("[0-9]+", value):
        yield f"{path} is {shown(value)}, a name and not a number: take off the quotes"
    if not PORT_NAME.fullmatch(value):
        yield (
            f'{path} is {shown(value)}: the name of a port has lower-case letters, digits and "-" only, at least one '
            'letter, 15 characters at most, and no "-" first, last or twice in a row'
        )


def dns_label(value: Any, path: str) -> Problems:
    yield from text(value, path)
    if len(value) > 63 or not LABEL.fullmatch(value):
        yield (
            f'{path} is {shown(value)}: it may have lower-case letters, digits and "-" only, 63 characters at most, '
            "and a letter or digit first and last"
        )


def subdomain(value: Any, path: str) -> Problems:
    yield from text(value, path)
    if not is_subdomain(value):
        yield (
            f'{path} is {shown(value)}: it may have lower-case letters, digits, "-" and "." only, 253 characters at '
            "most, and a letter or digit first and last"
        )


def is_subdomain(value: str) -> bool:
    return len(value) <= 253 and bool(SUBDOMAIN.fullmatch(value))


def label_key(value: Any, path: str) -> Problems:
    """A qualified name: `app`, `app.kubernetes.io/name`. ``path``: of what has the key."""
    yield from text(value, path)
    prefix, slash, name = value.rpartition("/")
    if slash and not is_subdomain(prefix):
        yield f"{path} has the key {shown(value)}: what is before the / is no lower-case domain name"
    if len(name) > 63:
        yield f"{path} has the key {shown(value)}, whose name has {len(name)} characters: 63 are allowed"
    if not QUALIFIED.fullmatch(name):
        yield f"{path} has the key {shown(value)}: the name of a label has letters, digits, {PARTS}"


def annotation_key(value: Any, path: str) -> Problems:
    yield from text(value, path)
    yield from label_key(value.lower(), path)


def label_value(value: Any, path: str) -> Problems:
    yield from text(value, path)
    if len(value) > 63:
        yield f"{path} is {shown(value)} with {len(value)} characters: the value of a label has 63 at most"
    if value and not QUALIFIED.fullmatch(value):
        yield f"{path} is {shown(value)}: the value of a label has letters, digits, {PARTS}"


def network_of(value: str) -> Network | None:
    """A CIDR as Go reads it: with a length, without a zone, a mask or zeros in front. Host bits are dropped."""
    if not PREFIX.fullmatch(value):
        return None
    try:
        return ip_network(value, strict=False)
    except ValueError:
        return None


def cidr(value: Any, path: str) -> Problems:
    yield from text(value, path)
    if network_of(value) is None:
        yield f"{path} is {shown(value)}: {_no_cidr(value)}"


def _no_cidr(value: str) -> str:
    try:
        address = ip_address(value) if "%" not in value else None
    except ValueError:
        address = None
    if address is not None:
        return f"an address without a length, {address}/{address.max_prefixlen} means it alone"
    return "not a CIDR such as 10.0.0.0/8 or 2001:db8::/32"


def domain(value: Any, path: str) -> Problems:
    yield from text(value, path)
    if not DOMAIN.fullmatch(value):
        yield f"{path} is {shown(value)}: not a domain name such as example.com or *.example.com"
