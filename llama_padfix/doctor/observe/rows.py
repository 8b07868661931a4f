"""Encoded rows as the checks see them: from a dataset, a stream, a list, or padded batches."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from llama_padfix.core.errors import PadfixError
from llama_padfix.doctor.facts import RowFacts, SampleFacts

__all__ = ["is_batch", "is_encoded", "rows_of_batch", "rows_of_dataset", "sample_of"]

_PER_TOKEN = ("labels", "attention_mask", "position_ids")  # besides input_ids
_SEED = 0  # the same rows are looked at every time


def is_batch(value: Any) -> bool:
    """Tell one collated batch (a mapping with two-dimensional `input_ids`) from everything else."""
    ids = value.get("input_ids") if isinstance(value, Mapping) else None
    return getattr(ids, "ndim", None) == 2


def is_encoded(dataset: Any) -> bool:
    """Tell a dataset of encoded rows: its columns, or its first row, hold `input_ids`.

    A stream that does not know its columns is asked for its first row, and begins anew when it is read.
    """
    names = getattr(dataset, "column_names", None)
    if isinstance(names, (list, tuple)):
        return "input_ids" in names
    if isinstance(names, Mapping) or not (hasattr(dataset, "column_names") or _is_indexed(dataset)):
        return False
    first = dataset[0] if _is_indexed(dataset) and len(dataset) else next(iter(dataset), None)
    return isinstance(first, Mapping) and "input_ids" in first


def _is_indexed(dataset: Any) -> bool:
    """Tell a list or a torch dataset: what has a length and rows by number."""
    other = isinstance(dataset, (Mapping, str)) or hasattr(dataset, "column_names")
    return not other and hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")


def rows_of_batch(batch: Mapping[str, Any], source: str, first: int = 0) -> Iterator[RowFacts]:
    """Yield the rows of a collated batch, padding included, numbered from `first`.

    Nothing for a batch without two-dimensional `input_ids`, such as one of pairs; masks and positions of other
    shapes (four-dimensional masks, positions along several axes) are left out.
    """
    if not is_batch(batch):
        return
    shape = tuple(batch["input_ids"].shape)
    names = [
        name
        for name in _names(batch)
        if name in ("input_ids", "labels") or tuple(getattr(batch[name], "shape", ())) == shape
    ]
    for place in range(shape[0]):
        yield _row({name: batch[name][place] for name in names}, source, first + place)


def sample_of(dataset: Any, source: str, max_rows: int | None) -> tuple[SampleFacts, list[int] | None]:
    """Return what will be looked at in a dataset, and which rows: None for all (or the first ones of a stream)."""
    total = len(dataset) if hasattr(dataset, "__len__") else None
    names = getattr(dataset, "column_names", None) or ()
    if max_rows is None or total is None or total <= max_rows:
        seen = total if max_rows is None or total is not None else max_rows
        return SampleFacts(source, seen or 0, total, tuple(names)), None
    places = sorted(random.Random(_SEED).sample(range(total), max_rows))
    return SampleFacts(source, max_rows, total, tuple(names)), places


def rows_of_dataset(
    dataset: Any, source: str, places: Iterable[int] | None = None, max_rows: int | None = None
) -> Iterator[RowFacts]:
    """Yield rows of a dataset in constant memory: those at `places`, else all, or the first `max_rows`."""
    if hasattr(dataset, "with_format"):
        dataset = dataset.with_format(None)
    if places is not None:
        numbered: Iterable[tuple[int, Any]] = ((place, dataset[place]) for place in places)
    elif _is_indexed(dataset):  # a torch dataset may know where it ends by its length only
        numbered = ((place, dataset[place]) for place in range(len(dataset)))
    else:
        numbered = enumerate(dataset)
    for number, row in islice(numbered, max_rows):
        if not isinstance(row, Mapping) or row.get("input_ids") is None:
            raise PadfixError(
                f"row {number} of the {source} has no input_ids, so it is not encoded. "
                "Encode it first: prepare(tokenizer).encode(dataset)"
            )
        yield _row({name: row[name] for name in _names(row)}, source, number)


def _names(columns: Mapping[str, Any]) -> list[str]:
    return [name for name in ("input_ids", *_PER_TOKEN) if name in columns and columns[name] is not None]


def _row(columns: Mapping[str, Any], source: str, number: int) -> RowFacts:
    import numpy

    arrays = {name: numpy.asarray(_plain(value), dtype=numpy.int64) for name, value in columns.items()}
    length = len(arrays["input_ids"])
    for name, array in arrays.items():
        if array.shape != (length,):
            raise PadfixError(
                f"row {number} of the {source}: {name} has shape {array.shape} beside {length} input_ids. "
                "Every per-token column must have one value a token."
            )
    return RowFacts(source, number, **arrays)


def _plain(value: Any) -> Any:
    return value.detach().cpu().numpy() if hasattr(value, "detach") else value
