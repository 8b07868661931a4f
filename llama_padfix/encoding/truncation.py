"""An encoded row, and how one that is too long is cut: behind whole turns, and with no forged end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llama_padfix.core.errors import PadfixError

if TYPE_CHECKING:
    from llama_padfix.chat.render import Turn

__all__ = ["EncodedRow", "find_cuts", "fit_row"]


@dataclass(frozen=True)
class EncodedRow:
    """One encoded row: `trained` are the spans of its trained tokens.

    `turn_ends` are the positions after each trained message, in order, and may be left out of a row that fits.
    `notes` holds the fields of `Counts` that count the row, each with the detail that is shown.
    """

    input_ids: list[int]
    labels: list[int]
    trained: Sequence[tuple[int, int]]
    turn_ends: Sequence[int] = ()
    notes: Mapping[str, str] = field(default_factory=dict)


def fit_row(row: EncodedRow, max_length: int | None, truncation: str, name: str) -> EncodedRow:
    """Return the row, cut where it is too long; nothing of it is trained where it is dropped.

    `name` is what the row is called in the `PadfixError` that `truncation="error"` raises.
    """
    length = len(row.input_ids)
    if not any(last > first for first, last in row.trained):
        return EncodedRow([], [], (), notes={"dropped_untrained": ""})
    if max_length is None or length <= max_length:
        return row
    seen = f"{length} tokens"
    if truncation == "error":
        raise PadfixError(
            f"{name}{': ' if name else ''}{seen} are more than max_length={max_length}. "
            "Keep the whole turns that fit: truncation='turns'"
        )
    end = max_length
    if truncation == "turns":
        end = max((turn_end for turn_end in row.turn_ends if turn_end <= max_length), default=0)
    trained = [(first, min(last, end)) for first, last in row.trained if first < min(last, end)]
    if not trained:
        return EncodedRow([], [], (), notes={"dropped_too_long": seen})
    return EncodedRow(row.input_ids[:end], row.labels[:end], trained, notes={**row.notes, "cut": seen})


def find_cuts(turns: Sequence[Turn]) -> list[int]:
    """Return behind which turns a conversation may be cut: the last ones of its trained messages."""
    cuts: list[int] = []
    last = {turn.message: place for place, turn in enumerate(turns)}
    reach = 0
    for place, turn in enumerate(turns):
        reach = max(reach, last[turn.message])
        goes_on = not turn.stops and any(turn.end == later.start for later in turns[place + 1 :])
        if place == reach and not goes_on:
            cuts.append(place)
    return cuts
