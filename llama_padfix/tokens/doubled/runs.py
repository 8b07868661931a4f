"""Where a row starts and how many BOS are too many there, with the errors for rows that cannot be cut."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

from llama_padfix.core.errors import IGNORE_INDEX, PadfixError

if TYPE_CHECKING:
    from llama_padfix.core.types import IntArray, LongArray

# The fill of each per-token column, as in transformers' `pad` and TRL's collators.
_MASKS = ("attention_mask", "assistant_masks", "completion_mask", "loss_mask")
_ZERO = (*_MASKS, "token_type_ids", "position_ids", "offset_mapping")
FILLS = {"input_ids": 0, "labels": IGNORE_INDEX, "special_tokens_mask": 1, **dict.fromkeys(_ZERO, 0)}
"""The columns with one entry a token, and what pads each; the pad id takes the place of the 0 of `input_ids`."""


class Run(NamedTuple):
    """The run of BOS at the start of a row."""

    start: int
    """Where the real tokens of the row start."""
    surplus: int
    """How many BOS are too many."""


DOUBLED = Run(0, 1)  # most rows that are cut


def find_run(row: list[int], mask: list[int] | None, bos: int, pad: int | None) -> Run:
    """Return the run of BOS of one row: behind the padding on its left, by its mask or else by the pad id."""
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
    return Run(start, surplus)


def cut_vector(name: str, column: Any, run: Run) -> Any:
    """Return one row's column, of its own type, without what is too many."""
    start, surplus = run
    at = start + 1 if name != "position_ids" else end_of_count(column, run)
    rest = column[surplus:]
    if hasattr(rest, "clone"):  # a tensor
        cut = rest.clone()
    else:
        cut = rest.copy() if hasattr(rest, "dtype") else list(rest)
    cut[:at] = column[:at]
    if name == "labels":
        cut[start] = IGNORE_INDEX  # the one BOS that stays has no label: position 0 is never trained
    return tuple(cut) if isinstance(column, tuple) else cut


def end_of_count(numbers: Any, run: Run) -> int:
    """Return where the last `surplus` numbers of the first document begin."""
    end = run.start + 1
    while end < len(numbers) and numbers[end] == numbers[end - 1] + 1:
        end += 1
    return max(run.start + 1, end - run.surplus)


def require_same_lengths(name: str, column: Any, ids: Any) -> None:
    """Raise an error that names the first row in which a column has not as many entries as there are ids."""
    shapes = [getattr(value, "shape", ())[:2] for value in (column, ids)]
    if (len(shapes[0]) == 2 and shapes[0] == shapes[1]) or [*map(len, column)] == [*map(len, ids)]:
        return
    for i, (row, row_ids) in enumerate(zip_longest(column, ids, fillvalue=())):
        if len(row) != len(row_ids):
            raise unlike_lengths(i, name, len(row), len(row_ids))


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


class Shown(NamedTuple):
    """Which positions hold a token: those at which `values` is not `padding`; those of a row begin at its `begins`."""

    values: IntArray
    padding: int
    begins: LongArray


def find_runs(
    flat: IntArray, begins: LongArray, lengths: LongArray, rows: LongArray, bos: int, shown: Shown | None
) -> tuple[LongArray, LongArray, LongArray]:
    """Return those of `rows` that have too many BOS, where their real tokens start, and how many are too many.

    The ids of row k are `lengths[k]` of `flat` from `begins[k]`. Without `shown` all positions hold a token. It is
    looked at where rows begin, and whole only if one has padding.
    """
    import numpy as np

    rows = rows[lengths[rows] > 1]
    starts, counts = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
    if not len(rows):
        return rows, starts, counts
    at, room = begins[rows], lengths[rows]
    at_shown = None if shown is None or shown.values is flat else shown.begins[rows]  # a BOS is no padding
    if shown is not None:
        heads = shown.values.take(at if at_shown is None else at_shown) != shown.padding
        if not heads.all():
            first_shown = shown.begins[rows[~heads]]
            places = np.append(np.flatnonzero(shown.values != shown.padding), np.iinfo(np.int64).max)
            first = places[np.searchsorted(places, first_shown)] - first_shown
            starts[~heads] = np.minimum(first, room[~heads])
            at, room, at_shown = at + starts, room - starts, None if at_shown is None else at_shown + starts
    running, step = np.arange(len(rows)), 0
    while len(running):
        same = flat.take(at + step, mode="clip") == bos
        same &= room > step
        if at_shown is not None and shown is not None and step:
            same &= shown.values.take(at_shown + step, mode="clip") != shown.padding
        if not same.all():
            running, at, room = running[same], at[same], room[same]
            at_shown = None if at_shown is None else at_shown[same]
        if step:
            counts[running] += 1
        step += 1
    cut = counts > 0
    return (rows, starts, counts) if cut.all() else (rows[cut], starts[cut], counts[cut])


def find_ends_of_count(
    numbers: IntArray, begins: LongArray, lengths: LongArray, starts: LongArray, counts: LongArray
) -> LongArray:
    """Return where the last `counts` numbers of each row's first document begin, in the row."""
    import numpy as np

    breaks = np.append(np.flatnonzero(np.diff(numbers) != 1) + 1, np.iinfo(np.int64).max)
    ends = np.minimum(breaks[np.searchsorted(breaks, begins + starts + 1)] - begins, lengths)
    return np.maximum(starts + 1, ends - counts)
