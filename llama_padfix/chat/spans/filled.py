"""A conversation with a letter in place of each empty text, which shows where an empty text stands."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from llama_padfix.chat.spans.parts import TracedConversation
from llama_padfix.chat.trace import Trace


@dataclass(frozen=True)
class FilledConversation:
    r"""A conversation with letters, which the template writes as the one without: `[INST] Hi [/INST] x[INST] More`."""

    conversation: TracedConversation
    original: Trace
    """The conversation without letters."""
    letters: Sequence[int]
    """Where the letters stand, in order."""
    filled: Collection[int]
    """The indices of their messages."""

    def place_in_original(self, place: int) -> int:
        """Return where a place is in the conversation without letters."""
        return place - bisect_left(self.letters, place)

    def find_supplied(self, start: int) -> int:
        r"""Return where the turn of an empty answer begins, if its header ends at `start` of the original.

        Prompt:       `<S>assistant\n\n`
        Conversation: `<S>assistant\n` and `\n<E>`, the first character of which the prompt supplies
        """
        profile, text = self.conversation.profile, self.original.text
        header = start - len(profile.history_header)
        if header < 0 or not (
            profile.prompt.startswith(profile.history_header) and text.startswith(profile.prompt, header)
        ):
            return start
        return header + len(profile.prompt)


def fill_empty_texts(conversation: TracedConversation) -> FilledConversation | None:
    """Return the conversation with letters in place of empty texts; None where there is none that can be filled.

    A text can be filled if the template writes its letter once, and nothing else changes.
    """
    whole = conversation.whole
    empty = [
        index
        for index in range(len(conversation.roles))
        if all(
            whole.content_spans[place][0] == whole.content_spans[place][1]
            for place in conversation.written.get(index, [])
        )
    ]
    if not empty or whole.lost:
        return None
    found = _fill(conversation, empty)
    if found is None and len(empty) > 1:
        kept = [index for index in empty if _fill(conversation, [index]) is not None]
        found = _fill(conversation, kept) if kept else None
    return found


def _fill(conversation: TracedConversation, indices: Collection[int]) -> FilledConversation | None:
    whole, filled = conversation.whole, conversation.fill(indices)
    if filled is None:
        return None
    letters = [(start, end) for start, end, origin in filled.whole.content_spans if origin in indices and start < end]
    if len(letters) != len(indices) or any(end != start + 1 for start, end in letters):
        return None
    places = [start for start, _ in letters]
    if _without(filled.whole.text, places) != whole.text or _without(filled.whole.scaffold, places) != whole.scaffold:
        return None
    return FilledConversation(filled, whole, places, indices)


def _without(text: str, places: Collection[int]) -> str:
    return "".join([text[start + 1 : end] for start, end in zip([-1, *places], [*places, len(text)], strict=True)])
