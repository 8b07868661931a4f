"""Rows of ids, in whatever holds them, to labels of the same kind: one search for turns in all rows together."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import IGNORE_INDEX, PadfixError, describe
from llama_padfix.encoding.encoded_rows import write_labels
from llama_padfix.encoding.id_columns import is_tensor, pack_ids
from llama_padfix.encoding.masking.turns_in_ids import TurnMarkers, find_answers, is_any

if TYPE_CHECKING:
    from typing import TypeAlias

    import torch

    from llama_padfix.core.types import IntArray, LongArray

    Numbers: TypeAlias = Sequence[int] | IntArray | torch.Tensor
    """Numbers of a row, or of rows, in what the caller holds them."""

    Edges: TypeAlias = tuple[LongArray, LongArray]
    """The first position of each row among joined ones, and the position behind its last real one."""

_BLOCK = 1 << 18  # ids labeled at once: with what is made of them they fit into a processor's cache
_WINDOW = 4096  # ids compared in one step of the search for a stop token


def label_answers(
    ids: Iterable[object],
    markers: TurnMarkers,
    *,
    last_only: bool,
    mask: Numbers | Sequence[Numbers] | None = None,
    lengths: Numbers | None = None,
) -> Any:  # in the type of `ids`
    """Return the labels of ids: see `llama_padfix.mask_labels`."""
    import numpy as np

    if is_tensor(ids):
        labels = label_answers(ids.detach().cpu().numpy(), markers, last_only=last_only, mask=mask, lengths=lengths)
        return sys.modules["torch"].from_numpy(labels).to(ids.device)
    if isinstance(ids, np.ndarray) and ids.dtype != object:
        return _label_array(ids, markers, last_only, mask, lengths)
    if lengths is not None:
        raise PadfixError(
            f"lengths are those of the rows of a flat array, and this is a {type(ids).__name__}. "
            "Pass numpy.concatenate(rows), or the rows as they are without lengths."
        )
    rows: list[Any] = list(ids)  # ints, or rows of any type
    if rows and isinstance(rows[0], (str, Mapping)):
        raise _refuse(ids)
    if not rows or isinstance(rows[0], Integral):
        return _label_lists([rows], [mask], markers, last_only)[0]
    masks: list[Any] = [None] * len(rows) if mask is None else list(mask)  # in the types of masks
    if len(masks) != len(rows):
        raise PadfixError(f"attention_mask has {len(masks)} rows and input_ids {len(rows)}. Pass those of one batch.")
    if all(type(row) is list and row and isinstance(row[0], Integral) for row in rows):
        return _label_lists(rows, masks, markers, last_only)
    arrays = mask is None and all(type(row) is np.ndarray and row.ndim == 1 for row in rows)
    if arrays and len({row.dtype for row in rows}) == 1:  # the labels are views into one array
        counts = np.array(list(map(len, rows)))
        joined = _label_array(np.concatenate(rows), markers, last_only, None, counts)
        made: Sequence[Any] = np.split(joined, np.cumsum(counts[:-1]))
    else:
        made = [
            label_answers(row, markers, last_only=last_only, mask=own) for row, own in zip(rows, masks, strict=True)
        ]
    if isinstance(ids, np.ndarray):  # of objects: rows of unlike lengths
        labels = np.empty(len(made), dtype=object)
        labels[:] = made
        return labels
    return made


def _refuse(ids: object) -> PadfixError:
    """Return the error for a text, a dataset, rows or a batch of columns in the place of ids."""
    seen = f"Got a {type(ids).__name__} where ids are needed."
    if isinstance(ids, str):
        return PadfixError(f'{seen} Encode it: mask_labels(tokenizer(text)["input_ids"], markers)')
    if hasattr(ids, "map"):
        line = 'dataset.map(lambda row: {"labels": mask_labels(row["input_ids"], markers)})'
    elif isinstance(ids, Mapping):
        line = 'mask_labels(batch["input_ids"], markers)'
    else:
        line = '[mask_labels(row["input_ids"], markers) for row in rows]'
    return PadfixError(f"{seen} Run: {line}")


def _label_lists(
    rows: Sequence[list[int]], masks: Sequence[Any], markers: TurnMarkers, last_only: bool
) -> list[list[int]]:
    import numpy as np

    arrays = [np.asarray(row, dtype=np.int64) if (packed := pack_ids(row)) is None else packed for row in rows]
    counts = np.array(list(map(len, rows)))
    real = [len(row) if mask is None else _real_length(mask, len(row)) for row, mask in zip(rows, masks, strict=True)]
    firsts = counts.cumsum() - counts
    starts, ends, _ = _find_spans(np.concatenate(arrays), (firsts, firsts + np.array(real)), markers, last_only)
    labels = [[IGNORE_INDEX] * len(row) for row in rows]
    owners = np.searchsorted(firsts, starts, side="right") - 1
    spans = (owners, starts - firsts[owners], ends - firsts[owners])
    for owner, start, end in zip(*(column.tolist() for column in spans), strict=True):
        labels[owner][start:end] = rows[owner][start:end]
    return labels


def _real_length(mask: Sequence[int], length: int) -> int:
    """Return where the padding on the right begins."""
    return next((place for place in range(min(len(mask), length), 0, -1) if mask[place - 1]), 0)


def _label_array(
    ids: IntArray, markers: TurnMarkers, last_only: bool, mask: object, lengths: Numbers | None
) -> IntArray:
    import numpy as np

    if not ids.size:
        copied: IntArray = ids.copy()
        return copied
    if ids.dtype.kind not in "iu" or not ids.ndim:
        raise PadfixError(
            f"input_ids hold {ids.dtype} in {ids.ndim} dimensions, not rows of integers: {describe(ids)}. "
            "Pass the tokenizer's ids."
        )
    flat = ids.reshape(-1)
    if ids.dtype.kind == "u":
        flat = flat.astype(np.int64)
    counts = _read_lengths(ids, lengths)
    firsts = counts.cumsum() - counts
    lasts = firsts + counts
    if mask is not None:
        mask = np.asarray(mask.detach().cpu() if is_tensor(mask) else mask)
        if mask.shape != ids.shape:
            raise PadfixError(
                f"attention_mask has shape {mask.shape} and input_ids {ids.shape}. Pass those of one batch."
            )
        real = mask.reshape(-1).nonzero()[0]
        # Behind the last real position of each row; its first position where none is real.
        lasts = np.maximum(np.append(-1, real)[np.searchsorted(real, lasts)] + 1, firsts)
    labels = np.empty_like(flat)
    stops = () if last_only else {*markers.stop_ids}.difference(markers.header_ids)
    for block, rows, first_row in _cut_into_blocks(flat, (firsts, lasts), stops):
        part, made = flat[block], labels[block]
        if len(rows[0]) == 1:  # what stands behind the real end of a single row is not searched
            end = int(rows[1][0])
            made[end:] = IGNORE_INDEX
            part, made = part[:end], made[:end]
        starts, ends, negative = _find_spans(part, rows, markers, last_only, first_row)
        write_labels(part, starts, ends, made, negative=negative)
    return labels.reshape(ids.shape)


def _cut_into_blocks(flat: IntArray, rows: Edges, stops: Collection[int]) -> Iterator[tuple[slice, Edges, int]]:
    """Yield the parts of joined rows to label one by one, where in each its rows begin and really end, and the first.

    Each is of a size that the processor's cache holds. They are cut between rows, and a single row behind a token of
    `stops`: such a token ends every answer, and stands in no header, so that nothing reaches over the cut.
    """
    import numpy as np

    firsts, lasts = rows
    row = begin = 0
    while begin < len(flat):
        first_row = row
        if len(firsts) == 1:
            end = _find_cut(flat, begin + _BLOCK, stops)
            part = slice(0, 1)
        else:
            part = slice(row, int(np.searchsorted(firsts, begin + _BLOCK)))
            end = int(firsts[part.stop]) if part.stop < len(firsts) else len(flat)
            row = part.stop
        edges = (firsts[part].clip(begin, end) - begin, lasts[part].clip(begin, end) - begin)
        yield slice(begin, end), edges, first_row
        begin = end


def _find_cut(flat: IntArray, place: int, stops: Collection[int]) -> int:
    """Return the position behind the first of the stop tokens from a place on; the length where there is none."""
    while stops and place < len(flat):
        found = is_any(flat[place : place + _WINDOW], stops).nonzero()[0]
        if len(found):
            return place + int(found[0]) + 1
        place += _WINDOW
    return len(flat)


def _read_lengths(ids: IntArray, lengths: Numbers | None) -> LongArray:
    """Return the lengths of the rows of an array."""
    import numpy as np

    if lengths is None:
        return np.full(ids.size // ids.shape[-1], ids.shape[-1])
    counts = np.asarray(lengths.cpu() if is_tensor(lengths) else lengths)
    if ids.ndim != 1 or counts.ndim != 1 or counts.dtype.kind not in "iu" or (counts < 0).any():
        raise PadfixError(
            f"lengths={describe(lengths)} beside input_ids of {ids.ndim} dimensions: they part rows of a flat array. "
            "Pass numpy.concatenate(rows) and lengths=[len(row) for row in rows]."
        )
    if counts.sum() != ids.size:
        raise PadfixError(
            f"lengths add up to {counts.sum()} and there are {ids.size} input_ids. "
            "Pass lengths=[len(row) for row in rows]."
        )
    return counts.astype(np.int64)


def _find_spans(
    flat: IntArray, rows: Edges, markers: TurnMarkers, last_only: bool, first_row: int = 0
) -> tuple[LongArray, LongArray, bool]:
    """Return where the trained tokens of joined rows begin and end, and whether any id is negative.

    Raises `PadfixError` for a row of which ids alone do not tell it; the first of these is row `first_row`.
    """
    import numpy as np

    one = len(rows[0]) == 1
    found = find_answers(flat[: rows[1][0]] if one else flat, markers, None if one else rows)
    if found.doubt is not None:
        row = first_row + int(np.searchsorted(rows[0], found.doubt, side="right")) - 1
        raise PadfixError(
            f"Row {row}: at its id {flat[found.doubt]} ids alone do not tell which tokens are the model's (a tool's "
            "result inside its turn, or an answer without a header, looks like what it said). Encode the conversation "
            "with ChatEncoder(tokenizer), or leave the row out."
        )
    starts, ends = found.start, found.end + found.stopped
    if found.opened.any():
        starts, ends = starts.compress(~found.opened), ends.compress(~found.opened)
    if last_only:
        owners = np.searchsorted(rows[0], starts, side="right")
        last = np.append(owners, 0)[1:] != owners
        starts, ends = starts.compress(last), ends.compress(last)
    return starts, ends, found.negative
