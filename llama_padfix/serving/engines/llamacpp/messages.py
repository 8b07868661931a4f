"""What llama-server makes of a request before the template gets it: common/chat.cpp of llama.cpp 0.5.0."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llama_padfix.serving.engines.llamacpp.capabilities import probe
from llama_padfix.serving.rendering.chat import Chat, Quirk
from llama_padfix.serving.rendering.messages import change_messages, change_tools

_KEPT = ("name", "tool_call_id")


def find_refusal(chat: Chat) -> str | None:
    """Return why common_chat_msgs_parse_oaicompat refuses a request; None where it does not."""
    for message in chat.messages:
        content = message.get("content")
        if content is not None and not isinstance(content, (str, list)):
            return "Failed to parse messages: Invalid 'content' type: expected string or array"
        for part in content if isinstance(content, list) else ():
            if _as_object(part).get("type") not in ("text", "media_marker"):
                return "Failed to parse messages: Unsupported content part type"
        if "content" not in message and "tool_calls" not in message:
            return "Failed to parse messages: Expected 'content' or 'tool_calls'"
        for call in message.get("tool_calls") or ():
            function = _as_object(_as_object(call).get("function"))
            if _as_object(call).get("type") != "function" or not {"name", "arguments"} <= {*function}:
                return "Failed to parse messages: Missing tool call type, function, name or arguments"
    return None


def _add_date(chat: Chat) -> Chat:
    """Pass today's date, as common_chat_extra_context does: for every template, whatever it sets by default."""
    import datetime

    day = chat.day or datetime.date.today()
    given = {"datetime": day.strftime("%b %d %Y"), "date_string": day.strftime("%d %b %Y")}
    read = {name: text for name, text in given.items() if name in chat.source and name not in chat.kwargs}
    return replace(chat, kwargs={**chat.kwargs, **read}) if read else chat


def _switch_thinking_on(chat: Chat) -> Chat:
    if "enable_thinking" not in chat.source or "enable_thinking" in chat.kwargs:
        return chat
    return replace(chat, kwargs={**chat.kwargs, "enable_thinking": True})


def _rebuild(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message as common_chat_msg::to_json_oaicompat writes it: the keys that it knows, in its order."""
    content = message.get("content")
    built: dict[str, Any] = {"role": message["role"], "content": "" if content is None else content}
    if isinstance(content, list):
        built["content"] = [{"type": part.get("type"), "text": part.get("text")} for part in map(_as_object, content)]
    if message.get("reasoning_content"):
        built["reasoning_content"] = message["reasoning_content"]
    built.update({key: message[key] for key in _KEPT if message.get(key)})
    calls = message.get("tool_calls")
    if isinstance(calls, list) and calls:
        built["tool_calls"] = [_rebuild_call(_as_object(call)) for call in calls]
    return built


def _as_object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _rebuild_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = _as_object(call.get("function"))
    arguments = function.get("arguments")
    if not isinstance(arguments, str):  # nlohmann's dump
        arguments = json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))
    built = {"type": "function", "function": {"name": function.get("name"), "arguments": arguments}}
    return {**built, "id": call["id"]} if call.get("id") else built


def _rebuild_tool(tool: Any) -> Any:  # a tool's schema
    """Return a tool with name, description and parameters alone."""
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping):
        return tool
    named = {"name": function.get("name"), "description": function.get("description", "")}
    return {"type": "function", "function": {**named, "parameters": function.get("parameters", {})}}


def _convert_content(chat: Chat) -> Chat:
    """Join parts with line breaks for a template that reads texts alone, and wrap texts for one that reads parts."""
    able = probe(chat.source)
    if able.reads_text == able.reads_parts:
        return chat

    def change(message: Mapping[str, Any]) -> dict[str, Any]:
        content = message.get("content")
        if able.reads_text and isinstance(content, list):
            content = "\n".join(str(_as_object(part).get("text") or "") for part in content)
        elif able.reads_parts and isinstance(content, str):
            content = [{"type": "text", "text": content}]
        return {**message, "content": content} if "content" in message else dict(message)

    return change_messages(change)(chat)


def _rename_roles(chat: Chat) -> Chat:
    """Make developer messages system ones, but for gpt-oss; join a system message that is not written to the next."""
    messages = list(chat.messages)
    if "<|channel|>" not in chat.source:
        messages = [{**m, "role": "system"} if m["role"] == "developer" else m for m in messages]
    if messages and messages[0]["role"] == "system" and not probe(chat.source).writes_system:
        first, rest = messages[0], messages[1:]
        if rest and isinstance(first["content"], str) and isinstance(rest[0].get("content"), str):
            rest[0] = {**rest[0], "content": f"{first['content']}\n{rest[0]['content']}"}
        messages = rest
    return chat if messages == list(chat.messages) else replace(chat, messages=messages)


def _parse_arguments(chat: Chat) -> Chat:
    """Parse the arguments of calls for a template that reads objects; others get them as text."""
    if not probe(chat.source).reads_objects:
        return chat

    def parse(call: Mapping[str, Any]) -> dict[str, Any]:
        function = call["function"]
        try:
            held = json.loads(function["arguments"])
        except ValueError:
            return dict(call)  # llama-server refuses the request
        return {**call, "function": {**function, "arguments": held}}

    def change(message: Mapping[str, Any]) -> dict[str, Any]:
        if "tool_calls" not in message:
            return dict(message)
        return {**message, "tool_calls": [parse(call) for call in message["tool_calls"]]}

    return change_messages(change)(chat)


def _rebuild_messages(chat: Chat) -> Chat:
    """Rebuild each message; arguments become texts, as llama-server holds them, and objects again where they are read.

    Both are one step, since the cause is not the round trip but where it ends.
    """
    return _parse_arguments(change_messages(_rebuild)(chat))


DATE = Quirk("date", _add_date)
THINKING = Quirk("thinking switch", _switch_thinking_on)
MESSAGES = Quirk("message keys", _rebuild_messages)
PARTS = Quirk("content parts", _convert_content)
ROLES = Quirk("roles", _rename_roles)
TOOLS = Quirk("tools", change_tools(_rebuild_tool))
