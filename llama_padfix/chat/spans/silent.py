"""An assistant message of which the template wrote not one character, nor would write a letter in its place."""

from __future__ import annotations

from llama_padfix.chat.render import Refusal
from llama_padfix.chat.spans.parts import TracedConversation


def find_silent_refusal(conversation: TracedConversation, index: int) -> Refusal | None:
    """Return why the turn of a message without characters is refused; None where the template leaves it out."""
    asked = conversation.render(index, False) if index else None
    until = conversation.render(index + 1, False)
    if conversation.whole.lost or until is None or (index and asked is None):
        return Refusal.SILENT
    if len(conversation.whole.text) < len(until.text) and index == len(conversation.roles) - 1:
        return None  # an empty message that is left open: the conversation is cut in front of its end
    if asked is None or not until.text.startswith(asked.text):
        return Refusal.SILENT
    added = until.text[len(asked.text) :]
    if any(end > len(asked.text) and start < end for start, end, _ in until.content_spans):
        return Refusal.FOREIGN
    is_left_out = not added or (not added.strip() and conversation.profile.between_answers is None)
    # left out at the end, which the history need not do
    return None if is_left_out and not _has_header(conversation, index) else Refusal.SILENT


def _has_header(conversation: TracedConversation, index: int) -> bool:
    """Return True if more headers of answers stand around a message than answers that have characters begin there."""
    spans, header = conversation.whole.content_spans, conversation.profile.history_header
    before = max((end for _, end, origin in spans if origin < index), default=0)
    after, following = min(
        ((start, origin) for start, _, origin in spans if origin > index), default=(len(conversation.whole.text), -1)
    )
    gap = conversation.whole.scaffold[before:after].removesuffix(
        conversation.profile.added_prompt if following < 0 else ""
    )
    return bool(header) and gap.count(header) != (following in conversation.assistant_indices)
