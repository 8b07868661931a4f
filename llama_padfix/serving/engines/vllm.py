"""vLLM by the rules of its sources at 0.33: the jinja2 of transformers, after its own reading of the messages.

Read: renderers/hf.py, renderers/online_renderer.py, renderers/chat_utils (messages, parts, calls),
entrypoints/openai (tools), v1/engine/input_processor.py, sampling_params.py, config/model.py (stops, sampling). What
the first two make of a request is compared with the rules in `tests/serving/test_python_engines.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llama_padfix.serving.engines.engine import Engine
from llama_padfix.serving.engines.files import (
    SAMPLING,
    config_eos,
    describe_rules,
    generation_eos,
    merge,
    sampling_of,
    tokenizer_eos,
)
from llama_padfix.serving.rendering.chat import Chat, Quirk
from llama_padfix.serving.rendering.content_format import reads_parts
from llama_padfix.serving.rendering.messages import (
    change_messages,
    change_tools,
    join_parts,
    parse_arguments,
)
from llama_padfix.serving.rendering.quirks import NO_ALIAS, NO_ARGUMENTS, UNPINNED_DATE

if TYPE_CHECKING:
    from llama_padfix.core.types import Message, MessageDict
    from llama_padfix.serving.folder import ServedFolder

READ_AT = "0.33"
_ORDER = ("role", "content", "tool_calls", "reasoning", "reasoning_content", "tool_call_id", "name", "task", "tools")
_ROLES = {
    "tool_calls": "assistant",
    "reasoning": "assistant",
    "reasoning_content": "assistant",
    "tool_call_id": "tool",
    "tools": "developer",
}
"""The one role whose messages keep a key; the other keys stay in all."""


def _read_thought(message: Message) -> MessageDict:
    """Return a message of the assistant with its thought under both names: `reasoning` goes before the other."""
    kept = {key: value for key, value in message.items() if key not in ("reasoning", "reasoning_content", "thinking")}
    thought = message.get("reasoning")
    thought = message.get("reasoning_content") if thought is None else thought
    if thought is not None and message.get("role") == "assistant":
        kept |= {"reasoning": thought, "reasoning_content": thought}
    return kept


def _keep_known(message: Message) -> MessageDict:
    role = message.get("role")
    always = ("content", "tools") if role == "developer" else ("content",)
    kept = {key: message.get(key) for key in _ORDER if key in message or key in always}
    kept = {key: value for key, value in kept.items() if _ROLES.get(key, role) == role}
    calls = kept.get("tool_calls")
    return {**kept, "tool_calls": [*map(_order_call, calls)]} if isinstance(calls, list) else kept


def _order_call(call: Any) -> Any:  # a call of a user's row
    """Return a call with its keys in the order of the typed request, the others behind."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        return call
    first = {"function": {**_pick(function, ("arguments", "name")), **function}}
    return {**_pick(call, ("id",)), **first, **_pick(call, ("type",)), **call, **first}


def _pick(held: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: held[key] for key in keys if key in held}


def _as_text(message: Message) -> MessageDict:
    content = message.get("content")
    return {**message, "content": "" if content is None else join_parts(content, "\n")}


def _as_parts(message: Message) -> MessageDict:
    content = message.get("content")
    if message.get("role") == "tool":
        return _as_text(message)
    if content is None:
        return {**message, "content": []}
    return {**message, "content": [{"type": "text", "text": content}]} if isinstance(content, str) else dict(message)


_TEXT, _PARTS = change_messages(_as_text), change_messages(_as_parts)


def _read_content(chat: Chat) -> Chat:
    return _PARTS(chat) if reads_parts(chat.source) else _TEXT(chat)


def _call_system(chat: Chat) -> Chat:
    """Return a chat whose developer speaks as the system where the template does not name the role.

    All that the system says is then one message in front.
    """
    known = "'developer'" in chat.source or '"developer"' in chat.source
    if known or all(message.get("role") != "developer" for message in chat.messages):
        return chat
    system: list[str] = []
    others: list[MessageDict] = []
    moved = False
    for number, message in enumerate(chat.messages):
        if message.get("role") not in ("developer", "system"):
            others.append(dict(message))
            continue
        moved = moved or number > 0
        text = join_parts(message.get("content"), "\n")
        system += [str(text)] if text else []
    if moved:
        return replace(chat, messages=[{"role": "system", "content": "\n\n".join(system)}, *others])
    first = {key: value for key, value in chat.messages[0].items() if key != "tools"}
    return replace(chat, messages=[{**first, "role": "system"}, *others])


def _type_tool(tool: Any) -> Any:  # a tool's schema
    """Return a tool as the typed request dumps it: known keys in one order."""
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping):
        return tool
    deferred = {"defer_loading": tool["defer_loading"]} if tool.get("defer_loading") is not None else {}
    more = {**deferred, **function}
    typed = {key: function.get(key) for key in ("name", "description", "parameters")}
    typed |= {key: more[key] for key in ("strict", "defer_loading") if more.get(key) is not None}
    return {"type": tool.get("type", "function"), "function": typed, **deferred}


def _parse_calls(message: Message) -> MessageDict:
    if isinstance(message.get("tool_calls"), list) and not message["tool_calls"]:
        return {key: value for key, value in message.items() if key != "tool_calls"}
    return parse_arguments(message, fallback={})


QUIRKS = (
    UNPINNED_DATE,
    NO_ARGUMENTS,
    NO_ALIAS,
    Quirk("thought key", change_messages(_read_thought)),
    Quirk("message keys", change_messages(_keep_known)),
    Quirk("call arguments", change_messages(_parse_calls)),
    Quirk("content parts", _read_content),
    Quirk("roles", _call_system),
    Quirk("tools", change_tools(_type_tool)),
)


def open_engine(folder: ServedFolder) -> Engine:
    """Return vLLM with a folder opened."""
    in_generation = generation_eos(folder)
    second = "generation_config.json" if folder.generation_config else "config.json"
    own_format = folder.config.get("model_type") == "gpt_oss"
    return Engine(
        "vllm",
        describe_rules("vllm", READ_AT, "prompts as its own code makes them; stops read, not run"),
        folder.template,
        folder.template_file_name,
        QUIRKS,
        stops=merge(
            tokenizer_eos(folder),
            in_generation if folder.generation_config else config_eos(folder),
            source=f"tokenizer_config.json, {second}",
        ),
        sampling=sampling_of(folder, (*SAMPLING, "max_new_tokens")),
        compares=not own_format,
        notes=("it writes gpt-oss prompts by a library of its own, which is not compared",) if own_format else (),
    )
