"""Recipes laid out as arrays, so that many conversations are written out, and checked, in a few vectorised steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from llama_padfix.chat.symbolic import trim
from llama_padfix.encoding.batch.chat_columns import Chats

__all__ = ["Plan", "PlanArrays", "write_chats"]


@dataclass(frozen=True)
class Plan:
    """How conversations of one sequence of roles are written: literals and texts in turn.

    `parts` holds the literals at its even places. The texts are those of `messages`, in this order, each trimmed by
    its `operations`. `straight` tells that texts without white space at their ends are written as they come.
    `number` is the plan's place in `PlanArrays`.
    """

    number: int
    parts: tuple[str, ...]
    messages: tuple[int, ...]
    operations: tuple[tuple[tuple[str, str | None], ...], ...]
    straight: bool


@dataclass
class PlanArrays:
    """The pieces of all plans, one behind the other; those of plan `n` are at `bounds[n] : bounds[n + 1]`.

    `headers` are the places of each piece's header in a list of headers, or -1 where nothing is trained. `tokens` are
    the added tokens that the template writes, plan by plan (`token_bounds`), and `ends` the number of them from the
    row's beginning to each piece's end.
    """

    headers: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    bounds: list[int] = field(default_factory=lambda: [0])
    tokens: list[int] = field(default_factory=list)
    token_bounds: list[int] = field(default_factory=lambda: [0])

    def add(self, headers: Sequence[int], ends: Sequence[int], tokens: Sequence[int]) -> int:
        """Add a plan and return its number."""
        self.headers += headers
        self.ends += ends
        self.bounds.append(len(self.ends))
        self.tokens += tokens
        self.token_bounds.append(len(self.tokens))
        return len(self.bounds) - 2


def write_chats(chats: Chats, plans: Sequence[Plan | None]) -> tuple[list[str], list[int]]:
    """Return the conversations that have a plan as texts, with their rows; those with a blank text are left out."""
    written: list[str] = []
    rows: list[int] = []
    texts, bounds = chats.texts, chats.bounds.tolist()
    for row, (plan, ragged) in enumerate(zip(plans, chats.ragged.tolist(), strict=True)):
        if plan is None:
            continue
        parts = list(plan.parts)
        said = texts[bounds[row] : bounds[row + 1]]
        trimmed = _trim(plan, said) if ragged or not plan.straight else said
        if trimmed is None:
            continue
        parts[1::2] = trimmed
        written.append("".join(parts))
        rows.append(row)
    return written, rows


def _trim(plan: Plan, said: Sequence[str]) -> list[str] | None:
    """Return the texts as they are written; None where one is blank, of which templates may think otherwise."""
    trimmed = []
    for place, operations in zip(plan.messages, plan.operations, strict=True):
        text = said[place]
        if not text or text.isspace():
            return None
        text = trim(text, operations)
        if not text or text.isspace():
            return None
        trimmed.append(text)
    return trimmed
