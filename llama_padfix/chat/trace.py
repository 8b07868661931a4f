"""A rendered conversation whose characters have known authors, and what was learned about its template."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from llama_padfix.chat.traced_str import CLOSES, LOST, OPENS, TEMPLATE, Traced
from llama_padfix.tokens.control import find_control_text

__all__ = [
    "Render",
    "Span",
    "Structure",
    "Trace",
    "align",
    "common_start",
    "find_stop",
    "is_prefix",
    "pair_in_order",
    "read_trace",
]

# A tag, a bracketed word, a word, or one character: a prompt is compared with the history by whole pieces.
_PIECES = re.compile(r"<[^<>\s]{1,40}>|\[[^\[\]\s]{1,30}\]|\w+|\s|.", re.DOTALL)


@dataclass(frozen=True)
class Trace:
    """A rendered conversation: `own` is its text with every character that a message or a tool wrote blanked.

    `blocks` are (start, end, origin) of what the template did not write, in order; one without width marks an
    empty text. `generation` are the spans of `{% generation %}`.
    """

    text: str
    own: str
    blocks: tuple[tuple[int, int, int], ...]
    generation: tuple[tuple[int, int], ...]
    lost: bool


@dataclass(frozen=True)
class Structure:
    """What was learned about a template by rendering probes.

    `prompt` is the generation prompt after a question, and `steady` when nothing in a conversation can change it.
    `header` is the part of it, or of what stands before an answer, that the history repeats. `ending` is what
    follows a plain last answer, up to and including its stop token; `stops` are all tokens seen to end a turn. `bos`
    is the tokenizer's.
    """

    prompt: str
    steady: bool
    header: str
    ending: str
    stops: tuple[str, ...]
    controls: tuple[str, ...]
    opens_always: bool
    ignores_prompt: bool
    prompt_has_control: bool = False
    bos: str = ""


@dataclass(frozen=True)
class Span:
    """Characters `start` to `end` that the model produces for a message; `reason` where that cannot be proven."""

    message: int
    start: int = 0
    end: int = 0
    stops: bool = False
    reason: str = ""


class Render(Protocol):
    """Renders the first `count` messages of the conversation; None where the template refuses them.

    `prompt` asks for a generation prompt; the content of the message `hushed` is left empty.
    """

    def __call__(self, count: int, prompt: bool, hushed: int | None = None) -> Trace | None:
        """Return the rendering."""


def read_trace(traced: Traced) -> Trace:
    """Return a traced text in the form in which turns are looked for."""
    own: list[str] = []
    blocks: list[tuple[int, int, int]] = []
    generation: list[tuple[int, int]] = []
    opened: list[int] = []
    lost = False
    position = 0
    text = "".join((traced, ""))  # a plain copy
    for length, origin in traced._runs:
        end = position + length
        if origin == TEMPLATE:
            own.append(text[position:end])
        elif origin == OPENS:
            opened.append(position)
        elif origin == CLOSES:
            if opened:
                generation.append((opened.pop(), position))
        else:
            own.append("\0" * length)
            lost = lost or (origin == LOST and length > 0)
            if blocks and blocks[-1][1:] == (position, origin):
                blocks[-1] = (blocks[-1][0], end, origin)
            else:
                blocks.append((position, end, origin))
        position = end
    return Trace(text, "".join(own), tuple(blocks), tuple(generation), lost)


def find_stop(tail: str, structure: Structure) -> int | None:
    """Return where the stop token ends in what follows a turn's last character; None where none does."""
    found = find_control_text(tail, structure.controls)
    if not found:
        return None
    known = [end for _, end, token in found if token in structure.stops]
    return known[0] if known else found[-1][1]


def common_start(one: str, other: str) -> int:
    """Return how many characters two texts begin with in common, in whole pieces."""
    length = 0
    for match in _PIECES.finditer(one):
        if not other.startswith(match.group(), length):
            break
        length = match.end()
    return length


def align(prompt: str, gap: str) -> tuple[int, int] | None:
    """Return how much of a generation prompt and of a gap in the history say the same, but for white space.

    None where that is no word of the prompt. White space behind the last common piece counts where it is the same.
    """
    left = right = 0
    spoken = False
    for match in _PIECES.finditer(prompt):
        piece = match.group()
        if piece.isspace():
            continue
        at = right + len(gap[right:]) - len(gap[right:].lstrip())
        if not gap.startswith(piece, at):
            break
        left, right = match.end(), at + len(piece)
        spoken = spoken or any(char.isalnum() for char in piece)
    if not spoken:
        return None
    blank = common_start(prompt[left : left + len(prompt[left:]) - len(prompt[left:].lstrip())], gap[right:])
    return left + blank, right + blank


def pair_in_order(one: Sequence[str], other: Sequence[str]) -> set[int]:
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


def is_prefix(part: Trace, whole: Trace) -> bool:
    """Tell whether a rendering is how another one begins, author by author."""
    return whole.text.startswith(part.text) and whole.own.startswith(part.own)
