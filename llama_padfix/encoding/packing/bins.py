"""Best fit decreasing: which documents share a row of limited length."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llama_padfix.core.types import IntArray


def fill_bins(lengths: IntArray, capacity: int) -> list[list[int]]:
    """Return which documents share a bin: the longest first, each into the fullest bin that still has room for it.

    Bins are found by the room that they have left: one bit of an integer is set for each amount of room of which there
    is a bin, and the lowest bit from a document's length on is the best fit. That takes a fraction of the time of a
    search tree, with the same bins (Ding et al. 2024, "Fewer Truncations Improve Language Modeling").

    Args:
        lengths: Tokens of each document, from 1 to `capacity`.
        capacity: Tokens of a bin.

    Returns:
        The numbers of the documents of each bin.
    """
    import numpy as np

    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    bins: list[list[int]] = []
    with_room: dict[int, list[list[int]]] = {}
    rooms = 0
    for document, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            same = with_room[room]
            chosen = same.pop()
            if not same:
                rooms ^= 1 << room
        else:
            room, chosen = capacity, []
            bins.append(chosen)
        chosen.append(document)
        if room > length:
            with_room.setdefault(room - length, []).append(chosen)
            rooms |= 1 << (room - length)
    return bins
