"""vLLM by the rules of its sources at 0.33: the jinja2 of transformers, after its own reading of the messages.

Read: renderers/hf.py, renderers/online_renderer.py, renderers/chat_utils (messages, parts, calls),
entrypoints/openai (tools), v1/engine/input_processor.py, sampling_params.py, config/model.py (stops, sampling).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    keep_keys,
    order_function,
    parse_arguments,
)
from llama_padfix.serving.rendering.quirks import NO_ALIAS, NO_ARGUMENTS, UNPINNED_DATE

if TYPE_CHECKING:
    from llama_padfix.core.types import Message, MessageDict
    from llama_padfix.serving.folder import ServedFolder

READ_AT = "0.33"
_KEYS = {"assistant": ("role", "content", "tool_calls", "name"), "tool": ("role", "content", "tool_call_id", "name")}


def _read_thought(message: Message) -> MessageDict:
    """Return a message of the assistant with the thought of its key `reasoning`, under both names, and no other."""
    kept = {key: value for key, value in message.items() if key not in ("reasoning", "reasoning_content", "thinking")}
    thought = message.get("reasoning")
    if thought is not None and message.get("role") == "assistant":
        kept |= {"reasoning": thought, "reasoning_content": thought}
    return kept


def _keep_known(message: Message) -> MessageDict:
    known = _KEYS.get(str(message.get("role")), ("role", "content", "name", "tools", "task"))
    return keep_keys(message, (*known, "reasoning", "reasoning_content"))


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


def _type_tool(tool: object) -> object:
    return order_function(tool, ("name", "description", "parameters"), {"description": None, "parameters": None})


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
    Quirk("tools", change_tools(_type_tool)),
)


def open_engine(folder: ServedFolder) -> Engine:
    """Return vLLM with a folder opened."""
    in_generation = generation_eos(folder)
    second = "generation_config.json" if folder.generation_config else "config.json"
    own_format = folder.config.get("model_type") == "gpt_oss"
    return Engine(
        "vllm",
        describe_rules("vllm", READ_AT),
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
