"""A command line that is being typed -> what its last word may become, by the typer app: no second list of flags."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from kubectl_netpol.completion.protocol import Candidate


@dataclass(frozen=True)
class Line:
    """What is asked for: ``candidates`` are known already, or values of ``parameter`` are to be found.

    ``word``: what there is of it; what does not begin so is no candidate. ``given``: the values of the parameters that
    stand on the line, by name.
    """

    word: str
    candidates: tuple[Candidate, ...] = ()
    parameter: str = ""
    given: Mapping[str, Any] = field(default_factory=dict)


def understand(root: Any, words: Sequence[str]) -> Line:
    """``root``: the command of the app; ``words``: those behind `kubectl netpol-ebpf`, the last one unfinished."""
    *before, word = words or ("",)
    if not before:
        return Line(word, tuple(_flags(root, root, frozenset(), word) if word.startswith("-") else _verbs(root)))
    verb, *rest = before
    command = root.commands.get(verb)
    if command is None or command.hidden:
        return Line(word)
    only_arguments = "--" in rest
    flag, equals, value = word.partition("=")
    if only_arguments or not equals or not flag.startswith("--"):
        flag, value = rest[-1] if rest and not only_arguments else "", word
        equals = ""
    option = _with_value(command, flag)
    if option is not None:
        return _value_of(option, value, _given(root, command, rest if equals else rest[:-1]))
    if equals:
        return Line(word)
    given = _given(root, command, rest)
    if word.startswith("-") and not only_arguments:
        return Line(word, tuple(_flags(root, command, frozenset(given), word)))
    argument = next((p for p in command.params if _is_open(p, given)), None)
    return Line(word) if argument is None else _value_of(argument, word, given)


def _value_of(parameter: Any, word: str, given: Mapping[str, Any]) -> Line:
    choices = tuple(str(getattr(one, "value", one)) for one in getattr(parameter.type, "choices", ()))
    return Line(word, tuple(map(Candidate, choices)), "" if choices else str(parameter.name), given)


def _given(root: Any, command: Any, words: Sequence[str]) -> dict[str, Any]:
    """What the parser makes of the words, by parameter; less what is wrong or missing, which is no error yet."""
    with _context(root, command, words) as context:
        return {name: value for name, value in context.params.items() if _is_there(context, name)}


@contextmanager
def _context(root: Any, command: Any, words: Sequence[str]) -> Iterator[Any]:
    """Of a verb within the app, whose settings say what --help is called; the parser remembers that for good."""
    with root.make_context(root.name, [], resilient_parsing=True) as above:
        if command is root:
            yield above
            return
        with command.make_context(command.name, list(words), parent=above, resilient_parsing=True) as context:
            yield context


def _is_there(context: Any, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _with_value(command: Any, flag: str) -> Any:
    """The option of that name, if it takes a value."""
    options = (p for p in command.params if p.param_type_name == "option")
    return next((p for p in options if flag in p.opts and not p.is_flag and not p.count), None)


def _verbs(root: Any) -> Iterator[Candidate]:
    for name, command in root.commands.items():
        if not command.hidden:
            yield Candidate(name, _first_sentence(command.help))


def _flags(root: Any, command: Any, given: Set[str], word: str) -> Iterator[Candidate]:
    """Those that may still be given; hidden ones for who has begun to type one, short ones for who typed one dash."""
    with _context(root, command, ()) as context:
        parameters = command.get_params(context)
    for parameter in parameters:
        if parameter.param_type_name != "option" or (parameter.name in given and not parameter.multiple):
            continue
        if parameter.hidden and len(word) < len("--x"):
            continue
        for name in (*parameter.opts, *parameter.secondary_opts):
            if name.startswith("--") or word == "-":
                yield Candidate(name, _first_sentence(parameter.help))


def _first_sentence(help_text: str | None) -> str:
    paragraph = " ".join((help_text or "").split("\n\n")[0].split())
    return paragraph.split(". ")[0].removesuffix(".")


def _is_open(parameter: Any, given: Mapping[str, Any]) -> bool:
    """Whether an argument is still to come."""
    return parameter.param_type_name == "argument" and (parameter.nargs == -1 or parameter.name not in given)
