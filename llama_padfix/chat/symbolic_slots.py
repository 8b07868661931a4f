"""Where the values of a row stand in what a template writes, and what the template does to each of them.

A template that writes an object as JSON (the arguments of a call, the schema of a tool) writes it so whatever it
holds. A `SymbolicMapping` stands for any such object: it can be written and tested for its type, and nothing else.
"""

from __future__ import annotations

import functools
import json
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from llama_padfix.chat.jinja_environment import to_json

OPEN, CLOSE = "\ue000", "\ue001"
_WRITTEN = re.compile(f'"{OPEN}(\\d+){CLOSE}"')


class TemplateBranched(BaseException):
    """What a template writes depends on more of a text; no `Exception`, so that nothing in jinja2 catches it."""


class ObjectOpened(TemplateBranched):
    """A template looks into the object at `place` of a row."""

    def __init__(self, place: int) -> None:
        super().__init__("the inside of an object")
        self.place = place


@dataclass(frozen=True)
class Hole:
    """Stands in messages and tools for a value of a row."""

    place: int
    """The place among the values of the row."""
    kind: type = str
    """`str` for a text that is not empty, `dict` for an object that is not empty, `int` or `float` for a number."""


@dataclass(frozen=True)
class Joined:
    """Stands in messages for a text of literals and texts of a row."""

    pieces: tuple[str | Hole, ...]


class JsonForm(NamedTuple):
    """How the filter `tojson` writes a value."""

    indent: int | str | None
    separators: tuple[str, str] | None
    is_object: bool


Operations = tuple[tuple[str, "str | JsonForm | None"], ...]
"""What is done to a text, in order: a trimming method with its argument, or `tojson` with its form."""


class Slot(NamedTuple):
    """Where a value stands: its place among those of the row, and what is done to it, in order.

    An object is given as compact JSON text.
    """

    place: int
    operations: Operations = ()

    @property
    def is_json(self) -> bool:
        """Whether the text was written as JSON."""
        return any(isinstance(argument, JsonForm) for _, argument in self.operations)


def trim(text: str, operations: Operations) -> str:
    """Return a text as the operations of its slot leave it."""
    for method, argument in operations:
        if not isinstance(argument, JsonForm):
            text = getattr(text, method)(argument)
        elif not argument.is_object:
            text = to_json(text, indent=argument.indent, separators=argument.separators)
        elif argument.indent is not None or argument.separators is not None:
            text = _rewrite(text, argument)
    return text


@functools.lru_cache(maxsize=1024)  # tools are the same in many rows
def _rewrite(text: str, form: JsonForm) -> str:
    return to_json(json.loads(text), indent=form.indent, separators=form.separators)


class Unknown:
    """A value that stands for any other."""

    __slots__ = ()


class SymbolicMapping(Unknown, Mapping[str, object]):
    """An object that is not empty, and of which nothing else is known."""

    __slots__ = ("_run", "_slot")

    def __init__(self, run: Any, slot: Slot) -> None:  # Any: what makes the texts that stand for it
        self._run, self._slot = run, slot

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, key: object) -> object:
        raise ObjectOpened(self._slot.place)

    def __iter__(self) -> Iterator[str]:
        raise ObjectOpened(self._slot.place)

    def __len__(self) -> int:
        raise ObjectOpened(self._slot.place)

    def __repr__(self) -> str:
        raise TemplateBranched("repr")

    __str__ = __repr__


def fill_holes(value: Any, fill: Callable[[Hole], object]) -> Any:  # of messages and tools
    """Return a value with something in place of each hole."""
    if isinstance(value, Hole):
        return fill(value)
    if isinstance(value, Joined):
        pieces = [fill_holes(piece, fill) for piece in value.pieces]
        is_filled = all(isinstance(piece, str) for piece in pieces)
        return functools.reduce(operator.add, pieces) if is_filled else Joined(tuple(pieces))
    if isinstance(value, dict):
        return {key: fill_holes(item, fill) for key, item in value.items()}
    return [fill_holes(item, fill) for item in value] if isinstance(value, list) else value


def find_holes(value: object) -> Iterator[Hole]:
    """Yield the holes in a value."""
    if isinstance(value, Hole):
        yield value
    elif isinstance(value, (dict, list, Joined)):
        inner = value.pieces if isinstance(value, Joined) else value.values() if isinstance(value, dict) else value
        for item in inner:
            yield from find_holes(item)


def write_json(
    value: object, write: Callable[[Unknown, JsonForm], str], indent: object, separators: object
) -> list[str]:
    """Return the pieces of what `tojson` makes of a value, of which `write` writes the unknown values inside.

    Raises:
        TemplateBranched: What is written depends on more than the types of unknown values.
    """
    if not (indent is None or type(indent) in (int, str)) or not (separators is None or _are_texts(separators)):
        raise TemplateBranched("the filter tojson")
    form = JsonForm(indent, tuple(separators) if separators is not None else None, False)  # type: ignore[arg-type]  # two, or its caller refuses
    found: list[Unknown] = []
    text = to_json(_lift(value, found), indent=form.indent, separators=form.separators)
    if (
        form.indent is not None
        and not isinstance(value, Unknown)
        and any(isinstance(one, SymbolicMapping) for one in found)
    ):
        raise TemplateBranched("an object in an indented one")
    pieces = []
    for place, part in enumerate(_WRITTEN.split(text)):
        if place % 2:
            one = found[int(part)]
            pieces.append(write(one, form._replace(is_object=isinstance(one, SymbolicMapping))))
        elif part:
            pieces.append(part)
    return pieces


def _are_texts(value: object) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2 and all(type(one) is str for one in value)


def _lift(value: object, found: list[Unknown]) -> object:
    """Return a value with the number of each symbolic one in its place."""
    if isinstance(value, Unknown):
        found.append(value)
        return f"{OPEN}{len(found) - 1}{CLOSE}"
    if isinstance(value, str):
        if OPEN in value:
            raise TemplateBranched("the filter tojson")
    elif isinstance(value, dict):
        if any(type(key) is not str or OPEN in key for key in value):
            raise TemplateBranched("the filter tojson")
        return {key: _lift(item, found) for key, item in value.items()}
    elif isinstance(value, (list, tuple)):
        return [_lift(item, found) for item in value]
    return value
