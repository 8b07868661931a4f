"""SGLang's own code from a request to what the template gets: protocol.py, serving_chat.py and what they call."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from llama_padfix.serving.rendering.chat import Chat
from tests.serving.real.pure import find_modules

PACKAGE = "sglang==0.5.23"
_REAL = (
    "sglang.srt.entrypoints.openai.protocol",
    "sglang.srt.entrypoints.openai.serving_chat",
    "sglang.srt.entrypoints.openai.utils",
    "sglang.srt.parser.jinja_template_utils",
    "sglang.srt.parser.template_detection",
    "sglang.srt.parser.python_chat_template",
    "sglang.srt.function_call.utils",
    "sglang.srt.function_call.core_types",
)


def open_engine(folder: Path) -> Callable[[Chat], Chat]:
    """Return what makes of a chat what the template gets of it."""
    find_modules(folder, _REAL, ["jsonschema", "mistral_common"])
    serving: Any = importlib.import_module("sglang.srt.entrypoints.openai.serving_chat")
    protocol: Any = importlib.import_module("sglang.srt.entrypoints.openai.protocol")
    templates: Any = importlib.import_module("sglang.srt.parser.jinja_template_utils")

    def serve(chat: Chat) -> Chat:
        request = protocol.ChatCompletionRequest(
            model="m", messages=deepcopy(list(chat.messages)), tools=deepcopy(chat.tools)
        )
        tools = [tool.model_dump() for tool in request.tools] if request.tools else None
        seen: dict[str, Any] = {}

        def note(messages: Any, **given: Any) -> tuple[list[int], str]:
            seen.update(messages=messages, tools=given["tools"])
            return [], ""

        kind = templates.detect_jinja_template_content_format(chat.source)
        server = SimpleNamespace(
            template_manager=SimpleNamespace(
                jinja_template_content_format=kind,
                jinja_template_may_reorder_tool_results=False,
                reasoning_config=None,
            ),
            chat_encoding_spec=None,
            is_minimax_m3=False,
            _encoding_adapter=None,
            _prompt_text_round_trip_is_lossy=False,
            _tokenizer_auto_adds_specials=True,
            _thinking_requested=lambda request: False,
            _encode_messages=lambda *given, **more: None,
            _handle_last_assistant_message=lambda messages, request: (messages, None),
            _render_and_encode_chat_template=note,
        )
        serving.OpenAIServingChat._apply_jinja_template(server, request, tools, False)
        return replace(chat, **seen, aliases_thoughts=False)

    return serve
