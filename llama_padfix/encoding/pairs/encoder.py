"""Rows of preferences to the ids and labels of each answer, behind the same prompt, with nothing lost in silence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from llama_padfix.core.errors import IGNORE_INDEX, PadfixError
from llama_padfix.encoding.counts import Counts, count_rows
from llama_padfix.encoding.dataset.arrow_stream import make_schema
from llama_padfix.encoding.encoder import ChatEncoder
from llama_padfix.encoding.pairs.join import Side, compare, find_gap, find_lost, merge_notes, part_texts
from llama_padfix.encoding.pairs.shapes import Answers, read_answers
from llama_padfix.encoding.settings import require_choice
from llama_padfix.encoding.sources import rows_of

if TYPE_CHECKING:
    import pyarrow as pa

    from llama_padfix.core.types import TokenizerLike
    from llama_padfix.encoding.batch.cross_check import Batch
    from llama_padfix.encoding.record import Encoding

PairTask = Literal["dpo", "orpo", "reward", "kto"]
"""What the answers are for: three that compare the two of a pair, and KTO, which judges each by itself."""

_OF_A_PAIR = ("input_ids_chosen", "labels_chosen", "input_ids_rejected", "labels_rejected")
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "dpo": _OF_A_PAIR,
    "orpo": _OF_A_PAIR,
    "reward": ("chosen_ids", "rejected_ids", "margin"),
    "kto": ("input_ids", "labels", "label"),
}
"""The columns of encoded rows, by task."""

_NAMED = ("chosen", "rejected")


class PairEncoder(ChatEncoder):
    """Encode rows of preferences: each answer behind its prompt, -100 outside of what the model must produce.

    Use it as a `ChatEncoder`: on one row, on a list of rows, in `dataset.map`, or in `encode_dataset`. Both answers of
    a pair have the same prompt ids, one BOS, and end with what ends the model's turn. A row is dropped, and counted,
    whose answers are equal or empty or have the same score, or of which an answer does not fit into `max_length`.

    Args:
        tokenizer: The tokenizer, which is never changed.
        max_length: Most tokens of a prompt with one answer, or None. Both are cut behind whole turns.
        task: What the rows are for: "dpo" or "orpo" (the columns `input_ids_chosen`, `labels_chosen`,
            `input_ids_rejected`, `labels_rejected`), "reward" (`chosen_ids`, `rejected_ids`, `margin`, 0.0 where the
            rows bring none), or "kto" (`input_ids`, `labels`, `label`; a pair becomes two rows).
        settings: As for `ChatEncoder`. `train_on` chooses among the turns of an answer.

    Raises:
        PadfixError: As for `ChatEncoder`; the task is not known.
    """

    def __init__(
        self,
        tokenizer: TokenizerLike,
        max_length: int | None = None,
        task: PairTask = "dpo",
        **settings: Any,  # of ChatEncoder, which checks them
    ) -> None:
        require_choice("task", task, PairTask)
        super().__init__(tokenizer, max_length, **settings)
        self.task = task
        self.columns = COLUMNS[task]
        self.without_mask = ""

    without_mask: str
    """The trainer that trains every token behind the prompt, for which an answer of several turns is refused; "" for
    none. `prepare` finds it."""

    @property
    def encoding(self) -> Encoding:
        """How this encoder encodes; see `ChatEncoder.encoding`."""
        return replace(super().encoding, task=self.task)

    def __call__(self, rows: Any, indices: Sequence[int] | int | None = None) -> Any:  # of the shape of `rows`
        """Encode one row, or a batch of rows or columns; see `ChatEncoder.__call__`.

        Raises:
            PadfixError: A row is refused, or a single row is dropped or becomes two.
        """
        if hasattr(rows, "schema"):
            return self.encode_table(rows, indices if isinstance(indices, int) else next(iter(indices or ()), 0))
        batch = rows_of(rows) if isinstance(rows, Mapping) and _is_batch(rows) else rows
        if isinstance(batch, Iterable) and not isinstance(batch, (Mapping, str)):
            return self.encode_rows(batch, 0 if indices is None else indices)[0]
        columns, counts = self._encode_answers([batch], [None if indices is None else _first(indices)], False)
        if len(columns[self.columns[0]]) != 1:
            raise PadfixError(
                f"The row becomes {len(columns[self.columns[0]])} rows ({counts}). Pass it in a list: encoder([row]); "
                "in a dataset: dataset.map(encoder, batched=True, remove_columns=dataset.column_names)"
            )
        return {name: column[0] for name, column in columns.items()}

    def encode_rows(
        self, rows: Iterable[object], numbers: Sequence[int] | int = 0, *, strict: bool = False
    ) -> tuple[dict[str, list[Any]], Counts]:
        """Encode rows into columns; see `ChatEncoder.encode_rows`."""
        rows = list(rows)
        named = range(numbers, numbers + len(rows)) if isinstance(numbers, int) else list(numbers)
        return self._encode_answers(rows, named, strict)

    def encode_chunk(
        self, table: pa.Table | pa.RecordBatch, first_row: int = 0, *, carry: Sequence[str] = (), strict: bool = False
    ) -> tuple[pa.Table, Counts]:
        """Encode an Arrow table into one of `columns`; see `ChatEncoder.encode_chunk`. Nothing is carried along."""
        import pyarrow

        if carry:
            raise PadfixError("PairEncoder carries no columns along. Leave carry out, and number the rows beforehand")
        columns, counts = self.encode_rows(table.to_pylist(), first_row, strict=strict)
        return pyarrow.table(columns, schema=make_schema(self.columns)), counts

    def _encode_answers(
        self, rows: Sequence[object], numbers: Sequence[int | None], strict: bool
    ) -> tuple[dict[str, list[Any]], Counts]:
        read = [self._read(row, number) for row, number in zip(rows, numbers, strict=True)]
        places = [place for place, one in enumerate(read) if isinstance(one, Answers) for _ in one.rows]
        answers = [answer for one in read if isinstance(one, Answers) for answer in one.rows]
        with self._lock:
            batch = self._learn().encode_rows(answers, [numbers[place] for place in places], False, strict)
            sides = iter(_split_sides(batch, len(answers)))
            kept, counted = list[list[dict[str, Any]]](), []
            for number, one in zip(numbers, read, strict=True):
                if isinstance(one, PadfixError):
                    counted.append((number, 0, 0, {"dropped_invalid": str(one)[:100]}))
                    continue
                own = [next(sides) for _ in one.rows]
                tokens, trained, notes = self._add(kept, one, own)
                if self.on_error == "raise" and (fault := notes.get("dropped_invalid")):
                    raise PadfixError(fault if number is None else f"row {number}: {fault}")
                counted.append((number, tokens, trained, notes))
            counts = replace(count_rows(counted), unread_columns=_find_unread(rows, read))
            self.counts = self.counts + counts
        out = _alternate(kept)
        return {name: [row[name] for row in out] for name in self.columns}, counts

    def _read(self, row: object, number: int | None) -> Answers | PadfixError:
        try:
            return read_answers(row, judged=self.task == "kto")
        except PadfixError as error:
            if self.on_error == "drop":
                return error
            raise PadfixError(str(error) if number is None else f"row {number}: {error}") from error

    def _add(
        self, kept: list[list[dict[str, Any]]], one: Answers, sides: list[Side]
    ) -> tuple[int, int, dict[str, str]]:
        """Add what a row becomes to the kept rows; return its tokens, the trained ones, and notes on it."""
        if len(sides) == 2:
            if "text" in one.rows[0] and all(side.input_ids for side in sides):
                sides = [*part_texts(*sides)]
            lost = {"dropped_tied": one.tie} if one.tie else compare(*sides)
        else:
            lost = find_lost(sides[0])
        if self.without_mask and not lost:
            lost = find_gap(dict(zip(_NAMED, sides, strict=False)), self.without_mask)
        if lost:
            return 0, 0, lost
        notes = merge_notes(dict(zip(_NAMED if len(sides) == 2 else ("",), sides, strict=True)))
        if self.task != "reward":  # which is scored at the last token that the template writes
            sides = [
                replace(side, input_ids=side.input_ids[: side.end], labels=side.labels[: side.end]) for side in sides
            ]
        if self.task == "kto":
            values = [(side.input_ids, side.labels, label) for side, label in zip(sides, one.labels, strict=True)]
            kept.append([dict(zip(self.columns, held, strict=True)) for held in values])
        else:
            named = zip(_NAMED, sides, strict=True)
            held = {f"{kind}_{name}": getattr(side, kind) for name, side in named for kind in ("input_ids", "labels")}
            alone = {f"{name}_ids": held[f"input_ids_{name}"] for name in _NAMED}
            kept.append([{**held, **alone, "margin": one.margin}])
        tokens = sum(len(side.input_ids) for side in sides)
        return tokens, sum(label != IGNORE_INDEX for side in sides for label in side.labels), notes


def _alternate(kept: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the rows of all answers; behind the good answer of a pair (KTO) the bad one of a pair half of them away.

    TRL reads rows of KTO in their order, and takes the answer of the row before for one to another prompt.
    """
    seconds = [rows[1] for rows in kept if len(rows) > 1]
    half = len(seconds) // 2
    others = iter([*seconds[half:], *seconds[:half]])
    return [row for rows in kept for row in (rows[0], *(next(others) for _ in rows[1:]))]


def _split_sides(batch: Batch, count: int) -> list[Side]:
    """Return each answer of a batch; one that was dropped holds nothing, and one in pieces its first piece."""
    ids, labels, bounds = batch.input_ids.tolist(), batch.labels.tolist(), batch.bounds.tolist()
    sides = [Side((), (), batch.notes.get(place, {})) for place in range(count)]
    for at, place in enumerate(batch.rows.tolist()):
        if not sides[place].input_ids:
            start, end = bounds[at], bounds[at + 1]
            sides[place] = Side(ids[start:end], labels[start:end], sides[place].notes)
    return sides


def _is_batch(columns: Mapping[str, Any]) -> bool:
    """Return True for columns of several rows; False for one row, whose answers are texts or messages."""
    if not columns or not all(isinstance(column, list) for column in columns.values()):
        return False
    if len({len(column) for column in columns.values()}) > 1:
        return False
    held = next((columns[name] for name in ("prompt", "conversations", "chosen") if name in columns), None)
    return not (held and isinstance(held[0], Mapping))


def _find_unread(rows: Sequence[object], read: Sequence[Answers | PadfixError]) -> tuple[str, ...]:
    """Return the columns that hold something and that no row is made of."""
    found: dict[str, None] = {}
    for row, one in zip(rows, read, strict=True):
        if isinstance(row, Mapping) and isinstance(one, Answers):
            found |= dict.fromkeys(
                str(name) for name, value in row.items() if value is not None and name not in one.read
            )
    return tuple(found)


def _first(indices: Sequence[int] | int) -> int:
    return indices if isinstance(indices, int) else indices[0]
