"""The turn of an assistant message of which the template wrote not one character, such as an empty answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from llama_padfix.chat.profile.template_profile import TemplateProfile, find_stop
from llama_padfix.chat.render import Refusal
from llama_padfix.chat.spans.parts import TracedConversation
from llama_padfix.chat.spans.start_rules import header_without_prompt
from llama_padfix.chat.trace import Trace, common_start, is_prefix
from llama_padfix.tokens.control import find_control_text

Place = tuple[int, int, bool]
"""Where a turn starts and ends, and whether it stops."""


@dataclass(frozen=True)
class SilentMessage:
    """A message without characters, and the conversation up to it."""

    conversation: TracedConversation
    index: int
    asked: Trace | None
    """The messages before it; None where it is the first."""
    until: Trace
    """The same with the message itself."""


SilentRule = Callable[[SilentMessage], "Place | None"]


def _between_prefixes(silent: SilentMessage) -> Place | None:
    r"""Take what the message adds to the conversation before it, behind what a prompt adds too.

    Asked:    `<|im_start|>user\nHi<|im_end|>\n`
    Prompted: `<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n`
    Until:    `<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<|im_end|>\n` (ChatML)
                                                                    ^^^^^^^^^^
    """
    conversation, asked, until = silent.conversation, silent.asked, silent.until
    added = conversation.profile.added_prompt
    if asked is not None and added:
        asked = asked.cut(len(asked.scaffold.removesuffix(added).rstrip()))
    if asked is None or not is_prefix(asked, until):
        return None
    before = len(asked.text)
    opened = _find_opened(silent, until.scaffold.removesuffix(added)[before:], asked)
    if opened is None:
        return None
    start = before + opened
    start += len(header_without_prompt(conversation, start, len(until.text)))
    tail = until.scaffold[start:].removesuffix(conversation.profile.added_prompt)
    whole, stops = conversation.whole, conversation.profile.stops
    stop, end = find_stop(tail, conversation.profile), len(until.text.removesuffix(added))
    same = whole.text[:end] == until.text[:end] and whole.scaffold[:end] == until.scaffold[:end]
    if same and not (stops and find_control_text(tail, stops)):  # a turn may be closed only where something follows
        behind = _find_stop_behind(conversation, silent.index, end)
        closing = conversation.profile.closing
        if behind is None and closing and not tail.endswith(closing) and whole.scaffold.startswith(closing, end):
            return start, end + len(closing), False
        if behind is not None or stop is None or (closing and tail.endswith(closing)):
            return start, end + (behind or 0), behind is not None
    end = start + (len(tail) if stop is None else stop)
    same = whole.text[:end] == until.text[:end] and whole.scaffold[:end] == until.scaffold[:end]
    return (start, end, stop is not None) if same else None


def _find_opened(silent: SilentMessage, turn: str, asked: Trace) -> int | None:
    """Return how much of what a message adds is its header; None where that is not known."""
    profile, header = silent.conversation.profile, silent.conversation.profile.history_header
    closing = profile.between_answers
    if closing and turn.startswith(closing) and silent.index - 1 in silent.conversation.assistant_indices:
        return len(closing)
    if header and turn.count(header) == 1:
        at = turn.index(header)
        return at + max(len(header), common_start(profile.opened, turn[at:]))
    prompted = silent.conversation.render(silent.index, True)
    if prompted is None or not is_prefix(asked, prompted):
        return None
    opened = common_start(prompted.scaffold[len(asked.text) :], turn)
    has_word = any(char.isalnum() for char in turn[:opened])
    return opened if has_word or len(prompted.text) == len(asked.text) + opened else None


def _find_stop_behind(conversation: TracedConversation, index: int, end: int) -> int | None:
    """Return how far behind a place of the conversation its first stop token ends, in front of the next header."""
    whole, header = conversation.whole, conversation.profile.history_header
    after = min((start for start, _, origin in whole.content_spans if origin > index), default=len(whole.text))
    gap = whole.scaffold[end:after]
    gap = gap[: gap.index(header)] if header and header in gap else gap
    for start, end, token in find_control_text(gap, conversation.profile.controls):
        if gap[:start].strip() and not gap[:start].rstrip().endswith(conversation.profile.controls):
            return None
        if token in conversation.profile.stops:
            return end
    return None


def _behind_own_header(silent: SilentMessage) -> Place | None:
    r"""Take what stands behind its header, where each turn between the characters of its neighbors has one of its own.

    `<|im_start|>assistant\n<|im_end|>\n<|im_start|>user\nMore<|im_end|>`, where the text before it is written differently
                            ^^^^^^^^^^
    """  # noqa: E501
    profile, header = silent.conversation.profile, silent.conversation.profile.history_header
    before, gap, silents, others = _neighborhood(silent)
    if not header or gap.count(header) != len(silents) + others:
        return None
    at = 0
    for _ in range(silents.index(silent.index)):
        at = gap.index(header, at) + len(header)
    at = gap.index(header, at)
    own = gap[at:]
    skip = max(len(header), common_start(profile.opened, own))
    following = own.find(header, skip)
    start = before + at + skip
    end = _find_end(silent, own[skip : following if following >= 0 else len(own)], following >= 0)
    return None if end is None else (start, start + end[0], end[1])


def _find_end(silent: SilentMessage, behind: str, is_cut: bool) -> tuple[int, bool] | None:
    """Return how long the turn is of which this follows the header, and if it stops; None where that is not known.

    `is_cut`: another header of the model stands behind it.
    """
    profile, closing = silent.conversation.profile, silent.conversation.profile.behind_answer
    is_last = silent.until.text == silent.conversation.whole.text
    if closing is not None and not closing.strip() and not is_last:  # nothing closes an answer of the history
        following = profile.find_header(behind)
        is_known = following is not None or is_cut or not behind.strip()
        length = len(profile.lead) if behind[:following].startswith(profile.lead) else len(behind[:following].rstrip())
        return (length, False) if is_known else None
    if closing is not None and behind.startswith(closing) and not is_last:
        behind = closing
    found = find_control_text(behind, profile.stops) if profile.stops else []
    others = [header.strip() for role, header in profile.role_headers.items() if role != "assistant"]
    if found and not any(header in behind[: found[0][0]] for header in others):
        return found[0][1], True
    at = behind.find(profile.closing) if profile.closing and not found else -1
    is_closed = at >= 0 and profile.find_header(behind[:at]) is None
    return (at + len(profile.closing), False) if is_closed else None


def _behind_prompt(silent: SilentMessage) -> Place | None:
    r"""Take the stop token right behind the conversation up to the message, rendered with a prompt.

    Prompted:     `<turn>model\n<call>look</call><result>blue</result>` (here with a thought that the history lacks)
    Conversation: `<turn>model\n<call>look</call><result>blue</result><end>\n<turn>user\nMore<end>\n`
                                                                      ^^^^^
    """
    profile, prompted = silent.conversation.profile, silent.conversation.render(silent.index, True)
    before, gap, silents, _ = _neighborhood(silent)
    if prompted is None or not prompted.content_spans or not gap.startswith(prompted.tail):
        return None
    if all(span[1:] != (before, prompted.content_spans[-1][2]) for span in silent.conversation.whole.content_spans):
        return None
    start, behind = before + len(prompted.tail), gap[len(prompted.tail) :]
    if profile.behind_answer is not None and not (profile.behind_answer.strip() or profile.stops):
        return start, start, False  # nothing closes a turn
    following = profile.find_header(behind)
    if profile.behind_answer == profile.between_answers == "" and following is not None:
        return start, start + following, False
    found = find_control_text(behind, profile.stops) if profile.stops else []
    is_next = found and _is_next(profile, behind[: found[0][1]])
    if found and silents == [silent.index] and behind[: found[0][0]] == profile.lead:
        is_next = True  # the channel of an answer, such as `<C>final<M>`, with nothing in it
    return (start, start + found[0][1], True) if is_next else None


def _is_next(profile: TemplateProfile, text: str) -> bool:
    """Return True if nothing stands in front of the stop token that a text ends in, but for what closes a turn."""
    token = next(token for token in profile.stops if text.endswith(token))
    return not text.removesuffix(token).strip() or (profile.behind_answer or "").lstrip().startswith(text.lstrip())


def _at_front(silent: SilentMessage) -> Place | None:
    r"""Take what stands behind the place where a plain first answer begins: Mistral, `<s></s>`."""
    conversation, profile = silent.conversation, silent.conversation.profile
    header = profile.history_header
    if silent.index:
        return None
    at = conversation.header_start
    own = conversation.whole.scaffold[at:]
    start = conversation.bare_start if at is None else at + max(len(header), common_start(profile.opened, own))
    if start is None:
        return None
    after = [left for left, _, origin in conversation.whole.content_spans if origin > 0]
    behind = conversation.whole.scaffold[start : min(after, default=None)]
    following = behind.find(header) if header else -1
    end = _find_end(silent, behind[: following if following >= 0 else len(behind)], following >= 0)
    return None if end is None else (start, start + end[0], end[1])


def _behind_closed_neighbor(silent: SilentMessage) -> Place | None:
    r"""Take what stands behind what closes the answer before it, where no header parts two answers.

    `[INST] Hi [/INST] Hello</s>\n </s>\n[INST] More [/INST]`
                                ^^^^^
    """
    profile, spans = silent.conversation.profile, silent.conversation.whole.content_spans
    before, gap, silents, _ = _neighborhood(silent)
    neighbors = {origin for _, end, origin in spans if end == before}
    if not profile.between_answers or not neighbors & {*silent.conversation.assistant_indices}:
        return None
    start = 0
    for _ in range(silents.index(silent.index) + 1):
        at = gap.find(profile.between_answers, start)
        if at < 0:
            return None
        start = at + len(profile.between_answers)
    found = find_control_text(gap[start:], profile.stops) if profile.stops else []
    is_next = found and _is_next(profile, gap[start : start + found[0][1]])
    return (before + start, before + start + found[0][1], True) if is_next else None


def _joined_to_neighbor(silent: SilentMessage) -> Place | None:
    r"""Take what joins the message to the answer beside it, where both are one turn.

    `<turn>model\nOne\n\n<end>`    `<turn>model\n\n\nTwo<end>`
                     ^^^^^^^^^                     (nothing: it is the next message's)
    """
    conversation, header = silent.conversation, silent.conversation.profile.history_header
    before, gap, _, others = _neighborhood(silent)
    stops = find_control_text(gap, conversation.profile.stops) if conversation.profile.stops else []
    at = gap.find(header) + len(header) if header else -1
    if others and gap.count(header) == 1 and at >= len(header) and not gap[at:].strip():
        return before + at, before + at, False
    neighbors = {origin for _, end, origin in conversation.whole.content_spans if end == before}
    if header in gap or not header or not neighbors & {*conversation.assistant_indices}:
        return None
    if stops and _is_next(conversation.profile, gap[: stops[0][1]]):
        return before, before + stops[0][1], True
    return None


def _neighborhood(silent: SilentMessage) -> tuple[int, str, list[int], int]:
    """Return where the gap around the message begins, the gap, its assistant messages, and how many more begin."""
    whole, assistants = silent.conversation.whole, silent.conversation.assistant_indices
    spans, index = whole.content_spans, silent.index
    before, left = max(((end, origin) for _, end, origin in spans if origin < index), default=(0, -1))
    after, right = min(
        ((start, origin) for start, _, origin in spans if origin > index), default=(len(whole.text), -1)
    )
    last = right if right >= 0 else max(assistants)
    silents = [other for other in sorted(assistants) if left < other <= last and other != right]
    gap = whole.scaffold[before:after]
    if right < 0:
        gap = gap.removesuffix(silent.conversation.profile.added_prompt)
    return before, gap, silents, int(right in assistants)


SILENT_RULES: tuple[SilentRule, ...] = (
    _between_prefixes,
    _behind_own_header,
    _behind_prompt,
    _at_front,
    _behind_closed_neighbor,
    _joined_to_neighbor,
)


def find_silent_turn(conversation: TracedConversation, index: int) -> Place | Literal[Refusal.SILENT] | None:
    """Return the turn of a message without characters; None where the template leaves the message out."""
    asked = conversation.render(index, False) if index else None
    until = conversation.render(index + 1, False)
    if conversation.whole.lost or until is None or (index and asked is None):
        return Refusal.SILENT
    silent = SilentMessage(conversation, index, asked, until)
    rules = SILENT_RULES
    added = None if asked is None or not until.text.startswith(asked.text) else until.text[len(asked.text) :]
    if added is not None and (not added or (not added.strip() and conversation.profile.between_answers is None)):
        # left out at the end, which the history need not do
        _, gap, _, others = _neighborhood(silent)
        header = conversation.profile.history_header
        if not header or gap.count(header) == others:
            return None
        rules = (_behind_own_header,)
    return next((place for rule in rules if (place := rule(silent)) is not None), Refusal.SILENT)
