"""The documents of a row that holds several, packed or flattened, as rows of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

from llama_padfix.doctor.row_facts import RowFacts

_PER_TOKEN = ("input_ids", "labels", "attention_mask", "position_ids")


def split_documents(row: RowFacts, lengths: Sequence[int] = ()) -> Iterator[RowFacts]:
    """Yield the documents of a row in order; a row that holds one document is yielded as it is.

    Args:
        row: a row of a batch or of a dataset.
        lengths: of the documents, where a column says so. Without it the position ids tell: they begin anew.
    """
    starts = _starts_by_lengths(lengths, len(row.input_ids)) or _starts_by_positions(row.position_ids)
    if len(starts) < 2:
        yield row
        return
    columns = {name: getattr(row, name) for name in _PER_TOKEN}
    for start, end in pairwise([0, *starts[1:], len(row.input_ids)]):
        cut: dict[str, Any] = {name: held if held is None else held[start:end] for name, held in columns.items()}
        document = replace(row, before=start, **cut)
        if not (start and end == len(row.input_ids) and _fills_up(document)):
            yield document


def _fills_up(document: RowFacts) -> bool:
    """Return True for what fills the end of a shorter row: one id again and again, without a label."""
    ids, labels = document.input_ids, document.labels
    return bool((ids == ids[0]).all()) and (labels is None or not document.trained.any())


def lengths_in_batch(batch: Mapping[str, Any]) -> list[int]:
    """Return how long the documents of a batch of one row are, by what FlashAttention and others are given; or []."""
    import numpy as np

    limits: Any = batch.get("cu_seq_lens_q")
    numbers: Any = batch.get("seq_idx")
    if getattr(limits, "ndim", None) == 1:
        return [int(length) for length in np.diff(np.asarray(limits))]
    if getattr(numbers, "ndim", None) == 2 and len(numbers) == 1:
        row = np.asarray(numbers[0])
        edges = [0, *((row[1:] != row[:-1]).nonzero()[0] + 1).tolist(), len(row)]
        return [end - start for start, end in pairwise(edges)]
    return []


def _starts_by_lengths(lengths: Sequence[int], size: int) -> list[int]:
    ends = list(accumulate(lengths))
    return [0, *ends[:-1]] if ends and ends[-1] <= size and min(lengths) > 0 else []


def _starts_by_positions(positions: Any) -> list[int]:  # an array, or None
    """Return where position ids begin anew and count on: a run of one number is padding."""
    if positions is None or len(positions) < 2:
        return []
    first = positions.min()
    starts: list[int] = ((positions[:-1] == first) & (positions[1:] == first + 1)).nonzero()[0].tolist()
    return starts
