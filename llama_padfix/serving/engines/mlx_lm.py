"""mlx-lm by the rules of its sources at 0.32: transformers' own rendering, with thinking switched by the vocabulary.

Read: mlx_lm/server.py (messages), tokenizer_utils.py (the switch, stops), utils.py load_config (stops). All of these
run on a CPU too, where `tests/serving/test_python_engines.py` compares them with the rules.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from llama_padfix.serving.engines.engine import Engine
from llama_padfix.serving.engines.files import config_eos, describe_rules, generation_eos, merge, tokenizer_eos
from llama_padfix.serving.rendering.chat import Chat, Quirk
from llama_padfix.serving.rendering.messages import change_messages, join_parts, parse_arguments
from llama_padfix.serving.rendering.quirks import NO_ARGUMENTS, UNPINNED_DATE

if TYPE_CHECKING:
    from llama_padfix.core.types import Message, MessageDict
    from llama_padfix.serving.folder import ServedFolder

READ_AT = "0.32"
_THOUGHTS = (
    ("<think>", "</think>"),
    ("<longcat_think>", "</longcat_think>"),
    ("<|think:start|>", "<|think:end|>"),
    ("<|channel>", "<channel|>"),
    ("<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"),
)
"""Tokens that make a vocabulary one of a model that thinks, all of a line together."""


def _as_text(message: Message) -> MessageDict:
    content = message.get("content")
    return {**message, "content": "" if content is None else join_parts(content, "")}


def _parse_calls(message: Message) -> MessageDict:
    return parse_arguments(message, only_objects=False)


def _switch(thinks: bool) -> Quirk:
    """Return the quirk that passes `enable_thinking` where the template reads it."""

    def pass_switch(chat: Chat) -> Chat:
        if "enable_thinking" not in chat.source or "enable_thinking" in chat.kwargs:
            return chat
        return replace(chat, kwargs={**chat.kwargs, "enable_thinking": thinks})

    return Quirk("thinking switch", pass_switch)


ON, OFF = _switch(True), _switch(False)
QUIRKS = (
    UNPINNED_DATE,
    NO_ARGUMENTS,
    Quirk("content parts", change_messages(_as_text)),
    Quirk("call arguments", change_messages(_parse_calls)),
)


def open_engine(folder: ServedFolder) -> Engine:
    """Return mlx-lm with a folder opened."""
    vocabulary = folder.tokenizer.get_vocab()
    thinks = any(all(token in vocabulary for token in tokens) for tokens in _THOUGHTS)
    listed = bool(folder.generation_config.get("eos_token_id"))  # 0 counts as missing
    second, file = (generation_eos, "generation_config.json") if listed else (config_eos, "config.json")
    return Engine(
        "mlx-lm",
        describe_rules("mlx-lm", READ_AT, "prompts and stops as its own code makes them"),
        folder.template,
        folder.template_file_name,
        (*QUIRKS, ON if thinks else OFF),
        stops=merge(tokenizer_eos(folder), second(folder), source=f"tokenizer_config.json, {file}"),
    )
