"""What somebody passes to be looked at, read row by row: datasets, lists, streams, batches, raw rows, one row."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from llama_padfix.chat.turns import read_template
from llama_padfix.core.errors import IGNORE_INDEX, PadfixError, describe
from llama_padfix.doctor.facts import RowFacts
from llama_padfix.doctor.observe.rows import rows_of_batch, rows_of_dataset
from llama_padfix.encoding.counts import Counts
from llama_padfix.encoding.encoder import ChatEncoder
from llama_padfix.encoding.row_formats import read_row
from llama_padfix.encoding.sources import is_batch

__all__ = ["ReadRow", "TakenRows", "read_rows", "take_rows"]

_MASKS = ("assistant_masks", "assistant_tokens_mask", "completion_mask")  # of which trainers make labels


@dataclass(frozen=True)
class TakenRows:
    """What the user passed, as a sequence, and which places of it are shown."""

    rows: Sequence[Any]
    numbers: Sequence[int]
    source: str = "dataset"
    total: int | None = None


@dataclass(frozen=True)
class ReadRow:
    """One row as the checks see it, or why it cannot be shown."""

    number: int
    facts: RowFacts | None = None
    is_raw: bool = False
    note: str = ""
    error: str = ""


def take_rows(rows: Any, numbers: Sequence[int] | None, max_rows: int) -> TakenRows:
    """Return the rows as a sequence with the numbers of those that are shown."""
    last = max_rows if numbers is None else max(numbers, default=-1) + 1
    source, total = "dataset", None
    if is_batch(rows):
        source, sequence = "batch", list(rows_of_batch(rows, "batch"))
    else:
        sequence = _as_sequence(rows, last)
    if isinstance(sequence, list) and sequence and is_batch(sequence[0]):
        source, sequence = "batches", list(_rows_of_batches(sequence))
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


def _as_sequence(rows: Any, last: int) -> Any:
    """Return what can be asked for its rows by number; of a stream, its first `last` rows."""
    if isinstance(rows, str) or hasattr(rows, "get_train_dataloader"):
        raise PadfixError(
            f"Got a {type(rows).__name__} {describe(rows)} where rows are needed. Pass a dataset, a list of rows or "
            "one batch; of a trainer: view_mask(next(iter(trainer.get_train_dataloader())), tokenizer)"
        )
    if isinstance(rows, Mapping):
        return _rows_of_mapping(rows)
    if isinstance(rows, (list, tuple)):
        return [rows] if _is_one_row(rows) else list(rows)
    if hasattr(rows, "with_format") and getattr(rows, "format", {}).get("type") != "custom":
        rows = rows.with_format(None)
    if hasattr(rows, "__getitem__") and hasattr(rows, "__len__"):
        return rows
    if not hasattr(rows, "__iter__"):
        raise PadfixError(f"A {type(rows).__name__} holds no rows. Pass a dataset, a list of rows or one batch.")
    return list(islice(iter(rows), last))


def _rows_of_mapping(rows: Mapping[str, Any]) -> list[Any]:
    """Return one row, or the rows of a batch of columns, as a list of rows."""
    if any(hasattr(value, "column_names") for value in rows.values()):
        splits = ", ".join(map(repr, rows))
        raise PadfixError(f"Got the splits {splits}. Pass one of them: view_mask(dataset[{next(iter(rows))!r}], ...)")
    ids = rows.get("input_ids")
    nested = ids is not None and len(ids) > 0 and hasattr(ids[0], "__len__")
    if (ids is not None and not nested) or (ids is None and _is_one_row(rows)):
        return [dict(rows)]
    columns = {name: value for name, value in rows.items() if isinstance(value, (list, tuple))}
    length = min(map(len, columns.values()), default=0)
    if not length:
        raise PadfixError(f"Got a mapping of {describe(list(rows))}, which is neither a row nor a batch of columns.")
    return [{name: values[place] for name, values in columns.items()} for place in range(length)]


def _is_one_row(value: Any) -> bool:
    """Tell one conversation or row from several by reading it."""
    try:
        read_row(value)
    except PadfixError:
        return isinstance(value, list) and bool(value) and _is_message(value[0])
    return True


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and bool({"role", "from"} & set(value)) and "input_ids" not in value


def _rows_of_batches(batches: Sequence[Any]) -> Iterator[RowFacts]:
    number = 0
    for batch in batches:
        for row in rows_of_batch(batch, "batches", number):
            number += 1
            yield row


def read_rows(taken: TakenRows, tokenizer: Any, encoder: ChatEncoder | None) -> list[ReadRow]:
    """Read each of the rows by itself, so that one bad row is one bad row; raw ones are encoded.

    Raises `PadfixError` where raw rows cannot be encoded for want of a chat template.
    """
    own: ChatEncoder | None = None
    read = []
    for number in taken.numbers:
        is_raw = True
        try:
            row = taken.rows[number]
        except PadfixError as error:  # a line of a file that is no JSON
            read.append(_refused(number, error, is_raw))
            continue
        is_raw = not isinstance(row, RowFacts) and not (isinstance(row, Mapping) and row.get("input_ids") is not None)
        if is_raw and own is None:
            own = _make_encoder(tokenizer, encoder, row)
        try:
            if isinstance(row, RowFacts):
                read.append(ReadRow(number, row))
            elif own is not None and is_raw:
                read.append(_encode(row, number, own, taken.source))
            else:
                read.append(_read_encoded(row, number, taken.source))
        except (PadfixError, ValueError, TypeError) as error:  # numpy's, for what are no numbers
            read.append(_refused(number, error, is_raw))
    return read


def _refused(number: int, error: Exception, is_raw: bool) -> ReadRow:
    return ReadRow(number, is_raw=is_raw, error=str(error).removeprefix(f"row {number}: "))


def _make_encoder(tokenizer: Any, encoder: ChatEncoder | None, row: Any) -> ChatEncoder:
    """Return an encoder whose counts are its own; what is wrong with the template is no row's fault and raises."""
    own = copy.copy(encoder) if encoder is not None else ChatEncoder(tokenizer)
    if not (isinstance(row, Mapping) and row.get("text") is not None):
        read_template(tokenizer, own.template_kwargs)
    return own


def _read_encoded(row: Mapping[str, Any], number: int, source: str) -> ReadRow:
    note, columns = "", dict(row)
    masks = [name for name in _MASKS if columns.get(name) is not None]
    if columns.get("labels") is None and masks:
        ids, chosen = _as_list(columns["input_ids"]), [_as_list(columns[name]) for name in masks]
        asked = [all(bits) for bits in zip(*chosen, strict=True)]
        columns["labels"] = [i if bit else IGNORE_INDEX for i, bit in zip(ids, asked, strict=True)]
        note = f"labels made of {' and '.join(masks)}, as trainers do"
    elif columns.get("labels") is None:
        note = "no labels: nothing says which tokens are trained"
    [facts] = rows_of_dataset([columns], source)
    return ReadRow(number, replace(facts, number=number), note=note)


def _as_list(values: Any) -> list[Any]:
    return list(values.tolist() if hasattr(values, "tolist") else values)


def _encode(row: Any, number: int, encoder: ChatEncoder, source: str) -> ReadRow:
    columns, counts = encoder.encode_rows([row], number)
    if not counts.kept:
        return ReadRow(number, is_raw=True, error=f"encoding drops the row: {_reason(counts)}")
    note = "cut to max_length" if counts.cut else ""
    if counts.escaped:
        note = "; ".join(filter(None, (note, "control tokens in its text are encoded as text")))
    [facts] = rows_of_dataset([{name: column[0] for name, column in columns.items()}], source)
    return ReadRow(number, replace(facts, number=number), is_raw=True, note=note)


def _reason(counts: Counts) -> str:
    if counts.dropped_too_long:
        return "its first trained turn is longer than max_length"
    return "it has no token to train" if counts.dropped_untrained else "it cannot be read"
