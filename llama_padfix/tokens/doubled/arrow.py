"""One BOS at the start of each row of an Arrow table or dataset: all rows are read and cut at once by numpy."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from llama_padfix.core.arrow import from_numpy, to_numpy
from llama_padfix.core.errors import IGNORE_INDEX, PadfixError, describe
from llama_padfix.tokens.doubled.runs import (
    FILLS,
    Shown,
    find_ends_of_count,
    find_runs,
    packed_row,
    pad_is_bos,
    unlike_lengths,
)

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

    from llama_padfix.core.types import LongArray


_BATCH_ROWS = 10_000  # of a dataset, read and cut at once


class _Lists(NamedTuple):
    """A column of lists, with no row copied; a null row is empty."""

    values: pa.Array
    """The items of all rows, one row behind the other, perhaps with others between."""
    starts: LongArray
    """Where each row begins in `values`."""
    lengths: LongArray


class _Kept(NamedTuple):
    """What stays of a column of lists."""

    flags: pa.Array
    """Which items stay."""
    edges: LongArray
    """Where each row begins after the cut, and where the last one ends."""
    firsts: LongArray
    """Where the one BOS of each cut row is then."""


class _Surplus(NamedTuple):
    """What is to be cut from the rows of a batch."""

    ids: _Lists
    """The ids of the batch."""
    rows: LongArray
    """The rows that start with more than one BOS."""
    starts: LongArray
    """Where the real tokens of each of these rows start."""
    counts: LongArray
    """How many BOS are too many there."""


def dedupe_table(table: pa.Table | pa.RecordBatch, bos: int, pad: int | None) -> Any:  # of the type of `table`
    """Return a table with one BOS a row; `table` itself where no row has more, and its own memory where none changes.

    A null row stays null. A list of fixed size becomes one of any size where a row is cut.

    Raises:
        PadfixError: There are no `input_ids`, or they are no lists of integers; else as `dedupe_bos`.
    """
    import pyarrow

    if "input_ids" not in table.schema.names:
        raise PadfixError(
            f"The table has the columns {describe(table.schema.names)} but no input_ids, so there is nothing to cut. "
            'Pass the tokenized rows, or the texts: dedupe_bos(table["text"].to_pylist(), tokenizer).'
        )
    batches = table.to_batches() if isinstance(table, pyarrow.Table) else [table]
    first_row, cut = 0, []
    for batch in batches:
        surplus = _find_surplus(batch, bos, pad, first_row)
        cut.append(surplus)
        first_row += batch.num_rows
    if not any(len(surplus.rows) for surplus in cut):
        return table
    schema = pyarrow.schema([_of_any_size(field) for field in table.schema], table.schema.metadata)
    made, first_row = [], 0
    for batch, surplus in zip(batches, cut, strict=True):
        kept: dict[bool, _Kept] = {}
        columns = [_cut(batch, place, surplus, first_row, kept) for place in range(len(schema))]
        columns = [
            column if column.type == field.type else column.cast(field.type)
            for column, field in zip(columns, schema, strict=True)
        ]
        made.append(pyarrow.RecordBatch.from_arrays(columns, schema=schema))
        first_row += batch.num_rows
    return pyarrow.Table.from_batches(made, schema) if isinstance(table, pyarrow.Table) else made[0]


def dedupe_dataset(dataset: datasets.Dataset, bos: int, pad: int | None) -> datasets.Dataset:
    """Return a dataset with one BOS a row; `dataset` itself where no row has more, else what `datasets.map` makes."""
    names = [name for name in ("input_ids", "attention_mask") if name in dataset.column_names]
    first_row = 0
    for table in dataset.with_format("arrow", columns=names or None).iter(_BATCH_ROWS):
        if dedupe_table(table, bos, pad) is not table:
            break
        first_row += table.num_rows
    else:
        return dataset
    features = dataset.features.copy()
    for name, feature in features.items():
        if name in FILLS and getattr(feature, "length", -1) >= 0:
            features[name] = replace(feature, length=-1)
    cut = dataset.with_format("arrow").map(
        _dedupe_batch,
        fn_kwargs={"bos": bos, "pad": pad},
        batched=True,
        batch_size=_BATCH_ROWS,
        writer_batch_size=_BATCH_ROWS,
        features=features,
        desc="One BOS a row",
    )
    shown = dataset.format
    kwargs = shown["format_kwargs"]
    return cut.with_format(shown["type"], shown["columns"], shown["output_all_columns"], **kwargs)


def _dedupe_batch(batch: pa.Table, bos: int, pad: int | None) -> pa.Table:
    return dedupe_table(batch.combine_chunks(), bos, pad)  # however many chunks it comes in


def _find_surplus(batch: pa.RecordBatch, bos: int, pad: int | None, first_row: int) -> _Surplus:
    """Find the rows that start with more than one BOS."""
    import numpy as np

    ids = _read_lists(batch, "input_ids")
    if ids is None or not _holds_integers(ids.values):
        kind = batch.schema.field("input_ids").type
        raise PadfixError(f"input_ids hold {kind}, and rows of ids are lists of integers. Pass the tokenizer's ids.")
    flat = _read_numbers(ids, "input_ids", next(value for value in range(3) if value not in (bos, pad)))
    masks = _read_lists(batch, "attention_mask") if "attention_mask" in batch.schema.names else None
    masked = np.zeros(batch.num_rows, bool)
    found: list[tuple[LongArray, LongArray, LongArray]] = []
    if masks is not None:
        masked = to_numpy(batch.column("attention_mask").is_valid())
        _require_same_lengths("attention_mask", masks, ids, np.flatnonzero(masked), first_row)
        shown = Shown(_read_numbers(masks, "attention_mask", 0), 0, masks.starts)
        found.append(find_runs(flat, ids.starts, ids.lengths, np.flatnonzero(masked), bos, shown))
    if masks is None or not masked.all():
        without = None if pad is None or pad == bos else Shown(flat, pad, ids.starts)
        found.append(find_runs(flat, ids.starts, ids.lengths, np.flatnonzero(~masked), bos, without))
        if pad == bos and len(found[-1][0]):
            raise pad_is_bos(int(found[-1][2][0]) + 1, bos)
    if len(found) == 1:
        return _Surplus(ids, *found[0])
    rows, starts, counts = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.argsort(rows)
    return _Surplus(ids, rows[order], starts[order], counts[order])


def _cut(batch: pa.RecordBatch, place: int, surplus: _Surplus, first_row: int, kept: dict[bool, _Kept]) -> pa.Array:
    """Return a column without what is too many; the column itself where nothing is cut from it.

    `kept` holds what stays of the ids, and of position_ids (True), for columns with rows of the same lengths.
    """
    name, column = batch.schema.names[place], batch.column(place)
    ids, rows, starts, counts = surplus
    if len(rows) and column.null_count:
        has_value = to_numpy(column.is_valid())[rows]
        rows, starts, counts = rows[has_value], starts[has_value], counts[has_value]
    if not len(rows):
        return column
    if name == "seq_lengths":
        raise packed_row()
    lists = _read_lists(batch, name) if name in FILLS else None
    if lists is None:
        return column
    is_alike = (lists.lengths == ids.lengths).all()
    if not is_alike:
        _require_same_lengths(name, lists, ids, rows, first_row)
    is_counted = name == "position_ids"
    keeps = kept.get(is_counted) if is_alike else None
    if keeps is None:
        places = starts + 1
        if is_counted:
            numbers = _read_numbers(lists, name, 0)
            places = find_ends_of_count(numbers, lists.starts[rows], lists.lengths[rows], starts, counts)
        keeps = _keep(lists.lengths, rows, starts, counts, places)
        if is_alike:
            kept[is_counted] = keeps
    values = _join(lists).filter(keeps.flags)
    if name == "labels":  # the one BOS that stays has no label: position 0 is never trained
        values = _write_ignored(values, keeps.firsts)
    return _make_lists(column, values, keeps.edges)


def _keep(lengths: LongArray, rows: LongArray, starts: LongArray, counts: LongArray, places: LongArray) -> _Kept:
    """Return what stays where `counts` items go from each of these rows, those from `places` on."""
    import numpy as np

    edges = np.append(0, np.cumsum(lengths))
    out = edges[rows] + places
    if (counts > 1).any():
        out = np.repeat(out, counts) + _count_up(counts)
    flags = _make_flags(int(edges[-1]), out, at_places=False)
    lost = np.zeros(len(lengths), np.int64)
    lost[rows] = counts
    edges[1:] -= np.cumsum(lost)
    return _Kept(flags, edges, edges[rows] + starts)


def _read_lists(batch: pa.RecordBatch, name: str) -> _Lists | None:
    """Return a column of lists; None where it holds something else, such as the labels of a classifier."""
    import numpy as np
    from pyarrow import types

    column = batch.column(batch.schema.names.index(name))
    kind = column.type
    if types.is_fixed_size_list(kind):
        edges = np.arange(column.offset, column.offset + len(column) + 1, dtype=np.int64) * kind.list_size
    elif types.is_list(kind) or types.is_large_list(kind):
        edges = to_numpy(column.offsets).astype(np.int64)
    else:
        return None
    lengths = np.diff(edges)
    if column.null_count:
        lengths[~to_numpy(column.is_valid())] = 0
    first, last = int(edges[0]), int(edges[-1])  # a batch may be a part of a table, whose items are all in `values`
    return _Lists(column.values.slice(first, last - first), edges[:-1] - first, lengths)


def _join(lists: _Lists) -> pa.Array:
    """Return the items of all rows and nothing else."""
    import numpy as np

    total = int(lists.lengths.sum())
    if not total:
        return lists.values.slice(0, 0)
    begins = np.cumsum(lists.lengths) - lists.lengths
    filled = lists.lengths > 0
    first = int(lists.starts[filled][0])
    if (lists.starts[filled] - begins[filled] == first).all():
        return lists.values.slice(first, total)
    return lists.values.take(from_numpy(np.repeat(lists.starts, lists.lengths) + _count_up(lists.lengths)))


def _make_lists(column: pa.Array, values: pa.Array, edges: LongArray) -> pa.Array:
    """Return lists of these items, null where the column is."""
    import numpy as np
    import pyarrow

    large = pyarrow.types.is_large_list(column.type)
    kind = pyarrow.LargeListArray if large else pyarrow.ListArray
    offsets = from_numpy(edges if large else edges.astype(np.int32))
    return kind.from_arrays(offsets, values, mask=column.is_null() if column.null_count else None)


def _write_ignored(values: pa.Array, places: LongArray) -> pa.Array:
    """Return labels with -100 at these places."""
    import numpy as np
    import pyarrow.compute
    from pyarrow import types

    kind = values.type
    if not types.is_signed_integer(kind) and not types.is_floating(kind):
        raise PadfixError(
            f"labels hold {kind}, which has no {IGNORE_INDEX} for the BOS that stays. Make them int64 first."
        )
    if not values.null_count and (to_numpy(values)[places] == IGNORE_INDEX).all():
        return values
    ignored = from_numpy(np.full(len(places), IGNORE_INDEX, kind.to_pandas_dtype()))
    return pyarrow.compute.replace_with_mask(values, _make_flags(len(values), places, at_places=True), ignored)


def _of_any_size(field: pa.Field) -> pa.Field:
    import pyarrow

    if field.name in FILLS and pyarrow.types.is_fixed_size_list(field.type):
        return field.with_type(pyarrow.list_(field.type.value_field))
    return field


def _require_same_lengths(name: str, lists: _Lists, ids: _Lists, rows: LongArray, first_row: int) -> None:
    unlike = rows[lists.lengths[rows] != ids.lengths[rows]]
    if len(unlike):
        row = int(unlike[0])
        raise unlike_lengths(first_row + row, name, int(lists.lengths[row]), int(ids.lengths[row]))


def _holds_integers(values: pa.Array) -> bool:
    from pyarrow import types

    return bool(types.is_integer(values.type) or types.is_null(values.type))


def _read_numbers(lists: _Lists, name: str, null: int) -> Any:  # IntArray, or bool
    """Return the items of a column as a numpy array, with `null` in the place of nulls."""
    import numpy as np
    from pyarrow import types

    kind = lists.values.type
    if types.is_null(kind):
        return np.full(len(lists.values), null)
    if not (types.is_integer(kind) or types.is_boolean(kind) or types.is_floating(kind)):
        raise PadfixError(
            f"{name} hold {kind}, and one number a token is needed. Make them int64 first, or drop them."
        )
    return to_numpy(lists.values, null)


def _count_up(lengths: LongArray) -> LongArray:
    """Return 0, 1, ... for each of these lengths, one behind the other."""
    import numpy as np

    return np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _make_flags(count: int, places: LongArray, *, at_places: bool) -> pa.Array:
    """Return so many flags, `at_places` there and its opposite elsewhere; written as bits, which no byte a flag is."""
    import numpy as np
    import pyarrow

    bits = np.zeros((count + 7) // 8, np.uint8)
    np.bitwise_or.at(bits, places >> 3, np.left_shift(1, places & 7).astype(np.uint8))
    buffer = pyarrow.py_buffer(bits if at_places else np.invert(bits, out=bits))
    return pyarrow.Array.from_buffers(pyarrow.bool_(), count, [None, buffer])
