"""Indents, which stand apart from what follows although a single space does not: proven from the first merges.

Only for tokenizers without a splitting pattern, which write spaces as U+2581. Cut off, the few indents of a text are
words of their own, and lines that differ in their indent hold the same words.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from llama_padfix.tokens.cached.boundaries import CUT

if TYPE_CHECKING:
    from llama_padfix.core.types import ByteArray, LongArray

_SPACE = "\u2581"
_MERGES = '"merges":['
_READ = 200_000  # characters of JSON
_LONGEST = 64  # spaces


def cut_merges(source: str) -> str:
    """Return the beginning of the merges in a tokenizer's JSON, "" where it has none."""
    place = source.find(_MERGES)
    return "" if place < 0 else source[place + len(_MERGES) :][:_READ]


def find_longest_indent(merges: str) -> int:
    """Return up to how many spaces become one token, whatever follows them; 1 where no more than one does.

    The merges that join them come before the first one that joins a space with another character behind it. So they
    are done before, and nothing is joined with the token of several spaces if no token goes on behind two of them.

    Args:
        merges: What `cut_merges` returned.
    """
    ranks: dict[tuple[int, int], int] = {}
    for rank, (left, right) in enumerate(_read(merges)):
        if {*left} == {_SPACE} and right[:1] != _SPACE:
            break
        if {*left, *right} == {_SPACE}:
            ranks[len(left), len(right)] = rank
    return next((count for count in range(1, _LONGEST) if not _is_joined(count + 1, ranks)), _LONGEST)


def _read(merges: str) -> Iterator[tuple[str, str]]:
    """Yield the merges of a JSON list: pairs, or texts with a space between the two."""
    decoder, place = json.JSONDecoder(), 0
    try:
        while place < len(merges):
            merge, place = decoder.raw_decode(merges, place)
            left, right = merge.split(" ") if isinstance(merge, str) else merge
            yield left, right
            place += 1  # a comma
    except ValueError:  # the end
        return


def _is_joined(count: int, ranks: dict[tuple[int, int], int]) -> bool:
    """Return True if the merges make one token of so many spaces."""
    pieces = [1] * count
    while len(pieces) > 1:
        places = [(ranks[pair], place) for place, pair in enumerate(pairwise(pieces)) if pair in ranks]
        if not places:
            return False
        _, place = min(places)
        pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]
    return True


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
