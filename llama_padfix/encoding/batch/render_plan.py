"""How conversations of one sequence of roles are rendered, whatever their texts, and where their turns then stand.

A plan holds for every conversation of its roles whose texts are not blank and spell neither a control token nor the
few substrings that the template searches for. It is learned by running the template on symbolic texts, and kept only
where the same template renders probes alike, with the turns that `render_turns` proves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING

from llama_padfix.chat.render import ChatTemplate
from llama_padfix.chat.symbolic import Slot, TemplateBranched, render_symbolic, trim
from llama_padfix.chat.traced_render import source_of
from llama_padfix.chat.turns import render_turns
from llama_padfix.core.compat import gives_clock
from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.chat_rows import SPEAK_OF_THOUGHTS, collect_row_notes
from llama_padfix.tokens.control import find_control_text

if TYPE_CHECKING:
    from llama_padfix.core.types import AddedTokenLike

# Contents of probes: of two lengths, with white space around that some templates trim.
_PROBES = ("Probe {} asks", " \nAn answer {}, with\n\nlines\t ")


@dataclass(frozen=True)
class Segment:
    """A part of a rendered conversation that holds one message's text, between two edges of control tokens.

    The message's text is trimmed by `operations`, and stands between `before` and `after`; `message` is None where
    the segment holds none, behind the last answer. The model must produce what is behind the first `header` characters
    of `before`, to the end of the segment; nothing where that is None.
    """

    message: int | None
    before: str
    after: str
    operations: tuple[tuple[str, str | None], ...] = ()
    header: int | None = None


@dataclass(frozen=True)
class RenderPlan:
    """The segments of a conversation, in order, and the substrings that no message may hold.

    `empty_thoughts` are the answers into which the template writes an empty thought, as messages.
    """

    segments: tuple[Segment, ...]
    forbidden_substrings: frozenset[str]
    empty_thoughts: tuple[int, ...] = ()


def learn_render_plan(template: ChatTemplate, roles: Sequence[str]) -> RenderPlan | None:
    """Return how conversations of these roles are rendered; None where that depends on more than their roles."""
    written = _render_literals(template, roles)
    if written is None or sorted(slot.message for slot in written.slots) != list(range(len(roles))):
        return None
    added = {str(token): token for token in template.tokenizer.added_tokens_decoder.values()}
    hidden = _find_hidden_controls(template, added)
    segments = _cut(template, written, added, hidden)
    if segments is None:
        return None
    found, again = (_find_headers(template, roles, segments, number) for number in range(2))
    if found is None or found != again:
        return None
    headers, empty = found
    forbidden = _find_forbidden(template, roles, written, segments, headers)
    if forbidden is None:
        return None
    placed = (replace(segment, header=header) for segment, header in zip(segments, headers, strict=True))
    forbidden |= SPEAK_OF_THOUGHTS if empty else frozenset()
    return RenderPlan(tuple(placed), written.forbidden_substrings | forbidden | {*hidden}, empty)


@dataclass(frozen=True)
class _Literals:
    """What a template writes around texts: one literal more than slots."""

    literals: tuple[str, ...]
    slots: tuple[Slot, ...]
    forbidden_substrings: frozenset[str]


def _render_literals(template: ChatTemplate, roles: Sequence[str], prompt: bool = False) -> _Literals | None:
    """Return the literals around symbolic texts; None if the template branches on a text, or raises."""
    kwargs = dict(template.kwargs)
    context = {**template.tokenizer.special_tokens_map, **kwargs, "tools": None, "documents": None}
    messages = [{"role": role} for role in roles]
    context["add_generation_prompt"] = prompt
    try:
        source = source_of(template.tokenizer, None, kwargs)
        written = _Literals(*render_symbolic(source, messages, context, gives_clock(template.tokenizer)))
        "".join((*written.literals, *written.forbidden_substrings)).encode()  # half of a surrogate pair has no ids
    except (TemplateBranched, Exception):  # a template is a user's program: it may raise anything
        return None
    return written


def _cut(
    template: ChatTemplate, written: _Literals, added: Mapping[str, AddedTokenLike], hidden: Sequence[str]
) -> list[Segment] | None:
    """Return the segments: each literal behind a text is cut behind its first control token."""
    segments = []
    before = written.literals[0]
    for slot, literal in zip(written.slots, written.literals[1:], strict=True):
        found = find_control_text(literal, template.controls)
        if not found or not _is_cut_exactly(added, found[0][2]):
            return None
        after = literal[: found[0][1]]
        if _ends_with_beginning(hidden, before) or _begins_with_rest(hidden, after):
            return None  # a text could begin or end with the rest of a control token
        segments.append(Segment(slot.message, before, after, slot.operations))
        before = literal[found[0][1] :]
    return [*segments, Segment(None, before, "")] if before else segments


def _find_hidden_controls(template: ChatTemplate, added: Mapping[str, AddedTokenLike]) -> list[str]:
    """Return the control tokens that a text may spell unseen in the ids: in a word, or before it is normalized."""
    rewrites = template.tokenizer.backend_tokenizer.normalizer is not None
    flags = [added[word] for word in template.controls + template.tags if word in added]
    return [str(token) for token in flags if token.single_word or (token.normalized and rewrites)]


def _ends_with_beginning(words: Sequence[str], before: str) -> bool:
    """Return True if a text ends with a part of one of the words, so that what follows could complete it."""
    longest = max(map(len, words), default=0)
    ends = tuple(before[-length:] for length in range(1, min(len(before) + 1, longest)))
    return any(word[:-1].startswith(ends) for word in words)


def _begins_with_rest(words: Sequence[str], after: str) -> bool:
    """Return True if a text begins with the rest of one of the words, so that what stands before could complete it."""
    longest = max(map(len, words), default=0)
    beginnings = tuple(after[:length] for length in range(1, min(len(after) + 1, longest)))
    return any(word[1:].endswith(beginnings) for word in words)


def _find_forbidden(
    template: ChatTemplate,
    roles: Sequence[str],
    written: _Literals,
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
    for place, (segment, header) in enumerate(zip(segments, headers, strict=True)):
        if header is None or segment.message is None:
            continue
        literal = written.literals[place]
        opening = literal[: len(literal) - len(segment.before) + header]
        if template.tokenizer.backend_tokenizer.normalizer is not None and not _keeps_opening(template, opening):
            return None
        is_constant = profile.prompt_is_constant and profile.prompt and profile.ending
        if is_constant and literal.count(profile.prompt) == 1 and opening.endswith(profile.prompt):
            continue
        prompted = _render_literals(template, roles[: segment.message], True) if segment.message else None
        answered = _render_literals(template, roles[: segment.message + 1])
        if prompted is None or answered is None:
            return None
        ends = {prompted.literals[-1]}
        if profile.ignores_prompt and not profile.added_prompt:
            ends = {prompted.literals[-1] + profile.history_header}
        if prompted.slots != written.slots[:place] or prompted.literals[:-1] != written.literals[:place]:
            return None
        if opening not in ends:
            return None
        forbidden |= prompted.forbidden_substrings | answered.forbidden_substrings
    return frozenset(forbidden)


def _keeps_opening(template: ChatTemplate, opening: str) -> bool:
    """Return True if no normalizer changes what stands behind the last control token in front of an answer."""
    found = find_control_text(opening, template.controls)
    return opening[found[-1][1] if found else 0 :].isascii()


def _find_headers(
    template: ChatTemplate, roles: Sequence[str], segments: Sequence[Segment], number: int
) -> tuple[list[int | None], tuple[int, ...]] | None:
    """Return the length of each assistant segment's header, and the answers with an empty thought.

    None where a probe shows no such.
    """
    contents = [_PROBES[(index + number) % 2].format(index) for index in range(len(roles))]
    messages = [{"role": role, "content": text} for role, text in zip(roles, contents, strict=True)]
    try:
        rendered = render_turns(template, messages)
    except PadfixError:
        return None
    assistants = [index for index, role in enumerate(roles) if role == "assistant"]
    texts = [write(segment, "" if segment.message is None else contents[segment.message]) for segment in segments]
    notes = {index: collect_row_notes(rendered, messages, [index], (), {}) for index in assistants}
    if rendered.text != "".join(texts) or rendered.spelled or {*chain(*notes.values())} - {"empty_reasoning"}:
        return None
    turns = {turn.message: turn for turn in rendered.turns}
    if len(turns) != len(rendered.turns) or sorted(turns) != assistants:
        return None
    headers: list[int | None] = []
    start = 0
    for segment, text in zip(segments, texts, strict=True):
        end = start + len(text)
        turn = None if segment.message is None else turns.get(segment.message)
        headers.append(None if turn is None else turn.start - start)
        if turn is not None and (turn.end != end or not 0 < turn.start - start <= len(segment.before)):
            return None
        start = end
    return headers, tuple(index for index, found in notes.items() if found)


def write(segment: Segment, text: str) -> str:
    """Return a segment with its message's text."""
    return segment.before + trim(text, segment.operations) + segment.after


def _is_cut_exactly(added: Mapping[str, AddedTokenLike], token: str) -> bool:
    """Return True if a control token is cut out of every text exactly where it stands, with nothing around it."""
    flags = added.get(token)
    if flags is None or flags.lstrip or flags.rstrip or flags.single_word or flags.normalized:
        return False
    return _stands_apart(token, tuple(added))


@lru_cache(maxsize=64)  # asked for each text of each sequence of roles
def _stands_apart(token: str, added: tuple[str, ...]) -> bool:
    """Return True if no other token can be found where this one stands.

    Of added tokens the one that begins first is taken, and the longest of those.
    """
    return not any(token in other and token != other for other in added) and not _begins_with_rest(added, token)
