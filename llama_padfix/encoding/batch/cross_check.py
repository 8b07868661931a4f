"""Rows through the batch encoder where that is proven, else through the row encoder, in their order."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama_padfix.core.errors import PadfixError
from llama_padfix.core.text import printable
from llama_padfix.encoding.batch.encoder import BatchEncoder, Encode, make_batch_encoder
from llama_padfix.encoding.batch.flat_rows import Bulk, FlatRows
from llama_padfix.encoding.batch.texts import TextBatchEncoder, make_text_batch_encoder
from llama_padfix.encoding.counts import Counts, count_rows
from llama_padfix.encoding.encoded_rows import EncodedRow, fit_row
from llama_padfix.encoding.loss_selection import UntrainedError

if TYPE_CHECKING:
    from llama_padfix.encoding.batch.chat_columns import Chats
    from llama_padfix.encoding.row_encoder import RowEncoder
    from llama_padfix.encoding.settings import EncodeSettings

logger = logging.getLogger(__name__)

_DETAIL = 100  # characters of an error or of spelled tokens kept beside a row's number
_COMPARED = 8192  # one of so many rows of the batch encoder is encoded by the row encoder too


class FastPathMismatch(Exception):  # noqa: N818 - no error: another pass is needed
    """A batch encoder or an engine gave another result than the exact one: what it encoded before may be wrong too."""


@dataclass(frozen=True)
class Rows:
    """Rows to encode: how many, how to read some of them, and the numbers by which they are named.

    `numbers` are their numbers in the dataset, or in the batch with `of_batch`; None for a row that came alone.
    """

    fetch: Callable[[Sequence[int]], Sequence[object]]
    numbers: Sequence[int | None]
    of_batch: bool = False

    def name(self, place: int) -> str:
        """Return what a row is called in an error; "" for one that came alone and without its number."""
        number = self.numbers[place]
        return "" if number is None else f"row {number} of this batch" if self.of_batch else f"row {number}"


@dataclass(frozen=True)
class Batch(FlatRows):
    """The kept rows, and what became of all rows."""

    counts: Counts
    notes: _Noted
    """The fields of `Counts` that count a row, by its place, with the detail of each; dropped rows have theirs."""


_Outcome = tuple[EncodedRow | None, dict[str, str]]
_Noted = Mapping[int, Mapping[str, str]]  # notes by row


def _encode_rows(row_encoder: RowEncoder, rows: Rows, places: Sequence[int]) -> list[_Outcome]:
    """Return some rows as the row encoder encodes them, cut to size, with notes on each."""
    if not places:
        return []
    named = [(rows.name(place), row) for place, row in zip(places, rows.fetch(places), strict=True)]
    outcomes: list[_Outcome] = []
    for place, row in zip(places, row_encoder.encode(named), strict=True):
        if isinstance(row, PadfixError):
            kind = "dropped_untrained" if isinstance(row, UntrainedError) else "dropped_invalid"
            outcomes.append((None, {kind: _shorten(printable(row))}))
        else:
            outcomes.append(_fit(row, row_encoder.settings, rows.name(place)))
    return outcomes


def _fit(row: EncodedRow, settings: EncodeSettings, name: str) -> _Outcome:
    """Return a row cut to size, with notes on it."""
    fitted = fit_row(row, settings.max_length, settings.truncation, name)
    notes = {kind: _shorten(printable(detail)) for kind, detail in fitted.notes.items()} if fitted.notes else {}
    return fitted if fitted.trained else None, notes


def encode_row_by_row(row_encoder: RowEncoder, rows: Rows) -> Batch:
    """Encode all rows with the row encoder."""
    places = range(len(rows.numbers))
    return _merge(FlatRows.empty(), {}, dict(zip(places, _encode_rows(row_encoder, rows, places), strict=True)), rows)


def make_batch_encoders(
    row_encoder: RowEncoder, encode: Encode
) -> tuple[BatchEncoder | None, TextBatchEncoder | None]:
    """Return the batch encoder of conversations and that of texts; None for one that would not give the same ids."""
    chats, template = None, row_encoder.chats.find_template()  # the row encoder raises for a row that needs one
    if template is not None and not template.continues:
        chats = make_batch_encoder(template, encode, row_encoder.settings.train_on)
    return chats, make_text_batch_encoder(row_encoder.texts, encode)


def encode_cross_checked(
    row_encoder: RowEncoder,
    chat_encoder: BatchEncoder | None,
    text_encoder: TextBatchEncoder | None,
    chats: Chats,
    rows: Rows,
) -> Batch:
    """Encode rows, of which `chats` are the plain conversations and texts, with the batch encoders that there are.

    The first row of each kind, and then one of some thousand, is encoded by the row encoder too. Raises
    `FastPathMismatch` where its ids or labels differ: the batch encoders are then not to be used for this tokenizer
    again.
    """
    flat, noted, outcomes = FlatRows.empty(), dict[int, Mapping[str, str]](), dict[int, _Outcome]()
    settings = row_encoder.settings
    if chat_encoder is not None:
        if chat_encoder.turns.contradicted:
            logger.warning(
                "llama_padfix: one turn is written in two ways. The batch encoder is not used now. Please report it."
            )
            raise FastPathMismatch("a turn")
        allow_loss = settings.on_loss == "count" and not settings.keep_reasoning
        bulk = chat_encoder.encode_chats(chats, settings.max_length, settings.truncation, allow_loss=allow_loss)
        flat = _take(bulk, chat_encoder, noted, row_encoder, rows)
    if text_encoder is not None and chats.plain_texts:
        bulk = text_encoder.encode_texts(chats.plain_texts, settings)
        flat = flat.join(_take(bulk, text_encoder, noted, row_encoder, rows))
        outcomes = {place: _fit(row, settings, rows.name(place)) for place, row in bulk.long.items()}
    taken = {*flat.rows.tolist(), *outcomes}
    others = [place for place in range(len(rows.numbers)) if place not in taken]
    outcomes.update(zip(others, _encode_rows(row_encoder, rows, others), strict=True))
    return _merge(flat, noted, outcomes, rows)


def _take(
    bulk: Bulk,
    encoder: BatchEncoder | TextBatchEncoder,
    noted: dict[int, Mapping[str, str]],
    row_encoder: RowEncoder,
    rows: Rows,
) -> FlatRows:
    """Return the rows of a batch encoder, and add the notes on them, after some of them were compared."""
    flat, places = bulk.flat, bulk.flat.rows.tolist()
    compared_places = sorted({*places[-encoder.rows % _COMPARED :: _COMPARED], *bulk.firsts})
    try:
        exact_rows = _encode_rows(row_encoder, rows, compared_places)
    except PadfixError as error:  # an earlier row may be the first that raises
        raise FastPathMismatch(str(error)) from error
    for place, (row, notes) in zip(compared_places, exact_rows, strict=True):
        if not _is_same(flat, bulk.noted, bisect_left(places, place), row, notes):
            name = rows.name(place) or "a row"
            logger.warning(
                "llama_padfix: the batch encoder encodes %s differently, and is not used any more. Please report it.",
                name,
            )
            raise FastPathMismatch(name)
    encoder.rows += len(places)
    noted.update(bulk.noted)
    return flat


def _is_same(flat: FlatRows, noted: _Noted, at: int, row: EncodedRow | None, notes: Mapping[str, str]) -> bool:
    start, end = flat.bounds[at : at + 2]
    ids, labels = ([], []) if row is None else (row.input_ids, row.labels)
    same = flat.input_ids[start:end].tolist() == ids and flat.labels[start:end].tolist() == labels
    return bool(same and dict(notes) == _describe(flat, noted, at))


def _describe(flat: FlatRows, noted: _Noted, at: int) -> dict[str, str]:
    """Return the notes on a row: those that are `noted`, and whether it was cut; only that on one that was dropped."""
    size, length = int(flat.bounds[at + 1] - flat.bounds[at]), int(flat.lengths[at])
    cut = {} if size == length else {"cut" if size else "dropped_too_long": f"{length} tokens"}
    return {**noted.get(int(flat.rows[at]), {}), **cut} if size else cut


def _merge(flat: FlatRows, noted: _Noted, outcomes: Mapping[int, _Outcome], rows: Rows) -> Batch:
    """Return the kept rows of the batch encoder and those of the row encoder, in their order, and the counts."""
    counts, notes = _count(flat, noted, outcomes, rows)
    whole = flat.keep(flat.sizes > 0).insert({place: row for place, (row, _) in outcomes.items() if row is not None})
    return Batch(**vars(whole), counts=counts, notes=notes)


def _count(
    flat: FlatRows, noted: _Noted, outcomes: Mapping[int, _Outcome], rows: Rows
) -> tuple[Counts, dict[int, Mapping[str, str]]]:
    """Return the counts of all rows, and the notes on each row that has some."""
    import numpy as np

    counted: list[tuple[int, int, int, Mapping[str, str]]] = []
    for place, (row, notes) in outcomes.items():
        trained = sum(last - first for first, last in row.trained) if row else 0
        counted.append((place, len(row.input_ids) if row else 0, trained, notes))
    sizes = flat.sizes
    is_noted = np.isin(flat.rows, [*noted]) if noted else np.zeros(len(sizes), bool)
    apart = np.flatnonzero((sizes < flat.lengths) | is_noted)
    counted += [(int(flat.rows[at]), int(sizes[at]), 0, _describe(flat, noted, at)) for at in apart.tolist()]
    counted.sort(key=lambda entry: entry[0])
    counts = count_rows([(rows.numbers[entry[0]], *entry[1:]) for entry in counted], of_batch=rows.of_batch)
    unchanged = len(flat.rows) - len(apart)
    tokens = int(sizes.sum()) - int(sizes[apart].sum())
    pieces = sum(len(row.pieces) for row, _ in outcomes.values() if row is not None)
    plain = Counts(pieces=pieces, rows=unchanged, kept=unchanged, tokens=tokens, trained_tokens=flat.trained)
    return counts + plain, {place: notes for place, _, _, notes in counted if notes}


def _shorten(text: str) -> str:
    return text if len(text) <= _DETAIL else text[: _DETAIL - 3] + "..."
