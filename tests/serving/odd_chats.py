"""Messages and tools with every key that a typed request treats, for a template that shows what reaches it."""

from __future__ import annotations

from typing import Any

SHOW = "{% for m in messages %}{{ m|tojson }}\n{% endfor %}{{ tools|tojson }}"
SHOW_PARTS = (
    "{% for m in messages %}{% for part in m.content %}{% endfor %}{{ m|tojson }}\n{% endfor %}{{ tools|tojson }}"
)
_ASK = {"role": "user", "content": "Hi"}
_PARTS = [{"type": "text", "text": "a "}, {"type": "text", "text": "b", "cache_control": {"type": "x"}}]


def _call(function: object, **more: object) -> dict[str, Any]:
    calls = [{"id": "1", "type": "function", "function": function, **more}]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def _answer(**more: object) -> dict[str, Any]:
    return {"role": "assistant", "content": "A", **more}


_CALL = _call({"name": "f", "arguments": "{}"})
_MESSAGES: dict[str, list[dict[str, Any]]] = {
    "keys that nothing reads": [{"role": "user", "content": "Hi", "name": "Ann", "weight": 1, "train": False}],
    "keys in another order": [{"content": "Hi", "role": "user"}, _answer(), {"content": "C", "role": "user"}],
    "a name": [_ASK, _answer(name="bot"), _ASK],
    "null content": [_ASK, _answer(content=None), _ASK],
    "no content": [_ASK, {"role": "assistant", "tool_calls": _CALL["tool_calls"]}, _ASK],
    "parts": [{"role": "system", "content": _PARTS}, {"role": "user", "content": _PARTS}],
    "parts of an answer": [_ASK, _answer(content=_PARTS), _ASK],
    "parts of a tool": [_ASK, _CALL, {"role": "tool", "tool_call_id": "1", "content": _PARTS}],
    "no parts": [{"role": "user", "content": []}],
    "two systems": [{"role": "system", "content": "A"}, _ASK, {"role": "system", "content": "B"}],
    "a developer": [{"role": "developer", "content": "A"}, _ASK],
    "a developer in between": [{"role": "system", "content": "A"}, _ASK, {"role": "developer", "content": "B"}, _ASK],
    "a developer of parts": [{"role": "system", "content": _PARTS}, {"role": "developer", "content": _PARTS}, _ASK],
    "a thought": [_ASK, _answer(reasoning="T"), _ASK],
    "a thought by its old name": [_ASK, _answer(reasoning_content="T"), _ASK],
    "two thoughts": [_ASK, _answer(reasoning="T", reasoning_content="U"), _ASK],
    "a thought of a user": [{**_ASK, "reasoning": "T"}],
    "no calls": [_ASK, _answer(tool_calls=[]), _ASK],
    "null calls": [_ASK, _answer(tool_calls=None), _ASK],
    "arguments": [
        _ASK,
        _call({"name": "f", "arguments": {"b": 1.0, "10": 1e-07, "2": 2**60, "a": [True, None, "é"]}}),
    ],
    "arguments in another order": [_ASK, _call({"arguments": '{"a": 1}', "name": "f"}, index=0)],
    "arguments as text": [_ASK, _call({"name": "f", "arguments": '{"a": {"b": [1, 2.50]}}'})],
    "empty arguments": [_ASK, _call({"name": "f", "arguments": ""})],
    "arguments that are no object": [_ASK, _call({"name": "f", "arguments": "[1]"})],
    "arguments that are no JSON": [_ASK, _call({"name": "f", "arguments": "{a"})],
    "a call with more keys": [_ASK, _call({"name": "f", "arguments": "{}", "more": 1}, more=2)],
    "a tool with a name": [_ASK, _CALL, {"role": "tool", "name": "f", "tool_call_id": "1", "content": "x"}],
}
_FUNCTIONS: dict[str, dict[str, Any]] = {
    "plain": {"name": "f", "description": "d", "parameters": {"type": "object", "b": 1, "a": 2}},
    "with null": {"name": "f", "description": None, "parameters": None, "strict": None},
    "strict": {"strict": True, "name": "f", "description": "d", "parameters": {}},
    "not strict": {"name": "f", "strict": False},
    "with more keys": {"name": "f", "more": 2, "return": {}, "parameters": {}},
}
_TOOLS: dict[str, dict[str, Any]] = {
    **{name: {"type": "function", "function": function} for name, function in _FUNCTIONS.items()},
    "in another order": {"function": {"parameters": {}, "description": "d", "name": "f"}, "type": "function"},
    "with one more key": {"type": "function", "more": 1, "function": {"name": "f", "parameters": {}}},
    "without a type": {"function": {"name": "f", "parameters": {}}},
    "deferred": {"type": "function", "defer_loading": True, "function": {"name": "f", "parameters": {}}},
}
ODD_CHATS: dict[str, dict[str, Any]] = {
    **{name: {"messages": messages} for name, messages in _MESSAGES.items()},
    **{f"a tool {name}": {"messages": [_ASK], "tools": [tool]} for name, tool in _TOOLS.items()},
}
"""By name: messages, and tools where there are some."""
