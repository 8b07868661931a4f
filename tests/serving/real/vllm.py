"""vLLM's own code from a request to what the template gets: protocol.py, chat_utils and hf.py."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from llama_padfix.serving.rendering.chat import Chat
from tests.serving.real.pure import find_modules

PACKAGE = "vllm==0.33.0"
_PARTS = ("chat_message", "chat_template", "content_parser", "item_tracker", "tool_call", "types")
_REAL = (
    "vllm.renderers.hf",
    "vllm.renderers.chat_utils",
    *(f"vllm.renderers.chat_utils.{part}" for part in _PARTS),
    "vllm.exceptions",
    "vllm.entrypoints.openai.chat_completion.protocol",
    "vllm.entrypoints.generate.base.protocol",
    "vllm.entrypoints.serve.engine.protocol",
    "vllm.utils.func_utils",
    "vllm.utils.collection_utils",
    "vllm.utils.import_utils",
)


def open_engine(folder: Path) -> Callable[[Chat], Chat]:
    """Return what makes of a chat, sent as a client sends it, what the template gets of it."""
    find_modules(folder, _REAL, ["openai_harmony"])
    hf: Any = importlib.import_module("vllm.renderers.hf")
    protocol: Any = importlib.import_module("vllm.entrypoints.openai.chat_completion.protocol")
    messages: Any = importlib.import_module("vllm.renderers.chat_utils.chat_message")
    model = SimpleNamespace(
        multimodal_config=None,
        enable_prompt_embeds=False,
        is_multimodal_model=False,
        allowed_local_media_path="",
        allowed_media_domains=None,
    )

    def serve(chat: Chat) -> Chat:
        request = protocol.ChatCompletionRequest(model="m", messages=_send(chat.messages), tools=deepcopy(chat.tools))
        tools = [tool.model_dump() for tool in request.tools] if request.tools else None
        kind = hf._detect_content_format(chat.source, default="string")
        conversation, _, _ = messages.parse_chat_messages(request.messages, model, kind)
        seen: dict[str, Any] = {}
        template = SimpleNamespace(apply_chat_template=lambda **given: seen.update(given) or "")
        hf.resolve_chat_template = lambda tokenizer, **given: chat.source
        hf.safe_apply_chat_template(model, template, conversation, tools=tools, tokenize=False)
        return replace(chat, messages=seen["conversation"], tools=seen["tools"], aliases_thoughts=False)

    return serve


def _send(messages: Any) -> Any:
    """Return messages as the client library sends them: arguments of calls are text."""
    sent = deepcopy(list(messages))
    for message in sent:
        for call in message.get("tool_calls") or ():
            arguments = call["function"].get("arguments")
            if isinstance(arguments, dict):
                call["function"]["arguments"] = json.dumps(arguments)
    return sent
