"""Rows of a dataset that nobody has encoded yet: whether they can be read, and what encoding would make of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from llama_padfix.core.errors import PadfixError
from llama_padfix.doctor.facts import DataFacts
from llama_padfix.doctor.findings import MAX_EVIDENCE
from llama_padfix.doctor.observe.files import read_or_error
from llama_padfix.encoding.encoder import ChatEncoder
from llama_padfix.encoding.row_formats import Conversation, read_row
from llama_padfix.tokens.control import find_control_text, special_ids

_BATCH = 256
_NO_LIMIT = 10**9  # transformers writes 1e30 where a tokenizer has no longest row


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
        numbers = ((place, read_or_error(rows, place)) for place in places)
    elif hasattr(rows, "__len__"):
        numbers = ((place, read_or_error(rows, place)) for place in range(min(len(rows), max_rows or len(rows))))
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
        if len(examples) < MAX_EVIDENCE:
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
