"""How conversations of one shape are written: with tools, calls and thoughts, whatever these say.

The template runs once with a hole for each text, each call's arguments and each tool's schema. It must write something
of each message, and what it writes again (the name of a called function) outside of the turns. Two probes of the shape
then show the turns: `render_turns` finds them by who wrote each character, and the characters of each hole must be
those of its message. With nothing lost, nothing spelled and no stop token inside a turn, all that it looks at is the
same in every conversation of the shape.
"""

from __future__ import annotations

from collections.abc import Sequence

from llama_padfix.chat.symbolic_slots import ObjectOpened
from llama_padfix.encoding.batch.literals import Literals, find_prompt, find_supplied, is_ended, keeps_opening
from llama_padfix.encoding.batch.render_plan import KnownOrders, RenderPlan, Segment, cut
from llama_padfix.encoding.batch.shapes.left_out import LOST_THOUGHT, THOUGHT_TAGS
from llama_padfix.encoding.batch.shapes.shape import Shape
from llama_padfix.encoding.batch.shapes.shape_turns import find_turns, name_messages
from llama_padfix.encoding.chat_rows import SPEAK_OF_THOUGHTS
from llama_padfix.tokens.control import rewrites_text

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
    is_noted = written.prompts is not None or shape.template.profile.prompt_is_constant
    if not is_noted and shape.assistants[-1:] >= [_MOST_PREFIXES]:
        return None
    segments = name_messages(shape, segments)
    found, again = (find_turns(shape, segments, number) for number in range(2))
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

    def render(count: int, prompt: bool) -> Literals | None:
        return _render_prefix(shape, known, count, prompt) if count <= _MOST_PREFIXES else None

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
        if not segment.message or (profile.ignores_prompt and not profile.added_prompt):
            return None
        prompt = find_prompt(written, segment.message, place, render)
        if prompt is None:
            return None
        if prompt.text != opening:
            supplied = find_supplied(template, prompt.text, opening)
            rest = literal[len(opening) :]
            if not supplied or (rest and (rest.startswith(supplied) or supplied.startswith(rest))):
                return None  # a turn that begins with what the prompt supplies begins behind that
            forbidden.add(supplied)
        forbidden |= prompt.forbidden
    return frozenset(forbidden)
