"""Trainers and ids in the words of the installed versions, for tests that make them by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llama_padfix.core.compat import name_tokenizer_argument, rename_arguments

__all__ = ["call_tokenizer", "make_arguments", "template_ids"]


def call_tokenizer(trainer_class: Callable[..., Any], tokenizer: Any) -> dict[str, Any]:
    """The tokenizer under the keyword of the trainer class."""
    return {name_tokenizer_argument(trainer_class): tokenizer}


def make_arguments(config_class: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
    """The arguments of a trainer, whatever the installed version calls them."""
    return config_class(*args, **rename_arguments(keywords, config_class))


def template_ids(tokenizer: Any, messages: Any, **keywords: Any) -> list[int]:
    """The ids of a conversation: a list up to transformers 4.57, a dict with them since 5.0."""
    made = tokenizer.apply_chat_template(messages, tokenize=True, **keywords)
    ids: list[int] = made if isinstance(made, list) else made["input_ids"]
    return ids
