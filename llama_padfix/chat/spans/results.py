"""A tool's answer that a template writes inside the model's turn, in a block of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_padfix.chat.tag_pairs import TAG, is_closing, is_pair
from llama_padfix.tokens.control import find_control_text

if TYPE_CHECKING:
    from llama_padfix.chat.spans.parts import TracedConversation


def find_result_block(conversation: TracedConversation, first: int, last: int) -> tuple[int, int | None]:
    r"""Return the last of content spans `first` to `last` that the model writes, and where an answer's block opens.

    `<call>look{"at": "sky"}</call><result>look:blue</result>Yes<end>` (Gemma 4)
                                   ^
    The block is what the last open tag behind the first span opens, and closes behind the text of others. A text
    inside it that belongs to the model's own message is repeated there, and not the model's. There is none where
    another's text does not follow, or stands in no block.
    """
    whole, spans = conversation.whole, conversation.whole.content_spans
    following = last + 1
    if following >= len(spans) or spans[following][2] in conversation.assistant_indices:
        return last, None
    if spans[following][2] >= 0 and conversation.roles[spans[following][2]] in ("user", "system"):
        return last, None
    start = spans[first][1]
    if find_control_text(whole.scaffold[start : spans[following][0]], conversation.profile.stops):
        return last, None  # the turn ends in front of the answer
    opened: list[tuple[int, str]] = []
    for found in TAG.finditer(whole.scaffold, spans[first - 1][1] if first else 0, spans[following][0]):
        if not is_closing(found.group()):
            opened.append((found.start(), found.group()))
        elif opened and is_pair(opened[-1][1], found.group()):
            opened.pop()
    if not opened or opened[-1][0] < start or opened[-1][1] in conversation.profile.stops:
        return last, None
    opener, tag = opened[-1]
    own = max(at for at in range(first, last + 1) if spans[at][1] <= opener)
    if _has_header(whole.scaffold[spans[own][1] : opener]):
        return last, None
    for place in range(following, len(spans)):
        if spans[place][2] in conversation.assistant_indices and spans[place][1] > spans[place][0]:
            break
        end = spans[place + 1][0] if place + 1 < len(spans) else len(whole.text)
        closing = TAG.search(whole.scaffold, spans[place][1], end)
        if closing is None:
            continue
        if not is_pair(tag, closing.group()):
            break
        return own, opener
    return last, None


def _has_header(gap: str) -> bool:
    """Return True if a header stands between a call and the block of its answer: `</call><|tool|>`."""
    tags = list(TAG.finditer(gap))
    closings = [tag.end() for tag in tags if is_closing(tag.group())]
    if closings:
        return bool(gap[closings[-1] :].strip())
    own = gap[tags[-1].end() :].strip() if tags else "call"
    return not own or (bool(tags) and any(char.isalnum() for char in own))
