"""What a chat message holds, in whatever form: the texts of its content, its calls, the texts inside any value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llama_padfix.core.types import Message


def content_texts(content: object) -> list[str]:
    """Return the texts of a message's content: itself, or those of its parts."""
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, Mapping) else part for part in parts]
    return [text for text in texts if isinstance(text, str)]


def holds_parts(message: Mapping[str, object]) -> bool:
    """Return True for a message whose content is several parts, which a template writes one by one, or joins."""
    content = message.get("content")
    return isinstance(content, list) and len(content) > 1


def called_functions(message: Message) -> Iterator[Mapping[str, object]]:
    """Yield the function of each tool call, which is the call itself where nothing is nested in it."""
    for call in message.get("tool_calls") or ():
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if isinstance(function, Mapping):
            yield function


def texts_in(value: object) -> Iterator[str]:
    """Yield all texts inside a value, keys included, at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key)
            yield from texts_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from texts_in(item)
