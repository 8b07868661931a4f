"""Whether a changed template writes the trained texts: rendered for each conversation and each point of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from llama_padfix.serving.rendering.chat import Chat, RenderRefusedError
from llama_padfix.serving.rendering.render import render_chat


@dataclass(frozen=True)
class Expected:
    """A conversation, and the text that the training renders; None where the template refuses it."""

    chat: Chat
    text: str | None


def expect_texts(chats: Sequence[Chat]) -> list[Expected]:
    """Return each conversation with the text of the training."""
    return [Expected(chat, _render(chat)) for chat in chats]


def writes_the_same(source: str, expected: Sequence[Expected]) -> bool:
    """Return True if a template without arguments writes every text of the training, on any day."""
    return all(_render(replace(one.chat, source=source, kwargs={})) == one.text for one in expected)


def _render(chat: Chat) -> str | None:
    try:
        return render_chat(chat)
    except RenderRefusedError:
        return None
