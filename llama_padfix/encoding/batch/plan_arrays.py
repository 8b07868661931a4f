"""Render plans as arrays, so that many conversations are written out, and checked, in a few vectorized steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from llama_padfix.chat.symbolic import trim
from llama_padfix.encoding.batch.chat_columns import Chats


@dataclass(frozen=True)
class SegmentTable:
    """How conversations of one sequence of roles are written: literals and texts in turn.

    `parts` holds the literals at its even places. The texts are those of `messages`, in this order, each trimmed by
    its `operations`. With `in_message_order`, texts without white space at their ends are written as they come.
    `number` is the table's place in `PlanArrays`, `notes` are those on each of its rows (see `EncodedRow`).
    """

    number: int
    parts: tuple[str, ...]
    messages: tuple[int, ...]
    operations: tuple[tuple[tuple[str, str | None], ...], ...]
    in_message_order: bool
    notes: Mapping[str, str]


@dataclass
class PlanArrays:
    """The segments of all tables, one after another; those of table `n` are at `bounds[n] : bounds[n + 1]`.

    `headers` are the places of each segment's header in a list of headers, or -1 where nothing is trained. `tokens`
    are the added tokens that the template writes, table by table (`token_bounds`), and `ends` the number of them from
    the row's beginning to each segment's end.
    """

    headers: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    bounds: list[int] = field(default_factory=lambda: [0])
    tokens: list[int] = field(default_factory=list)
    token_bounds: list[int] = field(default_factory=lambda: [0])

    def add(self, headers: Sequence[int], ends: Sequence[int], tokens: Sequence[int]) -> int:
        """Add a table and return its number."""
        self.headers += headers
        self.ends += ends
        self.bounds.append(len(self.ends))
        self.tokens += tokens
        self.token_bounds.append(len(self.tokens))
        return len(self.bounds) - 2


def write_chats(chats: Chats, tables: Sequence[SegmentTable | None]) -> tuple[list[str], list[int]]:
    """Return the conversations that have a table as texts, with their rows; those with a blank text are left out."""
    written: list[str] = []
    rows: list[int] = []
    texts, bounds = chats.texts, chats.bounds.tolist()
    for row, (table, has_outer_whitespace) in enumerate(zip(tables, chats.has_outer_whitespace.tolist(), strict=True)):
        if table is None:
            continue
        parts = list(table.parts)
        contents = texts[bounds[row] : bounds[row + 1]]
        trimmed = _trim(table, contents) if has_outer_whitespace or not table.in_message_order else contents
        if trimmed is None:
            continue
        parts[1::2] = trimmed
        written.append("".join(parts))
        rows.append(row)
    return written, rows


def _trim(table: SegmentTable, contents: Sequence[str]) -> list[str] | None:
    """Return the texts as they are written; None where one is blank, which templates may treat differently."""
    trimmed = []
    for place, operations in zip(table.messages, table.operations, strict=True):
        text = contents[place]
        if not text or text.isspace():
            return None
        text = trim(text, operations)
        if not text or text.isspace():
            return None
        trimmed.append(text)
    return trimmed
