"""SGLang by the rules of its sources at 0.5.23: the jinja2 of transformers, after its own reading of the messages.

Read: srt/entrypoints/openai/serving_chat.py and protocol.py, srt/parser/jinja_template_utils.py (messages, tools),
srt/configs/model_config.py, srt/utils/hf_transformers/common.py (stops, sampling).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llama_padfix.serving.engines.engine import Engine
from llama_padfix.serving.engines.files import (
    config_eos,
    describe_rules,
    generation_eos,
    merge,
    sampling_of,
    tokenizer_eos,
)
from llama_padfix.serving.rendering.chat import Chat, Quirk
from llama_padfix.serving.rendering.content_format import reads_parts_as_sglang
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

READ_AT = "0.5.23"
NAMED_STOPS = ("<|eom_id|>", "<|content_model_end_sampling|>", "<|ifm|im_end|>")
"""Tokens at which it stops wherever the vocabulary has them."""

_KEYS = ("role", "content", "tool_call_id", "name", "reasoning_content", "tool_calls", "tools")


def _keep_known(message: Message) -> MessageDict:
    if message.get("role") == "user":
        return keep_keys(message, ("role", "content"))
    kept = {key: message[key] for key in _KEYS if key in message}
    calls = kept.get("tool_calls")
    return {**kept, "tool_calls": [*map(_type_call, calls)]} if isinstance(calls, list) else kept


def _type_call(call: Any) -> Any:  # a call of a user's row
    """Return a call as the typed request dumps it: four keys, and null for those that are missing."""
    function = call.get("function") or {}
    typed = {"name": function.get("name"), "arguments": function.get("arguments")}
    return {"id": call.get("id"), "index": call.get("index"), "type": call.get("type", "function"), "function": typed}


def _as_text(message: Message) -> MessageDict:
    content = message.get("content")
    return {**message, "content": "" if content is None else join_parts(content, " ")}


def _as_parts(message: Message) -> MessageDict:
    if message.get("role") == "tool":
        return _as_text(message)
    return {**message, "content": ""} if message.get("content") is None else dict(message)


_TEXT, _PARTS = change_messages(_as_text), change_messages(_as_parts)


def _read_content(chat: Chat) -> Chat:
    return _PARTS(chat) if reads_parts_as_sglang(chat.source) else _TEXT(chat)


def _type_tool(tool: Any) -> Any:  # a tool's schema
    defaults = {"description": None, "name": None, "parameters": None, "strict": False}
    typed = order_function(tool, tuple(defaults), defaults)
    return {**typed, "defer_loading": None} if typed is not tool else tool


QUIRKS = (
    UNPINNED_DATE,
    NO_ARGUMENTS,
    NO_ALIAS,
    Quirk("message keys", change_messages(_keep_known)),
    Quirk("call arguments", change_messages(parse_arguments)),
    Quirk("content parts", _read_content),
    Quirk("tools", change_tools(_type_tool)),
)


def open_engine(folder: ServedFolder) -> Engine:
    """Return SGLang with a folder opened."""
    vocabulary = folder.tokenizer.get_vocab()
    named = [vocabulary[token] for token in NAMED_STOPS if token in vocabulary]
    return Engine(
        "sglang",
        describe_rules("sglang", READ_AT),
        folder.template,
        folder.template_file_name,
        QUIRKS,
        stops=merge(
            tokenizer_eos(folder),
            config_eos(folder),
            generation_eos(folder),
            named,
            source="tokenizer_config.json, config.json, generation_config.json, names of tokens",
        ),
        sampling=sampling_of(folder),
    )
