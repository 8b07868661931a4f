"""Where the assistant turns of an encoded row stand, and which of its positions are real: what checks of rows ask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from llama_padfix.records import IGNORE_INDEX, Facts, RowFacts, TurnMarkers

__all__ = [
    "Answers",
    "Turn",
    "everything_is_trained",
    "find_answers",
    "find_turns",
    "find_turns_in",
    "is_any",
    "pad_ids",
    "real_part",
    "real_span",
]


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
    found = find_answers(ids[: max(length, 0)], markers)
    width = len(markers.header_ids)
    columns = (found.start, found.end, found.at_end, found.stopped, found.opened)
    return tuple(
        Turn(start - width, start, end, stop_id if stopped else None, opened)
        for start, end, stop_id, stopped, opened in zip(*(column.tolist() for column in columns), strict=True)
    )


class Answers(NamedTuple):
    """What stands behind each assistant header of an array of ids, in order, as arrays of one length.

    An answer lies between `start` and `end`; where it is `stopped`, the stop token `at_end` stands at `end`. `opened`
    tells a header that nothing answers, as in `Turn`. `negative` tells whether the array holds what is no token.
    """

    start: Any
    end: Any
    at_end: Any
    stopped: Any
    opened: Any
    negative: bool


def find_answers(ids: Any, markers: TurnMarkers, rows: tuple[Any, Any] | None = None) -> Answers:
    """Return the answers in a 1-D array of ids, found by comparing arrays: no step is taken for each token.

    `rows` parts the array into rows, as their first positions and the positions behind their last real ones; then no
    header and no answer reaches over the edge of one. Without it the array is one row.
    """
    import numpy

    header = markers.header_ids
    breaks = {*markers.stop_ids, *markers.turn_start_ids}
    # The id of the header that is looked for: one that is looked for anyway, else the rarest, which is mostly the
    # highest, since tokenizers number their tokens as they learn them and add control tokens last.
    anchor = next((k for k, token_id in enumerate(header) if token_id in breaks), None)
    if anchor is None:
        anchor = max(range(len(header)), key=header.__getitem__, default=0)
    places = _find_any(numpy, ids, breaks.union(header[anchor : anchor + 1]))
    values = ids[places]
    below = values < 0

    at = is_any(values, header[anchor : anchor + 1]).nonzero()[0]
    start = places[at] + (len(header) - anchor)
    limit: Any = len(ids)
    start, at = _keep((start >= len(header)) & (start <= limit), start, at)
    for place, token_id in enumerate(header):
        if place != anchor:
            start, at = _keep(ids[start + (place - len(header))] == token_id, start, at)
    if rows is not None:
        firsts, lasts = rows
        limit = lasts[numpy.searchsorted(firsts, start - len(header), side="right") - 1]
        start, at, limit = _keep(start <= limit, start, at, limit)

    is_end = is_any(values, tuple(breaks)) | below
    ends = numpy.append(places.compress(is_end), len(ids))
    following = is_end.cumsum()[at]  # the first end behind the anchor, without a search
    if (ends[following] < start).any():  # the header holds another
        following = numpy.searchsorted(ends, start)
    end = numpy.minimum(ends[following], limit)
    if (start[1:] < end[:-1] + len(header)).any():
        kept = _keep_apart(numpy, start, end + len(header))
        start, end = start[kept], end[kept]
        limit = limit if rows is None else limit[kept]

    inside = end < limit
    at_end = ids[numpy.where(inside, end, 0)]
    stopped = inside & is_any(at_end, markers.stop_ids)
    # Directly after the header only the template's own stop token makes a turn (an empty answer).
    opened = (end == start) & ~(stopped & is_any(at_end, markers.stop_ids[:1]))
    return Answers(start, end, at_end, stopped, opened, bool(below.any()))


def _keep(wanted: Any, *columns: Any) -> tuple[Any, ...]:
    """Return the wanted elements of each column; mostly all of them are."""
    return columns if wanted.all() else tuple(column.compress(wanted) for column in columns)


def _keep_apart(numpy: Any, starts: Any, following: Any) -> list[int]:
    """Return which answers count: a header inside one opens none, and the next starts at `following` or later."""
    after = numpy.searchsorted(starts, following).tolist()
    kept, place = [], 0
    while place < len(after):
        kept.append(place)
        place = after[place]
    return kept


def _find_any(numpy: Any, ids: Any, wanted: set[int]) -> Any:
    """Return the positions, in order, of the ids that are wanted or negative, among others that are as rare.

    Vocabularies keep their control tokens together, above or below the text, so that one comparison finds them.
    """
    # A negative id is above all others when it is read as unsigned, and below them as it is.
    plain = ids.view(ids.dtype.str.replace("i", "u"))
    few = 64 + len(ids) // 8
    found = plain >= min(wanted)
    if numpy.count_nonzero(found) > few:
        found = ids <= max(wanted)
    if numpy.count_nonzero(found) > few:
        found = is_any(ids, tuple(wanted)) | (ids < 0)
    return found.nonzero()[0]


def is_any(values: Any, wanted: Sequence[int]) -> Any:
    """Return which values are among a few wanted ones, as booleans; comparing with each is quicker than `isin`."""
    found = values != values
    for token_id in wanted:
        found |= values == token_id
    return found


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
