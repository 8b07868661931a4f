"""Indents, which stand apart from what follows although a single space does not: proven from the first merges.

Only for tokenizers without a splitting pattern, which write spaces as U+2581. Cut off, the few indents of a text are
words of their own, and lines that differ in their indent hold the same words.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise

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
