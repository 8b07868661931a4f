"""SGLang by the rules of its sources at 0.5.23: the jinja2 of transformers, after its own reading of the messages.

Read: srt/entrypoints/openai/serving_chat.py and protocol.py, srt/parser/jinja_template_utils.py (messages, tools),
srt/configs/model_config.py, srt/utils/hf_transformers/common.py (stops, sampling). What the first three make of a
request is compared with the rules in `tests/serving/test_python_engines.py`. A request that fails is rendered again
there with the bare functions as tools, which is not done here.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    parse_arguments,
)
from llama_padfix.serving.rendering.quirks import NO_ALIAS, NO_ARGUMENTS, UNPINNED_DATE

if TYPE_CHECKING:
    from llama_padfix.core.types import Message, MessageDict
    from llama_padfix.serving.folder import ServedFolder

READ_AT = "0.5.23"
NAMED_STOPS = ("<|eom_id|>", "<|content_model_end_sampling|>", "<|ifm|im_end|>")
"""Tokens at which it stops wherever the vocabulary has them."""

_TOOL_KEYS = ("description", "name", "parameters", "strict", "defer_loading")
_KEYS = ("role", "content", "tool_call_id", "name", "phase", "reasoning_content", "tool_calls", "tools", "prefix")


def _keep_known(message: Message) -> MessageDict:
    """Return a message as the typed request dumps it, without keys that hold null."""
    keys = ("role", "content") if message.get("role") == "user" else _KEYS
    kept = {key: message.get(key) for key in keys if key == "content" or message.get(key) is not None}
    for key, change in (("tool_calls", _type_call), ("tools", _type_tool)):
        held = kept.get(key)
        if isinstance(held, list):
            kept[key] = [*map(change, held)]
    return kept


def _type_call(call: Any) -> Any:  # a call of a user's row
    """Return a call as the typed request dumps it: four keys, and null for those that are missing."""
    function = call.get("function") or {}
    typed = {"name": function.get("name"), "arguments": function.get("arguments")}
    return {"id": call.get("id"), "index": call.get("index"), "type": call.get("type", "function"), "function": typed}


def _type_tool(tool: Any) -> Any:  # a tool's schema
    """Return a tool as the typed request dumps it: known keys in the order in which they were sent, then others."""
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping):
        return tool
    deferred = tool.get("defer_loading")
    sent = {key: value for key, value in function.items() if key in _TOOL_KEYS}
    typed = {key: value for key, value in sent.items() if value is not None or key not in ("strict", "defer_loading")}
    missing = {key: None for key in ("description", "parameters") if key not in typed}
    later = {"defer_loading": deferred} if deferred is not None and "defer_loading" not in typed else {}
    return {"type": tool.get("type", "function"), "function": {**typed, **missing, **later}, "defer_loading": deferred}


def _read_content(chat: Chat) -> Chat:
    return _PARTS(chat) if reads_parts_as_sglang(chat.source) else _TEXT(chat)


def _as_text(message: Message) -> MessageDict:
    content = message.get("content")
    return {**message, "content": "" if content is None else join_parts(content, " ")}


def _as_parts(message: Message) -> MessageDict:
    content = message.get("content")
    if not isinstance(content, list):
        return _as_text(message)
    parts = [part if not _is_text(part) else {"type": "text", "text": part.get("text")} for part in content]
    others = {key: value for key, value in message.items() if key != "content"}
    return {**others, "content": join_parts(content, " ") if message.get("role") == "tool" else parts}


def _is_text(part: object) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "text"


_TEXT, _PARTS = change_messages(_as_text), change_messages(_as_parts)

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
        describe_rules("sglang", READ_AT, "prompts as its own code makes them; stops read, not run"),
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
