"""YAML and JSON texts as kubectl reads them, with bounds on what a text may ask of the reader.

kubectl reads YAML with go-yaml v2: `y` and `n` are booleans, `12e45` is a number, `1:30` and dates are strings, and
keys become strings. PyYAML has it otherwise in all four cases.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import yaml
from yaml.composer import Composer, ComposerError
from yaml.constructor import SafeConstructor
from yaml.events import AliasEvent, NodeEvent
from yaml.nodes import MappingNode, Node, ScalarNode
from yaml.resolver import BaseResolver

DEEPEST = 64
"""Levels of nesting. A policy has 9."""
MOST_BY_ALIAS = 100_000
"""Values that all aliases of a text together stand for."""
LONGEST_INTEGER = 40
BLANKS = re.compile(r"\s*")
TAG = "tag:yaml.org,2002:"
BOOLEANS = {
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"), False),
}


class TextError(ValueError):
    """Why a text is not taken, in one line. ``line`` 0: not known."""

    def __init__(self, why: str, line: int = 0) -> None:
        super().__init__(why)
        self.why = why
        self.line = line


def documents(text: str) -> list[Any]:
    """All documents of a text. A text that begins with { is JSON, if it can be.

    Raises ``TextError``.
    """
    if text.lstrip().startswith("{"):
        found = _json_documents(text)
        if found is not None:
            return found
    return _yaml_documents(text)


# ---- JSON


def _json_documents(text: str) -> list[Any] | None:
    """None where it is no JSON."""
    decoder = json.JSONDecoder(object_pairs_hook=_object)
    found, at = [], BLANKS.match(text).end()  # type: ignore[union-attr]
    try:
        while at < len(text):
            document, at = decoder.raw_decode(text, at)
            found.append(document)
            at = BLANKS.match(text, at).end()  # type: ignore[union-attr]
    except RecursionError as error:
        raise TextError(f"nested deeper than {DEEPEST} levels") from error
    except TextError as error:
        # YAML's reader knows the line, and JSON without tabs is YAML.
        _yaml_documents(text)
        raise error
    except ValueError:
        return None
    if any(_too_deep(document) for document in found):
        raise TextError(f"nested deeper than {DEEPEST} levels")
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise TextError(f"the key {json.dumps(twice)} is there twice in one object")
    return found


def _too_deep(document: Any) -> bool:
    level: list[Any] = [document]
    for _ in range(DEEPEST):
        level = [child for value in level for child in _children(value)]
        if not level:
            return False
    return True


def _children(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


# ---- YAML


class _Refused(ComposerError):
    """Of a text that is YAML."""

    def __init__(self, why: str, mark: Any) -> None:
        super().__init__(None, None, why, mark)


class Number(float):
    """A number that is shown as it was written: `12e45`, and not `1.2e+46`."""

    text = ""

    def __repr__(self) -> str:
        return self.text


class _Resolver(BaseResolver):
    """Which plain scalars are no strings."""


def _resolved(tag: str, pattern: str, first: str) -> None:
    _Resolver.add_implicit_resolver(TAG + tag, re.compile(rf"(?:{pattern})\Z"), list(first))


_resolved("bool", "|".join(BOOLEANS), "yYnNtTfFoO")
_resolved("int", r"[-+]?(?:0[xX][0-9a-fA-F_]+|0[oO]?[0-7_]+|0[bB][01_]+|0|[1-9][0-9_]*)", "-+0123456789")
_resolved(
    "float",
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    "-+.0123456789",
)
_resolved("null", "~|null|Null|NULL|", "~nN")
_Resolver.add_implicit_resolver(f"{TAG}null", re.compile(r"\Z"), [""])
_resolved("merge", "<<", "<")


class _Constructor(SafeConstructor):
    """Strings, numbers, booleans, nulls, lists and objects; any other tag is an error."""

    yaml_constructors = {}  # noqa: RUF012 - PyYAML's own attribute
    yaml_multi_constructors = {}  # noqa: RUF012

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        if not isinstance(node, MappingNode):
            raise _Refused("expected an object", node.start_mark)
        self.flatten_mapping(node)
        found = {}
        for key, value in node.value:
            found[_key(key, self.construct_object(key, deep=True))] = self.construct_object(value, deep=deep)
        return found

    def read_boolean(self, node: Any) -> bool:
        if node.value not in BOOLEANS:
            raise _Refused("expected a boolean", node.start_mark)
        return BOOLEANS[node.value]

    def read_integer(self, node: Any) -> int | float:
        digits = str(node.value).replace("_", "")
        try:
            # As Go reads it: 010 is octal.
            octal = re.fullmatch(r"([-+]?)0([0-7]+)", digits)
            value = int(f"{octal[1]}0o{octal[2]}" if octal else digits[: LONGEST_INTEGER + 1], 0)
        except ValueError as error:
            raise _Refused("expected a number", node.start_mark) from error
        return value if len(digits) <= LONGEST_INTEGER else self.read_number(node)

    def read_number(self, node: Any) -> float:
        text = str(node.value)
        try:
            number = Number(re.sub(r"^([-+]?)\.(?=[a-zA-Z])", r"\1", text))
        except ValueError as error:
            raise _Refused("expected a number", node.start_mark) from error
        number.text = text if len(text) <= LONGEST_INTEGER else f"{text[:LONGEST_INTEGER]}..."
        return number


_READERS: dict[str, Any] = {
    "null": SafeConstructor.construct_yaml_null,
    "bool": _Constructor.read_boolean,
    "int": _Constructor.read_integer,
    "float": _Constructor.read_number,
    "str": SafeConstructor.construct_yaml_str,
    "merge": SafeConstructor.construct_yaml_str,
    "seq": SafeConstructor.construct_yaml_seq,
    "map": SafeConstructor.construct_yaml_map,
}
for _tag, _reader in _READERS.items():
    _Constructor.add_constructor(TAG + _tag, _reader)
_UNDEFINED: Any = SafeConstructor.construct_undefined
_Constructor.add_constructor(None, _UNDEFINED)


def _key(node: Any, value: Any) -> str:
    """Keys are strings in JSON, and kubectl makes JSON of all that it reads."""
    if isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str | int | float):
        return value if isinstance(value, str) else repr(value)
    raise _Refused("a key is not a string", node.start_mark)


class _Composer(Composer):
    """Nodes of events, with bounds on depth and on what aliases stand for; no key twice."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = self.count = self.by_alias = 0
        self.sizes: dict[str, int] = {}

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        event: Any = self.peek_event()  # type: ignore[attr-defined]
        if isinstance(event, AliasEvent):
            return self._alias(event, parent, index)
        anchor = event.anchor if isinstance(event, NodeEvent) else None
        if anchor is not None:
            # An anchor may be used again for something else.
            self.anchors.pop(anchor, None)
            self.sizes.pop(anchor, None)
        if self.depth >= DEEPEST:
            raise _Refused(f"nested deeper than {DEEPEST} levels", event.start_mark)
        self.depth += 1
        before = self.count
        self.count += 1
        node: Node | None = super().compose_node(parent, index)
        self.depth -= 1
        if anchor is not None:
            self.sizes[anchor] = self.count - before
        if isinstance(node, MappingNode):
            _no_key_twice(node)
        return node

    def _alias(self, event: Any, parent: Node | None, index: Any) -> Node | None:
        node: Node | None = super().compose_node(parent, index)
        size = self.sizes.get(event.anchor)
        if size is None:
            raise _Refused(f"the value of &{event.anchor} contains itself", event.start_mark)
        self.count += size
        self.by_alias += size
        if self.by_alias > MOST_BY_ALIAS:
            why = f"aliases stand for more than {MOST_BY_ALIAS} values"
            raise _Refused(why, event.start_mark)
        return node


def _no_key_twice(node: MappingNode) -> None:
    seen = set()
    for key, _ in node.value:
        if not isinstance(key, ScalarNode) or key.tag == f"{TAG}merge":
            continue
        if key.value in seen:
            raise _Refused(f"the key {json.dumps(key.value)} is there twice", key.start_mark)
        seen.add(key.value)


def _loader(text: str) -> Any:
    """libyaml's parser where PyYAML has it: ten times as fast. Nodes are made here in both cases."""
    if yaml.__with_libyaml__:
        return _FastLoader(text)
    return _PlainLoader(text)


if yaml.__with_libyaml__:
    from yaml._yaml import CParser

    class _FastLoader(_Composer, _Constructor, _Resolver, CParser):
        def __init__(self, text: str) -> None:
            CParser.__init__(self, text)
            _Composer.__init__(self)
            _Constructor.__init__(self)
            _Resolver.__init__(self)


class _PlainLoader(_Composer, _Constructor, _Resolver, yaml.reader.Reader, yaml.scanner.Scanner, yaml.parser.Parser):
    def __init__(self, text: str) -> None:
        yaml.reader.Reader.__init__(self, text)
        yaml.scanner.Scanner.__init__(self)
        yaml.parser.Parser.__init__(self)
        _Composer.__init__(self)
        _Constructor.__init__(self)
        _Resolver.__init__(self)


def _yaml_documents(text: str) -> list[Any]:
    try:
        return list(_read(_loader(text)))
    except yaml.MarkedYAMLError as error:
        mark, why = error.problem_mark or error.context_mark, error.problem or error.context
        # libyaml names the line after the last one where something is missing at the end.
        line = min(mark.line, text.rstrip().count("\n")) + 1 if mark else 0
        raise TextError(str(why) if isinstance(error, _Refused) else f"not YAML: {why}", line) from error
    except yaml.YAMLError as error:
        raise TextError(f"not YAML: {str(error).splitlines()[0]}") from error
    except (RecursionError, ValueError, OverflowError) as error:
        raise TextError(f"not YAML: {error}") from error


def _read(loader: Any) -> Iterator[Any]:
    try:
        while loader.check_data():
            yield loader.get_data()
    finally:
        loader.dispose()
