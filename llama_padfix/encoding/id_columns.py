"""The columns of encoded rows as numpy arrays, whatever holds them: lists, numpy, torch, Arrow."""

from __future__ import annotations

import itertools
import struct
import sys
from array import array
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa
    import torch
    from typing_extensions import TypeIs

    from llama_padfix.core.types import IntArray


def read_column(values: Sequence[Any], kinds: str = "iu") -> Sequence[IntArray] | None:  # Any: distinguished by type
    """Return one column of a batch as 1-D numpy arrays of integers, without a copy where the row holds a buffer.

    `kinds` are the dtype kinds to accept. Returns None unless all rows are held in one type and nothing about them is
    doubtful: then each row has to be read on its own.
    """
    import numpy as np

    found = set(map(type, values))
    if len(found) != 1:
        return None
    [kind] = found
    try:
        if kind is list:
            packed = [row for value in values if (row := pack_ids(value)) is not None]
            return packed if len(packed) == len(values) else None
        arrays: Sequence[IntArray] = []
        if kind is np.ndarray:
            arrays = values
        elif kind.__module__ == "pyarrow.lib":
            arrays = [from_arrow(value).to_numpy() for value in values]
        elif "torch" in sys.modules and kind is sys.modules["torch"].Tensor:
            arrays = [value.numpy() for value in values]
    # Null or nulls of Arrow, or no list; tensors on another device, or of a dtype that numpy lacks.
    except (AttributeError, RuntimeError, TypeError, ValueError):
        return None
    if {own.ndim for own in arrays} != {1} or not {own.dtype.kind for own in arrays} <= set(kinds):
        return None
    return arrays


def pack_ids(ids: list[int]) -> IntArray | None:
    """Return a list of ints as an array of uint32 or int64, None where it is empty or holds anything but such numbers.

    `array` and `struct` take half the time of `numpy.array`, and refuse a float instead of cutting it; of its codes
    `array` is quick with the unsigned ones alone.
    """
    import numpy as np

    if not ids or type(ids[0]) is not int:
        return None
    try:
        return np.frombuffer(array("I", ids), np.uintc)
    except OverflowError:  # -100, in labels
        pass
    except TypeError:
        return None
    try:
        return np.frombuffer(struct.pack(f"{len(ids)}q", *ids), np.int64)
    except struct.error:
        return None


def is_tensor(value: object) -> TypeIs[torch.Tensor]:
    """Return True for a torch tensor, without importing torch."""
    return hasattr(value, "new_tensor")


def from_arrow(value: Any) -> Any:  # any value of a row; a pyarrow.Array of one that Arrow holds
    """Return the array inside an Arrow list scalar, None for a null one, and any other value as it is."""
    if type(value).__module__ == "pyarrow.lib" and hasattr(value, "as_py") and hasattr(value, "values"):
        return value.values
    return value


def rows_of_table(table: pa.Table | pa.RecordBatch, names: Sequence[str]) -> list[dict[str, Any]]:  # of `_split`
    """Return an Arrow table's rows with those of `names` that it has, each a view into the table's own buffer."""
    columns = columns_of_table(table, names)
    if not columns:
        return [dict.fromkeys(table.column_names) for _ in range(table.num_rows)]
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def columns_of_table(table: pa.Table | pa.RecordBatch, names: Sequence[str]) -> dict[str, list[Any]]:  # of `_split`
    """Return those of `names` that an Arrow table has, each as its rows' values; see `rows_of_table`."""
    found = table.column_names
    return {name: _split(table.column(found.index(name))) for name in names if name in found}


def _split(column: pa.Array | pa.ChunkedArray) -> list[Any]:  # arrays, or Python values
    """Return an Arrow column of lists as one numpy array a row; as Python values where it is none, or holds nulls."""
    arrays: list[IntArray] = []
    for chunk in getattr(column, "chunks", [column]):
        values = getattr(chunk, "values", None)
        if not hasattr(type(chunk), "offsets") or chunk.null_count or values is None or values.null_count:
            return list(column.to_pylist())
        try:
            flat = values.to_numpy()
        except (TypeError, ValueError):
            return list(column.to_pylist())
        edges = chunk.offsets.to_numpy().tolist()
        arrays += [flat[start:end] for start, end in itertools.pairwise(edges)]
    return arrays
