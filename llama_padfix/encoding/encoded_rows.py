"""Encoded rows: spans of tokens to labels, and rows that are too long cut; one row in lists, or many in arrays.

A row is cut behind whole turns, and no end is forged where a turn is cut. A plain text becomes pieces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, TypeVar

from llama_padfix.core.errors import IGNORE_INDEX, PadfixError

if TYPE_CHECKING:
    from llama_padfix.chat.render import Turn
    from llama_padfix.core.types import BoolArray, IntArray, LongArray

_Ids = TypeVar("_Ids", bound="IntArray")


@dataclass(frozen=True)
class EncodedRow:
    """One encoded row: `trained` are the spans of its trained tokens.

    `turn_ends` are the positions after each trained message, in order, and may be left out of a row that fits.
    `notes` holds the fields of `Counts` that count the row, each with the detail that is shown. `is_text` is a plain
    text, which is split where it is too long; `pieces` are the lengths of what it became.
    """

    input_ids: list[int]
    labels: list[int]
    trained: Sequence[tuple[int, int]]
    turn_ends: Sequence[int] = ()
    notes: Mapping[str, str] = field(default_factory=dict)
    is_text: bool = False
    pieces: Sequence[int] = ()


def fit_row(row: EncodedRow, max_length: int | None, truncation: str, name: str) -> EncodedRow:
    """Return the row, cut or split where it is too long; nothing of it is trained where it is dropped.

    `name` is what the row is called in the `PadfixError` that `truncation="error"` raises.
    """
    length = len(row.input_ids)
    if not any(last > first for first, last in row.trained):
        return EncodedRow([], [], (), notes={"dropped_untrained": ""})
    if max_length is None or length <= max_length:
        return row
    seen = f"{length} tokens"
    if truncation == "error":
        raise PadfixError(
            f"{name}{': ' if name else ''}{seen} are more than max_length={max_length}. "
            "Keep the whole turns that fit: truncation='turns'"
        )
    if row.is_text and truncation != "tokens" and max_length > 2:
        return _split(row, max_length)
    end = max_length
    if truncation != "tokens":
        end = max((turn_end for turn_end in row.turn_ends if turn_end <= max_length), default=0)
    trained = [(first, min(last, end)) for first, last in row.trained if first < min(last, end)]
    if not trained:
        return EncodedRow([], [], (), notes={"dropped_too_long": seen})
    return EncodedRow(row.input_ids[:end], row.labels[:end], trained, notes={**row.notes, "cut": seen})


def _split(row: EncodedRow, max_length: int) -> EncodedRow:
    """Return a plain text in pieces of `max_length` tokens, each token in one of them.

    The first token of a piece is not trained, so no piece has one token alone: the piece before it gives it another.
    """
    length = len(row.input_ids)
    count = -(-length // max_length)
    sizes = [max_length] * (count - 1) + [length - max_length * (count - 1)]
    if sizes[-1] == 1:
        sizes[-2:] = [max_length - 1, 2]
    ends = [*accumulate(sizes)]
    spans = [(end - size + 1, end) for end, size in zip(ends, sizes, strict=True)]
    notes = {**row.notes, "split": f"{length} tokens into {count} pieces"}
    return EncodedRow(row.input_ids, label_tokens(row.input_ids, spans), spans, (length,), notes, pieces=sizes)


def find_cuts(turns: Sequence[Turn]) -> list[int]:
    """Return behind which turns a conversation may be cut: the last ones of its trained messages."""
    cuts: list[int] = []
    last = {turn.message: place for place, turn in enumerate(turns)}
    reach = 0
    for place, turn in enumerate(turns):
        reach = max(reach, last[turn.message])
        goes_on = not turn.stops and any(turn.end == later.start for later in turns[place + 1 :])
        if place == reach and not goes_on:
            cuts.append(place)
    return cuts


def find_ends(
    row_starts: LongArray,
    row_ends: LongArray,
    first: LongArray,
    last: LongArray,
    max_length: int | None,
    truncation: str,
) -> tuple[LongArray, BoolArray]:
    """Cut joined rows as `fit_row` cuts one, each turn by its last trained token.

    `first` and `last` are where the trained spans of all rows begin and end. Returns where each row ends (where it
    starts, if nothing trained is left), and which rows are whole.
    """
    import numpy as np

    ends = row_ends.copy()
    if max_length is None:
        return ends, np.ones(len(ends), bool)
    limits = row_starts + max_length
    whole = row_ends <= limits
    over = np.flatnonzero(~whole)
    if not len(first):  # no row proved to be a plain one
        ends[over] = row_starts[over]
        return ends, whole
    if truncation == "tokens":
        place = np.searchsorted(first, limits[over], side="left") - 1
        cut = limits[over]
    else:
        place = np.searchsorted(last, limits[over], side="right") - 1
        cut = last[np.maximum(place, 0)]
    fits = (place >= 0) & (first[np.maximum(place, 0)] > row_starts[over])
    ends[over] = np.where(fits, cut, row_starts[over])
    return ends, whole


def label_tokens(ids: Sequence[int], places: Sequence[tuple[int, int]]) -> list[int]:
    """Return labels that train exactly the tokens inside these spans.

    Position 0 is not trained, since a label there shifts the loss scale in transformers 4.46 to 5.7.
    """
    labels = [IGNORE_INDEX] * len(ids)
    for first, last in places:
        labels[first:last] = ids[first:last]
    if labels:
        labels[0] = IGNORE_INDEX
    return labels


def write_labels(ids: _Ids, starts: LongArray, ends: LongArray, labels: _Ids, *, negative: bool = False) -> _Ids:
    """Write the ids inside the spans into `labels`, -100 elsewhere, and return it.

    `negative` must be given where an id may be negative. Raises `ValueError` for spans that overlap or are not in
    order. The smaller of an id and a cap is found quicker than by choosing with a mask.
    """
    import numpy as np

    lengths = _measure(starts, ends, len(ids))
    caps = np.full(len(lengths), IGNORE_INDEX, dtype=ids.dtype)
    caps[1::2] = np.iinfo(ids.dtype).max
    np.minimum(ids, caps.repeat(lengths), out=labels)
    if negative:  # the id of an image, such as -200, is below the cap
        np.maximum(labels, IGNORE_INDEX, out=labels)
    return labels


def mark_spans(starts: LongArray, ends: LongArray, length: int) -> BoolArray:
    """Return which of `length` places lie inside the spans. Raises `ValueError` as `write_labels` does."""
    import numpy as np

    lengths = _measure(starts, ends, length)
    inside = np.zeros(len(lengths), bool)
    inside[1::2] = True
    return inside.repeat(lengths)


def _measure(starts: LongArray, ends: LongArray, length: int) -> LongArray:
    """Return the lengths of the gaps and spans in turn, from the first gap to the last.

    Each span is as long as its own two edges: no running sum carries a fault of one span into those that follow.
    """
    import numpy as np

    edges = np.zeros(2 * len(starts) + 2, np.int64)
    edges[1:-1:2], edges[2:-1:2], edges[-1] = starts, ends, length
    lengths: LongArray = edges[1:] - edges[:-1]
    return lengths
