"""The turn of an assistant message of which the template wrote not one character, such as an empty answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from llama_padfix.chat.profile.template_profile import find_stop
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
    if asked is None or not is_prefix(asked, until):
        return None
    added = conversation.profile.added_prompt
    before = len(asked.scaffold.removesuffix(added))
    opened = _find_opened(silent, until.scaffold.removesuffix(added)[before:], asked)
    if opened is None:
        return None
    start = before + opened
    start += len(header_without_prompt(conversation, start, len(until.text)))
    tail = until.scaffold[start:].removesuffix(conversation.profile.added_prompt)
    stop = find_stop(tail, conversation.profile)
    end = start + (len(tail) if stop is None else stop)
    whole = conversation.whole
    same = whole.text[:end] == until.text[:end] and whole.scaffold[:end] == until.scaffold[:end]
    if stop is None:  # a turn may be closed only where something follows
        stop = _find_stop_behind(conversation, silent.index, end)
        end += stop or 0
    return (start, end, stop is not None) if same else None


def _find_opened(silent: SilentMessage, turn: str, asked: Trace) -> int | None:
    """Return how much of what a message adds is its header; None where that is not known."""
    profile, header = silent.conversation.profile, silent.conversation.profile.history_header
    if header and turn.count(header) == 1:
        at = turn.index(header)
        return at + max(len(header), common_start(profile.prompt, turn[at:]))
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
    if not header or not profile.stops or gap.count(header) != len(silents) + others:
        return None
    at = 0
    for _ in range(silents.index(silent.index)):
        at = gap.index(header, at) + len(header)
    at = gap.index(header, at)
    own = gap[at:]
    skip = max(len(header), common_start(profile.prompt, own))
    following = own.find(header, skip)
    found = find_control_text(own[skip : following if following >= 0 else len(own)], profile.stops)
    start = before + at + skip
    return (start, start + found[0][1], True) if found else None


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
    return before, whole.scaffold[before:after], silents, int(right in assistants)


SILENT_RULES: tuple[SilentRule, ...] = (_between_prefixes, _behind_own_header)


def find_silent_turn(conversation: TracedConversation, index: int) -> Place | Literal[Refusal.SILENT] | None:
    """Return the turn of a message without characters; None where the template leaves the message out."""
    asked = conversation.render(index, False) if index else None
    until = conversation.render(index + 1, False)
    if conversation.whole.lost or until is None or (index and asked is None):
        return Refusal.SILENT
    silent = SilentMessage(conversation, index, asked, until)
    rules = SILENT_RULES
    if asked is not None and asked.text == until.text:  # left out at the end, which the history need not do
        _, gap, _, others = _neighborhood(silent)
        header = conversation.profile.history_header
        if not header or gap.count(header) == others:
            return None
        rules = (_behind_own_header,)
    return next((place for rule in rules if (place := rule(silent)) is not None), Refusal.SILENT)
