"""Thoughts that a template leaves out of a conversation, and whether a row's own words show that one is missing.

`find_losses` looks for a thought among the characters of its message, so one that says what the answer says is not
counted as lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llama_padfix.chat.losses.thoughts import CLOSERS, OPENERS
from llama_padfix.chat.losses.written import USED, squash
from llama_padfix.chat.symbolic_slots import find_holes
from llama_padfix.chat.traced_render import REASONING_KEYS
from llama_padfix.chat.traced_str import LOST

if TYPE_CHECKING:
    from typing import TypeAlias

    from llama_padfix.chat.render import Rendered
    from llama_padfix.encoding.batch.shapes.shape import Shape

    LeftOut: TypeAlias = tuple[tuple[int, tuple[int, ...]], ...]
    """Thoughts by their places, each with the places of what is written of its message."""

LOST_THOUGHT = ("lost_reasoning", "unreasoned", "lossy")  # the notes on a thought that a template leaves out
THOUGHT_TAGS = frozenset((*CLOSERS, *OPENERS))
"""Where none of a row's texts holds one, a text with a thought is read as the outline says."""


def find_left_out(shape: Shape, rendered: Rendered, written: Sequence[tuple[int, str]]) -> LeftOut | None:
    """Return `RenderPlan.left_out` of a shape in whose probe something is lost; None where that is no thought.

    `written` are the places of what the template writes, in order, each with what it writes.
    """
    found: list[tuple[int, tuple[int, ...]]] = []
    spans = rendered.content_spans or ()
    places = {place for place, _ in written}
    for loss in rendered.losses:
        if loss.kind != "lost_reasoning" or loss.message is None or any(origin == LOST for _, _, origin in spans):
            return None
        message = shape.messages[loss.message]
        spoken = [message.get(key) for key in ("content", *REASONING_KEYS)]
        missing = [hole.place for hole in find_holes(spoken) if hole.place not in places]
        own = [(place, text) for place, text in written if shape.owners[place] == loss.message]
        shown = "".join([rendered.text[start:end] for start, end, origin in spans if origin == loss.message])
        keyed = {hole.place for hole in find_holes([message.get(key) for key in REASONING_KEYS])}
        if any(place in keyed for place, _ in own):
            return None  # a thought that stands under two keys is one
        if not missing or not own or shown.split() != "".join([text for _, text in own]).split():
            return None  # what else it writes of the message could hold the thought
        found += [(missed, tuple(place for place, _ in own)) for missed in missing]
    return tuple(found)


def is_left_out(thought: str, written: Sequence[str]) -> bool:
    """Return True if a thought that is not written is found in nothing that is written of its message.

    `WrittenTexts.find_missing` looks for a longer text first, and where one is missing for whole texts: so one
    that is no longer than the only text is missing, and so is one that they do not hold without white space, case and
    escapes.
    """
    if USED in thought:
        return False
    if len(written) == 1 and len(thought.strip()) <= len(written[0].strip()):
        return True
    own = "".join(written)
    return "\\" not in own and squash(thought) not in squash(own)
