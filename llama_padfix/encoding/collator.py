"""Rows of ids to one padded batch: what is padding is known by position, never by comparing ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import IGNORE_INDEX, PadfixError, describe
from llama_padfix.encoding.id_columns import columns_of_table, from_arrow, read_column, rows_of_table
from llama_padfix.encoding.sources import is_table

if TYPE_CHECKING:
    from typing import TypeAlias

    import torch

    from llama_padfix.core.types import IntArray, LongArray, Row

    Columns: TypeAlias = tuple[Sequence[IntArray], Sequence[IntArray] | None, Sequence[IntArray] | None]
    """Ids, masks and labels; None where no row brings any."""

_NAMES = ("input_ids", "attention_mask", "labels")


@dataclass(frozen=True)
class PadCollator:
    """Pad rows to one length, for `Trainer(data_collator=...)` or a `DataLoader(collate_fn=...)`.

    It holds plain values only, so that it travels to the workers of a dataloader.

    Args:
        pad_token_id: What fills `input_ids`.
        pad_to_multiple_of: The width is rounded up to a multiple of it (8 or 64 suit tensor cores).
        padding_side: "right" (training) or "left" (generation).

    Raises:
        PadfixError: A setting cannot work.
    """

    pad_token_id: int
    pad_to_multiple_of: int | None = None
    padding_side: str = "right"

    def __post_init__(self) -> None:
        """Raise `PadfixError` for settings that would only fail, or train wrongly, at the first batch."""
        if not _is_int(self.pad_token_id) or self.pad_token_id < 0:
            raise PadfixError(
                f"pad_token_id is {describe(self.pad_token_id)}, and padding needs an id of the vocabulary. "
                "Run `prepare(tokenizer)` first: it sets one; then pass tokenizer.pad_token_id."
            )
        step = self.pad_to_multiple_of
        if step is not None and (not _is_int(step) or step < 1):
            raise PadfixError(
                f"pad_to_multiple_of is {step!r}, and a width is a multiple of 1 or more. "
                "Pass a positive int such as 8, or None."
            )
        if self.padding_side not in ("left", "right"):
            raise PadfixError(
                f"padding_side is {self.padding_side!r}, and rows are padded on one side or the other. "
                'Pass "right" for training or "left" for generation.'
            )

    def __call__(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Return one padded batch. `rows` is never changed.

        Args:
            rows: Mappings with `input_ids` and optionally `labels` and `attention_mask`: lists, 1-D numpy arrays,
                torch tensors, Arrow arrays or list scalars of integers. Other columns are ignored. An Arrow table is
                read too, and a sequence of them, which is what a `datasets` stream `with_format("arrow")` hands over.

        Returns:
            `input_ids`, `attention_mask` and `labels`, each an int64 tensor of shape (len(rows), width). Labels are
            -100 at padded positions (those that the row's own mask marks with 0 too) and at each row's first real
            token, and nowhere else: a stop token keeps its label even where its id is `pad_token_id`. Without
            `labels` a row's ids are its labels. Masks keep their values, 1 where a row brings none.

        Raises:
            PadfixError: The batch or a row is empty, ids are no integers or negative, a column's length differs from
                that of `input_ids`, only some rows have labels, or torch is missing. The row is named.
        """
        try:
            import numpy as np
            import torch
        except ImportError as error:
            raise PadfixError(
                "PadCollator makes torch tensors and torch is missing. Run: pip install torch"
            ) from error

        ids, masks, labels = _read_columns(rows)
        if np.concatenate(ids).min() < 0:
            first = next(i for i, row in enumerate(ids) if row.min() < 0)
            raise PadfixError(
                f"Row {first}: input_ids hold {ids[first].min()}, which no embedding has. "
                "Pass the tokenizer's ids; -100 belongs in labels only."
            )
        lengths = list(map(len, ids))
        step = self.pad_to_multiple_of or 1
        width = -(-max(lengths) // step) * step
        is_padded = masks is not None and not np.concatenate(masks).all()  # the rows come with padding
        if masks is None:
            ones = np.ones(width, dtype=np.int64)
            masks = [ones[:length] for length in lengths]
        left = self.padding_side == "left"
        out_ids = _pad(ids, self.pad_token_id, width, left)
        out_mask = _pad(masks, 0, width, left)
        out_labels = _pad(labels or ids, IGNORE_INDEX, width, left)
        if is_padded:
            out_labels[out_mask == 0] = IGNORE_INDEX
        # No loss can use the first label; in transformers 4.46 to 5.7 it still counts when the mean is taken.
        if is_padded or left:
            out_labels[np.arange(len(ids)), (out_mask != 0).argmax(axis=1)] = IGNORE_INDEX
        else:
            out_labels[:, 0] = IGNORE_INDEX
        return {
            "input_ids": torch.from_numpy(out_ids),
            "attention_mask": torch.from_numpy(out_mask),
            "labels": torch.from_numpy(out_labels),
        }


def _read_columns(rows: Any) -> Columns:  # Any: what a user passes, which is checked
    """Return ids, masks and labels, None where no row brings any; raise for rows that cannot be padded."""
    columns = _read_together(columns_of_table(rows, _NAMES)) if is_table(rows) else None
    if columns is None:
        if is_table(rows):
            rows = rows_of_table(rows, _NAMES)
        elif type(rows) is list and rows and is_table(rows[0]) and all(map(is_table, rows)):
            rows = [row for table in rows for row in rows_of_table(table, _NAMES)]
        if type(rows) is not list or set(map(type, rows)) != {dict}:  # reading a dict shows what it lacks
            _require_rows(rows)
        columns = _read_together({name: [row.get(name) for row in rows] for name in _NAMES})
    if columns is None:
        _require_rows(rows)
        columns = _read_one_by_one(rows)
    return columns


def _pad(arrays: Sequence[IntArray], value: int, width: int, left: bool) -> LongArray:
    """Return an array of shape (rows, width) of one column's arrays, filled up with a value.

    Memory decides the time: each place is written once, by one call.
    """
    import numpy as np

    filling = np.full(width, value, dtype=np.int64)
    pieces: list[IntArray] = []
    for array in arrays:
        pieces += (filling[len(array) :], array) if left else (array, filling[len(array) :])
    out = np.empty((len(arrays), width), dtype=np.int64)
    np.concatenate(pieces, out=out.reshape(-1))
    return out


def _read_together(values_of: Mapping[str, Sequence[object]]) -> Columns | None:
    """Return the columns of well-formed rows; None where each row has to be read on its own."""
    found: dict[str, Sequence[IntArray]] = {}
    for name in _NAMES:
        values = values_of.get(name, ())
        if name != "input_ids" and not set(map(type, values)) - {type(None)}:
            continue
        arrays = read_column(values, "iub" if name == "attention_mask" else "iu")
        if arrays is None:
            return None
        lengths = list(map(len, arrays))
        if not all(lengths) or (found and lengths != list(map(len, found["input_ids"]))):
            return None
        found[name] = arrays
    return found["input_ids"], found.get("attention_mask"), found.get("labels")


def _read_one_by_one(rows: Sequence[Row]) -> Columns:
    """Return the columns of rows of any kinds; raise for the first row that cannot be padded."""
    import numpy as np

    ids = [_read(row, "input_ids", i) for i, row in enumerate(rows)]
    masks = [_read(row, "attention_mask", i, ids[i]) for i, row in enumerate(rows)]
    labels = [_read(row, "labels", i, ids[i]) for i, row in enumerate(rows)]
    unlabeled = [i for i, own in enumerate(labels) if own is None]
    if 0 < len(unlabeled) < len(labels):
        raise PadfixError(
            f"{len(unlabeled)} of {len(labels)} rows have no labels (the first is row {unlabeled[0]}), so it is "
            "unclear what trains there. Encode all rows in the same way: `prepare(tokenizer).encode(dataset)`."
        )
    masks = [np.ones(len(own), dtype=bool) if mask is None else mask for own, mask in zip(ids, masks, strict=True)]
    return ids, masks, None if unlabeled else labels


def _require_rows(rows: object) -> None:
    if type(rows) is not list and (isinstance(rows, Mapping) or not isinstance(rows, Sequence)):
        raise PadfixError(
            f"A batch is a sequence of rows, and this is a {type(rows).__name__}. Pass a list: collator([row])."
        )
    if not rows:
        raise PadfixError("The batch has no rows, so it has no width. Pass one row or more: collator([row]).")
    for i, row in enumerate(rows):
        # The type first: a check against an abstract class takes as long as padding the row.
        if (type(row) is not dict and not isinstance(row, Mapping)) or row.get("input_ids") is None:
            raise _without_ids(i, row)


def _without_ids(index: int, row: object) -> PadfixError:
    seen = list(row) if isinstance(row, Mapping) else row
    return PadfixError(
        f"Row {index} has no input_ids: {describe(seen)}. "
        "Encode the dataset first: `prepare(tokenizer).encode(dataset)`."
    )


def _read(row: Row, name: str, index: int, ids: IntArray | None = None) -> Any:  # an IntArray or None
    """Return a column of a row as a 1-D integer array as long as `ids`; None where the row lacks it."""
    import numpy as np

    value = from_arrow(row.get(name))
    if value is None:
        if ids is None:
            raise _without_ids(index, row)
        return None
    if hasattr(value, "detach"):  # a torch tensor, perhaps on another device; numpy has no bfloat16
        value = value.detach().cpu()
        value = value.double().numpy() if value.is_floating_point() else value.numpy()
    try:
        array = np.asarray(value)
    except ValueError:  # a ragged list of lists
        array = np.empty((0, 0))
    if array.ndim != 1:
        raise PadfixError(
            f"Row {index}: {name} is not one-dimensional: {describe(value)}. Pass one flat list of ids a row."
        )
    if ids is None and not len(array):
        raise PadfixError(
            f"Row {index} is empty: its input_ids hold nothing to attend to. "
            'Drop such rows first: dataset.filter(lambda row: len(row["input_ids"]) > 0).'
        )
    if ids is not None and len(array) != len(ids):
        raise PadfixError(
            f"Row {index}: {name} has length {len(array)} and input_ids {len(ids)}, so they do not belong together. "
            f"Encode the row again, or drop its {name}."
        )
    seen = getattr(row[name], "dtype", array.dtype)
    if array.dtype.kind not in ("iub" if name == "attention_mask" else "iu"):
        raise PadfixError(
            f"Row {index}: {name} holds {seen}, not integers: {describe(value)}. "
            f"Pass the ids as integers: [int(x) for x in {name}]."
        )
    return array


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
