"""Encoded rows to packed rows: whole documents of a window of rows share rows of at most `max_length` tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import IGNORE_INDEX, PadfixError
from llama_padfix.encoding.dataset.arrow_stream import COLUMNS, make_features
from llama_padfix.encoding.dataset.open_rows import map_splits
from llama_padfix.encoding.packing.bins import fill_bins

if TYPE_CHECKING:
    import pyarrow as pa

PACKED_COLUMNS = (*COLUMNS, "seq_lengths")
_WINDOW_ROWS = 4_000
_STREAM_ROWS = 2_000  # what is read ahead of the first batch
_WINDOW_TOKENS = 2**25  # 256 MB of ids and labels


def pack_rows(rows: Any, max_length: int, *, progress: bool = True) -> Any:  # an encoded dataset, or a dict of them
    """Return the documents of encoded rows in packed rows of at most `max_length` tokens.

    Nothing is cut and nothing is lost: the packed rows hold the same documents, in another order. Documents of 4,000
    neighboring rows (fewer where rows are very long) are packed together, so memory does not grow with the dataset. A
    dataset that lies in a file is cached beside it, as `datasets.map` does.

    Args:
        rows: A `Dataset` or `IterableDataset` with the columns `input_ids` and `labels`, or a dict of them.
        max_length: Tokens of a packed row.
        progress: Show a progress bar.

    Returns:
        The same kind, with the int32 columns `input_ids` and `labels` of each packed row, and `seq_lengths`, the
        tokens of each of its documents. The first label of each document is -100: otherwise the last token of the
        document before it would be trained to predict it.

    Raises:
        PadfixError: A row is longer than `max_length`.
    """
    if isinstance(rows, Mapping):
        return map_splits(rows, lambda _, part: pack_rows(part, max_length, progress=progress))
    arguments = {"batched": True, "fn_kwargs": {"max_length": max_length}}
    arrow, features = rows.with_format("arrow"), make_features(PACKED_COLUMNS)
    if not hasattr(rows, "format"):
        packed = arrow.map(pack_table, batch_size=_STREAM_ROWS, **arguments).with_format(None).cast(features)
        packed.info.description = rows.info.description  # how the rows were encoded
        return packed
    window = max(256, min(_WINDOW_ROWS, _WINDOW_TOKENS // max_length))
    with _progress_bar(progress):
        packed = arrow.map(pack_table, batch_size=window, features=features, desc="Packing", **arguments)
    return packed.with_format(rows.format["type"], **rows.format["format_kwargs"])


def add_lengths(rows: Any) -> Any:  # an encoded dataset, or a dict of them
    """Return encoded rows with the column `length`, the tokens of each row, which a sampler by length reads.

    Raises:
        PadfixError: The rows are a stream, which no sampler orders.
    """
    import numpy as np

    if isinstance(rows, Mapping):
        return map_splits(rows, lambda _, part: add_lengths(part))
    if not hasattr(rows, "format"):
        raise PadfixError(
            "group_by_length=True orders rows by their length, and a stream is read in its own order. Pass "
            "packing=True, or a dataset that is not a stream."
        )
    chunks = rows.data.column("input_ids").chunks
    return rows.add_column("length", np.concatenate([chunk.value_lengths().to_numpy() for chunk in chunks]))


def pack_table(table: pa.Table, max_length: int) -> pa.Table:
    """Return the rows of an Arrow table, packed; see `pack_rows`."""
    import numpy as np
    import pyarrow as pa

    columns = {name: table.column(name).combine_chunks() for name in COLUMNS}
    lengths = np.asarray(columns["input_ids"].value_lengths())
    if len(lengths) and lengths.max() > max_length:
        raise PadfixError(
            f"A row has {lengths.max()} tokens, and a packed row holds {max_length}. Encode with the same max_length: "
            f"prepare(tokenizer, model, packing=True, max_length={max_length}).encode(dataset)"
        )
    bins = fill_bins(lengths, max_length)
    order = np.fromiter((row for own in bins for row in own), np.int64, len(lengths))
    documents = np.concatenate(([0], np.cumsum([len(own) for own in bins], dtype=np.int64))).astype(np.int32)
    ends = np.concatenate(([0], np.cumsum(lengths[order], dtype=np.int64)))
    taken = {name: column.take(pa.array(order)).flatten().to_numpy() for name, column in columns.items()}
    if (taken["labels"][ends[:-1]] != IGNORE_INDEX).any():  # rows of text; the header of a chat has no labels
        taken["labels"] = taken["labels"].copy()
        taken["labels"][ends[:-1]] = IGNORE_INDEX
    bounds = pa.array(ends[documents].astype(np.int32))
    packed = [pa.ListArray.from_arrays(bounds, pa.array(taken[name], pa.int32())) for name in COLUMNS]
    own_lengths = pa.ListArray.from_arrays(pa.array(documents), pa.array(lengths[order].astype(np.int32)))
    return pa.Table.from_arrays([*packed, own_lengths], names=list(PACKED_COLUMNS))


@contextmanager
def _progress_bar(shown: bool) -> Iterator[None]:
    """Hide the bar of `map`, which is a setting of the whole process, unless it is to be shown."""
    from datasets.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

    hidden = not shown and is_progress_bar_enabled()
    if hidden:
        disable_progress_bar()
    try:
        yield
    finally:
        if hidden:
            enable_progress_bar()
