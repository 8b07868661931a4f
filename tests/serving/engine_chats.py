"""Chats that engines render differently, and TRL's templates: what recorded outputs of real engines were made of."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import trl

from llama_padfix.serving.rendering.chat import Chat, RenderRefusedError
from llama_padfix.serving.rendering.render import render_chat

FOLDER = Path(trl.__file__).parent / "chat_templates"
TOKENS = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}

_TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": 'Look <up> & "down", it\'s é',
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "enum": ["Zürich", "b"]},
                "step": {"type": "number", "default": 1.0, "minimum": 1e-07, "10": "ten", "2": None},
            },
            "required": ["city"],
        },
    },
}
_ASK: dict[str, Any] = {"role": "user", "content": "Where's Zürich?"}
_RESULT = {"role": "tool", "name": "look_up", "tool_call_id": "call00001", "content": '{"b": 1.0, "a": "<x>"}'}


def _call(arguments: object, **more: object) -> dict[str, Any]:
    function = {"name": "look_up", "arguments": arguments}
    calls = [{"id": "call00001", "type": "function", "function": function}]
    return {"role": "assistant", "content": "", "tool_calls": calls, **more}


def _say(*texts: Any) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


CHATS: dict[str, dict[str, Any]] = {
    "plain": {"messages": _say("Hi", "Hello.", "It's <b> & 'q' {{ x }}")},
    "system": {"messages": [{"role": "system", "content": "Be brief."}, *_say("Hi")]},
    "empty system": {"messages": [{"role": "system", "content": ""}, *_say("Hi")]},
    "blanks": {"messages": _say("  a\n\n", "\n b \n", "\u00a0c\u3000\u2003")},
    "control blanks": {"messages": _say("\x1cmark\x1f", "fine\x85", "\ufeffagain\x0b")},
    "parts": {"messages": _say([{"type": "text", "text": "one "}, {"type": "text", "text": "two"}], "A", "B")},
    "thought": {
        "messages": [*_say("2+2?"), {"role": "assistant", "reasoning_content": "Two.", "content": "4"}, *_say("3+3?")]
    },
    "thought by another key": {
        "messages": [*_say("2+2?"), {"role": "assistant", "thinking": "Two.", "content": "4"}, *_say("3+3?")]
    },
    "thought in text": {"messages": _say("2+2?", "<think>\nTwo.\n</think>\n\n4", "3+3?")},
    "developer": {"messages": [{"role": "developer", "content": "Be brief."}, *_say("Hi")]},
    "tools": {"messages": [_ASK], "tools": [_TOOL]},
    "call": {"messages": [_ASK, _call({"city": "Zürich", "step": 0.5}), _RESULT], "tools": [_TOOL]},
    "call as text": {"messages": [_ASK, _call('{"city": "Zürich"}'), _RESULT], "tools": [_TOOL]},
    "numbers": {
        "messages": [_ASK, _call({"b": 1.0, "10": 1e-07, "2": 2**60, "a": [1e22, True, None, -0.5, 1e-05]}), _RESULT]
    },
    "null content": {"messages": [_ASK, _call({"city": "b"}, content=None), _RESULT], "tools": [_TOOL]},
    "call and text": {"messages": [_ASK, _call({}, content="I look."), _RESULT, *_say("Thanks", "Yes", "x")[1:]]},
}
"""By name: messages, and tools where there are some."""


def sources() -> dict[str, str]:
    """Return the templates that TRL ships for inference, by name."""
    paths = [path for path in sorted(FOLDER.glob("*.jinja")) if not path.stem.endswith("_training")]
    return {path.stem: path.read_text(encoding="utf-8") for path in paths}


def pairs(known: Container[str] = ()) -> Iterator[tuple[str, Chat]]:
    """Yield each template with each chat that jinja2 renders, under a name that holds what both are made of.

    Those of `known` names are not rendered.
    """
    for template, source in sources().items():
        for name, given in CHATS.items():
            chat = Chat(given["messages"], given.get("tools"), source=source, tokens=TOKENS)
            key = f"{template}/{name}/{short_hash(source + repr(given))}"
            try:
                if key not in known:
                    render_chat(chat)
                yield key, chat
            except RenderRefusedError:
                continue


def short_hash(text: str) -> str:
    """Return the first 12 digits of the SHA-256 of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
