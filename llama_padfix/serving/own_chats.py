"""Chats of the library's own: what engines are known to render differently, for a folder without rows."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

_WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Look up today's weather <by city> & country",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "It's a city"},
                "days": {"type": "integer", "default": 3, "10": "ten"},
                "step": {"type": "number", "default": 1.0, "minimum": 1e-07},
            },
            "required": ["city"],
        },
    },
}
_ASK = {"role": "user", "content": "What's the weather in Zürich?"}
_CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {
            "id": "call00001",
            "type": "function",
            "function": {"name": "get_weather", "arguments": {"city": "Zürich's <old> town", "step": 0.5}},
        }
    ],
}
_RESULT = {"role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": '{"sky": "clear & calm"}'}
_ANSWER = {"role": "assistant", "content": "Clear and calm."}


def _talk(*contents: str, system: str = "") -> dict[str, Any]:
    """Return a row whose contents are a user's and the assistant's by turns."""
    first = [{"role": "system", "content": system}] if system else []
    roles = ("user", "assistant")
    return {"messages": [*first, *({"role": roles[n % 2], "content": text} for n, text in enumerate(contents))]}


# `Any`: rows hold messages and schemas of tools.
OWN_CHATS: MappingProxyType[str, dict[str, Any]] = MappingProxyType(
    {
        "plain": _talk("What is 2 + 2?", "4"),
        "system": _talk("Hi", "Hello.", system="Be brief."),
        "several turns": _talk("Hi", "Hello.", "And 2 + 3?", "5", "Thanks", "You're welcome.", system="Be brief."),
        "white space": _talk(
            "  two lines\n\nand blanks  ", "\n yes \n", "\u00a0and\u3000more\u2003", "\u00a0done\u2003"
        ),
        "control blanks": _talk("\x1cmark\x1f", "fine", "again\x85", "yes"),
        "quotes": _talk("It's <b>\"bold\"</b> & 'raw'", "It's {{ fine }} {% raw %}", "100% {0} %s \\n", "ok"),
        "scripts": _talk("你好 мир e\u0301 🙂\u200d", "שלום"),
        "empty system": {"messages": [{"role": "system", "content": ""}, *_talk("Hi", "Hello.")["messages"]]},
        "long words": _talk("x" * 300, "y" * 300),
        "thoughts": {
            "messages": [
                {"role": "user", "content": "2 + 2?"},
                {"role": "assistant", "reasoning_content": "Two and two.", "content": "4"},
                {"role": "user", "content": "And 3 + 3?"},
                {"role": "assistant", "reasoning_content": "Three and three.", "content": "6"},
            ]
        },
        "thoughts in the text": _talk(
            "2 + 2?", "<think>\nTwo.\n</think>\n\n4", "3 + 3?", "<think>\nSix.\n</think>\n\n6"
        ),
        "parts": {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Hi "}, {"type": "text", "text": "there"}]},
                {"role": "assistant", "content": "Hello."},
                {"role": "user", "content": "Bye"},
                {"role": "assistant", "content": "Bye."},
            ]
        },
        "parts only": {
            "messages": [
                {"role": role, "content": [{"type": "text", "text": text}]}
                for role, text in (("user", "Hi"), ("assistant", "Hello."), ("user", "Bye"), ("assistant", "Bye."))
            ]
        },
        "developer": {"messages": [{"role": "developer", "content": "Be brief."}, *_talk("Hi", "Hello.")["messages"]]},
        "tools without a call": {"messages": [_ASK, _ANSWER], "tools": [_WEATHER]},
        "call": {"messages": [_ASK, _CALL, _RESULT, _ANSWER], "tools": [_WEATHER]},
        "call after a system turn": {
            "messages": [{"role": "system", "content": "Use tools."}, _ASK, _CALL, _RESULT, _ANSWER],
            "tools": [_WEATHER],
        },
        "call with null content": {
            "messages": [_ASK, {**_CALL, "content": None}, _RESULT, _ANSWER],
            "tools": [_WEATHER],
        },
        "call with a thought": {
            "messages": [_ASK, {**_CALL, "reasoning_content": "I should look."}, _RESULT, _ANSWER],
            "tools": [_WEATHER],
        },
        "numbers in a call": {
            "messages": [
                _ASK,
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [
                        {
                            "id": "call00002",
                            "type": "function",
                            "function": {
                                "name": "get_weather",
                                "arguments": {"b": 1.0, "10": 1e-07, "2": 2**60, "a": [1e22, True, None, -0.5]},
                            },
                        }
                    ],
                },
                {**_RESULT, "tool_call_id": "call00002"},
                _ANSWER,
            ],
            "tools": [_WEATHER],
        },
    }
)
"""Rows by name. A template that refuses one leaves it out."""
