"""Rows of a dataset that is not encoded yet: which can be read, and what encoding would make of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import PadfixError
from llama_padfix.doctor.facts import DataFacts
from llama_padfix.doctor.findings import MAX_EVIDENCE
from llama_padfix.doctor.observe.raw_rows import RawRows
from llama_padfix.encoding.dataset.row_sequence import read_or_error
from llama_padfix.encoding.masking.rendered_text import observe_marks
from llama_padfix.tokens.control import find_control_text, special_ids

if TYPE_CHECKING:
    from llama_padfix.core.types import TokenizerLike
    from llama_padfix.encoding.row_formats import Conversation

_BATCH = 256
_NO_LIMIT = 10**9  # transformers writes 1e30 where a tokenizer has no longest row


def observe_data(
    rows: Any,  # a dataset, a list or a stream
    tokenizer: TokenizerLike | None,
    source: str = "data",
    *,
    places: Sequence[int] | None = None,
    max_rows: int | None = None,
    processor: Any = None,  # transformers.ProcessorMixin
) -> DataFacts:
    """Read raw rows in constant memory, and encode them with the library's encoder.

    Args:
        rows: rows of any shape that `ChatEncoder` takes.
        tokenizer: gives the longest row; without one the rows are only read.
        source: what the rows are called in findings.
        places: the numbers of the rows to read; all without them.
        max_rows: how many rows to read at most, where `places` is None.
        processor: holds the tokenizer, and reads the rows' media; without it a row with media is unreadable.
    """
    total = len(rows) if hasattr(rows, "__len__") else None
    if places is None and total is not None:
        places = range(min(total, max_rows or total))
    numbered: Iterator[tuple[int, Any]]  # rows of any shape, or what reading one raised
    if places is None:
        numbered = islice(enumerate(rows), max_rows)
    else:
        numbered = ((place, read_or_error(rows, place)) for place in places)
    seen = _Tally(tokenizer, processor)
    while batch := list(islice(numbered, _BATCH)):
        seen.add(batch)
    return seen.facts(source, total)


class _Tally:
    """What has been found so far: the first rows of each kind, and counts of all."""

    def __init__(self, tokenizer: TokenizerLike | None, processor: Any) -> None:
        longest = getattr(tokenizer, "model_max_length", None)
        self.max_length = int(longest) if longest is not None and 2 <= longest < _NO_LIMIT else None
        self.raw = RawRows(tokenizer, processor, self.max_length)
        self.encoder = self.raw.encoder
        self.controls = tuple(special_ids(tokenizer)) if tokenizer is not None else ()
        self.bos = getattr(tokenizer, "bos_token", None)
        self.marks = observe_marks(tokenizer, {}) if tokenizer is not None else None
        self.rows = 0
        self.shapes: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.examples: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)

    def facts(self, source: str, total: int | None) -> DataFacts:
        """Return what was found as facts."""
        unread = self._find_examples("dropped_invalid") if self.raw.unread_media else ()
        return DataFacts(
            source=source,
            seen=self.rows,
            total=total,
            shapes=dict(self.shapes),
            unreadable=tuple(sorted([*self.examples["unreadable"], *unread])[:MAX_EVIDENCE]),
            unreadable_count=self.counts["unreadable"] + self.raw.unread_media,
            unanswered=tuple(self.examples["unanswered"]),
            unanswered_count=self.counts["unanswered"],
            spelled=tuple(self.examples["spelled"]),
            spelled_count=self.counts["spelled"],
            bos_in_text=self.counts["bos"],
            max_length=self.max_length,
            cut=self.encoder.counts.cut if self.encoder else 0,
            split=self.encoder.counts.split if self.encoder else 0,
            too_long=self.encoder.counts.dropped_too_long if self.encoder else 0,
            lost=self._find_examples("lossy", "lost_"),
            lost_count=self.encoder.counts.lossy if self.encoder else 0,
            thoughtless=self._find_examples("empty_reasoning"),
            thoughtless_count=self.encoder.counts.empty_reasoning if self.encoder else 0,
            unparsed=self._find_examples("unparsed"),
            unparsed_count=self.encoder.counts.unparsed if self.encoder else 0,
        )

    def _find_examples(self, *kinds: str) -> tuple[tuple[int, str], ...]:
        """Return the first rows that the encoder counted under kinds that begin so, by number, with what it saw."""
        found: dict[int, str] = {}
        for example in self.encoder.counts.examples if self.encoder else ():
            if example.row is not None and example.kind.startswith(kinds):
                found.setdefault(example.row, example.detail)
        return tuple(sorted(found.items())[:MAX_EVIDENCE])

    def add(self, batch: Sequence[tuple[int, Any]]) -> None:  # rows of any shape
        """Read rows one by one, and encode together those that can be encoded."""
        encodable: list[tuple[int, Any]] = []
        for number, row in batch:
            self.rows += 1
            try:
                if isinstance(row, PadfixError):
                    raise row
                shape, read, encoded = self.raw.read(row, number)
            except PadfixError as error:
                self._keep("unreadable", number, str(error).removeprefix(f"row {number}: "))
                continue
            self.shapes[shape] += 1
            if self._has_answer(number, read[0]) and (self.raw.has_template or not read[0].needs_template):
                encodable.append((number, encoded))
            with suppress(RecursionError):  # the encoder drops such a row
                self._find_controls(number, read, shape)
        self.raw.encode(encodable)

    def _has_answer(self, number: int, conversation: Conversation) -> bool:
        if conversation.messages is None:
            return True
        roles = [message["role"] for message in conversation.messages[conversation.trained_from :]]
        if "assistant" not in roles:
            seen = ", ".join(str(message["role"]) for message in conversation.messages)
            self._keep("unanswered", number, f"its turns are: {seen}")
        return "assistant" in roles

    def _find_controls(self, number: int, read: Sequence[Conversation], shape: str) -> None:
        named: set[str] = set()
        begins_with_bos = False
        for conversation in read:
            texts = conversation.texts
            is_rendered = texts is not None and (self.marks is None or self.marks.find_completion(*texts) is not None)
            # Trainers of preferences encode two texts as they are; the library's encoder renders what is not rendered.
            prompt = texts[0] if texts is not None and (is_rendered or shape == "preference") else conversation.text
            begins_with_bos |= bool(self.bos) and str(prompt or "").startswith(str(self.bos))
            if not is_rendered:  # a rendered chat holds control tokens
                spoken = (text for message in conversation.messages or () for text in _texts(message))
                named |= {token for text in spoken for _, _, token in find_control_text(text, self.controls)}
        self.counts["bos"] += begins_with_bos
        if named:
            self._keep("spelled", number, ", ".join(sorted(named)))

    def _keep(self, kind: str, number: int, why: str) -> None:
        self.counts[kind] += 1
        if self.counts[kind] <= MAX_EVIDENCE:
            self.examples[kind].append((number, why))


def _texts(value: object) -> Iterator[str]:
    """Yield the texts in a message, at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)
