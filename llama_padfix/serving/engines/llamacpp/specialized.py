"""What llama.cpp does for templates that it knows by their source: common_chat_try_specialized_template of 0.5.0.

Of common/chat.cpp and common/parsers/: gpt-oss and LFM2 get thoughts under the key `thinking`, Ministral 3 as parts,
an older Gemma 4 template gets calls and results as one message, and two tests are cut out of a template's source.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from llama_padfix.serving.rendering.chat import Chat, Quirk

_CUT = (
    (
        ("<|channel|>", "in message.content or"),
        '{%- if "<|channel|>analysis<|message|>" in message.content or '
        '"<|channel|>final<|message|>" in message.content %}',
    ),
    (
        ("[TOOL_CALLS]", "if (message['content'] is none or"),
        "{%- if (message['content'] is none or message['content'] == '' or message['content']|length == 0) and "
        "(message['tool_calls'] is not defined or message['tool_calls'] is none or "
        "message['tool_calls']|length == 0) %}",
    ),
)
"""Texts that a source must hold, and what is replaced by `{%- if false %}` there."""


def _cut_tests(chat: Chat) -> Chat:
    source = chat.source
    for needed, test in _CUT:
        if all(text in source for text in needed):
            source = source.replace(test, "{%- if false %}")
    return chat if source == chat.source else replace(chat, source=source)


def _adjust(chat: Chat) -> Chat:
    messages = _adjust_messages(chat.source, chat.messages)
    return chat if messages is chat.messages else replace(chat, messages=messages)


def _adjust_messages(source: str, messages: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Return the messages as the first family that fits gets them, in the order in which llama.cpp asks."""
    holds = source.__contains__
    if holds("[SYSTEM_PROMPT]") and holds("[TOOL_CALLS]") and holds("[ARGS]") and not holds("[CALL_ID]"):
        return [_as_parts(message) for message in messages]
    if holds("<|channel|>"):
        return [_copy_thought(message, drops_content=True) for message in messages]
    if _is_lfm2(source):
        return [_copy_thought(message, drops_content=False) for message in messages]
    if holds("'<|tool_call>call:'") and not holds("{#- OpenAI Chat Completions:"):
        return _join_results(messages)
    return messages


def _is_lfm2(source: str) -> bool:
    tools = ("<|tool_list_start|>" in source, "List of tools: [" in source)
    return tools == (False, True) or (tools[0] and "<|tool_list_end|>" in source)


def _copy_thought(message: Mapping[str, Any], *, drops_content: bool) -> dict[str, Any]:
    if not isinstance(message.get("reasoning_content"), str):
        return dict(message)
    copied = {**message, "thinking": message["reasoning_content"]}
    if drops_content and message.get("tool_calls"):
        copied.pop("content", None)
    return copied


def _as_parts(message: Mapping[str, Any]) -> dict[str, Any]:
    if message["role"] not in ("system", "assistant"):
        return dict(message)
    kept = {key: value for key, value in message.items() if key != "reasoning_content"}
    parts: list[Any] = []
    if isinstance(message.get("reasoning_content"), str):
        parts.append({"type": "thinking", "thinking": message["reasoning_content"]})
    content = message.get("content")
    parts += [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    return {**kept, "content": parts}


def _join_results(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Join a message with calls, the results behind it, and the answer to those, into one message."""
    joined, at = list[Mapping[str, Any]](), 0
    while at < len(messages):
        first = messages[at]
        at += 1
        if first["role"] != "assistant" or not first.get("tool_calls"):
            joined.append(first)
            continue
        calls, results = first["tool_calls"], list[dict[str, Any]]()
        while at < len(messages) and messages[at]["role"] == "tool":
            results.append(_read_result(messages[at], calls[len(results)] if len(results) < len(calls) else {}))
            at += 1
        built: dict[str, Any] = {"role": "assistant", "tool_calls": calls}
        if results:
            built["tool_responses"] = results
        answer = messages[at] if at < len(messages) else {"role": ""}
        if answer["role"] == "assistant" and answer.get("content") and not answer.get("tool_calls"):
            built["content"] = answer["content"]
            at += 1
        if isinstance(first.get("reasoning_content"), str):
            built["reasoning_content"] = first["reasoning_content"]
        joined.append(built)
    return joined


def _read_result(message: Mapping[str, Any], call: Mapping[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if isinstance(content, str):
        try:
            content = json.loads(content)
        except ValueError:
            content = message["content"]
    name = call.get("function", {}).get("name") or message.get("tool_call_id", "")
    return {"name": name, "response": content}


SOURCE = Quirk("rewritten source", _cut_tests)
FAMILY = Quirk("message keys", _adjust)
