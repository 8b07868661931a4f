"""mlx-lm's own code from a request to what the template gets: server.py and tokenizer_utils.py, on MLX for the CPU."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from llama_padfix.serving.rendering.chat import Chat

PACKAGE = "mlx-lm==0.32.2"


def open_engine(folder: Path) -> Callable[[Chat], Chat]:
    """Return what makes of a chat what the template gets of it, for a vocabulary that does not think."""
    tokenizers = _load(folder, "tokenizer_utils")
    server = _load(folder, "server")

    def serve(chat: Chat) -> Chat:
        messages = deepcopy(list(chat.messages))
        server.process_message_content(messages)
        seen: dict[str, Any] = {}
        wrapper = tokenizers.TokenizerWrapper(_Tokenizer(seen))
        wrapper.apply_chat_template(messages, tools=chat.tools, tokenize=True, add_generation_prompt=True)
        switch = {} if "enable_thinking" not in chat.source else {"enable_thinking": seen["enable_thinking"]}
        return replace(chat, messages=seen["messages"], tools=seen["tools"], kwargs={**chat.kwargs, **switch})

    return serve


def open_tokenizer(folder: Path, saved: Path) -> Any:
    """Return the tokenizer of a saved folder as the server loads it: `eos_token_ids`, `has_thinking`."""
    config = _load(folder, "utils").load_config(saved)
    return _load(folder, "tokenizer_utils").load(saved, eos_token_ids=config.get("eos_token_id"))


class _Tokenizer:
    """What the wrapper asks of a tokenizer; its template only notes what it gets."""

    eos_token_id, chat_template = 0, "x"

    def __init__(self, seen: dict[str, Any]) -> None:
        self._seen = seen

    def get_vocab(self) -> dict[str, int]:
        return {}

    def encode(self, text: str, **more: object) -> list[int]:
        return [0]

    def decode(self, ids: list[int]) -> str:
        return ""

    def apply_chat_template(self, messages: Any, *, tokenize: bool, **given: Any) -> list[int]:
        self._seen.update(given, messages=messages)
        return []


def _load(folder: Path, module: str) -> Any:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    return importlib.import_module(f"mlx_lm.{module}")
