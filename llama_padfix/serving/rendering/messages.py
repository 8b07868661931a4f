"""What servers do to messages and tools before a template gets them, as parts of quirks."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llama_padfix.serving.rendering.chat import Chat

if TYPE_CHECKING:
    from llama_padfix.core.types import Message, MessageDict


def change_messages(change: Callable[[Message], MessageDict]) -> Callable[[Chat], Chat]:
    """Return the part of a quirk that changes each message; a chat in which none changes stays the same object."""

    def on_chat(chat: Chat) -> Chat:
        changed = [change(message) for message in chat.messages]
        return chat if all(map(_same, changed, chat.messages)) else replace(chat, messages=changed)

    return on_chat


def _same(one: object, other: object) -> bool:
    """Return True for values that a template cannot tell apart: also the order of keys counts."""
    if one is other:
        return True
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return list(one) == list(other) and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and one == other


def join_parts(content: object, separator: str) -> object:
    """Return parts of text as one text; any other content as it is."""
    if not isinstance(content, list):
        return content
    return separator.join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))


def parse_arguments(message: Message, *, fallback: object = None, only_objects: bool = True) -> MessageDict:
    """Return a message whose calls have their arguments as objects.

    Args:
        message: The message.
        fallback: What stands for a text that is no JSON object; None to keep the text.
        only_objects: Whether other JSON than an object counts as none.
    """
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return dict(message)
    parsed = []
    for call in calls:
        function = call.get("function") if isinstance(call, Mapping) else None
        if isinstance(function, Mapping) and isinstance(function.get("arguments"), str):
            call = {
                **call,
                "function": {**function, "arguments": _parse(function["arguments"], fallback, only_objects)},
            }
        parsed.append(call)
    return {**message, "tool_calls": parsed}


def _parse(text: str, fallback: object, only_objects: bool) -> object:
    try:
        held = json.loads(text)
        if isinstance(held, dict) or not only_objects:
            return held
    except ValueError:
        pass
    return text if fallback is None else fallback


# `Any`: a tool's schema.
def change_tools(change: Callable[[Any], Any]) -> Callable[[Chat], Chat]:  # `Any`: a tool's schema
    """Return the part of a quirk that changes each tool."""

    def on_chat(chat: Chat) -> Chat:
        if not chat.tools:
            return chat
        changed = [change(tool) for tool in chat.tools]
        return chat if _same(changed, list(chat.tools)) else replace(chat, tools=changed)

    return on_chat
