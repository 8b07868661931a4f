"""Where a text can be cut so that the ids of the parts are the ids of the whole: proven from the pre-tokenizer."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llama_padfix.tokens.cached.indents import find_longest_indent
from llama_padfix.tokens.cached.pattern import Automaton, UnreadPatternError, read_pattern
from llama_padfix.tokens.cached.vocabulary import find_cuts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import tokenizers

    from llama_padfix.core.types import BoolArray, ByteArray, IntArray, LongArray

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # ByteLevel's own pattern
_CHARACTERS = 0x10000  # characters above are of class 0, at which no text is cut
CLASSES = 16
_SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}


CUT = 1
"""The text can be cut here."""
RUN, LINE_RUN = 2, 4
"""A run of white space without line breaks begins behind; behind a line break."""
WORD, STOP = 8, 16
"""Such a run ends before another character; before a line break or an unknown character."""


@dataclass(frozen=True)
class Boundaries:
    """Where a text can be cut, by the classes of the characters before and behind."""

    classes: ByteArray
    """The class of each character up to U+FFFF; those above are of class 0."""
    cuts: ByteArray
    """For each two classes, as `16 * before + behind`, the sum of what holds between: `CUT` and, if runs of white
    space are cut, the others. A run that begins at a place where the text can be cut, or behind a line break, and ends
    before a `WORD`, can be cut there and before its last character."""
    holds_tokens: bool = False
    """No cut is within an added token, so that none is searched."""
    longest_indent: int = 1
    """Up to so many spaces, but not one alone, can be cut from what is behind them; see `find_longest_indent`."""


def read_stages(backend: tokenizers.Tokenizer) -> list[str]:
    """Return the patterns that part a text one after another, each into its matches and what stands between.

    Raises:
        UnreadPatternError: The pre-tokenizer does something else.
    """
    pre_tokenizer = backend.pre_tokenizer
    parts = [json.loads(pre_tokenizer.__getstate__())] if pre_tokenizer is not None else []
    if parts and parts[0]["type"] == "Sequence":
        parts = parts[0]["pretokenizers"]
    stages = [_read_stage(part, last=place == len(parts) - 1) for place, part in enumerate(parts)]
    found = [stage for stage in stages if stage]
    if not found:
        raise UnreadPatternError("no pattern parts the text")
    removing = any(part["type"] == "Split" and part["behavior"] == "Removed" for part in parts)
    if removing and len(found) > 1:
        raise UnreadPatternError("text is removed between two patterns")
    return found


# A part of the JSON of a pre-tokenizer, which has many forms.
def _read_stage(part: Mapping[str, object], last: bool) -> str:
    """Return the pattern of one part, "" for one that only writes bytes as characters."""
    kind, pattern = part["type"], part.get("pattern")
    if kind == "ByteLevel" and last and not part["add_prefix_space"]:
        return _GPT2 if part.get("use_regex", True) else ""
    kept = (part.get("behavior"), part.get("invert")) in (("Isolated", False), ("Removed", True))
    if kind == "Split" and kept and isinstance(pattern, dict) and isinstance(pattern.get("Regex"), str):
        return str(pattern["Regex"])
    raise UnreadPatternError(f"a pre-tokenizer of type {kind}")


def is_composing(backend: tokenizers.Tokenizer) -> bool:
    """Return True if the normalizer is NFC, which changes no text that is composed; False if it works by character.

    Raises:
        UnreadPatternError: It is another one.
    """
    parts = _read_normalizers(backend)
    if parts == [_SPACES]:
        return False
    if any(part["type"] != "NFC" for part in parts):
        raise UnreadPatternError(f"a normalizer of type {parts[0]['type']}")
    return bool(parts)


# The JSON of normalizers, which have many forms.
def _read_normalizers(backend: tokenizers.Tokenizer) -> list[Mapping[str, object]]:
    parts = [json.loads(backend.normalizer.__getstate__())] if backend.normalizer is not None else []
    return list(parts[0]["normalizers"]) if parts and parts[0]["type"] == "Sequence" else parts


def is_cut_by_vocabulary(backend: tokenizers.Tokenizer) -> bool:
    """Return True if the normalizer writes spaces as U+2581, so that no pattern, but the vocabulary, parts a text."""
    return _read_normalizers(backend) == [_SPACES]


def find_boundaries(backend: tokenizers.Tokenizer, merges: str = "") -> Boundaries:
    """Return where the texts of a backend can be cut.

    Args:
        backend: It makes the ids.
        merges: Its first merges, as `cut_merges` returns them, where they are read already.

    Raises:
        UnreadPatternError: The pre-tokenizer is not understood.
    """
    import numpy as np

    if is_cut_by_vocabulary(backend):
        cut, kinds, parts_indents = find_cuts(backend)
        found = _merge_classes(cut, np.zeros((2, len(cut)), bool), kinds)
        longest = find_longest_indent(merges) if parts_indents else 1
        return replace(found, holds_tokens=True, longest_indent=longest)
    return _find_in_patterns(backend)


def _find_in_patterns(backend: tokenizers.Tokenizer) -> Boundaries:
    """Return where the texts of a backend can be cut that first parts them by patterns.

    Between two characters that no match can hold side by side, all matches end. They are the same in each half if the
    second character begins a match, so that nothing joins it with unmatched text in front, and if no look ahead
    happens behind the first one. Where several patterns follow one another, the first two must hold for each.

    Raises:
        UnreadPatternError: The pre-tokenizer is not understood.
    """
    import numpy as np

    automata = [read_pattern(stage) for stage in read_stages(backend)]
    atoms = sorted({atom for automaton in automata for atom in automaton.atoms})
    held = _find_held(atoms)
    if len(atoms) > 62:
        raise UnreadPatternError(f"{len(atoms)} classes of characters")
    signatures = sum(row.astype(np.int64) << number for number, row in enumerate(held))
    kinds, of_character = np.unique(signatures, return_inverse=True)
    by_class = (kinds[:, None] >> np.arange(len(atoms)) & 1).astype(bool)
    numbers = {atom: number for number, atom in enumerate(atoms)}
    uncrossed = np.ones((len(by_class),) * 2, bool)
    parted = np.zeros_like(uncrossed)
    for automaton in automata:
        crossed, begins = _join_classes(automaton, by_class[:, [numbers[atom] for atom in automaton.atoms]])
        uncrossed &= ~crossed
        parted |= begins[None, :]
    runs = _find_runs(backend, by_class, numbers)
    return _merge_classes(uncrossed & parted, runs, of_character.reshape(-1))


_TAIL = re.compile(r"\|\\s\*(\[(?:\\r\\n|\r\n)\])\+?\|\\s\+\(\?!\\S\)\|\\s\+$")


def _find_runs(backend: tokenizers.Tokenizer, by_class: BoolArray, numbers: Mapping[str, int]) -> BoolArray:
    r"""Return which classes are white space and no line break, and which are line breaks; none if runs are not cut.

    A pattern that ends with `|\s*[\r\n]+|\s+(?!\S)|\s+` cuts a run of white space behind its last line break, where
    the first of these stops, and then before its last character, where the second one stops. What stands in front in
    the pattern must neither end with white space nor match two of it, or some behind a line break.
    """
    import numpy as np

    stages = read_stages(backend)
    tail = _TAIL.search(stages[0])
    none = np.zeros((2, len(by_class)), bool)
    if tail is None or len(stages) > 1:
        return none
    head = read_pattern(stages[0][: tail.start()])
    line = by_class[:, numbers[tail.group(1)]]
    space = by_class[:, numbers["\\s"]] & ~line
    held = by_class[:, [numbers[atom] for atom in head.atoms]]
    crossed, _ = _join_classes(head, held)
    if head.looked or crossed[space | line][:, space].any() or held[space][:, sorted(head.last)].any():
        return none
    return np.stack([space, line])


_ITEM = re.compile(r"\\p\{\w+\}|\\[srn]")
_ITEMS = re.compile(rf"(\[\^?)((?:{_ITEM.pattern})+)\]")
_LINE_BREAKS = {r"\r": 0x0D, r"\n": 0x0A}


def _find_held(atoms: Sequence[str]) -> BoolArray:
    """Return for each atom which characters up to U+FFFF it matches, by the pattern engine of `tokenizers` itself.

    Sets of classes are joined, or taken from all characters, of what the engine finds for their items.
    """
    import numpy as np

    points = np.delete(np.arange(_CHARACTERS, dtype="<u4"), np.s_[0xD800:0xE000])
    characters = points.tobytes().decode("utf-32-le")
    held = np.zeros((len(atoms), _CHARACTERS), bool)
    literals = [atom for atom in atoms if len(atom.removeprefix("(?i:").removesuffix(")")) == 1]
    few = points[_match("|".join(literals), characters)] if literals else points[:0]  # one call for many
    some = "".join(map(chr, few))
    known: dict[str, BoolArray] = {}

    def find(atom: str) -> BoolArray:
        if atom not in known:
            items = _ITEMS.fullmatch(atom)
            if items is not None:
                joined = np.any([find(item) for item in _ITEM.findall(items.group(2))], axis=0)
                known[atom] = ~joined if items.group(1) == "[^" else joined
            elif atom in _LINE_BREAKS:
                known[atom] = np.arange(len(characters)) == _LINE_BREAKS[atom]
            else:
                known[atom] = ~find(r"\s") if atom == r"\S" else _match(atom, characters)
        return known[atom]

    for row, atom in zip(held, atoms, strict=True):
        if atom in literals:
            row[few] = _match(atom, some)
        else:
            row[points] = find(atom)
    return held


def _match(atom: str, characters: str) -> BoolArray:
    """Return which characters an atom matches: those that are gone where it is replaced by nothing.

    A pre-tokenizer shows it too, and takes three times as long for the pieces.
    """
    import numpy as np
    from tokenizers import Regex
    from tokenizers.normalizers import Replace

    matched = np.ones(_CHARACTERS, bool)
    matched[_code_points(Replace(Regex(f"(?:{atom})+"), "").normalize_str(characters))] = False
    return np.asarray(matched[_code_points(characters)])


def _code_points(text: str) -> IntArray:
    import numpy as np

    return np.frombuffer(text.encode("utf-32-le"), "<u4")


def _join_classes(automaton: Automaton, held: BoolArray) -> tuple[BoolArray, BoolArray]:
    """Return which two classes may stand side by side in a match, or before a look ahead; and which begin a match.

    `held` says for each class which atoms match it.
    """
    import numpy as np

    crossed = np.zeros((len(held), len(held)), bool)
    for one, two in automaton.follow:
        crossed |= held[:, one, None] & held[None, :, two]
    for atom, beaten in automaton.looked:
        crossed |= (held[:, atom] & ~held[:, sorted(beaten)].any(axis=1))[:, None]
    return crossed, np.asarray(held[:, sorted(automaton.alone)].any(axis=1))


def _merge_classes(cut: BoolArray, runs: BoolArray, of_character: IntArray) -> Boundaries:
    """Give characters with the same cuts the same class; class 0 is cut nowhere.

    Raises:
        UnreadPatternError: There are more than 15 others.
    """
    import numpy as np

    kinds, merged = np.unique(np.hstack([cut, cut.T, runs.T]), axis=0, return_inverse=True)
    merged = merged.reshape(-1)
    if len(kinds) >= CLASSES:
        raise UnreadPatternError(f"{len(kinds)} classes of characters")
    firsts = [int(np.flatnonzero(merged == kind)[0]) for kind in range(len(kinds))]
    known = slice(1, len(kinds) + 1)
    cuts = np.zeros((CLASSES, CLASSES), np.uint8)
    cuts[known, known] = cut[np.ix_(firsts, firsts)]
    space, line = np.zeros((2, CLASSES), bool)
    space[known], line[known] = runs[:, firsts]
    word = np.zeros(CLASSES, bool)
    word[known] = ~(space | line)[known]
    cuts[~space[:, None] & space] |= RUN
    cuts[line[:, None] & space] |= LINE_RUN
    cuts[space[:, None] & word] |= WORD
    cuts[space[:, None] & ~word & ~space] |= STOP
    classes = (merged + 1).astype(np.uint8)[of_character]
    classes[0xD800:0xE000] = 0
    return Boundaries(classes, cuts.reshape(-1))


def cut_indents(cuts: ByteArray, data: bytes, lasts: LongArray, longest: int) -> None:
    """Cut runs of two spaces up to `longest` from an ASCII character behind them, where they begin at a cut.

    Args:
        cuts: Of each byte, whether the text can be cut behind it; changed.
        data: The texts, one after another.
        lasts: The last byte of each text.
        longest: The most spaces that are cut off.
    """
    import numpy as np

    units = np.frombuffer(data, np.uint8)
    is_space = units == 32
    are_two = is_space[:-1] & is_space[1:]
    edges = np.flatnonzero(are_two[1:] != are_two[:-1]) + 1
    if are_two[:1].any():
        edges = np.append(0, edges)
    edges = edges[: len(edges) // 2 * 2]  # a run that ends the data has nothing behind it
    starts, ends = edges[::2], edges[1::2]  # the first space and the last one
    kept = (ends - starts < longest) & (units[ends + 1] < 128)
    kept &= (starts == 0) | ((cuts[starts - 1] & CUT) > 0)
    inner = lasts[lasts < len(are_two)]
    inner = inner[are_two[inner]]  # a run that goes on in the next text is two
    crossed = np.searchsorted(starts, inner, "right") - 1
    kept[crossed[crossed >= 0]] = False
    cuts[ends[kept]] |= CUT
