"""What a chat template leaves out of a conversation without an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from llama_padfix.chat.render import Rendered

if TYPE_CHECKING:
    from llama_padfix.core.types import Message, Messages


def find_losses(messages: Messages, rendered: Rendered) -> tuple[str, ...]:
    """Return what the template left out of the turns or wrote as Python code, a sentence each."""
    losses: list[str] = []
    for index, message in enumerate(messages):
        content = message.get("content")
        if isinstance(content, list) and str(content) in rendered.text:
            losses.append(
                f"The chat template knows no text parts and writes those of message {index} as Python code. "
                "Join them: message['content'] = ''.join(part['text'] for part in message['content'])"
            )
    turns: dict[int, str] = {}
    for turn in rendered.turns:
        turns[turn.message] = turns.get(turn.message, "") + rendered.text[turn.start : turn.end]
    for index, text in turns.items():
        for call in messages[index].get("tool_calls") or ():
            function = call.get("function", call) if isinstance(call, Mapping) else {}
            name = function.get("name") if isinstance(function, Mapping) else None
            if isinstance(name, str) and name.isascii() and name not in text:
                losses.append(
                    f"The chat template leaves out the tool call {name!r} of message {index}. "
                    "Use a template that writes tool calls, or write the call into the message's content."
                )
        if rendered.written is not None and index not in rendered.written and _has_text(messages[index]):
            losses.append(
                f"The chat template writes none of the text of message {index}. Use content of the kind that it "
                "reads: a text, or a list of parts [{'type': 'text', 'text': ...}]"
            )
    return tuple(losses)


def _has_text(message: Message) -> bool:
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(str(part.get("text") or "") for part in content if isinstance(part, Mapping))
    if not isinstance(content, str):
        return False
    return bool(content.rpartition("</think>")[2].strip())  # a thought may be left out of the history
