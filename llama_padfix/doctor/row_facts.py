"""What was observed of rows, encoded or not. `facts` re-exports these records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import IGNORE_INDEX
from llama_padfix.encoding.masking.turns_in_ids import Turn, TurnMarkers

if TYPE_CHECKING:
    from llama_padfix.core.types import BoolArray, LongArray


@dataclass(frozen=True)
class RowFacts:
    """One encoded row as the loss will read it: int64 arrays of shape (tokens,), None for a missing column."""

    source: str
    """What the row was read from: "train batch", "eval batch", "batch" or "dataset"."""

    number: int
    """Its number in the source, from 0."""

    input_ids: LongArray
    """Ids, with the padding of a batch."""

    labels: Any = None  # `Any`: a LongArray in every row that a check with "labels" in its needs reads
    """Ids to predict, -100 where there is none."""

    attention_mask: LongArray | None = None
    """0 where the row is padded."""

    position_ids: LongArray | None = None
    """Positions within each document of a packed row."""

    cache_is_off: bool = False
    """Its batch passes `use_cache=False` to the model."""

    before: int = 0
    """How many tokens of other documents stand before it in the same row of a batch; 0 for a row of its own."""

    real: BoolArray | None = None
    """Where a row is no padding, if it has runs of pad ids that no mask hides; None without these."""

    shifted: Any = None
    """The labels as they came, where each is the next id: `labels` are then those that they stand for; else None."""

    found_turns: dict[TurnMarkers, tuple[Turn, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """What `check_helpers.find_turns` found, by markers: most checks need the turns of the same row."""

    @cached_property
    def trained(self) -> BoolArray:
        """Where a label is an id to predict, of shape (tokens,); the row has labels."""
        trained: BoolArray = self.labels != IGNORE_INDEX
        return trained


@dataclass(frozen=True)
class SampleFacts:
    """Which rows were read: `seen` of `total` (None for a stream), the columns of a row, and why none was drawn."""

    source: str
    seen: int
    total: int | None
    columns: tuple[str, ...] = ()
    not_drawn: str | None = None
    beginnings: frozenset[tuple[int, int]] = field(default=frozenset(), repr=False)
    """The first two ids of each row of a trainer, without padding."""
    trained_ends: frozenset[int] = field(default=frozenset(), repr=False)
    """The last trained id of each row of a trainer."""


@dataclass(frozen=True)
class SourceTotals:
    """How many rows of a source were read, and how long they are without padding."""

    seen: int = 0
    shortest: int = 0
    longest: int = 0

    def with_row(self, length: int) -> SourceTotals:
        """Return the totals with one more row, of that many tokens."""
        shortest = min(self.shortest, length) if self.seen else length
        return SourceTotals(self.seen + 1, shortest, max(self.longest, length))


@dataclass(frozen=True)
class DataFacts:
    """What was found in rows that are not encoded yet, and what the library's encoder made of them."""

    source: str
    """What the rows were read from."""

    seen: int
    """Rows that were read."""

    total: int | None
    """All rows, None for a stream."""

    shapes: Mapping[str, int]
    """Counts of rows by shape."""

    unreadable: tuple[tuple[int, str], ...] = ()
    """The first rows that cannot be read: (row, reason)."""

    unreadable_count: int = 0
    """All of them."""

    unanswered: tuple[tuple[int, str], ...] = ()
    """The first rows without an answer: (row, its roles)."""

    unanswered_count: int = 0
    """All of them."""

    spelled: tuple[tuple[int, str], ...] = ()
    """The first rows whose text spells control tokens: (row, tokens)."""

    spelled_count: int = 0
    """All of them."""

    bos_in_text: int = 0
    """`text` rows that begin with a written BOS."""

    max_length: int | None = None
    """The longest row that the tokenizer declares, None without a limit."""

    cut: int = 0
    """Rows that lost turns to `max_length`."""

    split: int = 0
    """How many are texts that the encoder splits into several rows."""

    too_long: int = 0
    """Rows in which no turn fits `max_length`."""

    lost: tuple[tuple[int, str], ...] = ()
    """The first rows of which the chat template leaves something out: (row, what)."""

    lost_count: int = 0
    """All of them."""

    thoughtless: tuple[tuple[int, str], ...] = ()
    """The first rows in which an empty thought is trained that the template writes: (row, which message)."""

    thoughtless_count: int = 0
    """All of them."""

    unparsed: tuple[tuple[int, str], ...] = ()
    """The first rows with tool arguments that are text and no JSON: (row, the message with them)."""

    unparsed_count: int = 0
    """All of them."""
