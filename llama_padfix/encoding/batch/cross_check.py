"""Rows through the plain way where that is proven, through the careful way else, put together in their order."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llama_padfix.core.errors import PadfixError
from llama_padfix.core.text import printable
from llama_padfix.encoding.batch.chat_columns import Chats
from llama_padfix.encoding.batch.encoder import BatchEncoder, Flat
from llama_padfix.encoding.counts import Counts, count_rows
from llama_padfix.encoding.row_encoder import RowEncoder
from llama_padfix.encoding.truncation import EncodedRow, fit_row

__all__ = ["Batch", "FastPathMismatch", "Rows", "encode_cross_checked", "encode_row_by_row", "make_table"]

logger = logging.getLogger(__name__)

_DETAIL = 100  # characters of an error or of spelled tokens that are kept beside a row's number
_COMPARED = 8192  # of so many rows of the plain way one goes the careful way too


class FastPathMismatch(Exception):  # noqa: N818 - no error: it asks for another pass
    """A batch encoder or an engine gave another result than the exact one: what it encoded before may be wrong too."""


@dataclass(frozen=True)
class Rows:
    """Rows to encode: how many, how to read some of them, and the numbers by which they are named.

    `numbers` are their numbers in the dataset, or in the batch with `of_batch`; None for a row that came alone.
    """

    fetch: Callable[[Sequence[int]], Sequence[Any]]
    numbers: Sequence[int | None]
    of_batch: bool = False

    def name(self, place: int) -> str:
        """Return what a row is called in an error; "" for one that came alone and without its number."""
        number = self.numbers[place]
        return "" if number is None else f"row {number} of this batch" if self.of_batch else f"row {number}"


@dataclass(frozen=True)
class Batch:
    """The kept rows one behind the other, as int32 arrays with their bounds, and what became of all rows.

    `places` are those of the kept rows among all.
    """

    input_ids: Any
    labels: Any
    bounds: Any
    places: Any
    counts: Counts


_Outcome = tuple[EncodedRow | None, dict[str, str]]


def _encode_carefully(careful: RowEncoder, rows: Rows, places: Sequence[int]) -> list[_Outcome]:
    """Return some rows as the careful way encodes them, cut to size, with what was seen of each."""
    if not places:
        return []
    encoded = careful.encode([(rows.name(place), row) for place, row in zip(places, rows.fetch(places), strict=True)])
    outcomes: list[_Outcome] = []
    for place, row in zip(places, encoded, strict=True):
        if isinstance(row, PadfixError):
            outcomes.append((None, {"dropped_invalid": _shorten(printable(row))}))
            continue
        fitted = fit_row(row, careful.settings.max_length, careful.settings.truncation, rows.name(place))
        seen = {kind: _shorten(printable(detail)) for kind, detail in fitted.notes.items()} if fitted.notes else {}
        outcomes.append((fitted if fitted.trained else None, seen))
    return outcomes


def encode_row_by_row(careful: RowEncoder, rows: Rows) -> Batch:
    """Encode all rows the careful way."""
    places = range(len(rows.numbers))
    return _put_together(None, dict(zip(places, _encode_carefully(careful, rows, places), strict=True)), rows)


def encode_cross_checked(careful: RowEncoder, way: BatchEncoder, chats: Chats, rows: Rows) -> Batch:
    """Encode rows of which `chats` are the plain conversations.

    The first row, and then one of some thousand, is encoded by the row encoder too. Raises `FastPathMismatch` where
    its ids or labels differ: the batch encoder is then not to be used for this tokenizer again.
    """
    flat = way.encode_chats(chats, careful.settings.max_length, careful.settings.truncation)
    plain_places = [] if flat is None else flat.rows.tolist()
    taken = set(plain_places)
    others = [place for place in range(len(chats.speakers)) if place not in taken]
    if flat is not None:
        asked = plain_places[-way.rows % _COMPARED :: _COMPARED]
        if not way.compared:  # a row that is cut, or dropped, shows less of its recipe
            whole = flat.rows[flat.bounds[1:] - flat.bounds[:-1] == flat.lengths]
            asked = sorted({*asked, *whole[:1].tolist()})
            way.compared = len(whole) > 0
        try:
            careful_rows = _encode_carefully(careful, rows, asked)
        except PadfixError as error:  # an earlier row may be the first that raises
            raise FastPathMismatch(str(error)) from error
        for place, (row, seen) in zip(asked, careful_rows, strict=True):
            if not _is_same(flat, bisect_left(plain_places, place), row, seen):
                name = rows.name(place) or "a row"
                logger.warning(
                    "llama_padfix: the plain way encodes %s differently, and is not used any more. Please report it.",
                    name,
                )
                raise FastPathMismatch(name)
        way.rows += len(plain_places)
    outcomes = dict(zip(others, _encode_carefully(careful, rows, others), strict=True)) if others else {}
    return _put_together(flat, outcomes, rows)


def make_table(batch: Batch, carried: Any) -> Any:
    """Return a `pyarrow.Table` over the arrays of a batch, without a copy of the ids.

    `carried` is a table with columns of all rows, of which the kept ones go along.
    """
    import numpy
    import pyarrow

    bounds = pyarrow.array(batch.bounds.astype(numpy.int32))
    columns = {
        name: pyarrow.ListArray.from_arrays(bounds, pyarrow.array(values))
        for name, values in (("input_ids", batch.input_ids), ("labels", batch.labels))
    }
    kept = carried.take(pyarrow.array(batch.places)) if carried.column_names else carried
    return pyarrow.table({**columns, **{name: kept[name] for name in kept.column_names}})


def _is_same(flat: Flat, at: int, row: EncodedRow | None, seen: Mapping[str, str]) -> bool:
    start, end = flat.bounds[at : at + 2]
    ids, labels = ([], []) if row is None else (row.input_ids, row.labels)
    same = flat.input_ids[start:end].tolist() == ids and flat.labels[start:end].tolist() == labels
    return bool(same and dict(seen) == _describe_cut(flat, at))


def _describe_cut(flat: Flat, at: int) -> dict[str, str]:
    """Return what is said of a row that was cut or dropped; nothing of one that is whole."""
    size, length = int(flat.bounds[at + 1] - flat.bounds[at]), int(flat.lengths[at])
    return {} if size == length else {"cut" if size else "dropped_too_long": f"{length} tokens"}


def _put_together(flat: Flat | None, outcomes: dict[int, _Outcome], rows: Rows) -> Batch:
    import numpy

    kept = {place: row for place, (row, _) in outcomes.items() if row is not None}
    seen = {place: (row, found) for place, (row, found) in outcomes.items()}
    counted = [
        (
            rows.numbers[place],
            len(row.input_ids) if row else 0,
            sum(last - first for first, last in row.trained) if row else 0,
            found,
            place,
        )
        for place, (row, found) in seen.items()
    ]
    if flat is None:
        none, no_ids = numpy.zeros(0, numpy.int64), numpy.zeros(0, numpy.int32)
        flat = Flat(none, numpy.zeros(1, numpy.int64), no_ids, no_ids, none, trained=0)
    sizes = numpy.diff(flat.bounds)
    changed = numpy.flatnonzero(sizes < flat.lengths)
    for at in changed.tolist():
        place = int(flat.rows[at])
        counted.append((rows.numbers[place], int(sizes[at]), 0, _describe_cut(flat, at), place))
    counted.sort(key=lambda entry: entry[4])
    counts = count_rows([entry[:4] for entry in counted], of_batch=rows.of_batch)
    unchanged = len(flat.rows) - len(changed)
    counts += Counts(
        rows=unchanged,
        kept=unchanged,
        tokens=int(sizes.sum()) - int(sizes[changed].sum()),
        trained_tokens=flat.trained,
    )
    left = sizes > 0
    places, ends = flat.rows[left], flat.bounds[1:][left]
    if not kept:
        return Batch(flat.input_ids, flat.labels, numpy.concatenate([[0], ends]), places, counts)
    order = sorted(kept)
    cuts = numpy.searchsorted(places, order)
    cut_at = numpy.concatenate([[0], ends])[cuts]
    ids, labels = (
        _weave(values, cut_at, [numpy.asarray(getattr(kept[place], name), numpy.int32) for place in order])
        for name, values in (("input_ids", flat.input_ids), ("labels", flat.labels))
    )
    merged = numpy.insert(sizes[left], cuts, [len(kept[place].input_ids) for place in order])
    return Batch(
        ids, labels, numpy.concatenate([[0], numpy.cumsum(merged)]), numpy.insert(places, cuts, order), counts
    )


def _weave(values: Any, cuts: Any, rows: Sequence[Any]) -> Any:
    """Return the values with a row put in at each of the places."""
    import numpy

    parts = []
    for start, end, row in zip([0, *cuts], cuts, rows, strict=False):
        parts += [values[start:end], row]
    return numpy.concatenate([*parts, values[cuts[-1] :]])


def _shorten(text: str) -> str:
    return text if len(text) <= _DETAIL else text[: _DETAIL - 3] + "..."
