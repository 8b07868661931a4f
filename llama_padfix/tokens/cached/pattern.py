"""What a pre-tokenizer's pattern joins: which atoms of it may match two neighboring characters in one match.

The pattern is read as a position automaton (Glushkov's): each character class or literal is an atom, and `follow` says
which atom may match the next character. Counts are read as "any number", so that more is joined than really is. What
is not understood is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field


class UnreadPatternError(Exception):
    """The pattern holds something that is not understood here."""


@dataclass
class Automaton:
    """The atoms of a pattern, by number."""

    atoms: list[str] = field(default_factory=list)
    """Each a pattern that matches one character."""
    follow: set[tuple[int, int]] = field(default_factory=set)
    """Two atoms that may match neighboring characters in one match."""
    alone: set[int] = field(default_factory=set)
    """Atoms whose one character is a whole match."""
    last: frozenset[int] = frozenset()
    """Atoms that may match the last character of a match."""
    looked: list[tuple[int, frozenset[int]]] = field(default_factory=list)
    """Atoms behind which the pattern looks ahead, each with the atoms whose characters do not count there."""


@dataclass(frozen=True)
class _Part:
    """A part of a pattern: whether it matches nothing, the atoms it may begin and end with."""

    empty: bool = True
    first: frozenset[int] = frozenset()
    last: frozenset[int] = frozenset()


_ATOM = re.compile(
    r"\[\^?(?:\\.|[^\[\]\\])+\]"  # a class without another class in it
    r"|\\[pP]\{\^?\w+\}|\\[sSdDwW]|\\[rntvf]|\\[^\w\s]"
    r"|[^\\()\[\]{}|?*+.^$]",
    re.DOTALL,
)
_FOLDED = {"ss", "ff", "fi", "fl", "st"}  # one character may stand for two of these where case does not matter
_COUNT = re.compile(r"(?:([?*+])|\{(\d+)(?:,(\d*))?\})(\+|\?)?")
_NOT_AHEAD = re.compile(r"\(\?!(\\[sSdDwW]|\\[pP]\{\w+\})\)")


def read_pattern(source: str) -> Automaton:
    """Return the automaton of a pattern.

    Raises:
        UnreadPatternError: The pattern is not understood, or may match nothing at all.
    """
    return _Reader(source).read()


class _Reader:
    def __init__(self, source: str) -> None:
        self.source = source
        self.place = 0
        self.found = Automaton()
        self.not_alone: set[int] = set()
        self.fold = self.greedy = False
        self.runs: list[tuple[str, frozenset[int]]] = []  # alternatives `a*b+` so far: the atom a, and those of b

    def read(self) -> Automaton:
        whole = self._read_alternatives(top=True)
        if self.place < len(self.source) or whole.empty:
            raise UnreadPatternError(self.source[self.place :] or "it may match nothing")
        atoms = [atom.removeprefix("(?i:") for atom in self.found.atoms]
        if any(
            (atoms[one][0] + atoms[two][0]).lower() in _FOLDED for one, two in self.found.follow if self._folds(one)
        ):
            raise UnreadPatternError("letters of any case that one character may stand for")
        self.found.last = whole.last
        self.found.alone = set((whole.first & whole.last) - self.not_alone)
        return self.found

    def _read_alternatives(self, top: bool = False) -> _Part:
        empty, first, last = False, frozenset[int](), frozenset[int]()
        while True:
            part = self._read_sequence(top)
            empty, first, last = empty or part.empty, first | part.first, last | part.last
            if not self._take("|"):
                return _Part(empty, first, last)

    def _read_sequence(self, top: bool) -> _Part:
        start, whole = len(self.found.atoms), _Part()
        self.greedy = self.greedy and not top
        counts: list[tuple[str, _Part]] = []
        while self.place < len(self.source) and self.source[self.place] not in "|)":
            ahead = _NOT_AHEAD.match(self.source, self.place)
            if ahead:
                self.place = ahead.end()
                self._look_ahead(top, whole, counts, range(start, len(self.found.atoms)))
                break
            before = len(self.found.atoms)
            part = self._read_item()
            count, fewest, possessive = self._read_count()
            if count not in ("", "?"):
                self._join(part.last, part.first)
            if fewest == 0:
                part = _Part(True, part.first, part.last)
            if fewest > 1 or self.greedy:  # one character may be too few, or be taken by what stands in front
                self.not_alone |= set(range(before, len(self.found.atoms)))
            self.greedy = self.greedy or (possessive and part.empty)
            counts.append((count, part))
            self._join(whole.last, part.first)
            whole = _Part(
                whole.empty and part.empty,
                whole.first | part.first if whole.empty else whole.first,
                whole.last | part.last if part.empty else part.last,
            )
        if top and not self.greedy and [count for count, _ in counts] in (["*", "+"], ["*", ""]):
            run = self._name_atom(counts[0][1])
            if run and self._name_atom(counts[1][1]):
                self.runs.append((run, counts[1][1].last))
        return whole

    def _name_atom(self, part: _Part) -> str:
        """Return the only atom of a part, "" where there are several."""
        return self.found.atoms[min(part.first)] if part.first == part.last and len(part.first) == 1 else ""

    def _folds(self, atom: int) -> bool:
        return self.found.atoms[atom].startswith("(?i:")

    def _look_ahead(self, top: bool, whole: _Part, counts: list[tuple[str, _Part]], atoms: range) -> None:
        """Note a look ahead at the end of an alternative.

        Behind `a+` it does not matter for a character of b where an alternative `a*b+` stands in front: that one
        matches first, at each place from which this one could reach the character.
        """
        closed = self.place == len(self.source) or self.source[self.place] == "|"
        if not top or not closed or whole.empty:
            raise UnreadPatternError("a look ahead within an alternative")
        self.not_alone |= set(atoms)
        for atom in whole.last:
            beaten = frozenset[int]()
            if [count for count, _ in counts] == ["+"] and self._name_atom(whole):
                beaten = beaten.union(*(ends for name, ends in self.runs if name == self.found.atoms[atom]))
            self.found.looked.append((atom, beaten))

    def _read_item(self) -> _Part:
        for opening, fold in (("(?i:", True), ("(?:", self.fold)):
            if self._take(opening):
                before, self.fold = self.fold, fold
                part = self._read_alternatives()
                self.fold = before
                if not self._take(")"):
                    break
                return part
        found = _ATOM.match(self.source, self.place)
        if not found or "&&" in found.group():
            raise UnreadPatternError(self.source[self.place :][:20])
        self.place = found.end()
        self.found.atoms.append(f"(?i:{found.group()})" if self.fold else found.group())
        here = frozenset([len(self.found.atoms) - 1])
        return _Part(False, here, here)

    def _read_count(self) -> tuple[str, int, bool]:
        """Return the sign ("" for none, "{" for numbers), the fewest, and True if it is possessive."""
        found = _COUNT.match(self.source, self.place)
        if not found:
            return "", 1, False
        self.place = found.end()
        sign, low, _, mode = found.groups()
        if sign:
            return sign, int(sign == "+"), mode == "+"
        if mode:  # `{1,3}+` is read in several ways
            raise UnreadPatternError(found.group())
        return "{", int(low), False

    def _take(self, text: str) -> bool:
        if not self.source.startswith(text, self.place):
            return False
        self.place += len(text)
        return True

    def _join(self, left: frozenset[int], right: frozenset[int]) -> None:
        self.found.follow |= {(one, two) for one in left for two in right}
