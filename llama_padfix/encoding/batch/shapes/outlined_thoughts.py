r"""The outline of a text that holds a thought: its tags are part of the outline, the thought and the answer are texts.

See `outlines`. `<think>\nTwo and two.\n</think>\n\n4` is `(str, "<think>\n", str, "\n</think>\n\n", str)`: where a
template looks for a tag, the outline answers. A text that holds more than one thought stays a text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from llama_padfix.chat.losses.thoughts import TAGS


def find_tags(words: Collection[str]) -> list[tuple[str, str]]:
    """Return the pairs of tags of which the closing one is among the words."""
    return [pair for pair in TAGS if pair[1] in words]


def outline_thoughts(
    outlined: Any,  # see `Outline`
    texts: list[str],
    tags: Sequence[tuple[str, str]],
    header: str,
) -> tuple[Any, list[str]]:
    """Return an outline and its texts, with each text that holds one thought parted at its tags.

    Texts that hold the header of a completion may be a rendered chat, and stay whole.
    """
    joined = "\0".join(texts)
    if not any(close in joined for _, close in tags) or (header and header in joined):
        return outlined, texts
    parted: list[str] = []
    return _walk(outlined, iter(texts), parted, tags), parted


def _walk(outlined: Any, texts: Iterator[str], parted: list[str], tags: Sequence[tuple[str, str]]) -> Any:
    if outlined is str:
        return _part(next(texts), parted, tags)
    if outlined is dict:
        parted.append(next(texts))
    elif type(outlined) is tuple and outlined[0] is list:
        return (list, *[_walk(item, texts, parted, tags) for item in outlined[1:]])
    elif type(outlined) is tuple and outlined[0] is dict:
        items = [_walk(item, texts, parted, tags) if place % 2 else item for place, item in enumerate(outlined[1:])]
        return (dict, *items)
    return outlined


def _part(text: str, parted: list[str], tags: Sequence[tuple[str, str]]) -> Any:  # see `Outline`
    """Return the outline of a text, and add what it is parted into."""
    for opening, close in tags:
        head, found, rest = text.partition(close)
        if not found or opening in rest or close in rest:
            continue
        blank = head[: len(head) - len(head.lstrip())]
        front = blank + opening if head.startswith(opening, len(blank)) else ""
        thought = head[len(front) :]
        if opening not in thought:
            return _lay_out(front, thought, found, rest, parted)
    parted.append(text)
    return str


def _lay_out(front: str, thought: str, close: str, rest: str, parted: list[str]) -> tuple[Any, ...]:
    """Return the outline of a text with one thought: line breaks beside the tags belong to them, as do blank texts."""
    made: list[Any] = [str]
    if thought.strip():
        first, last = thought[0] == "\n", len(thought) - (thought[-1] == "\n")
        parted.append(thought[first:last])
        made += [front + "\n" * first, str] if front or first else [str]
        close = thought[last:] + close
    else:
        close = front + thought + close
    answer = rest.removeprefix("\n").removeprefix("\n") if rest.strip() else ""
    made.append(close + rest[: len(rest) - len(answer)])
    if answer:
        parted.append(answer)
        made.append(str)
    return tuple(made)
