"""Rows of a dataset that nobody has encoded yet: whether they can be read, and what encoding would make of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from llama_padfix.encode import ChatEncoder
from llama_padfix.formats import Conversation, read_row
from llama_padfix.observe import find_control_text, special_ids
from llama_padfix.records import DataFacts, PadfixError, describe

__all__ = ["is_raw", "observe_data", "open_rows"]

_EXAMPLES = 5  # rows of evidence that are kept
_BATCH = 256
_NO_LIMIT = 10**9  # transformers writes 1e30 where a tokenizer has no longest row


def is_raw(dataset: Any) -> bool:
    """Tell a dataset or list of rows without `input_ids`; a stream that does not say its columns is none."""
    names = getattr(dataset, "column_names", None)
    if isinstance(names, (list, tuple)):
        return "input_ids" not in names
    return isinstance(dataset, (list, tuple)) and bool(dataset) and "input_ids" not in dataset[0]


def open_rows(path: str | Path) -> Sequence[Any]:
    """Return the rows of a .jsonl, .json or .parquet file, each read when it is asked for.

    Raises `PadfixError` for a file that is not there, of another kind, empty or unreadable.
    """
    file = Path(path)
    readers = {".jsonl": _JsonLines, ".ndjson": _JsonLines, ".json": _read_json, ".parquet": _ParquetRows}
    if not file.is_file():
        raise PadfixError(f"There is no file {str(path)!r}. Pass --data FILE.jsonl, .json or .parquet.")
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise PadfixError(f"{str(path)!r} is of no known kind. Pass a file that ends in {', '.join(readers)}.")
    rows: Sequence[Any] = reader(file)
    if not len(rows):
        raise PadfixError(f"{str(path)!r} holds no rows.")
    return rows


def observe_data(
    rows: Any,
    tokenizer: Any,
    source: str = "data",
    *,
    places: Sequence[int] | None = None,
    max_rows: int | None = None,
) -> DataFacts:
    """Read raw rows (those at `places`, else all or the first `max_rows`) in constant memory, and encode them.

    The encoder is the library's own, with the longest row that the tokenizer announces. Without a tokenizer the
    rows are only read.
    """
    seen = _Tally(tokenizer)
    numbers: Iterator[tuple[int, Any]]
    if places is not None:
        numbers = ((place, _get(rows, place)) for place in places)
    elif hasattr(rows, "__len__"):
        numbers = ((place, _get(rows, place)) for place in range(min(len(rows), max_rows or len(rows))))
    else:
        numbers = islice(enumerate(rows), max_rows)
    while batch := list(islice(numbers, _BATCH)):
        seen.add(batch)
    return DataFacts(
        source=source,
        seen=seen.rows,
        total=len(rows) if hasattr(rows, "__len__") else None,
        shapes=dict(seen.shapes),
        unreadable=tuple(seen.unreadable),
        unreadable_count=seen.counts["unreadable"],
        unanswered=tuple(seen.unanswered),
        unanswered_count=seen.counts["unanswered"],
        spelled=tuple(seen.spelled),
        spelled_count=seen.counts["spelled"],
        bos_in_text=seen.counts["bos"],
        max_length=seen.max_length,
        cut=seen.encoder.counts.cut if seen.encoder else 0,
        too_long=seen.encoder.counts.dropped_too_long if seen.encoder else 0,
    )


class _Tally:
    """What has been seen so far; the first rows of each kind, and counts of all."""

    def __init__(self, tokenizer: Any) -> None:
        longest = getattr(tokenizer, "model_max_length", None)
        self.max_length = int(longest) if longest is not None and 2 <= longest < _NO_LIMIT else None
        self.encoder = ChatEncoder(tokenizer, self.max_length, on_error="drop") if tokenizer is not None else None
        self.controls = tuple(special_ids(tokenizer)) if tokenizer is not None else ()
        self.bos = getattr(tokenizer, "bos_token", None)
        self.has_template = bool(getattr(tokenizer, "chat_template", None))
        self.rows = 0
        self.shapes: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.unreadable: list[tuple[int, str]] = []
        self.unanswered: list[tuple[int, str]] = []
        self.spelled: list[tuple[int, str]] = []

    def add(self, batch: list[tuple[int, Any]]) -> None:
        """Read rows one by one, and encode together those that can be encoded."""
        whole: list[tuple[int, Any]] = []
        for number, row in batch:
            self.rows += 1
            try:
                if isinstance(row, PadfixError):
                    raise row
                conversation = read_row(row, row_number=number)
            except PadfixError as error:
                self._keep("unreadable", self.unreadable, number, str(error).removeprefix(f"row {number}: "))
                continue
            self.shapes[conversation.shape] += 1
            if self._has_answer(number, conversation):
                whole.append((number, row))
            self._look_for_controls(number, conversation)
        encodable = [(n, row) for n, row in whole if self.has_template or "text" in row]
        if self.encoder is not None and encodable:
            self.encoder.encode_rows([row for _, row in encodable], [number for number, _ in encodable])

    def _has_answer(self, number: int, conversation: Conversation) -> bool:
        if conversation.messages is None:
            return True
        roles = [message["role"] for message in conversation.messages[conversation.trained_from :]]
        if "assistant" not in roles:
            seen = ", ".join(str(message["role"]) for message in conversation.messages)
            self._keep("unanswered", self.unanswered, number, f"its turns are: {seen}")
        return "assistant" in roles

    def _look_for_controls(self, number: int, conversation: Conversation) -> None:
        if conversation.messages is None:
            self.counts["bos"] += int(bool(self.bos) and str(conversation.text).startswith(str(self.bos)))
            return  # a text row may be a rendered chat, whose control tokens are meant
        named = {
            token
            for message in conversation.messages
            for text in _texts(message)
            for _, _, token in find_control_text(text, self.controls)
        }
        if named:
            self._keep("spelled", self.spelled, number, ", ".join(sorted(named)))

    def _keep(self, kind: str, examples: list[tuple[int, str]], number: int, why: str) -> None:
        self.counts[kind] += 1
        if len(examples) < _EXAMPLES:
            examples.append((number, why))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)


def _get(rows: Any, place: int) -> Any:
    try:
        return rows[place]
    except PadfixError as error:  # a line that is no JSON is one bad row, not the end
        return error


class _JsonLines(Sequence[Any]):
    """The lines of a file by their offsets, so that a sample of a large one costs little memory."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._starts: list[int] = []
        offset = 0
        for line in self._file:
            if line.strip():
                self._starts.append(offset)
            offset += len(line)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, place: Any) -> Any:
        if place >= len(self._starts):
            raise IndexError(place)  # what ends a loop over a sequence
        self._file.seek(self._starts[place])
        line = self._file.readline()
        try:
            return json.loads(line)
        except ValueError as error:
            raise PadfixError(f"row {place}: the line is not valid JSON ({error}): {describe(line)}") from error

    @property
    def column_names(self) -> list[str]:
        """The columns of the first row that can be read."""
        row = next((row for row in (_get(self, place) for place in range(len(self))) if isinstance(row, dict)), {})
        return list(row)


def _read_json(path: Path) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        lines = _JsonLines(path)  # many tools call JSON lines .json
        if len(lines) > 1 and isinstance(_get(lines, 0), dict):
            return lines
        raise PadfixError(f"{str(path)!r} is not valid JSON: {error}.") from error
    if not isinstance(content, list):
        raise PadfixError(f"{str(path)!r} holds a {type(content).__name__}, not a list of rows.")
    return content


class _ParquetRows(Sequence[Any]):
    """The rows of a parquet file; one row group is held at a time."""

    def __init__(self, path: Path) -> None:
        try:
            from pyarrow import parquet
        except ImportError as error:
            raise PadfixError("Reading parquet needs pyarrow. Run: pip install pyarrow") from error
        try:
            self._file = parquet.ParquetFile(path)
        except Exception as error:  # pyarrow has its own kinds of error for each broken part
            raise PadfixError(f"{str(path)!r} is not a parquet file: {error}.") from error
        self.column_names = list(self._file.schema_arrow.names)
        self._ends: list[int] = []
        for group in range(self._file.num_row_groups):
            self._ends.append(self._file.metadata.row_group(group).num_rows + (self._ends[-1] if self._ends else 0))
        self._group: int | None = None
        self._table: Any = None

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, place: Any) -> Any:
        if place >= len(self):
            raise IndexError(place)
        group = next(number for number, end in enumerate(self._ends) if place < end)
        if group != self._group:
            self._group, self._table = group, self._file.read_row_group(group)
        start = self._ends[group] - self._table.num_rows
        return self._table.slice(place - start, 1).to_pylist()[0]
