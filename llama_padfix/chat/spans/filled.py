"""A conversation with a letter in place of each empty text, which shows where an empty text stands."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from llama_padfix.chat.spans.parts import TracedConversation
from llama_padfix.chat.spans.spans import AssistantSpan, find_spans
from llama_padfix.chat.trace import Trace, count_equal

Stretch = tuple[int, int]
"""How many characters a letter brings with it: in front of it and, itself included, behind."""

_ALONE = (0, 1)


@dataclass(frozen=True)
class FilledConversation:
    r"""A conversation with letters, which the template writes as the one without: `[INST] Hi [/INST] x[INST] More`."""

    conversation: TracedConversation
    original: Trace
    """The conversation without letters."""
    added: Sequence[tuple[int, int]]
    """Where the letters stand, with what the template writes beside them alone, in order."""
    filled: frozenset[int]
    """The indices of their messages."""

    def place_in_original(self, place: int) -> int:
        """Return where a place is in the conversation without letters."""
        return place - sum(min(end, place) - start for start, end in self.added if start < place)

    def find_supplied(self, start: int) -> int:
        r"""Return where the turn of an empty answer begins, if its header ends at `start` of the original.

        Prompt:       `<S>assistant\n\n`
        Conversation: `<S>assistant\n` and `\n<E>`, the first character of which the prompt supplies
        """
        opened, header = self.conversation.profile.opened, self.conversation.profile.history_header.lstrip()
        at = start - len(header)
        is_opened = at >= 0 and opened.startswith(header) and self.original.text.startswith(opened, at)
        return at + len(opened) if is_opened else start


def find_spans_by_letters(conversation: TracedConversation, trained_indices: Collection[int]) -> list[AssistantSpan]:
    """Return what `find_spans` does; empty texts have a letter in their place while turns are looked for."""
    filled = fill_empty_texts(conversation)
    if filled is None:
        return find_spans(conversation, trained_indices)
    found: list[AssistantSpan] = []
    supplied = 0
    for span in find_spans(filled.conversation, trained_indices):
        start, end = filled.place_in_original(span.start), filled.place_in_original(span.end)
        start = supplied = max(supplied, filled.find_supplied(start) if span.message in filled.filled else start)
        if span.refusal or start < end:
            found.append(replace(span, start=start, end=end))
    return found


def fill_empty_texts(conversation: TracedConversation) -> FilledConversation | None:
    """Return the conversation with letters in place of empty texts; None where there is none that can be filled.

    A text can be filled if the template writes its letter once, and nothing else changes but for text of its own right
    beside the letter.
    """
    spans = conversation.whole.content_spans
    empty = [
        index
        for index in range(len(conversation.roles))
        if all(spans[place][0] == spans[place][1] for place in conversation.written.get(index, []))
    ]
    if not empty or conversation.whole.lost:
        return None
    return _fill(conversation, dict.fromkeys(empty, _ALONE)) or _fill(
        conversation, _find_stretches(conversation, empty)
    )


def _find_stretches(conversation: TracedConversation, empty: Sequence[int]) -> dict[int, Stretch]:
    """Return what each letter brings with it, for the messages of which that is known, halving those that differ."""
    known, groups = {_ALONE: None}, [list(empty)]
    found: dict[int, Stretch] = {}
    while groups:
        group = groups.pop()
        own = next((one for one in known if _fill(conversation, dict.fromkeys(group, one)) is not None), None)
        own = _find_stretch(conversation, group[0]) if own is None and len(group) == 1 else own
        if own is not None:
            found |= dict.fromkeys(group, own)
            known[own] = None
        elif len(group) > 1:
            groups += [group[: len(group) // 2], group[len(group) // 2 :]]
    return found


def _find_stretch(conversation: TracedConversation, index: int) -> Stretch | None:
    """Return what the letter of a message brings with it; None where that is not known."""
    whole, filled = conversation.whole, conversation.fill([index])
    place = None if filled is None else _find_letter(filled.whole, index)
    if filled is None or place is None:
        return None
    added = len(filled.whole.text) - len(whole.text)
    pairs = ((whole.text, filled.whole.text), (whole.scaffold, filled.whole.scaffold))
    last = min(count_equal(one, other) for one, other in pairs)
    earliest = len(whole.text) - min(count_equal(one[::-1], other[::-1]) for one, other in pairs)
    starts = range(max(earliest, place + 1 - added), min(last, place) + 1)
    if added == 1 and place in starts:
        return _ALONE
    return (place - starts[0], starts[0] + added - place) if len(starts) == 1 else None


def _find_letter(filled: Trace, index: int) -> int | None:
    """Return where the letter of a message stands; None where it does not stand once."""
    places = [(start, end) for start, end, origin in filled.content_spans if origin == index and start < end]
    return places[0][0] if len(places) == 1 and places[0][1] == places[0][0] + 1 else None


def _fill(conversation: TracedConversation, stretches: Mapping[int, Stretch]) -> FilledConversation | None:
    whole, filled = conversation.whole, conversation.fill(stretches) if stretches else None
    if filled is None:
        return None
    places = {index: _find_letter(filled.whole, index) for index in stretches}
    added = sorted(
        (place - stretches[index][0], place + stretches[index][1])
        for index, place in places.items()
        if place is not None
    )
    text, scaffold = (_without(one, added) for one in (filled.whole.text, filled.whole.scaffold))
    if None in places.values() or text != whole.text or scaffold != whole.scaffold:
        return None
    return FilledConversation(filled, whole, added, frozenset(stretches))


def _without(text: str, added: Sequence[tuple[int, int]]) -> str:
    starts, ends = [0, *(end for _, end in added)], [*(start for start, _ in added), len(text)]
    return "".join([text[start:end] for start, end in zip(starts, ends, strict=True)])
