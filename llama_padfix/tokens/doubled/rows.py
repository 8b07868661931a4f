"""One BOS at the start of each row of lists, numpy arrays or torch tensors: all columns are cut at the same places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import PadfixError, describe
from llama_padfix.tokens.doubled.lists import are_lists, cut_lists, paused_collection, starts_doubled
from llama_padfix.tokens.doubled.rectangle import cut_rectangle
from llama_padfix.tokens.doubled.runs import (
    FILLS,
    cut_vector,
    find_run,
    packed_row,
    require_same_lengths,
)

if TYPE_CHECKING:
    from typing import TypeAlias

    # A list, tuple, numpy array or torch tensor of ids or of rows: they share no type with the methods used here.
    Column: TypeAlias = Any
    Columns: TypeAlias = dict[str, Column]


def dedupe_columns(columns: Columns, bos: int, pad: int | None) -> Columns:
    """Return the columns, cut; the same objects where no row has a BOS too many."""
    ids = columns["input_ids"]
    if are_lists(columns, bos, pad):  # which are most batches
        with paused_collection(len(ids) * len(columns)):
            cut = _cut_plain_rows(columns, bos, pad)
        return columns if cut is None else cut
    if _is_array(ids):
        axes = ids.ndim + (ids.dtype == object)
    elif isinstance(ids, Sequence) and _are_vectors(ids):
        axes = 2
    else:
        axes = int(isinstance(ids, Sequence) and all(hasattr(item, "__index__") for item in ids))
    if axes not in (1, 2):
        raise PadfixError(
            f"Neither a row of ids nor a batch of rows: {type(ids).__name__} {describe(ids)}. "
            "Pass ids, rows, a mapping, a table or a dataset. For rows of another kind: "
            "dataset.map(lambda row: dedupe_bos(row, tokenizer))."
        )
    if axes == 1:
        vectors = {name: [column] for name, column in columns.items() if _is_vector(column)}
        cut = _cut_rows(vectors, bos, pad)
        return columns if cut is None else {**columns, **{name: rows[0] for name, rows in cut.items()}}
    # `labels` of a classifier, one a row, are not per token.
    batch = {
        name: column
        for name, column in columns.items()
        if column is ids or (_is_vector(column) and _are_vectors(column))
    }
    if _is_array(ids) and ids.ndim == 2:
        cut = cut_rectangle(batch, bos, pad)
    else:
        with paused_collection(len(ids) * len(batch)):
            cut = (_cut_plain_rows if are_lists(batch, bos, pad) else _cut_rows)(batch, bos, pad)
    return columns if cut is None else {**columns, **cut}


def cut_row(row: dict[str, Any], bos: int, pad: int | None) -> dict[str, Any] | None:  # the columns of a user's row
    """Return a row of lists, cut, or `row` itself where it has no BOS too many; None for a row of anything else."""
    ids, mask = row.get("input_ids"), row.get("attention_mask")
    if type(ids) is not list or not ids or type(ids[0]) is not int:
        return None
    if mask is not None and (type(mask) is not list or len(mask) != len(ids)):
        return None
    is_real = mask[0] if mask is not None else ids[0] != pad or pad == bos
    if is_real and (ids[0] != bos or len(ids) < 2 or ids[1] != bos):
        return row  # which is what most rows are
    run = find_run(ids, mask, bos, pad)
    if not run.surplus:
        return row
    if row.get("seq_lengths") is not None:
        raise packed_row()
    made = dict(row)
    for name, column in row.items():
        if name in FILLS and column is not None:
            if type(column) is not list or len(column) != len(ids):
                return None
            made[name] = cut_vector(name, column, run)
    return made


def _cut_plain_rows(columns: Columns, bos: int, pad: int | None) -> Columns | None:
    """Cut a batch of lists for which `are_lists` is true; None where there is nothing to cut."""
    ids, masks = columns["input_ids"], columns.get("attention_mask")
    if not starts_doubled(ids, bos) and not _find_doubtful(ids, masks, bos, pad):
        return None
    made = cut_lists(columns, bos, pad) or {}
    return {name: tuple(rows) if isinstance(columns[name], tuple) else rows for name, rows in made.items()} or None


def _cut_rows(columns: Columns, bos: int, pad: int | None) -> Columns | None:
    """Cut every column of a batch of rows at the same places; None where there is nothing to cut."""
    ids, masks = columns["input_ids"], columns.get("attention_mask")
    if masks is not None:
        require_same_lengths("attention_mask", masks, ids)
    runs = {}
    for row in _find_doubtful(ids, masks, bos, pad):
        run = find_run(_to_list(ids[row]), None if masks is None else _to_list(masks[row]), bos, pad)
        if run.surplus:
            runs[row] = run
    if not runs:
        return None
    done = {}
    for name, column in columns.items():
        require_same_lengths(name, column, ids)
        rows = list(column)
        for row, run in runs.items():
            rows[row] = cut_vector(name, rows[row], run)
        done[name] = tuple(rows) if isinstance(column, tuple) else rows
    return done


def _find_doubtful(ids: Column, masks: Column, bos: int, pad: int | None) -> list[int]:
    """Return the rows that may start with more than one BOS: a look at two ids tells most."""
    if masks is not None:
        return [
            place
            for place, (row, mask) in enumerate(zip(ids, masks, strict=True))
            if len(row) > 1 and (not mask[0] or (row[0] == bos and row[1] == bos))
        ]
    padding = bos if pad is None else pad
    return [
        place
        for place, row in enumerate(ids)
        if len(row) > 1 and ((row[0] == bos and row[1] == bos) or (padding != bos and row[0] == padding))
    ]


def _to_list(row: Column) -> Column:
    return row if type(row) is list or not _is_array(row) else row.tolist()


def _is_array(value: object) -> bool:
    """Return True for a numpy array or a torch tensor with at least one axis; neither is imported."""
    return hasattr(value, "dtype") and hasattr(value, "tolist") and getattr(value, "ndim", 0) > 0


def _is_vector(value: object) -> bool:
    return _is_array(value) or (isinstance(value, Sequence) and not isinstance(value, (str, bytes)))


def _are_vectors(rows: Column) -> bool:
    """Return True where each row is a vector."""
    if _is_array(rows) and rows.ndim > 1:
        return True
    return {*map(type, rows)} <= {list, tuple} or all(map(_is_vector, rows))
