"""2-D arrays and tensors keep one width: rows are refilled, then columns that have become padding are trimmed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from llama_padfix.core.errors import PadfixError
from llama_padfix.tokens.doubled.runs import (
    FILLS,
    Shown,
    find_ends_of_count,
    find_runs,
    pad_is_bos,
    require_same_lengths,
)

if TYPE_CHECKING:
    from llama_padfix.core.types import BoolArray, LongArray


class _Cut(NamedTuple):
    """What goes from each row of a rectangle, and which columns go after it."""

    starts: LongArray
    """Where the real tokens of each row start; the width where it has none."""
    counts: LongArray
    """How many BOS are too many in each row."""
    to_left: BoolArray
    """Which rows are refilled on the left."""
    left: int
    """The first column that stays."""
    right: int
    """The first column behind those that stay."""


def cut_rectangle(columns: dict[str, Any], bos: int, pad: int | None) -> dict[str, Any] | None:  # arrays, mostly
    """Return columns of 2-D ids and of whatever holds the other columns, cut; None where nothing is too many."""
    import numpy as np

    masks = columns.get("attention_mask")
    if masks is not None:
        require_same_lengths("attention_mask", masks, columns["input_ids"])
        masks = _to_numpy(masks)
    ids = _to_numpy(columns["input_ids"])
    if not ids.size:
        return None
    count, width = ids.shape
    begins, lengths = np.arange(count) * width, np.full(count, width)
    flat, shown = ids.reshape(-1), None
    if masks is not None:
        shown = Shown(masks.reshape(-1), 0, begins)
    elif pad not in (None, bos):
        shown = Shown(flat, pad, begins)
    rows, _, counts = find_runs(flat, begins, lengths, np.arange(count), bos, shown)
    if not len(rows):
        return None
    if masks is None and pad == bos:
        raise pad_is_bos(int(counts[0]) + 1, bos)
    for name, column in columns.items():
        require_same_lengths(name, column, columns["input_ids"])
    surplus = np.zeros(count, np.int64)
    surplus[rows] = counts
    cut = _plan(surplus, ids, masks, pad if pad != bos else None)
    return {name: _cut_column(name, column, cut, ids, masks, pad) for name, column in columns.items()}


def _plan(counts: LongArray, ids: Any, masks: Any, pad: int | None) -> _Cut:  # 2-D numpy arrays of any dtype
    """Choose the side on which each row is refilled, and what is trimmed."""
    import numpy as np

    count, width = ids.shape
    starts = trailing = np.zeros(count, np.int64)
    if masks is not None:
        starts, trailing = _count_padding(masks == 0), _count_padding(masks[:, ::-1] == 0)
    elif pad is not None:
        starts = _count_padding(ids == pad)
    some_left = bool(((starts > 0) & (starts < width)).any())
    to_left = (starts > 0) | ((trailing == 0) & some_left)
    # The columns that are padding in every row only since the cut.
    left = (starts + counts * to_left).min() - starts.min()
    right = (trailing + counts * ~to_left).min() - trailing.min()
    return _Cut(starts, counts, to_left, int(left), width - int(right))


def _count_padding(is_padding: BoolArray) -> LongArray:
    """Return how many positions pad the start of each row."""
    import numpy as np

    counts = np.zeros(len(is_padding), np.int64)
    padded = np.flatnonzero(is_padding[:, 0])
    if len(padded):
        rows = is_padding[padded]
        counts[padded] = np.where(rows.all(axis=1), rows.shape[1], rows.argmin(axis=1))
    return counts


def _cut_column(name: str, column: Any, cut: _Cut, ids: Any, masks: Any, pad: int | None) -> Any:  # of its own type
    import numpy as np

    count, width = ids.shape
    drops, fill = cut.starts + 1, FILLS.get(name, 0)
    if name == "input_ids" and (cut.counts > np.where(cut.to_left, cut.left, width - cut.right)).any():
        fill = pad if pad is not None else _copy_pad_id(ids, masks)
    elif name == "position_ids":
        numbers = _to_numpy(column).reshape(count, width)
        begins, lengths = np.arange(count) * width, np.full(count, width)
        drops = find_ends_of_count(numbers.reshape(-1), begins, lengths, cut.starts, cut.counts)
    if not getattr(column, "ndim", 0) > 1:
        return _cut_lists(column, drops, cut, fill, is_labels=name == "labels")
    narrow = column[:, cut.left : cut.right]
    made = narrow.clone() if hasattr(narrow, "clone") else narrow.copy()
    for rows, drop, surplus, is_left in _group(drops, cut):
        for to, end, source in _pieces(drop, surplus, is_left, width):
            first, last = max(to, cut.left), min(end, cut.right)
            if first < last:
                moved = fill if source is None else column[rows, first - to + source : last - to + source]
                made[rows, first - cut.left : last - cut.left] = moved
        if name == "labels":  # the one BOS that stays has no label
            made[rows, drop - 1 + surplus * is_left - cut.left] = fill
    return made


def _cut_lists(column: Any, drops: LongArray, cut: _Cut, fill: int, *, is_labels: bool) -> Any:  # lists or a tuple
    """Return rows beside a rectangle that are lists, or arrays of their own."""
    rows = []
    for place, row in enumerate(column):
        start, drop, surplus = int(cut.starts[place]), int(drops[place]), int(cut.counts[place])
        kept = [k for k in range(len(row)) if not drop <= k < drop + surplus]
        order = [-1] * surplus + kept if cut.to_left[place] else kept + [-1] * surplus
        order = [-1 if is_labels and surplus and k == start else k for k in order[cut.left : cut.right]]
        if not hasattr(row, "dtype"):
            taken = [fill if k < 0 else row[k] for k in order]
            rows.append(tuple(taken) if isinstance(row, tuple) else taken)
            continue
        array = row[[max(k, 0) for k in order]]
        if -1 in order:
            array[[j for j, k in enumerate(order) if k < 0]] = fill
        rows.append(array)
    return tuple(rows) if isinstance(column, tuple) else rows


def _group(drops: LongArray, cut: _Cut) -> Iterator[tuple[Any, int, int, bool]]:  # a slice or places
    """Return the rows that are cut, those that are cut in the same way together, with how they are."""
    import numpy as np

    keys = np.stack((drops, cut.counts, cut.to_left), axis=1)
    if (keys == keys[0]).all():
        yield slice(None), int(drops[0]), int(cut.counts[0]), bool(cut.to_left[0])
        return
    rows = np.flatnonzero(cut.counts)
    rows = rows[np.lexsort(keys[rows].T)]
    edges = np.flatnonzero((keys[rows[1:]] != keys[rows[:-1]]).any(axis=1)) + 1
    for group in np.split(rows, edges):
        first = group[0]
        yield group, int(drops[first]), int(cut.counts[first]), bool(cut.to_left[first])


def _pieces(drop: int, surplus: int, is_left: bool, width: int) -> list[tuple[int, int, int | None]]:
    """Return the parts of a row after the cut: from where to where, and where each was before; None for a fill."""
    if is_left:
        return [(0, surplus, None), (surplus, surplus + drop, 0), (surplus + drop, width, drop + surplus)]
    return [(0, drop, 0), (drop, width - surplus, drop + surplus), (width - surplus, width, None)]


def _copy_pad_id(ids: Any, masks: Any) -> int:  # 2-D numpy arrays
    import numpy as np

    if masks is not None and (masks == 0).any():
        return int(ids.reshape(-1)[np.argmin(masks.reshape(-1) != 0)])
    raise PadfixError(
        "The rows of a rectangular batch lose different numbers of BOS and must be refilled, but no pad id is "
        "known. Pass pad_token_id=, or a tokenizer that has one: `prepare(tokenizer)` sets it."
    )


def _to_numpy(column: Any) -> Any:  # a numpy array of the same dtype
    import numpy as np

    try:
        return np.asarray(column.cpu() if hasattr(column, "cpu") else column)
    except (TypeError, RuntimeError):  # a tensor of bfloat16, or one with a gradient
        return np.asarray(column.tolist())
