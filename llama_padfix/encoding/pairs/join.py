"""Two encoded answers to one pair: one prompt, two answers that differ, or the reason why there is no pair."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from llama_padfix.chat.trace import count_equal
from llama_padfix.core.errors import IGNORE_INDEX

LOST = ("dropped_invalid", "dropped_untrained", "dropped_too_long")
"""Why an answer did not leave the encoder, the first reason first."""


@dataclass(frozen=True)
class Side:
    """One encoded answer with its prompt; without tokens it was dropped, and `notes` say why."""

    input_ids: Sequence[int]
    labels: Sequence[int]
    notes: Mapping[str, str]

    @property
    def start(self) -> int:
        """Where the answer begins: its first trained token."""
        return next((at for at, label in enumerate(self.labels) if label != IGNORE_INDEX), len(self.labels))

    @property
    def end(self) -> int:
        """Where it ends: behind its last trained token."""
        labels = self.labels
        return next((at for at in range(len(labels), 0, -1) if labels[at - 1] != IGNORE_INDEX), 0)


def find_lost(side: Side) -> dict[str, str]:
    """Return why one answer cannot be used, as the field of `Counts` and its detail; empty where it can."""
    notes = side.notes
    if "split" in notes:  # a plain text that is too long: of a pair no piece is left
        return {"dropped_too_long": notes["split"].partition(" into ")[0]}
    if not side.input_ids:
        return next(({kind: notes[kind]} for kind in LOST if kind in notes), {"dropped_untrained": ""})
    if "empty" in notes:
        return {"dropped_empty": notes["empty"]}
    return {"dropped_empty": ""} if side.start == len(side.labels) else {}


def compare(chosen: Side, rejected: Side) -> dict[str, str]:
    """Return why two answers are no pair, as `find_lost` does."""
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        if lost := find_lost(side):
            return {kind: f"{name}: {detail}" if detail else name for kind, detail in lost.items()}
    if list(chosen.input_ids) == list(rejected.input_ids):
        return {"dropped_equal": ""}
    start = chosen.start
    if start != rejected.start or chosen.input_ids[:start] != rejected.input_ids[:start]:
        return {"dropped_prompts": f"they differ from token {count_equal(chosen.input_ids, rejected.input_ids)} on"}
    return {}


def find_gap(sides: Mapping[str, Side], trainer: str) -> dict[str, str]:
    """Return why a trainer that trains every token behind the prompt cannot take the answers, as `find_lost` does."""
    for name, side in sides.items():
        if IGNORE_INDEX in side.labels[side.start : side.end]:
            return {
                "dropped_invalid": f"the {name} answer has several turns, and {trainer} trains every token behind the "
                "prompt, the user's and a tool's too. Run: pip install -U \"trl>=1\"; or drop such rows: "
                "on_error='drop'"
            }
    return {}


def part_texts(chosen: Side, rejected: Side) -> tuple[Side, Side]:
    """Return two texts that hold their prompts, trained from the answers in which they differ.

    Of rendered chats that is the whole turn; of plain texts, which have no turns, the first token that differs.
    """
    common = count_equal(chosen.input_ids, rejected.input_ids)
    return _train_from(chosen, common), _train_from(rejected, common)


def _train_from(side: Side, common: int) -> Side:
    runs = [*_runs(side.labels)]
    plain = runs == [(1, len(side.labels))]
    last = len(side.labels)
    start = common if plain else next((first for first, end in runs if end > common), last)
    labels = [IGNORE_INDEX if at < start else label for at, label in enumerate(side.labels)]
    return replace(side, labels=labels)


def _runs(labels: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield where the runs of trained tokens begin and end."""
    first = None
    for at, label in enumerate([*labels, IGNORE_INDEX]):
        if label != IGNORE_INDEX and first is None:
            first = at
        elif label == IGNORE_INDEX and first is not None:
            yield first, at
            first = None


def merge_notes(sides: Mapping[str, Side]) -> dict[str, str]:
    """Return the notes on the answers of one row, each kind once, with the name of the first answer that has it."""
    notes: dict[str, str] = {}
    for name, side in sides.items():
        for kind, detail in side.notes.items():
            notes.setdefault(kind, f"{name}: {detail}" if name and detail else detail or name)
    return notes
