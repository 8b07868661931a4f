"""mlx-lm by the rules of its sources at 0.32: transformers' own rendering, with thinking switched by the vocabulary.

Read: mlx_lm/server.py (messages), tokenizer_utils.py (the switch, stops), utils.py load_config (stops).
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
_THOUGHTS = (("<think>", "</think>"), ("<longcat_think>", "</longcat_think>"), ("<|channel>", "<channel|>"))


def _as_text(message: Message) -> MessageDict:
    content = message.get("content")
    return {**message, "content": "" if content is None else join_parts(content, "")}


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
    Quirk("call arguments", change_messages(parse_arguments)),
)


def open_engine(folder: ServedFolder) -> Engine:
    """Return mlx-lm with a folder opened."""
    vocabulary = folder.tokenizer.get_vocab()
    thinks = any(first in vocabulary and last in vocabulary for first, last in _THOUGHTS)
    in_generation, in_config = generation_eos(folder), config_eos(folder)
    if folder.generation_config.get("eos_token_id"):  # 0 counts as missing
        stops = merge(in_generation, source="generation_config.json")
    elif in_config:
        stops = merge(in_config, source="config.json")
    else:
        stops = merge(tokenizer_eos(folder), source="tokenizer_config.json")
    return Engine(
        "mlx-lm",
        describe_rules("mlx-lm", READ_AT),
        folder.template,
        folder.template_file_name,
        (*QUIRKS, ON if thinks else OFF),
        stops=stops,
    )
