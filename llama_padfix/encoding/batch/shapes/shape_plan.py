"""How conversations of one shape are written: with tools, calls and thoughts, whatever these say.

The template runs once with a hole for each text, each call's arguments and each tool's schema. It must write something
of each message, and what it writes again (the name of a called function) outside of the turns. Two probes of the shape
then show the turns: `render_turns` finds them by who wrote each character, and the characters of each hole must be
those of its message. With nothing lost, nothing spelled and no stop token inside a turn, all that it looks at is the
same in every conversation of the shape.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from operator import itemgetter
from typing import TYPE_CHECKING

from llama_padfix.chat.symbolic_slots import ObjectOpened
from llama_padfix.chat.turns import render_turns
from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.batch.render_plan import (
    KnownOrders,
    RenderPlan,
    Segment,
    agree_before,
    cut,
    find_supplied,
    is_ended,
    keeps_opening,
    write,
)
from llama_padfix.encoding.batch.shapes.left_out import LOST_THOUGHT, THOUGHT_TAGS, find_left_out
from llama_padfix.encoding.batch.shapes.shape import Shape
from llama_padfix.encoding.chat_rows import SPEAK_OF_THOUGHTS, collect_row_notes
from llama_padfix.tokens.control import find_control_text, find_rewritable, rewrites_text

if TYPE_CHECKING:
    from llama_padfix.chat.render import Rendered
    from llama_padfix.encoding.batch.literals import Literals
    from llama_padfix.encoding.batch.shapes.left_out import LeftOut

_MOST_PREFIXES = 40  # messages of a conversation of which each prefix is rendered
_MOST_WRITTEN = 512  # prefixes that are remembered, at some kilobytes each


def learn_shape_plan(shape: Shape, known: KnownOrders) -> RenderPlan | None:
    """Return how conversations of a shape are written; None where that depends on more than the shape."""
    known.probed += 1
    try:
        return _learn(shape, known)
    except ObjectOpened as seen:
        known.opened.add("arguments" if shape.owners[seen.place] >= 0 else "tools")
        return None


def _learn(shape: Shape, known: KnownOrders) -> RenderPlan | None:
    if not shape.template.profile.is_traced:
        return None
    written = shape.render()
    if written is None:
        return None
    if not {shape.owners[slot.place] for slot in written.slots} >= {*range(len(shape.messages))}:
        return None
    segments = cut(written, known.tokens)
    pairs = zip(written.slots, written.literals, strict=False)
    if segments is None or any(one.place in shape.written_arguments and text.endswith('"') for one, text in pairs):
        return None  # in quotes, some arguments are a JSON string, and are counted
    if not shape.template.profile.prompt_is_constant and shape.assistants[-1:] >= [_MOST_PREFIXES]:
        return None
    segments = _name_messages(shape, segments)
    found, again = (_find_turns(shape, segments, number) for number in range(2))
    if found is None or found != again:
        return None
    planned, notes, left_out = found
    if notes and shape.holds_parts:
        return None  # two parts together could speak of thoughts
    forbidden = _find_forbidden(shape, known, written, planned)
    if forbidden is None:
        return None
    forbidden |= written.forbidden_substrings | {*known.tokens.hidden}
    forbidden |= THOUGHT_TAGS if left_out or shape.parts_texts else SPEAK_OF_THOUGHTS if notes else frozenset()
    losses = {kind: detail for kind, detail in notes.items() if kind in LOST_THOUGHT}
    others = {kind: detail for kind, detail in notes.items() if kind not in LOST_THOUGHT}
    return RenderPlan(tuple(planned), forbidden, losses=losses, notes=others, left_out=left_out)


_Found = tuple["list[Segment]", "dict[str, str]", "LeftOut"]


def _name_messages(shape: Shape, segments: Sequence[Segment]) -> list[Segment]:
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


def _find_turns(shape: Shape, segments: Sequence[Segment], number: int) -> _Found | None:
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


def _render_prefix(shape: Shape, known: KnownOrders, count: int, prompt: bool = False) -> Literals | None:
    """Return what the template writes around the holes of the first messages, with which other shapes begin too."""
    key = repr((shape.messages[:count], shape.tools, prompt))
    if key not in known.written:
        if len(known.written) >= _MOST_WRITTEN:
            known.written.clear()
        known.written[key] = shape.render(count, prompt)
    return known.written[key]


def _find_forbidden(
    shape: Shape, known: KnownOrders, written: Literals, planned: Sequence[Segment]
) -> frozenset[str] | None:
    """Return what texts must lack so that each turn begins where the prompt ends; None where a text can move one.

    A constant prompt stands once in front of each turn. Else the conversation up to a turn, with a prompt, must be
    written as the whole is.
    """
    template, profile, forbidden = shape.template, shape.template.profile, set[str]()
    is_rewritten = rewrites_text(template.tokenizer)
    lasts = {segment.message: place for place, segment in enumerate(planned)}
    for place, segment in enumerate(planned):
        if segment.header is None or segment.message is None:
            continue
        literal = written.literals[place]
        opening = literal[: len(literal) - len(segment.before) + segment.header]
        if is_rewritten and not keeps_opening(template, opening):
            return None
        if segment.header == len(segment.before):  # a name could spell an empty thought there
            forbidden |= SPEAK_OF_THOUGHTS
        behind = written.literals[lasts[segment.message] + 1]
        is_constant = profile.prompt_is_constant and profile.prompt and is_ended(template, behind)
        if is_constant and literal.count(profile.prompt) == 1 and opening.endswith(profile.prompt):
            continue
        if not 0 < segment.message < _MOST_PREFIXES or (profile.ignores_prompt and not profile.added_prompt):
            return None
        prompted = _render_prefix(shape, known, segment.message, prompt=True)
        answered = _render_prefix(shape, known, segment.message + 1)
        if prompted is None or answered is None or not agree_before(prompted, written, place):
            return None
        if prompted.literals[-1] != opening:
            supplied = find_supplied(template, prompted.literals[-1], opening)
            rest = literal[len(opening) :]
            if not supplied or (rest and (rest.startswith(supplied) or supplied.startswith(rest))):
                return None  # a turn that begins with what the prompt supplies begins behind that
            forbidden.add(supplied)
        forbidden |= prompted.forbidden_substrings | answered.forbidden_substrings
    return frozenset(forbidden)
