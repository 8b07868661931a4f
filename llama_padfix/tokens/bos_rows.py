"""One BOS at the start of each row of lists, numpy arrays or torch tensors: all columns are cut at the same places."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

from llama_padfix.core.errors import IGNORE_INDEX, PadfixError, describe

if TYPE_CHECKING:
    from typing import TypeAlias

    # A list, tuple, numpy array or torch tensor of ids or of rows: they share no type with the methods used here.
    Column: TypeAlias = Any
    Columns: TypeAlias = dict[str, Column]

# The fill of each per-token column, as in transformers' `pad` and TRL's collators.
_MASKS = ("attention_mask", "assistant_masks", "completion_mask", "loss_mask")
_ZERO = (*_MASKS, "token_type_ids", "position_ids", "offset_mapping")
FILLS = {"input_ids": 0, "labels": IGNORE_INDEX, "special_tokens_mask": 1, **dict.fromkeys(_ZERO, 0)}
"""The columns with one entry a token, and what pads each; the pad id takes the place of the 0 of `input_ids`."""


class _Run(NamedTuple):
    """The run of BOS at the start of a row."""

    start: int
    """Where the real tokens of the row start."""
    surplus: int
    """How many BOS are too many."""


_DOUBLED, _MOVED = _Run(0, 1), ("labels", "position_ids")  # most cut rows; columns that are not only cut


def dedupe_columns(columns: Columns, bos: int, pad: int | None) -> Columns:
    """Return the columns, cut; the same objects where no row has a BOS too many."""
    ids = columns["input_ids"]
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
    batch = {name: column for name, column in columns.items() if _is_vector(column) and _are_vectors(column)}
    if _is_array(ids) and ids.ndim == 2:
        cut = _cut_rectangle(batch, bos, pad)
    else:
        cut = _cut_rows(batch, bos, pad)
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
    run = _find_run(ids, mask, bos, pad)
    if not run.surplus:
        return row
    if row.get("seq_lengths") is not None:
        raise packed_row()
    made = dict(row)
    for name, column in row.items():
        if name in FILLS and column is not None:
            if type(column) is not list or len(column) != len(ids):
                return None
            made[name] = _cut_vector(name, column, run)
    return made


def packed_row() -> PadfixError:
    """Return the error for a packed row that would be cut."""
    return PadfixError(
        "The packed row starts with more than one BOS and has seq_lengths, which would no longer add up. "
        "Run dedupe_bos before packing."
    )


def pad_is_bos(count: int, bos: int) -> PadfixError:
    """Return the error for a row that starts with BOS or padding."""
    return PadfixError(
        f"A row starts with {count} times the id {bos}, which is both BOS and padding here, so that the two "
        "cannot be told apart. Pass a mapping with input_ids and attention_mask."
    )


def unlike_lengths(row: int, name: str, length: int, ids_length: int) -> PadfixError:
    """Return the error for a column that does not belong to the ids of its row."""
    return PadfixError(
        f"Row {row}: {name} has {length} entries and input_ids {ids_length}, so they cannot be cut "
        f"together. Pass {name} with one entry a token, or drop it first."
    )


def _cut_rows(columns: Columns, bos: int, pad: int | None) -> Columns | None:
    """Cut every column of a batch of rows at the same places; None where there is nothing to cut."""
    ids, masks = columns["input_ids"], columns.get("attention_mask")
    if masks is not None:
        _require_same_lengths("attention_mask", masks, ids)
    runs, is_clear = {}, pad != bos or masks is not None
    for row in _find_doubtful(ids, masks, bos, pad):
        mask = None if masks is None else masks[row]
        is_doubled = is_clear and _is_doubled(ids[row], mask, bos)
        run = _DOUBLED if is_doubled else _find_run(_to_list(ids[row]), _to_list(mask), bos, pad)
        if run.surplus:
            runs[row] = run
    if not runs:
        return None
    done = {}
    for name, column in columns.items():
        _require_same_lengths(name, column, ids)
        rows = list(column)
        for row, run in runs.items():
            if run is _DOUBLED and name not in _MOVED and type(whole := rows[row]) is list:
                rows[row] = whole[:1] + whole[2:]
            else:
                rows[row] = _cut_vector(name, rows[row], run)
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


def _is_doubled(row: Column, mask: Column, bos: int) -> bool:
    """Return True for a list that starts with two BOS and no third, and a list of a mask that shows both."""
    if type(row) is not list or row[0] != bos or row[1] != bos or (len(row) > 2 and row[2] == bos):
        return False
    return mask is None or bool(type(mask) is list and mask[0] and mask[1])


def _find_run(row: list[int], mask: list[int] | None, bos: int, pad: int | None) -> _Run:
    length, start = len(row), 0
    if mask is not None:
        while start < length and not mask[start]:
            start += 1
    elif pad not in (None, bos):
        while start < length and row[start] == pad:
            start += 1
    end = start
    while end < length and row[end] == bos and (mask is None or mask[end]):
        end += 1
    surplus = max(0, end - start - 1)
    if surplus and mask is None and pad == bos:
        raise pad_is_bos(end, bos)
    return _Run(start, surplus)


def _cut_vector(name: str, column: Column, run: _Run) -> Column:
    """Return one row's column without what is too many."""
    start, surplus = run
    at = start + 1 if name != "position_ids" else _end_of_count(column, run)
    if type(column) is list or not _is_array(column):
        cut = list(column[surplus:])
        cut[:at] = column[:at]
    else:
        cut = column[[*range(at), *range(at + surplus, len(column))]]
    if name == "labels":
        cut[start] = IGNORE_INDEX  # the one BOS that stays has no label: position 0 is never trained
    return tuple(cut) if isinstance(column, tuple) else cut


def _cut_rectangle(columns: Columns, bos: int, pad: int | None) -> Columns | None:
    """Cut a batch that keeps one width: rows are refilled, then columns that have become padding are trimmed."""
    ids, masks = columns["input_ids"].tolist(), _to_lists(columns.get("attention_mask"))
    if masks is not None:
        _require_same_lengths("attention_mask", masks, ids)
    runs = [_find_run(row, None if masks is None else masks[i], bos, pad) for i, row in enumerate(ids)]
    if not any(run.surplus for run in runs):
        return None
    for name, column in columns.items():
        _require_same_lengths(name, column, ids)
    width = columns["input_ids"].shape[1]
    trailing = [0 if masks is None else _count_trailing(masks[i]) for i in range(len(ids))]
    some_left = any(0 < run.start < width for run in runs)
    to_left = [run.start > 0 or (some_left and not end) for run, end in zip(runs, trailing, strict=True)]
    sides = list(zip(runs, trailing, to_left, strict=True))
    # The columns that are padding in every row only since the cut.
    trim_left = min(r.start + r.surplus * left for r, _, left in sides) - min(r.start for r in runs)
    trim_right = min(end + r.surplus * (not left) for r, end, left in sides) - min(trailing)

    def order_of(i: int, drop_at: int) -> list[int]:
        """Return the old positions in their new order; -1 for a refilled one."""
        surplus = runs[i].surplus
        kept = [k for k in range(width) if not drop_at <= k < drop_at + surplus]
        placed = [-1] * surplus + kept if to_left[i] else kept + [-1] * surplus
        return placed[trim_left : width - trim_right]

    orders = [order_of(i, run.start + 1) for i, run in enumerate(runs)]
    done = {}
    for name, column in columns.items():
        fill, own = FILLS.get(name, 0), orders
        if name == "input_ids" and any(-1 in order for order in orders):
            fill = pad if pad is not None else _copy_pad_id(ids, masks)
        elif name == "labels":
            kept = [run.start if run.surplus else -1 for run in runs]
            own = [[-1 if k == kept[i] else k for k in order] for i, order in enumerate(orders)]
        elif name == "position_ids":
            numbers = _to_lists(column)
            own = [order_of(i, _end_of_count(numbers[i], run)) for i, run in enumerate(runs)]
        done[name] = _take(column, own, fill)
    return done


def _count_trailing(mask: list[int]) -> int:
    """Return how many positions pad the end of a row."""
    return next((k for k in range(len(mask)) if mask[-1 - k]), len(mask))


def _end_of_count(numbers: Column, run: _Run) -> int:
    """Return where the last `surplus` numbers of the first document begin."""
    end = run.start + 1
    while end < len(numbers) and numbers[end] == numbers[end - 1] + 1:
        end += 1
    return max(run.start + 1, end - run.surplus)


def _copy_pad_id(ids: Column, masks: Column) -> int:
    for row, mask in zip(ids, masks or [], strict=False):
        if 0 in mask:
            return int(row[mask.index(0)])
    raise PadfixError(
        "The rows of a rectangular batch lose different numbers of BOS and must be refilled, but no pad id is "
        "known. Pass pad_token_id=, or a tokenizer that has one: `prepare(tokenizer)` sets it."
    )


def _take(column: Column, orders: list[list[int]], fill: int) -> Column:
    rows = [_take_row(row, order, fill) for row, order in zip(column, orders, strict=True)]
    if not _is_array(column) or column.ndim == 1:
        return tuple(rows) if isinstance(column, tuple) else rows
    narrow = column[:, : len(orders[0])]
    taken = narrow.clone() if hasattr(narrow, "clone") else narrow.copy()
    for i, row in enumerate(rows):
        taken[i] = row
    return taken


def _take_row(row: Column, order: list[int], fill: int) -> Column:
    if not _is_array(row):
        taken = [fill if k < 0 else row[k] for k in order]
        return tuple(taken) if isinstance(row, tuple) else taken
    array = row[[max(k, 0) for k in order]]
    if -1 in order:
        array[[j for j, k in enumerate(order) if k < 0]] = fill
    return array


def _require_same_lengths(name: str, column: Column, ids: Column) -> None:
    if [*map(len, column)] == [*map(len, ids)]:
        return
    for i, (row, row_ids) in enumerate(zip_longest(column, ids, fillvalue=())):
        if len(row) != len(row_ids):
            raise unlike_lengths(i, name, len(row), len(row_ids))


def _to_lists(rows: Column) -> Column:
    return None if rows is None else [_to_list(row) for row in rows]


def _to_list(row: Column) -> Column:
    return row if type(row) is list or not _is_array(row) else row.tolist()


def _is_array(value: object) -> bool:
    """Return True for a numpy array or a torch tensor with at least one axis; neither is imported."""
    return hasattr(value, "dtype") and hasattr(value, "tolist") and getattr(value, "ndim", 0) > 0


def _is_vector(value: object) -> bool:
    return _is_array(value) or (isinstance(value, Sequence) and not isinstance(value, (str, bytes)))


def _are_vectors(rows: Column) -> bool:
    """Return True where each row is a vector."""
    return {*map(type, rows)} <= {list, tuple} or all(map(_is_vector, rows))
