"""Spans of tokens to labels: of one row in a list, or of many rows in one array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from llama_padfix.core.errors import IGNORE_INDEX

if TYPE_CHECKING:
    from llama_padfix.core.types import BoolArray, IntArray, LongArray

_Ids = TypeVar("_Ids", bound="IntArray")


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
