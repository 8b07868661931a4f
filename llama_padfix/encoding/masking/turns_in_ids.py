"""Where the assistant turns of an encoded row stand, found by the ids around them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from llama_padfix.core.records import record_html

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from llama_padfix.core.types import BoolArray, IntArray, LongArray

_FEW = 16  # ids that are compared one by one


@dataclass(frozen=True)
class TurnMarkers:
    """What stands around an assistant turn in a row of ids, learned by rendering and encoding the template.

    Args:
        header_ids: What opens the turn (the generation prompt).
        stop_ids: The ids of which one ends the turn; the template's own comes first.
        turn_start_ids: Control ids that begin any turn, so that a turn without a stop token ends before them.
        supplied_ids: What the generation prompt may write behind the header, such as an empty thought; the shortest
            first.
        melted_ids: For the last id of the header or of what is supplied, the ids that may stand in its place, where
            white space of the answer melts into it.
        resumed_ids: Ids behind which the model goes on without a header, such as the end of a tool's result.
        joint_ids: Ids behind which a header is the model's own, as between a thought and an answer in two channels.
        joined_ids: Beginnings of an answer, such as a channel, behind which a header that follows at once is its own.
        doubtful_ids: Ids of which ids alone do not tell where the model's part begins or ends. One of them makes a row
            doubtful.
        closed: Whether each stop token ends a turn that the first id of the header opened, of whatever role. One that
            does not makes a row doubtful: it ends an answer without a header.
        alternating: Whether an answer right behind another makes a row doubtful, since the template writes others,
            such as tools, under the model's header.
        forgeable: Whether a text can spell the header. A row is doubtful where one stands inside a turn, or opens one
            that no stop token ends.
    """

    header_ids: tuple[int, ...]
    stop_ids: tuple[int, ...]
    turn_start_ids: tuple[int, ...] = ()
    supplied_ids: tuple[tuple[int, ...], ...] = ()
    melted_ids: tuple[tuple[int, tuple[int, ...]], ...] = ()
    resumed_ids: tuple[int, ...] = ()
    joint_ids: tuple[int, ...] = ()
    joined_ids: tuple[tuple[int, ...], ...] = ()
    doubtful_ids: tuple[int, ...] = ()
    closed: bool = False
    alternating: bool = False
    forgeable: bool = False

    _repr_html_ = record_html


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
    """Return the assistant turns among the first `length` ids of a 1-D array, in order; none of a doubtful row."""
    found = find_answers(ids[: max(length, 0)], markers)
    if found.doubt is not None:
        return ()
    columns = (found.header, found.start, found.end, found.at_end, found.stopped, found.opened)
    return tuple(
        Turn(header, start, end, stop_id if stopped else None, opened)
        for header, start, end, stop_id, stopped, opened in zip(*(column.tolist() for column in columns), strict=True)
    )


class Answers(NamedTuple):
    """What stands behind each assistant header of an array of ids, in order, as arrays of one length."""

    header: LongArray
    """Where the header begins."""
    start: LongArray
    """Where the answer begins, behind what the prompt supplies."""
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
    doubt: int | None
    """The first place, if any, at which ids alone do not tell what the model says; see `TurnMarkers`."""


def find_answers(ids: IntArray, markers: TurnMarkers, rows: tuple[LongArray, LongArray] | None = None) -> Answers:
    """Return the answers in a 1-D array of ids, found by comparing arrays: no step is taken for each token.

    `rows` parts the array into rows, as their first positions and the positions behind their last real ones; then no
    header and no answer reaches over the edge of one. Without it the array is one row.
    """
    import numpy as np

    breaks = {*markers.stop_ids, *markers.turn_start_ids}
    anchor = _choose_anchor(markers, breaks)
    targets = breaks.union(markers.header_ids[anchor : anchor + 1], markers.resumed_ids, markers.doubtful_ids)
    places = _find_any(ids, targets)
    values = ids[places]
    below = values < 0
    opening, start, at = _find_headers(ids, markers, anchor, places, values)
    limit: int | LongArray = len(ids)
    if rows is not None:
        firsts, lasts = rows
        limit = lasts[np.searchsorted(firsts, opening, side="right") - 1]
        opening, start, at, limit = _keep(start <= limit, opening, start, at, limit)
    if markers.supplied_ids:
        start = _skip_supplied(ids, opening, start, limit, markers)

    is_end = is_any(values, breaks) | below
    ends = np.append(places.compress(is_end), len(ids))
    following = is_end.cumsum()[at]  # the first end behind the anchor, without a search
    if (ends[following] < start).any():  # the header holds another
        following = np.searchsorted(ends, start)
    end = np.minimum(ends[following], limit)
    nested = opening[1:][opening[1:] < end[:-1]]
    if len(nested):
        kept = _keep_apart(opening, end)
        opening, start, end = opening[kept], start[kept], end[kept]
        limit = limit if isinstance(limit, int) else limit[kept]

    inside = end < limit
    at_end = ids[np.where(inside, end, 0)]
    stopped = inside & is_any(at_end, markers.stop_ids)
    # Directly after the header only the template's own stop token makes a turn (an empty answer).
    opened = (end == start) & ~(stopped & is_any(at_end, markers.stop_ids[:1]))
    answers = Answers(opening, start, end, at_end, stopped, opened, bool(below.any()), None)
    if markers.doubtful_ids or markers.closed or markers.alternating or markers.forgeable:
        doubts = [places.compress(is_any(values, markers.doubtful_ids)), nested if markers.forgeable else nested[:0]]
        doubts += _find_doubts(ends, np.append(values.compress(is_end), -1), answers, markers, rows)
        answers = answers._replace(doubt=_first_within(doubts, rows))
    return _join(ids, answers, markers) if markers.joint_ids or markers.joined_ids else answers


def _choose_anchor(markers: TurnMarkers, breaks: set[int]) -> int:
    """Return the place in the header of the id to search for.

    It is one that is searched for anyway, else the rarest, which is mostly the highest, since tokenizers number their
    tokens as they learn them and add control tokens last.
    """
    header = markers.header_ids
    fixed = header[:-1] if len(header) > 1 and header[-1] in dict(markers.melted_ids) else header
    anchor = next((k for k, token_id in enumerate(fixed) if token_id in breaks), None)
    return max(range(len(fixed)), key=fixed.__getitem__, default=0) if anchor is None else anchor


def _find_headers(
    ids: IntArray, markers: TurnMarkers, anchor: int, places: LongArray, values: IntArray
) -> tuple[LongArray, LongArray, LongArray]:
    """Return where each header begins and ends, and which of the places found its id at `anchor`."""
    header, melted = markers.header_ids, dict(markers.melted_ids)
    at = is_any(values, header[anchor : anchor + 1]).nonzero()[0]
    start = places[at] + (len(header) - anchor)
    start, at = _keep((start >= len(header)) & (start <= len(ids)), start, at)
    for place, token_id in enumerate(header):
        if place != anchor:
            here = ids[start + (place - len(header))]
            alike = melted.get(token_id, ()) if place == len(header) - 1 else ()
            start, at = _keep(is_any(here, alike) if alike else here == token_id, start, at)
    opening = start - len(header)
    return (
        _add_resumed(markers.resumed_ids, places, values, opening, start, at)
        if markers.resumed_ids
        else (opening, start, at)
    )


def _add_resumed(
    resumed_ids: Collection[int],
    places: LongArray,
    values: IntArray,
    opening: LongArray,
    start: LongArray,
    at: LongArray,
) -> tuple[LongArray, LongArray, LongArray]:
    """Return the headers with the ids behind which the model goes on, in order."""
    import numpy as np

    more = is_any(values, resumed_ids).nonzero()[0]
    order = np.argsort(np.concatenate([at, more]), kind="stable")
    opening, start = np.concatenate([opening, places[more]]), np.concatenate([start, places[more] + 1])
    return opening[order], start[order], np.concatenate([at, more])[order]


def _skip_supplied(
    ids: IntArray, opening: LongArray, start: LongArray, limit: int | LongArray, markers: TurnMarkers
) -> LongArray:
    """Return where the answers begin that the prompt has begun already; in a row that is cut there, at its end."""
    import numpy as np

    behind, melted = start, dict(markers.melted_ids)
    for supplied in markers.supplied_ids:
        fits = ~is_any(ids[opening], markers.resumed_ids)
        for place, token_id in enumerate(supplied):
            at = start + place
            here = ids[np.where(at < limit, at, 0)]
            alike = melted.get(token_id, ()) if place == len(supplied) - 1 else ()
            fits &= (is_any(here, alike) if alike else here == token_id) | (at >= limit)
        behind = np.where(fits, np.minimum(start + len(supplied), limit), behind)
    return behind


def _join(ids: IntArray, found: Answers, markers: TurnMarkers) -> Answers:
    """Return the answers, as one those of which the first goes on where the header of the next follows at once."""
    import numpy as np

    ends = found.end + found.stopped
    goes_on = is_any(ids[ends - 1], markers.joint_ids)
    for beginning in markers.joined_ids:
        fits = found.end - found.start >= len(beginning)
        for place, token_id in enumerate(beginning):
            fits &= ids[np.minimum(found.start + place, len(ids) - 1)] == token_id
        goes_on |= fits
    goes_on[:-1] &= ends[:-1] == found.header[1:]
    goes_on[-1:] = False
    first, last = ~np.append(False, goes_on)[:-1], ~goes_on
    return Answers(
        found.header[first],
        found.start[first],
        found.end[last],
        found.at_end[last],
        found.stopped[last],
        found.opened[first] & found.opened[last],
        found.negative,
        found.doubt,
    )


def _find_doubts(
    ends: LongArray,
    values: IntArray,
    found: Answers,
    markers: TurnMarkers,
    rows: tuple[LongArray, LongArray] | None,
) -> Iterator[LongArray]:
    """Yield the places at which ids alone do not tell what the model says; see `TurnMarkers`.

    `ends` are all stop tokens and openings of turns, and the length of the ids, and `values` the ids there.
    """
    import numpy as np

    if markers.forgeable:
        yield found.header[~found.stopped & ~found.opened]
    if markers.closed:
        first = is_any(values, markers.header_ids[:1]) & ~is_any(values, markers.stop_ids)
        stray = is_any(values, markers.stop_ids) & ~np.isin(ends, found.end.compress(found.stopped))
        stray[1:] &= ~first[:-1] & (np.diff(ends) > 1)  # one right behind another end is padding
        stray &= ends != 0 if rows is None else ~np.isin(ends, rows[0])
        yield ends.compress(stray)
    if markers.alternating:
        following = found.header[1:]
        between = np.searchsorted(ends, following) - np.searchsorted(ends, (found.end + found.stopped)[:-1])
        row = np.zeros_like(found.header) if rows is None else np.searchsorted(rows[0], found.header, side="right")
        yield following[(between <= 0) & (row[1:] == row[:-1]) & ~found.opened[1:]]


def _first_within(doubts: Sequence[LongArray], rows: tuple[LongArray, LongArray] | None) -> int | None:
    """Return the first of some places; none of the padding behind a row counts."""
    import numpy as np

    found = np.concatenate(doubts)
    if rows is not None and len(found):
        found = found[found < rows[1][np.searchsorted(rows[0], found, side="right") - 1]]
    return int(found.min()) if len(found) else None


def _keep(chosen: BoolArray, *columns: LongArray) -> tuple[LongArray, ...]:
    """Return the chosen elements of each column; mostly all of them are."""
    return columns if chosen.all() else tuple(column.compress(chosen) for column in columns)


def _keep_apart(openings: LongArray, ends: LongArray) -> list[int]:
    """Return which answers count: a header inside one opens none."""
    import numpy as np

    after = np.searchsorted(openings, ends).tolist()
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
    """Return which values are among some targets, as booleans; comparing with each of a few is quicker than `isin`."""
    import numpy as np

    if len(targets) > _FEW:
        many: BoolArray = np.isin(values, list(targets))
        return many
    found: BoolArray = values != values
    for token_id in targets:
        found |= values == token_id
    return found
