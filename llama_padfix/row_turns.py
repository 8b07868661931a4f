"""Where the assistant turns of an encoded row stand, and which of its positions are real: what checks of rows ask."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any, NamedTuple

from llama_padfix.records import IGNORE_INDEX, Facts, RowFacts, TurnMarkers

__all__ = ["Turn", "everything_is_trained", "find_turns", "find_turns_in", "pad_ids", "real_part", "real_span"]


class Turn(NamedTuple):
    """An assistant turn: its header from `header` to `start`, its answer to `end`, where `stop_id` stands if any.

    `opened` tells a header that nothing answers: the row ends there, or somebody appended an end of text.
    """

    header: int
    start: int
    end: int
    stop_id: int | None
    opened: bool


def real_part(row: RowFacts) -> Any:
    """Return which positions are no padding, as booleans: what the attention mask says, all where there is none."""
    return row.input_ids == row.input_ids if row.attention_mask is None else row.attention_mask != 0


def real_span(row: RowFacts) -> tuple[int, int]:
    """Return the first position that is no padding and the one after the last; (0, 0) where all is padding."""
    real = real_part(row)
    if not real.any():
        return 0, 0
    return int(real.argmax()), len(real) - int(real[::-1].argmax())


def pad_ids(facts: Facts) -> frozenset[int]:
    """Return the ids that rows are padded with: the tokenizer's, and the collator's where a trainer was given."""
    of_collator = facts.trainer.collator_pad_token_id if facts.trainer is not None else None
    return frozenset(token_id for token_id in (facts.pad_token_id, of_collator) if token_id is not None)


_last: tuple[RowFacts, TurnMarkers, tuple[Turn, ...]] | None = None  # every check asks the same of the same row


def find_turns(row: RowFacts, markers: TurnMarkers) -> tuple[Turn, ...]:
    """Return the assistant turns of a row, in order; those that are not `opened` are what `mask_labels` trains."""
    global _last
    last = _last
    if last is not None and last[0] is row and last[1] is markers:
        return last[2]
    turns = find_turns_in(row.input_ids, real_span(row)[1], markers)
    _last = (row, markers, turns)
    return turns


def find_turns_in(ids: Any, length: int, markers: TurnMarkers) -> tuple[Turn, ...]:
    """Return the assistant turns among the first `length` of an array of ids, in order."""
    header = markers.header_ids
    places = length - len(header) + 1
    if not header or places <= 0:
        return ()
    found = ids[:places] == header[0]
    if not found.any():
        return ()
    for offset, token_id in enumerate(header[1:], 1):
        found = found & (ids[offset : places + offset] == token_id)
    breaks = ids[:length] < 0
    for token_id in (*markers.stop_ids, *markers.turn_start_ids):
        breaks = breaks | (ids[:length] == token_id)
    ends = breaks.nonzero()[0].tolist()
    turns: list[Turn] = []
    after = 0
    for place in found.nonzero()[0].tolist():
        if place < after:
            continue
        start = place + len(header)
        at = bisect_left(ends, start)
        end = ends[at] if at < len(ends) else length
        stop_id = int(ids[end]) if end < length and int(ids[end]) in markers.stop_ids else None
        # Directly after the header only the template's own stop token makes a turn (an empty answer).
        turns.append(
            Turn(place, start, end, stop_id, end == start and (stop_id is None or stop_id != markers.stop_ids[0]))
        )
        after = end
    return tuple(turns)


def everything_is_trained(row: RowFacts, facts: Facts) -> bool:
    """Tell plain language modelling: each real position has a label, but for a document's first and the pad's ids."""
    asked = real_part(row)
    for token_id in pad_ids(facts):
        asked = asked & (row.input_ids != token_id)
    if row.position_ids is not None:
        asked = asked & (row.position_ids != 0)
    first = real_span(row)[0]
    trained = (row.labels != IGNORE_INDEX)[asked]
    skip = int(bool(asked[first])) if len(asked) else 0
    return len(trained) > skip and bool(trained[skip:].all())
