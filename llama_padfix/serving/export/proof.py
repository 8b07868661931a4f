"""Whether a changed template writes the trained texts: rendered for each conversation and each point of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from llama_padfix.serving.rendering.chat import Chat, RenderRefusedError
from llama_padfix.serving.rendering.render import render_chat

if TYPE_CHECKING:
    from llama_padfix.serving.engines.engine import Engine

_JUDGED = 120  # conversations that each engine renders for each change


@dataclass(frozen=True)
class Expected:
    """A conversation, and the text that the training renders."""

    chat: Chat

    text: str | None
    """None where the template refuses it."""

    request: Mapping[str, object] = field(default_factory=dict)
    """The arguments of the template that a request has to pass."""


def expect_texts(chats: Sequence[Chat]) -> list[Expected]:
    """Return each conversation with the text of the training."""
    return [Expected(chat, _render(chat), chat.kwargs) for chat in chats]


def writes_the_same(source: str, expected: Sequence[Expected]) -> bool:
    """Return True if a template writes every text of the training, on any day, with the arguments of each request."""
    return all(_render(replace(one.chat, source=source, kwargs=one.request)) == one.text for one in expected)


class Judge:
    """Counts for each engine the generation points at which it renders another text than the training."""

    def __init__(self, engines: Sequence[Engine], expected: Sequence[Expected]) -> None:
        points = [one for one in expected if one.chat.add_generation_prompt and one.text is not None]
        self._engines = [engine for engine in engines if engine.compares]
        self._points = points[:: -(-len(points) // _JUDGED) or 1]

    def count(self, source: str) -> list[int]:
        """Return how many points differ, engine by engine."""
        return [sum(map(int, self._differ(engine, source))) for engine in self._engines]

    def _differ(self, engine: Engine, source: str) -> list[bool]:
        differ = []
        for one in self._points:
            try:
                differ.append(engine.render(replace(one.chat, source=source, kwargs={})) != one.text)
            except RenderRefusedError:
                differ.append(True)
        return differ


def _render(chat: Chat) -> str | None:
    try:
        return render_chat(chat)
    except RenderRefusedError:
        return None
