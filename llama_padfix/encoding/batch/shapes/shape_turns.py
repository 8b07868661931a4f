"""The turns of conversations of one shape, as probes show them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from operator import itemgetter
from typing import TYPE_CHECKING

from llama_padfix.chat.turns import render_turns
from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.batch.render_plan import Segment, write
from llama_padfix.encoding.batch.shapes.left_out import LOST_THOUGHT, find_left_out
from llama_padfix.encoding.batch.shapes.shape import Shape
from llama_padfix.encoding.chat_rows import collect_row_notes
from llama_padfix.tokens.control import find_control_text, find_rewritable

if TYPE_CHECKING:
    from llama_padfix.chat.render import Rendered
    from llama_padfix.encoding.batch.shapes.left_out import LeftOut

Found = tuple["list[Segment]", "dict[str, str]", "LeftOut"]
"""The segments with the header of each turn, the notes on a row, and the thoughts that are left out."""


def name_messages(shape: Shape, segments: Sequence[Segment]) -> list[Segment]:
    """Return the segments with the message that wrote each; None for what is written again."""
    seen = set[int]()
    named = []
    for segment in segments:
        place, message = segment.place, None
        if place is not None and place not in seen:
            seen.add(place)
            message = shape.owners[place]
        named.append(replace(segment, message=message))
    return named


def find_turns(shape: Shape, segments: Sequence[Segment], number: int) -> Found | None:
    """Return the segments with the header of each turn, the notes on a row, and the thoughts that are left out.

    None where a probe shows no such.
    """
    messages, tools, texts = shape.probe(number)
    try:
        template = shape.template
        rewritable = find_rewritable(template.tokenizer, template.controls + template.tags)
        rendered = render_turns(template, messages, tools, allow_loss=True, rewritable=rewritable)
        if rendered.is_whole:  # found in the text alone, which other texts of the shape need not allow
            found, rendered = rendered, render_turns(template, messages, tools, by_text=False)
            if found.turns != rendered.turns:
                return None
    except PadfixError:
        return None
    notes = collect_row_notes(rendered, messages, shape.trained, (), shape.template.quiet_kwargs)
    if rendered.spelled or notes.keys() - {"empty_reasoning", *LOST_THOUGHT}:
        return None
    parts = [write(one, "" if one.place is None else texts[one.place]) for one in segments]
    ends = [*accumulate(map(len, parts), initial=0)]
    inner = [
        (at + len(one.before), end - len(one.after)) for one, at, end in zip(segments, ends, ends[1:], strict=False)
    ]
    if rendered.text != "".join(parts) or not _are_owned(rendered, shape, segments, inner):
        return None
    placed = [(one.place, rendered.text[slice(*at)]) for one, at in zip(segments, inner, strict=True)]
    left_out = find_left_out(shape, rendered, [(place, text) for place, text in placed if place is not None])
    if left_out is None:
        return None
    turns = {turn.message: turn for turn in rendered.turns}
    if len(turns) != len(rendered.turns) or sorted(turns) != shape.assistants:
        return None
    planned: list[Segment] = []
    for place, segment in enumerate(segments):
        turn = None if segment.message is None else turns.get(segment.message)
        if turn is None or segment.place is None:
            planned.append(segment)
        elif place and segments[place - 1].message == segment.message:
            gap = segments[place - 1].after + segment.before
            if find_control_text(gap, shape.template.profile.stops):
                return None
            planned.append(replace(segment, goes_on=True))
        else:
            header = turn.start - ends[place]
            is_parted = not place or segments[place - 1].closed
            if not (is_parted and turn.start > 0 and 0 <= header <= len(segment.before)):
                return None
            planned.append(replace(segment, header=header))
        is_last = place + 1 == len(segments) or segments[place + 1].message != segment.message
        if turn is not None and is_last and not (segment.closed and turn.end == ends[place + 1]):
            return None
    heads = [one.message for one in planned if one.header is not None and one.message is not None]
    return (planned, notes, left_out) if sorted(heads) == shape.assistants else None


def _are_owned(
    rendered: Rendered, shape: Shape, segments: Sequence[Segment], places: Sequence[tuple[int, int]]
) -> bool:
    """Return True if the characters of each hole are known to be those of its message, or of the tools.

    A number has no origin.
    """
    spans = [span for span in rendered.content_spans or () if span[0] < span[1]]
    return all(
        any(
            left <= start and end <= right and origin == shape.owners[segment.place]
            for left, right, origin in _at(spans, start)
        )
        for segment, (start, end) in zip(segments, places, strict=True)
        if segment.place is not None and segment.place not in shape.numbers
    )


def _at(spans: Sequence[tuple[int, int, int]], place: int) -> Sequence[tuple[int, int, int]]:
    """Return the one span that may hold a place."""
    found = bisect_right(spans, place, key=itemgetter(0))
    return spans[max(found - 1, 0) : found]
