"""Where the assistant turns of an encoded row stand, found by the ids around them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection

    from llama_padfix.core.types import BoolArray, IntArray, LongArray


@dataclass(frozen=True)
class TurnMarkers:
    """What stands around an assistant turn in a row of ids, learned by rendering and encoding the template.

    Args:
        header_ids: What opens the turn (the generation prompt).
        stop_ids: The ids of which one ends the turn; the template's own comes first.
        turn_start_ids: Control ids that begin any turn, so that a turn without a stop token ends before them.
    """

    header_ids: tuple[int, ...]
    stop_ids: tuple[int, ...]
    turn_start_ids: tuple[int, ...] = ()


class Turn(NamedTuple):
    """An assistant turn: its header from `header` to `start`, its answer to `end`, where `stop_id` stands if any.

    `opened` is True for a header without an answer: the row ends there, or an end of text was appended.
    """

    header: int
    start: int
    end: int
    stop_id: int | None
    opened: bool


def find_turns_in(ids: IntArray, length: int, markers: TurnMarkers) -> tuple[Turn, ...]:
    """Return the assistant turns among the first `length` ids of a 1-D array, in order."""
    found = find_answers(ids[: max(length, 0)], markers)
    width = len(markers.header_ids)
    columns = (found.start, found.end, found.at_end, found.stopped, found.opened)
    return tuple(
        Turn(start - width, start, end, stop_id if stopped else None, opened)
        for start, end, stop_id, stopped, opened in zip(*(column.tolist() for column in columns), strict=True)
    )


class Answers(NamedTuple):
    """What stands behind each assistant header of an array of ids, in order, as arrays of one length."""

    start: LongArray
    """Where the answer begins."""
    end: LongArray
    """Where it ends: at its stop token, where it is `stopped`."""
    at_end: IntArray
    """The id at `end`."""
    stopped: BoolArray
    """Whether a stop token stands at `end`."""
    opened: BoolArray
    """Whether nothing answers the header, as in `Turn`."""
    negative: bool
    """Whether the array of ids holds a number below 0, which is no token."""


def find_answers(ids: IntArray, markers: TurnMarkers, rows: tuple[LongArray, LongArray] | None = None) -> Answers:
    """Return the answers in a 1-D array of ids, found by comparing arrays: no step is taken for each token.

    `rows` parts the array into rows, as their first positions and the positions behind their last real ones; then no
    header and no answer reaches over the edge of one. Without it the array is one row.
    """
    import numpy as np

    header = markers.header_ids
    breaks = {*markers.stop_ids, *markers.turn_start_ids}
    # The id of the header to search for: one that is searched for anyway, else the rarest, which is mostly the
    # highest, since tokenizers number their tokens as they learn them and add control tokens last.
    anchor = next((k for k, token_id in enumerate(header) if token_id in breaks), None)
    if anchor is None:
        anchor = max(range(len(header)), key=header.__getitem__, default=0)
    places = _find_any(ids, breaks.union(header[anchor : anchor + 1]))
    values = ids[places]
    below = values < 0

    at = is_any(values, header[anchor : anchor + 1]).nonzero()[0]
    start = places[at] + (len(header) - anchor)
    limit: int | LongArray = len(ids)
    start, at = _keep((start >= len(header)) & (start <= limit), start, at)
    for place, token_id in enumerate(header):
        if place != anchor:
            start, at = _keep(ids[start + (place - len(header))] == token_id, start, at)
    if rows is not None:
        firsts, lasts = rows
        limit = lasts[np.searchsorted(firsts, start - len(header), side="right") - 1]
        start, at, limit = _keep(start <= limit, start, at, limit)

    is_end = is_any(values, breaks) | below
    ends = np.append(places.compress(is_end), len(ids))
    following = is_end.cumsum()[at]  # the first end behind the anchor, without a search
    if (ends[following] < start).any():  # the header holds another
        following = np.searchsorted(ends, start)
    end = np.minimum(ends[following], limit)
    if (start[1:] < end[:-1] + len(header)).any():
        kept = _keep_apart(start, end + len(header))
        start, end = start[kept], end[kept]
        limit = limit if isinstance(limit, int) else limit[kept]

    inside = end < limit
    at_end = ids[np.where(inside, end, 0)]
    stopped = inside & is_any(at_end, markers.stop_ids)
    # Directly after the header only the template's own stop token makes a turn (an empty answer).
    opened = (end == start) & ~(stopped & is_any(at_end, markers.stop_ids[:1]))
    return Answers(start, end, at_end, stopped, opened, bool(below.any()))


def _keep(chosen: BoolArray, *columns: LongArray) -> tuple[LongArray, ...]:
    """Return the chosen elements of each column; mostly all of them are."""
    return columns if chosen.all() else tuple(column.compress(chosen) for column in columns)


def _keep_apart(starts: LongArray, following: LongArray) -> list[int]:
    """Return which answers count: a header inside one opens none, and the next starts at `following` or later."""
    import numpy as np

    after = np.searchsorted(starts, following).tolist()
    kept, place = [], 0
    while place < len(after):
        kept.append(place)
        place = after[place]
    return kept


def _find_any(ids: IntArray, targets: set[int]) -> LongArray:
    """Return the positions, in order, of the ids that are in `targets` or negative.

    Vocabularies keep their control tokens together, above or below the text, so that one comparison finds them.
    """
    import numpy as np

    # A negative id is above all others when it is read as unsigned, and below them as it is.
    unsigned = ids.view(ids.dtype.str.replace("i", "u"))
    few = 64 + len(ids) // 8
    found = unsigned >= min(targets)
    if np.count_nonzero(found) > few:
        found = ids <= max(targets)
    if np.count_nonzero(found) > few:
        found = is_any(ids, targets) | (ids < 0)
    places: LongArray = found.nonzero()[0]
    return places


def is_any(values: IntArray, targets: Collection[int]) -> BoolArray:
    """Return which values are among a few targets, as booleans; comparing with each is quicker than `isin`."""
    found: BoolArray = values != values
    for token_id in targets:
        found |= values == token_id
    return found
