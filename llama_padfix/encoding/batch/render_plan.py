"""How conversations of one sequence of roles are rendered, whatever their texts, and where their turns then stand.

A plan holds for every conversation of its roles whose texts are not blank and spell neither a control token nor the
few substrings that the template searches for. It is learned by running the template on symbolic texts, and kept only
where the same template renders probes alike, with the turns that `render_turns` proves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING

from llama_padfix.chat.symbolic import render_symbolic
from llama_padfix.chat.symbolic_slots import Operations, Slot, trim
from llama_padfix.chat.turns import finds_by_prompt, has_plain_roles, render_turns
from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.batch.cut_tokens import CutTokens, read_cut_tokens
from llama_padfix.encoding.batch.literals import (
    Literals,
    find_prompt,
    find_supplied,
    is_ended,
    keeps_opening,
    render_literals,
)
from llama_padfix.encoding.chat_rows import SPEAK_OF_THOUGHTS, collect_row_notes
from llama_padfix.tokens.control import find_control_text, rewrites_text

if TYPE_CHECKING:
    from llama_padfix.chat.render import ChatTemplate
    from llama_padfix.core.types import Messages

# Contents of probes: of two lengths, with white space around that some templates trim.
PROBES = ("Probe {} asks", " \nAn answer {}, with\n\nlines\t ")
LOSSES = ("lost_message", "lossy")  # the notes on a message that a template leaves out
_PROBED = 2  # orders of roles for which probes confirm what is read off what the template writes


@dataclass(frozen=True)
class Segment:
    """A part of a rendered conversation that holds one message's text, up to the control token or tag behind it.

    The message's text, that at `place` among the row's, is trimmed by `operations`, and stands between `before` and
    `after`; `place` is None where the segment holds none, behind the last answer, and `message` also where it holds a
    tool. The model must produce what is behind the first `header` characters of `before`, to the end of the segment;
    nothing where that is None. A segment that is not `closed` ends with its text: what follows has no control token
    before the next text, and is the next segment's. One that `goes_on` holds the next text of the turn before it.
    """

    message: int | None
    before: str
    after: str
    operations: Operations = ()
    header: int | None = None
    closed: bool = True
    place: int | None = None
    goes_on: bool = False

    def open(self, header: int) -> Segment:
        """Return this segment with a header."""
        return Segment(self.message, self.before, self.after, self.operations, header, self.closed, self.place)


@dataclass(frozen=True)
class RenderPlan:
    """The segments of a conversation, in order, and the substrings that no message may hold.

    `empty_thoughts` are the answers into which the template writes an empty thought, as messages, and `losses` the
    notes on what it leaves out; `notes` are others on each row. `left_out` are the thoughts that it leaves out, by
    their places, each with the places of what it writes of the same message.
    """

    segments: tuple[Segment, ...]
    forbidden_substrings: frozenset[str]
    empty_thoughts: tuple[int, ...] = ()
    losses: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[tuple[int, tuple[int, ...]], ...] = ()


_Headers = tuple[list["int | None"], tuple[int, ...], dict[str, str]]


@dataclass
class KnownOrders:
    """What earlier orders of roles showed about a template."""

    template: ChatTemplate
    read: int = 0
    """For how many of them the headers could be read off what the template writes."""
    probed: int = 0
    """For how many of them they could not."""
    differs: bool = False
    """Whether a probe showed other headers than were read."""
    opened: set[str] = field(default_factory=set)
    """What the template was seen to look into: "tools", "arguments" or both."""
    written: dict[str, Literals | None] = field(default_factory=dict)
    """What is written around the holes of the first messages of shapes, by what these are."""
    prompts: dict[str, int] = field(default_factory=dict)
    """How often the generation prompt stands in what is written around texts, by that; see `_count_in`."""

    @cached_property
    def tokens(self) -> CutTokens:
        """The added tokens of the template's tokenizer."""
        return read_cut_tokens(self.template)

    def must_probe(self) -> bool:
        """Return True if the next order whose headers are read is probed too: the first ones, then ever fewer."""
        self.read += 1
        return self.differs or self.read <= _PROBED or self.read.bit_count() == 1


def learn_render_plan(
    template: ChatTemplate, roles: Sequence[str], known: KnownOrders | None = None
) -> RenderPlan | None:
    """Return how conversations of these roles are rendered; None where that depends on more than their roles.

    Args:
        template: The chat template.
        roles: The role of each message.
        known: What earlier calls showed about the template, which this one adds to.
    """
    known = known or KnownOrders(template)
    written = _render_literals(template, roles)
    if written is None or not _is_each_once(written, roles):
        return None
    segments = cut(written, known.tokens)
    if segments is None:
        return None
    found = _read_headers(known, roles, written, segments)
    if found is None:
        known.probed += 1
    if found is None or known.must_probe():
        probed, again = (_probe(template, roles, segments, number) for number in range(2))
        known.differs |= found is not None and found != probed
        found = probed if probed == again else None
    if found is None:
        return None
    headers, empty, losses = found
    forbidden = _find_forbidden(template, roles, written, segments, headers)
    if forbidden is None:
        return None
    placed = (
        segment if header is None else segment.open(header) for segment, header in zip(segments, headers, strict=True)
    )
    forbidden |= SPEAK_OF_THOUGHTS if empty else frozenset()
    return RenderPlan(tuple(placed), written.forbidden_substrings | forbidden | {*known.tokens.hidden}, empty, losses)


def _is_each_once(written: Literals, roles: Sequence[str]) -> bool:
    """Return True if no text is written twice, and each answer is written."""
    messages = [slot.place for slot in written.slots]
    answers = {index for index, role in enumerate(roles) if role == "assistant"}
    return len(messages) == len({*messages}) and answers <= {*messages}


def _render_literals(template: ChatTemplate, roles: Sequence[str], prompt: bool = False) -> Literals | None:
    """Return the literals around symbolic texts; None if the template branches on a text, or raises."""

    def render(source: str, context: Mapping[str, object], clock: bool) -> Literals:
        messages = [{"role": role} for role in roles]
        return Literals(*render_symbolic(source, messages, {**context, "tools": None}, clock))

    return render_literals(template, render, prompt)


def cut(written: Literals, tokens: CutTokens) -> list[Segment] | None:
    """Return the segments: each literal behind a text is cut behind its first control token, or else its first tag."""
    segments = []
    before = written.literals[0]
    for slot, literal in zip(written.slots, written.literals[1:], strict=True):
        end = tokens.find_end(literal)
        is_last = slot is written.slots[-1]
        if end is None or tokens.may_complete(before, literal[: end or None], is_between=end == 0 and not is_last):
            return None  # a text could begin or end with the rest of a control token
        text = Segment(slot.place, before, literal[:end], slot.operations, closed=end > 0, place=slot.place)
        segments.append(text)
        before = literal[end:]
    return [*segments, Segment(None, before, "")] if before else segments


def join(segments: Sequence[Segment]) -> tuple[tuple[str, ...], tuple[Slot, ...]]:
    """Return the literals and the slots that `cut` made segments of."""
    literals, slots = [""], list[Slot]()
    for segment in segments:
        literals[-1] += segment.before
        if segment.place is not None:
            slots.append(Slot(segment.place, segment.operations))
            literals.append("")
        literals[-1] += segment.after
    return tuple(literals), tuple(slots)


def _count_prompts(known: KnownOrders, literals: Sequence[str]) -> int:
    """Return how often the generation prompt stands in a text, whatever stands between its literals; -1 where that
    varies.
    """
    for literal in literals:
        if literal not in known.prompts:
            known.prompts[literal] = _count_in(known.template, literal)
    counts = [known.prompts[literal] for literal in literals]
    return -1 if -1 in counts else sum(counts)


def _count_in(template: ChatTemplate, literal: str) -> int:
    """Return how often the prompt stands in a literal; -1 where it could stand there in part, or be a part of it.

    The control tokens of a prompt are written by literals alone.
    """
    prompt = template.profile.prompt
    controls = find_control_text(prompt, template.controls)
    beginnings = tuple(prompt[:end] for end in range(controls[0][1], len(prompt)))
    rests = tuple(prompt[start:] for start in range(1, controls[-1][0] + 1))
    if literal.endswith(beginnings) or literal.startswith(rests) or (literal in prompt and literal != prompt):
        return -1
    return literal.count(prompt)


def _find_forbidden(
    template: ChatTemplate,
    roles: Sequence[str],
    written: Literals,
    segments: Sequence[Segment],
    headers: Sequence[int | None],
) -> frozenset[str] | None:
    """Return what texts must lack so that their turns are where the probes' are; None where texts can move them.

    `render_turns` depends on the generation prompt, and on how the conversation up to a turn ends. Neither may depend
    on a text, and each turn must begin where the prompt ends: one that reaches further could hold what an answer
    begins with.
    """
    profile = template.profile
    if not profile.is_traced:
        return None
    forbidden: set[str] = set()

    def render(count: int, prompt: bool) -> Literals | None:
        return _render_literals(template, roles[:count], prompt)

    for place, (segment, header) in enumerate(zip(segments, headers, strict=True)):
        if header is None or segment.message is None:
            continue
        literal = written.literals[place]
        opening = literal[: len(literal) - len(segment.before) + header]
        if rewrites_text(template.tokenizer) and not keeps_opening(template, opening):
            return None
        is_constant = profile.prompt_is_constant and profile.prompt and is_ended(template, written.literals[place + 1])
        if is_constant and literal.count(profile.prompt) == 1 and opening.endswith(profile.prompt):
            continue
        prompt = find_prompt(written, segment.message, place, render) if segment.message else None
        if prompt is None:
            return None
        unwritten = profile.history_header if profile.ignores_prompt and not profile.added_prompt else ""
        if opening != prompt.text + unwritten:
            supplied = find_supplied(template, prompt.text, opening) if opening == literal else ""
            if not supplied:
                return None
            forbidden.add(supplied)
        forbidden |= prompt.forbidden
    return frozenset(forbidden)


def _read_headers(
    known: KnownOrders, roles: Sequence[str], written: Literals, segments: Sequence[Segment]
) -> _Headers | None:
    """Return what `find_headers` does, read off what is written around the texts, whatever these are.

    None where the generation prompt may depend on the conversation, or does not stand in front of each answer and
    nowhere else: `render_turns` then looks for turns in other ways.
    """
    profile = known.template.profile
    if not (finds_by_prompt(profile) and has_plain_roles(profile, roles)):
        return None
    if [slot.place for slot in written.slots] != [*range(len(roles))]:
        return None
    if _count_prompts(known, written.literals) != roles.count("assistant"):
        return None
    headers: list[int | None] = []
    for segment, literal in zip(segments, written.literals, strict=False):
        is_answer = segment.message is not None and roles[segment.message] == "assistant"
        headers.append(len(segment.before) if is_answer else None)
        if segment.operations not in ((), (("strip", None),)):
            return None
        is_whole = literal.endswith(profile.prompt) and len(profile.prompt) <= len(segment.before)
        if is_answer and not (is_whole and segment.after == profile.ending):
            return None
    return headers, (), {}


def _probe(template: ChatTemplate, roles: Sequence[str], segments: Sequence[Segment], number: int) -> _Headers | None:
    texts = [PROBES[(index + number) % 2].format(index) for index in range(len(roles))]
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    return find_headers(template, messages, texts, segments)


def find_headers(
    template: ChatTemplate, messages: Messages, texts: Sequence[str], segments: Sequence[Segment]
) -> _Headers | None:
    """Return the length of each assistant segment's header, the answers with an empty thought, and what is left out.

    None where messages with these texts show no such, or are written otherwise than by the segments.
    """
    try:
        rendered = render_turns(template, messages, allow_loss=True)
    except PadfixError:
        return None
    assistants = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    written = [write(segment, "" if segment.place is None else texts[segment.place]) for segment in segments]
    notes = {index: collect_row_notes(rendered, messages, [index], (), {}) for index in assistants}
    losses = {kind: detail for found in notes.values() for kind, detail in found.items() if kind in LOSSES}
    if (
        rendered.text != "".join(written)
        or rendered.spelled
        or {*chain(*notes.values())} - {"empty_reasoning", *losses}
    ):
        return None
    is_lossy = len(messages) > sum(segment.message is not None for segment in segments)
    if bool(losses) != is_lossy or (is_lossy and finds_by_prompt(template.profile)):
        return None  # turns that are found in the text alone show no loss
    turns = {turn.message: turn for turn in rendered.turns}
    if len(turns) != len(rendered.turns) or sorted(turns) != assistants:
        return None
    headers: list[int | None] = []
    start, is_parted = 0, True
    for segment, text in zip(segments, written, strict=True):
        end = start + len(text)
        turn = None if segment.message is None else turns.get(segment.message)
        headers.append(None if turn is None else turn.start - start)
        if turn is not None:
            is_headed = 0 <= turn.start - start <= len(segment.before) and turn.start > 0
            if not (is_parted and is_headed and segment.closed and turn.end == end):
                return None
        start, is_parted = end, segment.closed
    return headers, tuple(index for index, found in notes.items() if "empty_reasoning" in found), losses


def write(segment: Segment, text: str) -> str:
    """Return a segment with its message's text."""
    return segment.before + trim(text, segment.operations) + segment.after
