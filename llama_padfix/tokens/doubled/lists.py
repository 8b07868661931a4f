"""Batches of lists, cut in one pass over each column: as a rule all rows start with two BOS."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from typing import Any

from llama_padfix.core.errors import IGNORE_INDEX
from llama_padfix.tokens.doubled.runs import DOUBLED, FILLS, cut_vector, find_run

_MANY = 20_000  # lists: Python has collected 10 to 28 times by then (each 700 or 2,000 new objects)


def starts_doubled(ids: Any, bos: int) -> bool:  # lists or tuples
    """Return True where the first row starts with two BOS, as all do then as a rule."""
    return list(ids[0][:2]) == [bos, bos]


def are_lists(columns: dict[str, Any], bos: int, pad: int | None) -> bool:  # a user's columns
    """Return True for columns that `cut_lists` takes: lists of the same lengths, in which padding is no BOS."""
    ids = columns["input_ids"]
    if pad == bos and "attention_mask" not in columns:
        return False
    if not all(isinstance(column, Sequence) for column in columns.values()):
        return False
    if not ids or type(ids[0]) not in (list, tuple) or {*map(type, ids)} != {type(ids[0])}:
        return False
    beside = [column for name, column in columns.items() if name != "input_ids"]
    lengths = [*map(len, ids)] if beside else []
    return all({*map(type, column)} == {list} and [*map(len, column)] == lengths for column in beside)


def cut_lists(columns: dict[str, Any], bos: int, pad: int | None) -> dict[str, list[Any]] | None:  # a user's columns
    """Return columns for which `are_lists` is true, cut; None where no row has a BOS too many.

    Of two BOS the first one goes, which is the same id as the second. Other rows are cut one by one.
    """
    ids, masks = columns["input_ids"], columns.get("attention_mask")
    cut: list[Any] = [row[1:] if len(row) > 2 and row[0] == bos == row[1] != row[2] else None for row in ids]
    done = {"input_ids": cut}
    if masks is not None:
        cut = done["attention_mask"] = [
            None if own is None or not (row[0] and row[1]) else row[1:] if row[0] is row[1] else row[:1] + row[2:]
            for row, own in zip(masks, cut, strict=True)
        ]
    others = [] if all(cut) else [place for place, row in enumerate(cut) if row is None]
    runs = {place: find_run(ids[place], None if masks is None else masks[place], bos, pad) for place in others}
    if len(runs) == len(ids) and not any(run.surplus for run in runs.values()):
        return None
    made = {name: done[name] if name in done else _cut_doubled(name, rows, cut) for name, rows in columns.items()}
    for name, rows in columns.items():
        for place, run in runs.items():
            made[name][place] = cut_vector(name, rows[place], run) if run.surplus else rows[place]
    return made


def _cut_doubled(name: str, rows: list[list[Any]], cut: list[Any]) -> list[Any]:
    """Return those rows of a column cut that are not None in `cut`."""
    pairs = zip(rows, cut, strict=True)
    if name == "position_ids":
        return [cut_vector(name, row, DOUBLED) if own is not None else None for row, own in pairs]
    if name != "labels":
        return [None if own is None else row[1:] if row[0] is row[1] else row[:1] + row[2:] for row, own in pairs]
    made: list[Any] = []
    for row, own in pairs:
        values = None if own is None else row[1:]
        if values and row[1] != IGNORE_INDEX:
            values[0] = IGNORE_INDEX
        made.append(values)
    return made


def cut_rows_of_lists(rows: Any, bos: int, pad: int | None) -> list[Any] | None:  # a user's rows
    """Return rows with the same keys, cut as columns are; None unless they are lists and the first one is cut."""
    keys = rows[0].keys()
    if {*map(type, rows)} != {dict} or "input_ids" not in keys or "seq_lengths" in keys:
        return None
    if {*map(len, rows)} != {len(keys)}:
        return None
    try:
        values = {name: [*map(itemgetter(name), rows)] for name in keys}
    except KeyError:
        return None
    columns = {name: column for name, column in values.items() if name in FILLS}
    if not are_lists(columns, bos, pad) or not starts_doubled(columns["input_ids"], bos):
        return None
    cut = cut_lists(columns, bos, pad)
    if cut is None:
        return None
    pairs = zip(rows, columns["input_ids"], cut["input_ids"], strict=True)
    made = [row if ids is before else row.copy() for row, before, ids in pairs]
    for name, column in cut.items():
        for row, before, own in zip(made, rows, column, strict=True):
            if row is not before:
                row[name] = own
    return made


@contextmanager
def paused_collection(lists: int) -> Iterator[None]:
    """Make so many lists without the garbage collector, which would read those made before again and again.

    They count as old afterwards, as do all that survive a few collections, so that the next collection does not read
    them either. A full one does. Garbage among young objects is collected before, so that none of it grows old. A
    collector that is off stays off, and objects that are frozen stay frozen.
    """
    if lists < _MANY or not gc.isenabled():
        yield
        return
    gc.collect(1)
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():
            gc.freeze()
            gc.unfreeze()  # into the oldest generation
        gc.enable()
