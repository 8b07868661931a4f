"""Whatever holds rows, as rows: a path, a data frame, an Arrow table, a generator."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llama_padfix.core.errors import PadfixError
from llama_padfix.core.kinds import find_kind
from llama_padfix.encoding.dataset.files import open_rows
from llama_padfix.encoding.dataset.row_sequence import FrameRows, IndexedRows, RowSequence, TableRows
from llama_padfix.encoding.sources import is_indexed, is_iterable, is_table, refuse_encoded


def as_rows(value: Any) -> Any:  # anything; what is not known here comes back as it is
    """Return a path, a data frame or an Arrow table as rows that are read one by one, and any other value as it is.

    Raises:
        PadfixError: The path cannot be read, or `value` holds no rows yet, with the call that gives them.
    """
    if isinstance(value, (str, os.PathLike)):
        return open_rows(value if isinstance(value, str) else Path(value))
    if isinstance(value, (RowSequence, list, tuple, Mapping)) or hasattr(value, "features"):  # those of `datasets`
        return value
    if is_table(value):
        import pyarrow

        return TableRows(pyarrow.Table.from_batches([value]) if isinstance(value, pyarrow.RecordBatch) else value)
    module = type(value).__module__.partition(".")[0]
    if hasattr(type(value), "columns") and hasattr(type(value), "dtypes"):
        if hasattr(value, "collect") or not hasattr(value, "__len__") or module == "dask":
            call = next((name for name in ("compute", "toPandas") if hasattr(value, name)), "collect")
            raise PadfixError(f"A {module} {type(value).__name__} is read when it is asked for. Pass frame.{call}()")
        return FrameRows(value)
    if hasattr(value, "read_next_batch") and hasattr(value, "read_all"):  # pyarrow.RecordBatchReader
        return TableRows(value.read_all())
    if hasattr(value, "to_table") and hasattr(value, "schema"):  # pyarrow.dataset.Dataset
        raise PadfixError(f"A {module} {type(value).__name__} holds no rows in memory. Pass dataset.to_table()")
    if find_kind(value) in ("model", "tokenizer"):
        raise PadfixError(
            f"Got a {type(value).__name__} where rows are needed. Pass a dataset, a list of rows or a path."
        )
    return value


def as_sequence(value: Any) -> Any:  # see `as_rows`
    """Return rows that have a length, as `as_rows` does: those of a generator are read into memory."""
    rows = as_rows(value)
    if isinstance(rows, (RowSequence, list, tuple, Mapping)) or hasattr(rows, "features"):
        return rows
    if is_indexed(rows):
        return IndexedRows(rows)
    if is_iterable(rows):
        return list(rows)
    if callable(rows):
        name = getattr(rows, "__name__", type(rows).__name__)
        raise PadfixError(f"{name} is a function, which may give rows. Pass what it returns: {name}()")
    return rows


def require_rows(dataset: object, name: str) -> None:
    """Raise `PadfixError` unless this is a dataset or sequence with rows that are not encoded."""
    import datasets

    if not isinstance(dataset, (datasets.Dataset, Sequence)):
        raise PadfixError(
            f"A {type(dataset).__name__} is not a dataset. Pass a path ('train.jsonl', a folder), a datasets.Dataset, "
            "DatasetDict or IterableDataset (datasets.load_dataset(name)), a data frame, or a list of rows: list(rows)"
        )
    refuse_encoded(dataset, name)
    if not len(dataset):
        raise PadfixError(f"The {name} holds no rows. Check the files that it was read from.")


def map_splits(splits: Mapping[str, Any], change: Callable[[str, Any], Any]) -> Any:  # `Any`: datasets of any kind
    """Return a mapping of the same class, such as a `DatasetDict`, of what `change` makes of each name and split."""
    kind: Any = type(splits)  # made of its items, as a dict is
    return kind({name: change(name, rows) for name, rows in splits.items()})
