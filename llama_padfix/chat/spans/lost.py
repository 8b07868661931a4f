"""Characters whose origin is lost, given back to the message that made the template write them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from llama_padfix.chat.trace import Trace, is_prefix
from llama_padfix.chat.traced_str import LOST

if TYPE_CHECKING:
    from llama_padfix.core.types import Message, Messages

_WORD = re.compile(r"\w+")


def place_lost(whole: Trace, messages: Messages, prefix: Callable[[int], Trace | None]) -> Trace:
    r"""Return the trace with each text of lost origin given to its message, where the template shows which it is.

    Up to message 0: `<S>user\nHi<E>`
    Up to message 1: `<S>user\nHi<E><S>assistant\nlook(x=[1, 'b'])<E>`, where `'%s'|format(value)` lost `[1, 'b']`

    It is the message whose rendering adds the text to a conversation that stays as it is, if its values hold every
    word of it. Other text of lost origin is left. `prefix` renders the first so many messages.
    """
    if not whole.lost:
        return whole
    bounds: list[int | None] = []
    for count in range(len(messages) + 1):
        part = prefix(count) if count else None
        bounds.append(len(part.text) if part is not None and is_prefix(part, whole) else None)
    bounds[0] = 0
    placed = []
    for start, end, origin in whole.content_spans:
        if origin == LOST and start < end:
            words = set(_WORD.findall(whole.text[start:end]))
            for index, (left, right) in enumerate(pairwise(bounds)):
                inside = left is not None and right is not None and left <= start and end <= right
                if inside and words <= _words_of(messages[index]):
                    origin = index
        placed.append((start, end, origin))
    lost = any(origin == LOST and start < end for start, end, origin in placed)
    return replace(whole, content_spans=tuple(placed), lost=lost)


def _words_of(message: Message) -> set[str]:
    """Return all words inside the values of a message, as Python and as JSON write them."""
    text = str({key: value for key, value in message.items() if key != "role"})
    return {*_WORD.findall(text), "true", "false", "null", "None"}
