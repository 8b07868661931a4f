"""What kind of rows a value holds: one row or many, encoded or not, a batch, splits, a stream.

Nothing here reads more than one row, and only `is_encoded` reads one of a stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.row_formats import CONVERSATION_COLUMNS, read_row

if TYPE_CHECKING:
    from typing import TypeGuard

    import pyarrow as pa
    import torch
    from typing_extensions import TypeIs

    from llama_padfix.core.types import IntArray, Row


def is_table(value: object) -> TypeIs[pa.Table | pa.RecordBatch]:
    """Return True for an Arrow table or record batch.

    `datasets` streams hand them out one by one `with_format("arrow")`.
    """
    return type(value).__module__ == "pyarrow.lib" and hasattr(type(value), "column_names")


def is_batch(value: object) -> TypeGuard[Mapping[str, IntArray | torch.Tensor]]:
    """Return True for one collated batch: a mapping with two-dimensional `input_ids`."""
    ids = value.get("input_ids") if isinstance(value, Mapping) else None
    return getattr(ids, "ndim", None) == 2


def is_splits(value: object) -> TypeGuard[Row]:
    """Return True for a mapping of splits to datasets, such as a `datasets.DatasetDict`."""
    return isinstance(value, Mapping) and any(hasattr(split, "column_names") for split in value.values())


def is_indexed(value: object) -> TypeGuard[Sequence[object]]:
    """Return True for a list or a torch dataset: it has a length and rows by number, and no columns."""
    other = isinstance(value, (Mapping, str)) or hasattr(value, "column_names")
    return not other and hasattr(value, "__len__") and hasattr(value, "__getitem__")


def is_iterable(value: object) -> TypeGuard[Iterable[Any]]:  # rows of any shape
    """Return True for what can be read row by row: a dataset, list or stream, and no text or mapping."""
    return isinstance(value, Iterable) and not isinstance(value, (str, dict))


def column_names(rows: object) -> Sequence[str] | None:
    """Return the columns of a dataset, or of the first row of a list; None where a stream does not declare them."""
    names = getattr(rows, "column_names", None)
    if isinstance(names, (list, tuple)):
        return names
    if not is_indexed(rows) or not len(rows):
        return None
    first = rows[0]
    return tuple(first) if isinstance(first, Mapping) else ()


def is_encoded(rows: Any) -> bool:  # whatever holds rows
    """Return True if the columns of a dataset, or those of its first row, hold `input_ids`.

    The first row of a stream that does not declare its columns is read; the stream begins anew when it is read again.
    """
    names = column_names(rows)
    if names is None and not isinstance(getattr(rows, "column_names", {}), Mapping):
        first = next(iter(rows), None)
        names = tuple(first) if isinstance(first, Mapping) else ()
    return "input_ids" in (names or ())


_ENCODED = ("input_ids", "input_ids_chosen", "chosen_ids")  # of rows, and of pairs


def refuse_encoded(rows: object, name: str) -> None:
    """Raise `PadfixError` for a dataset, table or batch of columns that holds encoded rows."""
    columns: Iterable[object] = rows if isinstance(rows, Mapping) else column_names(rows) or ()
    if held := next((column for column in _ENCODED if column in columns), None):
        raise PadfixError(
            f"The {name} has a column {held}, so it is encoded already. Train on it as it is, or encode the rows "
            f'that it was made from; dataset.remove_columns("{held}") keeps only those.'
        )


def is_raw(rows: object) -> bool:
    """Return True for a dataset or list of rows without `input_ids`; False where the columns are not known."""
    names = column_names(rows) if hasattr(rows, "column_names") or isinstance(rows, (list, tuple)) else None
    return names is not None and "input_ids" not in names


def is_encoded_row(row: object) -> TypeGuard[Row]:
    """Return True for one row with `input_ids` that are not null."""
    return isinstance(row, Mapping) and row.get("input_ids") is not None


def is_conversation(value: Sequence[object]) -> bool:
    """Return True for a list of messages; False for a column or list of conversations or rows."""
    first = value[0] if len(value) else None
    if not isinstance(first, Mapping) or {*CONVERSATION_COLUMNS} & set(first):
        return False  # a row with a column called "from" is still a row
    return "role" in first or "from" in first


def is_one_row(value: object) -> bool:
    """Return True for one row or conversation that is not encoded; a list of messages may be unreadable."""
    try:
        read_row(value)
    except PadfixError:
        messages = value
        if isinstance(value, Mapping):
            messages = next((value[name] for name in CONVERSATION_COLUMNS if value.get(name) is not None), None)
        return isinstance(messages, list) and is_conversation(messages) and "input_ids" not in messages[0]
    return True


def rows_of(columns: Mapping[str, Sequence[object]]) -> list[dict[str, object]]:
    """Return a batch's columns as rows."""
    length = len(next(iter(columns.values()), ()))
    return [{column: values[place] for column, values in columns.items()} for place in range(length)]


def split_batch(value: object) -> Sequence[object] | None:
    """Return the rows of a list of rows or a mapping of columns, or None for one row or one conversation."""
    if isinstance(value, Mapping):
        columns = {name: value[name] for name in value}
        if not columns or not all(isinstance(column, (list, tuple)) and column for column in columns.values()):
            return None
        first = next((name for name in CONVERSATION_COLUMNS if name in columns), "prompt")
        return None if first in columns and is_conversation(columns[first]) else rows_of(columns)
    if isinstance(value, (list, tuple)) and value and not is_conversation(value):
        return list(value)
    return None


def rows_of_mapping(value: Mapping[str, Any]) -> list[dict[str, object]]:  # Any: rows or columns of any kind
    """Return the rows of a mapping, encoded or not: one row, or columns of several; none where it is neither.

    Of columns, those that are lists or arrays count, as far as the shortest one reaches: what a tokenizer returns for
    several texts may hold more.
    """
    ids = value.get("input_ids")
    one = is_one_row(value) if ids is None else not len(ids) or not _has_length(ids[0])
    if one:
        return [dict(value)]
    columns = {name: column for name, column in value.items() if is_column(column)}
    length = min(map(len, columns.values()), default=0)
    return rows_of({name: column[:length] for name, column in columns.items()})


def is_column(value: object) -> TypeGuard[Sequence[Any]]:  # values of any kind
    """Return True for a list, or an array or tensor of one dimension: one row's values, or a value of each row."""
    return isinstance(value, (list, tuple)) or getattr(value, "ndim", None) == 1


def _has_length(value: object) -> bool:
    """Return True for a list or array; False for a number, which of a tensor is one without dimensions."""
    return hasattr(value, "__len__") and bool(getattr(value, "ndim", 1))
