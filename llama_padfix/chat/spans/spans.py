"""Where each assistant turn begins and ends in a traced conversation.

A turn begins where the generation prompt ends and ends with its stop token. Both are looked for among the
characters that the template wrote, in the gap beside the characters of that message (`start_rules`, `end_rules`).
The exact rule asks the template itself: the conversation up to the turn, rendered with a generation prompt, ends where
the turn begins.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from operator import itemgetter

from llama_padfix.chat.render import Refusal
from llama_padfix.chat.spans.end_rules import find_end
from llama_padfix.chat.spans.parts import Part, TracedConversation
from llama_padfix.chat.spans.results import find_result_block
from llama_padfix.chat.spans.silent import find_silent_refusal
from llama_padfix.chat.spans.start_rules import find_resumed, find_start
from llama_padfix.chat.trace import Trace
from llama_padfix.tokens.control import find_control_text


@dataclass(frozen=True)
class AssistantSpan:
    """Characters `start` to `end` that the model produces for a message.

    Where that cannot be proven there is a `refusal`, and `start` is the place that shows why.
    """

    message: int
    start: int
    end: int = 0
    stops: bool = False
    refusal: Refusal | None = None


def find_spans(conversation: TracedConversation, trained_indices: Collection[int]) -> list[AssistantSpan]:
    """Return the spans of these assistant messages in order.

    A message has several spans where something that the model did not produce, such as a tool's answer, stands inside
    its turn, and none where the template leaves it out.
    """
    whole = conversation.whole
    spans = [
        span
        for index in sorted(trained_indices)
        if index in conversation.assistant_indices
        for span in _find_message(conversation, index)
    ]
    for place in range(1, len(spans)):
        left, right = spans[place - 1 : place + 1]
        if right.start == left.end < left.start and not (left.refusal or right.refusal):
            spans[place] = replace(right, start=left.start)  # the prompt supplies what joins them, too
    spans.sort(key=lambda span: -1 if span.refusal else span.start)
    for place, (left, right) in enumerate(pairwise(spans)):
        is_same = left.start <= right.start < left.end and (not left.stops or left.end == right.end)
        if is_same and not right.refusal:
            spans[place] = replace(left, end=right.start)  # one turn goes on with the next message
        elif right.start < left.end:
            spans[place + 1] = AssistantSpan(right.message, right.start, refusal=Refusal.OVERLAP)
    return [_check_authors(whole, span) for span in spans if span.refusal or span.start < span.end]


def _check_authors(whole: Trace, span: AssistantSpan) -> AssistantSpan:
    """Return the span if only the template and its message wrote in it, or else why it is refused."""
    spans = whole.content_spans
    for place in range(bisect_right(spans, span.start, key=itemgetter(1)), len(spans)):
        start, end, origin = spans[place]
        if start >= span.end:
            break
        if origin != span.message and max(start, span.start) < min(end, span.end):
            return AssistantSpan(span.message, max(start, span.start), refusal=Refusal.FOREIGN)
    return span


def _find_message(conversation: TracedConversation, index: int) -> list[AssistantSpan]:
    whole = conversation.whole
    written = conversation.written.get(index, [])
    if not written:
        return _find_silent(conversation, index)
    segments = _find_segments(conversation, index, written)
    if segments is None:
        return [AssistantSpan(index, whole.content_spans[written[-1]][0], refusal=Refusal.TWICE)]
    spans: list[AssistantSpan] = []
    for first, last in segments:
        seen = 1 + max((origin for _, _, origin in whole.content_spans[:first]), default=0) if spans else index
        last, result = find_result_block(conversation, first, last)
        part = Part(conversation, index, first, last, seen, result)
        start = find_resumed(part) if spans else find_start(part)
        if start is None:
            refusal = Refusal.HEADLESS if index else Refusal.FIRST
            return [AssistantSpan(index, part.begin, refusal=refusal)]
        stopped = find_control_text(whole.scaffold[start : part.begin], conversation.profile.stops)
        if stopped:
            return [AssistantSpan(index, start + stopped[0][0], refusal=Refusal.STOPPED)]
        found = find_end(part)
        if found is None:
            return [AssistantSpan(index, part.end, refusal=Refusal.UNCLOSED)]
        end, stops = found
        if not stops and whole.is_lost(last + 1):
            return [AssistantSpan(index, whole.content_spans[last + 1][0], refusal=Refusal.LOST)]
        spans.append(AssistantSpan(index, start, end, stops))
    return spans


def _find_silent(conversation: TracedConversation, index: int) -> list[AssistantSpan]:
    refusal = find_silent_refusal(conversation, index)
    before = max((end for _, end, origin in conversation.whole.content_spans if origin < index), default=0)
    return [] if refusal is None else [AssistantSpan(index, before, refusal=refusal)]


def _find_segments(
    conversation: TracedConversation, index: int, written: Sequence[int]
) -> list[tuple[int, int]] | None:
    """Return (first, last) of the content spans of each part of a message's turn; None where that is not known.

    `written` are all spans of the message. Later messages may repeat a part of it (the name of the tool that it
    called). What belongs to the message is what the template writes of it when it is the last one, in the same order.
    One rendering shows that for all messages that the template writes alike.
    """
    whole, stops = conversation.whole, conversation.profile.stops
    spans, first = whole.content_spans, written[0]
    gaps = [whole.scaffold[spans[place][1] : spans[place + 1][0]] for place in range(first, written[-1])]
    joined = written[-1] - first == len(written) - 1
    if joined and not any(find_control_text(gap, stops) for gap in gaps):
        return [(first, written[-1])]
    form = _read_form(conversation, index, written, gaps)
    if form not in conversation.parted:
        found = _find_segments_alone(conversation, index, written, gaps)
        conversation.parted[form] = found and [(left - first, right - first) for left, right in found]
    parts = conversation.parted[form]
    return parts and [(first + left, first + right) for left, right in parts]


def _read_form(conversation: TracedConversation, index: int, written: Sequence[int], gaps: Sequence[str]) -> object:
    """Return how a message is written, whatever it says: what stands around its texts, and which are equal."""
    whole, roles = conversation.whole, conversation.roles
    spans, first, behind = whole.content_spans, written[0], written[-1] + 1
    texts = [whole.text[spans[place][0] : spans[place][1]].strip() for place in written]
    equal = tuple(texts.index(text) if text else -1 for text in texts)
    front = whole.scaffold[spans[first - 1][1] if first else 0 : spans[first][0]]
    back = whole.scaffold[spans[behind - 1][1] : spans[behind][0] if behind < len(spans) else len(whole.text)]
    authors = tuple(
        "" if origin == index else roles[origin] if origin >= 0 else origin
        for _, _, origin in spans[max(first - 1, 0) : behind + 1]
    )
    return front, tuple(gaps), back, authors, equal


def _find_segments_alone(
    conversation: TracedConversation, index: int, written: Sequence[int], gaps: Sequence[str]
) -> list[tuple[int, int]] | None:
    """Return what `_find_segments` does, from a rendering in which the message is the last one."""
    whole, stops = conversation.whole, conversation.profile.stops
    spans = whole.content_spans
    alone = conversation.render(index + 1, False)
    if alone is None:
        return None
    content = [alone.text[start:end].strip() for start, end, origin in alone.content_spans if origin == index]
    texts = [whole.text[spans[place][0] : spans[place][1]].strip() for place in written]
    found = _pair_in_order(content, texts)
    if any(text and text in content and text not in {texts[one] for one in found} for text in texts):
        return None
    kept = [written[place] for place in sorted(found)]
    if written[0] not in kept:  # the history writes its beginning differently
        run = written[0]
        while run + 1 in written and not find_control_text(gaps[run - written[0]], stops):
            run += 1
        kept = sorted({*range(written[0], run + 1), *kept})
    segments: list[tuple[int, int]] = []
    for place in kept:
        if segments and not _is_parted(conversation, index, segments[-1][1], place, kept):
            segments[-1] = (segments[-1][0], place)
        else:
            segments.append((place, place))
    return segments


def _is_parted(conversation: TracedConversation, index: int, left: int, right: int, kept: Sequence[int]) -> bool:
    """Return True if something that the model did not produce stands between two content spans of its message."""
    whole, spans = conversation.whole, conversation.whole.content_spans
    if any(origin != index for _, _, origin in spans[left + 1 : right]):
        return True
    repeated = any(place not in kept for place in range(left + 1, right))
    gap = whole.scaffold[spans[left][1] : spans[right][0]]
    return repeated and bool(find_control_text(gap, conversation.profile.stops))


def _pair_in_order(one: Sequence[str], other: Sequence[str]) -> set[int]:
    """Return the places in `other` of a longest common subsequence of two lists, the earliest ones."""
    lengths = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for left in range(len(one) - 1, -1, -1):
        for right in range(len(other) - 1, -1, -1):
            longer = max(lengths[left + 1][right], lengths[left][right + 1])
            same = one[left] == other[right]
            lengths[left][right] = max(longer, lengths[left + 1][right + 1] + 1) if same else longer
    found: set[int] = set()
    left = right = 0
    while left < len(one) and right < len(other):
        if one[left] == other[right] and lengths[left][right] == lengths[left + 1][right + 1] + 1:
            found.add(right)
            left, right = left + 1, right + 1
        elif lengths[left + 1][right] >= lengths[left][right + 1]:
            left += 1
        else:
            right += 1
    return found
