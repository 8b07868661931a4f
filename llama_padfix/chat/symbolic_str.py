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

# Each slot is one character of a private plane while a text is searched, split or trimmed.
_FIRST = 0xF0000
_PRIVATE = re.compile("[\U000f0000-\U0010ffff]")

# White space at both ends, letters of both cases and what HTML and JSON escape: a rewriting shows.
_MARK = f"\n {OPEN}aZ<&>'\"\\%d{CLOSE} \n"
PATTERN = re.compile(re.escape(_MARK).replace("%d", r"(\d+)"))


@dataclass
class Run:
    """What is learned while a template runs: the slots by number, and the substrings that the texts must lack.

    `filled` says of each slot whether its text cannot be blank.
    """

    slots: list[Slot] = field(default_factory=list)
    filled: list[bool] = field(default_factory=list)
    lacks: set[str] = field(default_factory=set)

    def make(self, slot: Slot, filled: bool) -> SymbolicStr:
        self.slots.append(slot)
        self.filled.append(filled)
        return self.get(len(self.slots) - 1)

    def get(self, number: int) -> SymbolicStr:
        made = SymbolicStr(_MARK % number)
        made._run, made._slot, made._filled = self, self.slots[number], self.filled[number]
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
        return self._pack(words).find(str(words)) >= 0 or self._prove(words)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, str):
            return False
        if not isinstance(other, SymbolicStr) and not other:
            return not self
        if self._slot is None:
            raise TemplateBranched("a comparison")
        return self._prove(other)

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
        literal = _PRIVATE.split(self._pack(words, *place), 1)[0]
        if literal and not str(words).startswith(literal):  # the literal alone decides
            return literal.startswith(str(words))
        return literal == words or self._prove(words)

    def endswith(self, words: object, *place: object) -> bool:
        literal = _PRIVATE.split(self._pack(words, *place))[-1]
        if literal and not str(words).endswith(literal):
            return literal.endswith(str(words))
        return literal == words or self._prove(words)

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._divide(str.split, sep, maxsplit)

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._divide(str.rsplit, sep, maxsplit)

    def _divide(self, divide: Callable[..., list[str]], sep: object, maxsplit: SupportsIndex) -> list[str]:
        packed = self._pack(sep, *_but_numbers(maxsplit))
        self._prove(sep)
        return [self._unpack(part) for part in divide(packed, sep, maxsplit)]

    def replace(self, old: str, new: str, count: SupportsIndex = -1) -> str:
        packed = self._pack(old, *_but_numbers(count))
        self._prove(old)
        if old not in packed:
            return self
        if type(new) is not str or OPEN in new or _PRIVATE.search(new):
            raise TemplateBranched("a replacement")
        return self._unpack(packed.replace(old, new, count))

    def _trim(self, method: str, chars: str | None) -> str:
        if chars is not None and (type(chars) is not str or _PRIVATE.search(chars)):
            raise TemplateBranched(method)
        # A text that is not blank stays so when white space is trimmed; it may consist of other characters.
        keeps = chars is None or not chars.strip()
        if self._slot is not None:
            trimmed = Slot(self._slot.place, (*self._slot.operations, (method, chars)))
            return self._run.make(trimmed, self._filled and keeps)
        left = getattr(self._pack(), method)(chars)
        ends = {"lstrip": [0], "rstrip": [-1]}.get(method, [0, -1])[: len(left)]
        for end in ends:
            if not _PRIVATE.match(left[end]):
                continue
            number = ord(left[end]) - _FIRST
            slot, is_filled = self._run.slots[number], self._run.filled[number]
            if len(left) > 1 and not (keeps and is_filled):
                raise TemplateBranched(method)
            trimming = method if len(left) == 1 else "rstrip" if end else "lstrip"
            self._run.make(Slot(slot.place, (*slot.operations, (trimming, chars))), is_filled and keeps)
            packed = chr(_FIRST + len(self._run.slots) - 1)
            left = left[:end] + packed if end else packed + left[1:]
        return self._unpack(left)

    def _pack(self, words: object = "?", *place: object) -> str:
        """Return the text with one character for each slot, in which some words may be searched."""
        parts = PATTERN.split(str.__str__(self))
        is_searched = type(words) is str and words and not place
        if not is_searched or re.search(f"{OPEN}|{_PRIVATE.pattern}", "".join((str(words), *parts[::2]))):
            raise TemplateBranched("a search")
        return "".join([chr(_FIRST + int(part)) if place % 2 else part for place, part in enumerate(parts)])

    def _unpack(self, packed: str) -> str:
        numbers = [ord(char) - _FIRST for char in _PRIVATE.findall(packed)]
        if not numbers:
            return packed
        if len(packed) == 1:
            return self._run.get(numbers[0])
        text = _PRIVATE.sub(lambda match: _MARK % (ord(match[0]) - _FIRST), packed)
        filled = len(packed) > len(numbers) or any(self._run.filled[number] for number in numbers)
        return _wrap(self._run, text, filled)

    def _prove(self, words: object) -> bool:
        """Return False: words stand in literals alone, where no slot's text holds them, which becomes a condition."""
        packed = self._pack(words)
        literals, found = _PRIVATE.split(packed), str(words)
        slots = [self._run.slots[ord(char) - _FIRST] for char in _PRIVATE.findall(packed)]
        if any(slot.is_json for slot in slots):
            raise TemplateBranched("a search")
        beginnings = tuple(found[:cut] for cut in range(1, len(found)))
        rests = tuple(found[cut:] for cut in range(1, len(found)))
        is_shared = any(one.endswith(beginnings) for one in literals[:-1]) or any(
            one.startswith(rests) for one in literals[1:]
        )
        if is_shared or (rests and any(one in found[1:-1] for one in literals[1:-1])):
            raise TemplateBranched("a search")  # a text could hold a part of them, and its neighbor the rest
        self._run.lacks.add(found)
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
