"""A rendered conversation whose characters have known authors, and how two such texts are compared."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from llama_padfix.chat.tag_pairs import TAG
from llama_padfix.chat.traced_str import CLOSES, LOST, OPENS, TEMPLATE, Traced

# A tag, a bracketed word, a word, or one character: a prompt is compared with the history by whole pieces.
_PIECES = re.compile(rf"{TAG.pattern}|\w+|\s|.", re.DOTALL)


@dataclass(frozen=True)
class Trace:
    """A rendered conversation; `scaffold` is its text with every character that a message or a tool wrote blanked.

    `content_spans` are (start, end, origin) of what the template did not write, in order; one without width marks an
    empty text. `generation` are the spans of `{% generation %}`. `lost`: somewhere the origin of a character is lost.
    `joints` are the places inside a content span at which one text ends and another one of the same origin begins.
    """

    text: str
    scaffold: str
    content_spans: tuple[tuple[int, int, int], ...]
    generation: tuple[tuple[int, int], ...]
    lost: bool
    joints: tuple[int, ...] = ()

    @property
    def text_spans(self) -> tuple[tuple[int, int, int], ...]:
        """The content spans, each cut at its joints."""
        found: list[tuple[int, int, int]] = []
        for start, end, origin in self.content_spans:
            inner = self.joints[bisect_right(self.joints, start) : bisect_left(self.joints, end)]
            found += [(left, right, origin) for left, right in pairwise((start, *inner, end))]
        return tuple(found)

    @property
    def tail(self) -> str:
        """What the template wrote behind the last content."""
        return self.scaffold[self.content_spans[-1][1] if self.content_spans else 0 :]

    def first_of(self, origin: int) -> int:
        """Return where the content of a message begins; the end of the text where there is none."""
        return next((start for start, _, other in self.content_spans if other == origin), len(self.text))

    def is_lost(self, place: int) -> bool:
        """Return True if there is such a content span and its origin is lost."""
        return place < len(self.content_spans) and self.content_spans[place][2] == LOST

    def cut(self, length: int) -> Trace:
        """Return the first `length` characters."""
        spans = tuple(
            (start, min(end, length), origin) for start, end, origin in self.content_spans if start <= length
        )
        generation = tuple((start, min(end, length)) for start, end in self.generation if start < length)
        return Trace(self.text[:length], self.scaffold[:length], spans, generation, self.lost, self.joints)

    def gap(self, left: int, right: int) -> str:
        """Return what the template wrote between the content of two messages."""
        end = max(end for _, end, origin in self.content_spans if origin == left)
        start = min(start for start, _, origin in self.content_spans if origin == right)
        return self.scaffold[end:start]


class Render(Protocol):
    """Renders the first `count` messages of the conversation; None where the template refuses them.

    `prompt` adds a generation prompt; the content of `blank_message` is left empty.
    """

    def __call__(self, count: int, prompt: bool, blank_message: int | None = None) -> Trace | None:
        """Return the rendering."""


def read_trace(traced: Traced) -> Trace:
    """Return a traced text in the form in which turns are looked for."""
    scaffold: list[str] = []
    content_spans: list[tuple[int, int, int]] = []
    joints: list[int] = []
    generation: list[tuple[int, int]] = []
    opened: list[int] = []
    lost = False
    position = 0
    text = "".join((traced, ""))  # a plain copy
    for length, origin in traced._runs:
        end = position + length
        if origin == TEMPLATE:
            scaffold.append(text[position:end])
        elif origin == OPENS:
            opened.append(position)
        elif origin == CLOSES:
            if opened:
                generation.append((opened.pop(), position))
        else:
            scaffold.append("\0" * length)
            lost = lost or (origin == LOST and length > 0)
            if content_spans and content_spans[-1][1:] == (position, origin):
                joints += [position] if length else []
                content_spans[-1] = (content_spans[-1][0], end, origin)
            else:
                content_spans.append((position, end, origin))
        position = end
    return Trace(text, "".join(scaffold), tuple(content_spans), tuple(generation), lost, tuple(joints))


def common_start(one: str, other: str) -> int:
    """Return how many characters two texts begin with in common, in whole pieces."""
    length = 0
    for match in _PIECES.finditer(one):
        if not other.startswith(match.group(), length):
            break
        length = match.end()
    return length


def common_end(one: str, other: str) -> int:
    """Return how many characters two texts end with in common, in whole pieces."""
    length = 0
    for left, right in zip(reversed(_PIECES.findall(one)), reversed(_PIECES.findall(other)), strict=False):
        if left != right:
            break
        length += len(left)
    return length


def find_header_end(prompt: str, gap: str) -> int | None:
    r"""Return where the header of a turn ends in what stands in front of it; None where prompt and gap differ.

    The prompt may say more than the history (`<A><think></think>`, `<A></think>`) and either may hold white space that
    the other lacks: the one is the other with a piece left out, or they are equal but for white space.
    """
    if gap.startswith(prompt):
        return len(prompt)
    for longer, shorter in ((prompt, gap), (gap, prompt)):
        start = common_start(shorter, longer)
        end = min(common_end(shorter, longer), len(shorter) - start)
        between = longer[start : len(longer) - end]
        common = shorter[:start] + shorter[len(shorter) - end :]
        is_word = any(char.isalnum() for char in common)
        if start + end == len(shorter) and is_word and (longer is prompt or not between.strip()):
            return len(gap)
    start = common_start(prompt, gap)
    rest = prompt[start:]
    for size in range(min(len(rest), len(gap) - start), 0, -1):
        tail = gap[start : start + size]
        if rest.endswith(tail) and _PIECES.match(tail) and tail.rstrip().endswith(("]", ">")) and tail[0] in "[<":
            return start + size
    same = align(prompt, gap)
    return None if same is None or (prompt[same[0] :].strip() and gap[same[1] :].strip()) else same[1]


def count_equal(one: Sequence[object], other: Sequence[object]) -> int:
    """Return how many characters, ids or texts two sequences begin with in common."""
    length = min(len(one), len(other))
    return next((at for at in range(length) if one[at] != other[at]), length)


def align(prompt: str, gap: str) -> tuple[int, int] | None:
    """Return how much of a generation prompt and of a gap in the history is equal, but for white space.

    None where that is no word of the prompt. White space behind the last common piece counts where it is equal too.
    """
    left = right = 0
    has_word = False
    for match in _PIECES.finditer(prompt):
        piece = match.group()
        if piece.isspace():
            continue
        at = right + len(gap[right:]) - len(gap[right:].lstrip())
        if not gap.startswith(piece, at):
            break
        left, right = match.end(), at + len(piece)
        has_word = has_word or any(char.isalnum() for char in piece)
    if not has_word:
        return None
    blank = common_start(prompt[left : left + len(prompt[left:]) - len(prompt[left:].lstrip())], gap[right:])
    return left + blank, right + blank


def is_prefix(part: Trace, whole: Trace) -> bool:
    """Return True if a rendering is how another one begins, author by author."""
    return whole.text.startswith(part.text) and whole.scaffold.startswith(part.scaffold)
