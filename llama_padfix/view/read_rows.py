"""Reads what is passed to a view, row by row: datasets, lists, streams, batches, raw rows, one row."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from llama_padfix.chat.turns import read_template
from llama_padfix.core.errors import PadfixError, describe
from llama_padfix.doctor.facts import RowFacts
from llama_padfix.doctor.observe.rows import holds_rows, masks_of_labels, rows_of_batch, rows_of_dataset
from llama_padfix.encoding.counts import Counts
from llama_padfix.encoding.encoder import ChatEncoder
from llama_padfix.encoding.row_formats import read_row
from llama_padfix.encoding.sources import is_encoded_row, is_one_row, is_splits, rows_of_mapping

if TYPE_CHECKING:
    from llama_padfix.core.types import Row, Rows, TokenizerLike


@dataclass(frozen=True)
class TakenRows:
    """The rows that were passed, as a sequence, and which of them are shown."""

    rows: Sequence[object]
    numbers: Sequence[int]
    source: str = "dataset"
    total: int | None = None


@dataclass(frozen=True)
class ReadRow:
    """One row as the checks read it, or why it cannot be shown."""

    number: int
    facts: RowFacts | None = None
    is_raw: bool = False
    note: str = ""
    error: str = ""


def take_rows(rows: Rows, numbers: Sequence[int] | None, max_rows: int) -> TakenRows:
    """Return the rows as a sequence, with the numbers of those that are shown.

    Raises:
        PadfixError: There are no rows, or not those of `numbers`.
    """
    if max_rows < 1:
        raise PadfixError(f"max_rows={max_rows!r} shows nothing. Pass an int above 0.")
    last = max_rows if numbers is None else max(numbers, default=-1) + 1
    source, total = "dataset", None
    sequence: Sequence[Any]  # of `RowFacts`, or of rows of any shape
    if holds_rows(rows):
        source, sequence = "batch", _rows_of_batches([rows])
    else:
        sequence = _as_sequence(rows, last)
    if isinstance(sequence, list) and sequence and holds_rows(sequence[0]):
        source, sequence = "batches", _rows_of_batches(sequence)
    if hasattr(rows, "__len__") and source != "batches":
        total = len(sequence)
    if not len(sequence):
        raise PadfixError("There is no row to look at: what was passed is empty.")
    if numbers is None:
        numbers = range(min(len(sequence), max_rows))
    for number in numbers:
        if not 0 <= number < len(sequence):
            raise PadfixError(f"There is no row {number}: the rows are 0 to {len(sequence) - 1}.")
    return TakenRows(sequence, tuple(dict.fromkeys(numbers)), source, total)


def _as_sequence(rows: Any, last: int) -> Any:  # `Any`: narrowed by what it has
    """Return rows that can be read by number; of a stream, its first `last` rows."""
    if isinstance(rows, str) or hasattr(rows, "get_train_dataloader"):
        raise PadfixError(
            f"Got a {type(rows).__name__} {describe(rows)} where rows are needed. Pass a dataset, a list of rows or "
            "one batch; of a trainer: view_mask(next(iter(trainer.get_train_dataloader())), tokenizer)"
        )
    if is_splits(rows):
        splits = ", ".join(map(repr, rows))
        raise PadfixError(f"Got the splits {splits}. Pass one of them: view_mask(dataset[{next(iter(rows))!r}], ...)")
    if isinstance(rows, Mapping):
        if found := rows_of_mapping(rows):
            return found
        raise PadfixError(f"Got a mapping of {describe(list(rows))}, which is neither a row nor a batch of columns.")
    if isinstance(rows, (list, tuple)):
        return [rows] if is_one_row(rows) else list(rows)
    if hasattr(rows, "with_format") and getattr(rows, "format", {}).get("type") != "custom":
        rows = rows.with_format(None)
    if hasattr(rows, "__getitem__") and hasattr(rows, "__len__"):
        return rows
    if not hasattr(rows, "__iter__"):
        raise PadfixError(f"A {type(rows).__name__} holds no rows. Pass a dataset, a list of rows or one batch.")
    return list(islice(iter(rows), last))


def _rows_of_batches(batches: Sequence[object]) -> list[RowFacts]:
    """Return the rows of batches, numbered in their order; the source names the part of a pair."""
    rows = [row for batch in batches for row in rows_of_batch(batch, "batch" if len(batches) == 1 else "batches")]
    return [replace(row, number=number) for number, row in enumerate(rows)]


def read_rows(taken: TakenRows, tokenizer: TokenizerLike, encoder: ChatEncoder | None) -> list[ReadRow]:
    """Read each of the rows by itself, so that one bad row is one bad row; raw ones are encoded.

    Raises:
        PadfixError: There are raw rows, and the tokenizer has no chat template.
    """
    own: ChatEncoder | None = None
    read = []
    for number in taken.numbers:
        is_raw = True
        try:
            row: Any = taken.rows[number]
        except PadfixError as error:  # a line of a file that is no JSON
            read.append(_refused(number, error, is_raw))
            continue
        is_raw = not isinstance(row, RowFacts) and not is_encoded_row(row)
        if is_raw and own is None:
            own = _make_encoder(tokenizer, encoder, row)
        try:
            if isinstance(row, RowFacts):
                read.append(ReadRow(number, row, note=row.source.partition(", ")[2]))
            elif own is not None and is_raw:
                read.append(_encode(row, number, own, taken.source))
            else:
                read.append(_read_encoded(row, number, taken.source))
        except (PadfixError, ValueError, TypeError) as error:  # numpy raises these for what are no numbers
            read.append(_refused(number, error, is_raw))
    return read


def _refused(number: int, error: Exception, is_raw: bool) -> ReadRow:
    return ReadRow(number, is_raw=is_raw, error=str(error).removeprefix(f"row {number}: "))


def _make_encoder(tokenizer: TokenizerLike, encoder: ChatEncoder | None, row: object) -> ChatEncoder:
    """Return an encoder with counts of its own; raise for a fault of the template, which concerns all rows."""
    own = copy.copy(encoder) if encoder is not None else ChatEncoder(tokenizer)
    try:
        needs_template = read_row(row).needs_template
    except PadfixError:  # which is that row's own fault
        needs_template = True
    if needs_template:
        read_template(tokenizer, own.template_kwargs)
    return own


def _read_encoded(row: Row, number: int, source: str) -> ReadRow:
    [facts] = rows_of_dataset([row], source)
    note = ""
    if facts.labels is None:
        note = "no labels: which tokens are trained is not known"
    elif masks := masks_of_labels(row):
        note = f"labels made of {' and '.join(masks)}, as trainers do"
    return ReadRow(number, replace(facts, number=number), note=note)


def _encode(row: object, number: int, encoder: ChatEncoder, source: str) -> ReadRow:
    columns, counts = encoder.encode_rows([row], number)
    if not counts.kept:
        return ReadRow(number, is_raw=True, error=f"encoding drops the row: {_reason(counts)}")
    note = "cut to max_length" if counts.cut else ""
    if counts.pieces:
        note = f"a text of {counts.pieces} pieces of max_length, of which this is the first"
    if counts.escaped:
        note = "; ".join(filter(None, (note, "control tokens in its text are encoded as text")))
    [facts] = rows_of_dataset([{name: column[0] for name, column in columns.items()}], source)
    return ReadRow(number, replace(facts, number=number), is_raw=True, note=note)


def _reason(counts: Counts) -> str:
    if counts.dropped_too_long:
        return "its first trained turn is longer than max_length"
    return "it has no token to train" if counts.dropped_untrained else "it cannot be read"
