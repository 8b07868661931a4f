"""The usual batch, lists of ids that all start with two BOS, cut in one pass over each column."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llama_padfix.core.errors import IGNORE_INDEX
from llama_padfix.tokens.doubled.runs import DOUBLED, FILLS, cut_vector

_MANY = 100_000  # lists: Python has run a full collection by then (700 * 10 * 10 new objects, or 2,000 * 10)


def cut_doubled(columns: dict[str, Any], bos: int, pad: int | None) -> dict[str, list[Any]] | None:  # a user's columns
    """Return columns of lists, cut; None unless each row starts with two BOS, no third, and no padding.

    The first BOS goes rather than the second, which is the same id.
    """
    ids, masks = columns["input_ids"], columns.get("attention_mask")
    if any({*map(type, column)} != {list} for column in columns.values()) or ids[0][:2] != [bos, bos]:
        return None
    lengths = [*map(len, ids)]
    if min(lengths) < 3 or any([*map(len, column)] != lengths for column in columns.values() if column is not ids):
        return None
    if masks is None:
        cut = [row[1:] for row in ids if row[0] == bos == row[1] != row[2]] if pad != bos else []
    else:
        rows = zip(ids, masks, strict=True)
        cut = [row[1:] for row, mask in rows if row[0] == bos == row[1] != row[2] and mask[0] and mask[1]]
    if len(cut) < len(ids):
        return None
    return {name: cut if name == "input_ids" else _cut_column(name, rows) for name, rows in columns.items()}


def cut_doubled_rows(rows: Any, bos: int, pad: int | None) -> list[dict[str, Any]] | None:  # a user's rows
    """Return rows with the same keys, cut as `cut_doubled` cuts columns; None for any other."""
    keys = rows[0].keys()
    if {*map(type, rows)} != {dict} or "input_ids" not in keys or "seq_lengths" in keys:
        return None
    if any(row.keys() != keys for row in rows):
        return None
    cut = cut_doubled({name: [row[name] for row in rows] for name in keys if name in FILLS}, bos, pad)
    if cut is None:
        return None
    made = [*map(dict.copy, rows)]
    for name, column in cut.items():
        for row, values in zip(made, column, strict=True):
            row[name] = values
    return made


def _cut_column(name: str, rows: list[list[Any]]) -> list[Any]:
    if name == "position_ids":
        return [cut_vector(name, row, DOUBLED) for row in rows]
    if name == "labels":
        return [row[1:] if row[1] == IGNORE_INDEX else [IGNORE_INDEX, *row[2:]] for row in rows]
    return [row[1:] if row[0] is row[1] else row[:1] + row[2:] for row in rows]


@contextmanager
def paused_collection(lists: int) -> Iterator[None]:
    """Make so many lists without the garbage collector, which would read those made before again and again.

    They count as old afterwards, as do all that survive a few collections, so that the next collection does not read
    them either. A full one does. A collector that is off stays off, and objects that someone froze stay frozen.
    """
    if lists < _MANY or not gc.isenabled():
        yield
        return
    is_frozen = gc.get_freeze_count() > 0
    gc.disable()
    try:
        yield
    finally:
        if not is_frozen:
            gc.freeze()
            gc.unfreeze()  # into the oldest generation
        gc.enable()
