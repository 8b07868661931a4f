"""Texts that stand for any text, in a template that runs once for all of them; see `symbolic`."""

# ruff: noqa: D102 - the methods are those of str
from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import SupportsIndex

from llama_padfix.chat.symbolic_slots import (
    CLOSE,
    OPEN,
    Hole,
    JsonForm,
    Slot,
    SymbolicMapping,
    TemplateBranched,
    Unknown,
    write_json,
)
from llama_padfix.chat.symbolic_value import SymbolicValue

# White space at both ends, letters of both cases and what HTML and JSON escape: a rewriting shows.
_MARK = f"\n {OPEN}aZ<&>'\"\\%d{CLOSE} \n"
PATTERN = re.compile(re.escape(_MARK).replace("%d", r"(\d+)"))


@dataclass
class Run:
    """What is learned while a template runs: the slots by number, and the substrings that the texts must lack."""

    slots: list[Slot] = field(default_factory=list)
    lacks: set[str] = field(default_factory=set)

    def make(self, slot: Slot, filled: bool) -> SymbolicStr:
        made = SymbolicStr(_MARK % len(self.slots))
        made._run, made._slot, made._filled = self, slot, filled
        self.slots.append(slot)
        return made

    def fill(self, hole: Hole) -> object:
        slot = Slot(hole.place)
        if hole.kind is dict:
            return SymbolicMapping(self, slot)
        text = self.make(slot, filled=True)
        return text if hole.kind is str else SymbolicValue(hole.kind, text)


class SymbolicStr(Unknown, str):
    """A text whose characters are unknown; without a slot, one that was joined from such and others."""

    __slots__ = ("_filled", "_run", "_slot")
    _run: Run
    _slot: Slot | None
    _filled: bool

    def __str__(self) -> str:
        return self

    def __repr__(self) -> str:
        raise TemplateBranched("repr")

    def __bool__(self) -> bool:
        if self._filled:  # what is learned here is used for texts that are not blank
            return True
        raise TemplateBranched("truth")

    def __add__(self, other: object) -> str:
        if not isinstance(other, str):
            return NotImplemented
        return _wrap(self._run, str.__add__(self, other), self._filled or _is_filled(other))

    def __radd__(self, other: object) -> str:
        if not isinstance(other, str):
            return NotImplemented
        return _wrap(self._run, str.__add__(other, self), self._filled or _is_filled(other))

    def __contains__(self, words: object) -> bool:
        return self._lacks(words)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, str):
            return False
        return self._lacks(other) if isinstance(other, SymbolicStr) or other else not self

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        raise TemplateBranched("hash")

    def strip(self, chars: str | None = None) -> str:
        return self._trim("strip", chars)

    def lstrip(self, chars: str | None = None) -> str:
        return self._trim("lstrip", chars)

    def rstrip(self, chars: str | None = None) -> str:
        return self._trim("rstrip", chars)

    def startswith(self, words: object, *place: object) -> bool:
        return self._lacks(words, *place)

    def endswith(self, words: object, *place: object) -> bool:
        return self._lacks(words, *place)

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        self._lacks(sep, *_but_numbers(maxsplit))
        return [self]

    rsplit = split

    def replace(self, old: str, new: str, count: SupportsIndex = -1) -> str:
        self._lacks(old, *_but_numbers(count))
        return self

    def _trim(self, method: str, chars: str | None) -> str:
        if self._slot is None or (chars is not None and type(chars) is not str):
            raise TemplateBranched(method)
        slot = Slot(self._slot.place, (*self._slot.operations, (method, chars)))
        # A text that is not blank stays so when white space is trimmed; it may consist of other characters.
        return self._run.make(slot, self._filled and (chars is None or not chars.strip()))

    def _lacks(self, words: object, *place: object) -> bool:
        """Return False: the text holds no such substring, which becomes a condition."""
        if self._slot is None or self._slot.is_json or type(words) is not str or not words or place:
            raise TemplateBranched("a search")
        self._run.lacks.add(words)
        return False


def _but_numbers(*values: object) -> list[object]:
    return [value for value in values if type(value) is not int]


def _forbid(name: str) -> Callable[..., object]:
    def method(self: SymbolicStr, *args: object, **kwargs: object) -> object:
        raise TemplateBranched(name)

    return method


_KEPT = {"__new__", "__init__", "__class__", "__getattribute__", "__setattr__", "__delattr__", "__dir__", "__doc__"}
_KEPT |= {"__init_subclass__", "__subclasshook__", "__sizeof__", *vars(SymbolicStr)}
# Every other method of str, one that a later Python brings included. Python and markupsafe look up the last three.
for _name in {*dir(str), "__iter__", "__rmod__", "__html__"} - _KEPT:
    setattr(SymbolicStr, _name, _forbid(_name))


def join(run: Run, pieces: Sequence[str]) -> SymbolicStr:
    """Return a text that is joined of others, of which one is unknown."""
    return _wrap(run, "".join(pieces), any(map(_is_filled, pieces)))


def _wrap(run: Run, text: str, filled: bool) -> SymbolicStr:
    made = SymbolicStr(text)
    made._run, made._slot, made._filled = run, None, filled
    return made


def _is_filled(piece: str) -> bool:
    return piece._filled if isinstance(piece, SymbolicStr) else str.__len__(piece) > 0


def write_unknown_json(
    value: object,
    ensure_ascii: bool = False,
    indent: object = None,
    separators: object = None,
    sort_keys: bool = False,
) -> str:
    """Return what the filter `tojson` makes of a value that holds unknown ones."""
    if ensure_ascii or sort_keys:
        raise TemplateBranched("the filter tojson")
    pieces = write_json(value, _write_unknown, indent, separators)
    run = next(piece._run for piece in pieces if isinstance(piece, SymbolicStr))
    return pieces[0] if len(pieces) == 1 else join(run, pieces)


def _write_unknown(value: Unknown, form: JsonForm) -> str:
    if isinstance(value, SymbolicValue) and value.kind is not str:
        return value.text
    if not isinstance(value, (SymbolicStr, SymbolicMapping)) or value._slot is None:
        raise TemplateBranched("the filter tojson")
    run: Run = value._run
    return run.make(Slot(value._slot.place, (*value._slot.operations, ("tojson", form))), filled=True)
