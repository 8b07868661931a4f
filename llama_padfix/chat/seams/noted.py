"""What a template noted: the generation prompts behind the beginnings of a conversation, which stand in no text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llama_padfix.core.types import Message

PROMPTS = "llama_padfix_prompts"
"""The variable of a template that is given a `Prompts`."""


class Prompts:
    """The prompt in front of each answer, noted while the whole conversation is rendered."""

    def __init__(self) -> None:
        self._indices: dict[int, int] = {}
        self._answers: set[int] = set()
        self._behind: set[int] = set()
        self._noted: dict[int, tuple[int, str]] = {}
        self._kept: dict[tuple[object, int | None], Sequence[object]] = {}
        self._length = 0
        self.pieces: list[str] = []
        """What was written."""

    def follow(self, messages: Sequence[Message], written: Iterator[str]) -> Iterator[str]:
        """Return what is written for these messages, piece by piece."""
        if len({id(message) for message in messages}) == len(messages):
            self._indices = {id(message): index for index, message in enumerate(messages)}
            self._answers = {id(one) for one in messages[1:] if one.get("role") == "assistant"}
            self._behind = {id(two) for one, two in pairwise(messages) if id(one) in self._answers}
        for piece in written:
            self._length += str.__len__(piece)
            self.pieces.append(piece)
            yield piece

    def asks(self, message: Message) -> bool:
        """Return True if the prompt in front of a message is to be noted."""
        return id(message) in self._answers

    def ends(self, message: Message) -> bool:
        """Return True if the conversation up to a message ends with an answer."""
        return id(message) in self._behind

    def note(self, message: Message, prompt: str) -> str:
        """Note the prompt in front of a message."""
        self._noted[self._indices[id(message)]] = (self._length, prompt)
        return ""

    def keep(self, loop: int, message: Message | None, values: Sequence[object]) -> str:
        """Keep what a loop has set when it comes to a message, or ends."""
        self._kept[loop, None if message is None else self._indices[id(message)]] = values
        return ""

    def find(self, index: int) -> tuple[int, str] | None:
        """Return where the conversation up to a message ends in what was written, and the prompt behind it.

        None where that is not known: what a later message sets could change its beginning.
        """
        ends = {loop: values for (loop, at), values in self._kept.items() if at is None}
        is_same = all(_are_equal(self._kept.get((loop, index), ()), values) for loop, values in ends.items())
        return self._noted.get(index) if is_same else None


def _are_equal(some: Sequence[object], others: Sequence[object]) -> bool:
    return len(some) == len(others) and all(map(_is_equal, some, others))


def _is_equal(one: object, other: object) -> bool:
    """Return True if two values of a template are equal, texts with who wrote each character."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, str) and isinstance(other, str):
        same = str.__str__(one) == str.__str__(other)
        return same and getattr(one, "_runs", None) == getattr(other, "_runs", None)
    return isinstance(one, int) and one == other
