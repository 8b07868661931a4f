"""A shape of conversations: messages and tools in which holes stand for what their rows say."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from llama_padfix.chat.messages import holds_parts
from llama_padfix.chat.symbolic import render_with_holes
from llama_padfix.chat.symbolic_slots import Hole, Joined, fill_holes, find_holes
from llama_padfix.chat.traced_render import alias_reasoning
from llama_padfix.chat.traced_str import TOOLS
from llama_padfix.encoding.batch.literals import Literals, render_literals
from llama_padfix.encoding.batch.render_plan import PROBES

if TYPE_CHECKING:
    from llama_padfix.chat.render import ChatTemplate
    from llama_padfix.core.types import MessageDict


@dataclass(frozen=True)
class Shape:
    """Messages and tools with holes, and the trained messages."""

    template: ChatTemplate
    messages: Sequence[MessageDict]
    tools: list[Any] | None  # holes, or tools
    trained: Sequence[int]
    written_arguments: Collection[int] = ()
    """The places of arguments that are JSON text."""

    @cached_property
    def assistants(self) -> list[int]:
        """The messages of the assistant."""
        return [index for index, message in enumerate(self.messages) if message["role"] == "assistant"]

    @property
    def holds_parts(self) -> bool:
        """Whether a message is in several parts."""
        return any(map(holds_parts, self.messages))

    @cached_property
    def owners(self) -> dict[int, int]:
        """The message of each hole, by its place; `TOOLS` for the schema of a tool."""
        owners = {hole.place: index for index, message in enumerate(self.messages) for hole in find_holes(message)}
        return {**owners, **{hole.place: TOOLS for hole in find_holes(self.tools)}}

    @cached_property
    def numbers(self) -> set[int]:
        """The places of numbers."""
        return {hole.place for hole in find_holes([*self.messages]) if hole.kind in (int, float)}

    @cached_property
    def parts_texts(self) -> bool:
        """Whether a text is parted at the tags of its thought."""
        return any(isinstance(value, Joined) for message in self.messages for value in message.values())

    def render(self, count: int | None = None, prompt: bool = False) -> Literals | None:
        """Return what the template writes around the holes of the first `count` messages."""
        messages = alias_reasoning(self.messages[:count])

        def render(source: str, context: Mapping[str, object], clock: bool) -> Literals:
            return Literals(*render_with_holes(source, messages, self.tools, context, clock))

        return render_literals(self.template, render, prompt, self.tools)

    def probe(self, number: int) -> tuple[list[MessageDict], list[Any] | None, dict[int, str]]:
        """Return a conversation of this shape, its tools, and its texts by their places."""
        values: dict[int, object] = {}

        def fill(hole: Hole) -> object:
            text = PROBES[(hole.place + number) % 2].format(hole.place)
            made = {f"probe_{hole.place}": text, "name": [number, text]}
            is_json = hole.place in self.written_arguments
            known = {dict: made, int: hole.place * 7 ** (5 * number), float: hole.place + 0.25 / 2 ** (9 * number)}
            values[hole.place] = known.get(hole.kind, json.dumps(made) if is_json else text)
            return values[hole.place]

        messages, tools = fill_holes(list(self.messages), fill), fill_holes(self.tools, fill)
        texts = {
            place: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for place, value in values.items()
        }
        return messages, tools, texts
