"""Chat templates rendered so that every character keeps its origin.

The environment is the one in which transformers renders chat templates. The caller compares the text with what the
tokenizer renders, so an error here is found.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from llama_padfix.chat.jinja_environment import compile_template
from llama_padfix.chat.traced_policy import TRACED
from llama_padfix.chat.traced_str import TOOLS, Traced, lift, trace
from llama_padfix.core.compat import gives_clock

if TYPE_CHECKING:
    from llama_padfix.core.types import Message, Messages, TokenizerLike, Tool

REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")  # the names in transformers and templates
_KNOWN_TOOLS = 32
_traced_tools: dict[str, list[Any]] = {}
_PLAIN_KEYS = frozenset({"role"})  # the template writes a role into its headers: it counts as the template's


# Any: a template takes any value.
def source_of(tokenizer: TokenizerLike, tools: Sequence[Tool] | None, kwargs: Mapping[str, Any] | None = None) -> str:
    """Return the source of the chat template that the tokenizer would render; `kwargs` may name or hold one."""
    given = (kwargs or {}).get("chat_template")
    found = tokenizer.get_chat_template(given, tools) if hasattr(tokenizer, "get_chat_template") else given
    return str(found if found is not None else tokenizer.chat_template)


def render_traced(
    tokenizer: TokenizerLike,
    messages: Messages,
    tools: Sequence[Tool] | None = None,
    kwargs: Mapping[str, object] | None = None,
    add_generation_prompt: bool = False,
) -> Traced:
    """Return the conversation as the tokenizer's template renders it; may raise whatever a template raises."""
    template = compile_template(source_of(tokenizer, tools, kwargs), TRACED)
    given = [
        trace({key: value for key, value in message.items() if value is not None}, index, _PLAIN_KEYS)
        for index, message in enumerate(messages)
    ]
    given = alias_reasoning(given)
    clock = {"strftime_now": lambda pattern: datetime.now().strftime(pattern)} if gives_clock(tokenizer) else {}
    context = {**clock, **tokenizer.special_tokens_map, **(kwargs or {})}
    context.update(
        messages=given,
        tools=_trace_tools(tools) if tools is not None else None,
        documents=None,
        add_generation_prompt=add_generation_prompt,
    )
    return lift(template.render(context))


def _trace_tools(tools: Sequence[Tool]) -> list[Any]:
    """Return a traced copy of the tools, which no template can change; many rows have the same ones."""
    key = repr(tools)
    found = _traced_tools.get(key)
    if found is None:
        if len(_traced_tools) >= _KNOWN_TOOLS:
            _traced_tools.clear()
        found = _traced_tools[key] = trace(list(tools), TOOLS)
    return found


@functools.cache
def aliases_reasoning() -> bool:
    """Return True if a thought is given to templates under each of its names (transformers 5.21)."""
    from transformers.utils import chat_template_utils

    return hasattr(chat_template_utils, "_alias_reasoning_fields")


def alias_reasoning(messages: Messages) -> list[Message]:
    """Return messages with each thought under the names under which templates are given it."""
    has_thoughts = any(key in message for message in messages for key in REASONING_KEYS) and aliases_reasoning()
    return [_alias_reasoning(message) if has_thoughts else message for message in messages]


def _alias_reasoning(message: Message) -> Message:
    reasoning = next((message[key] for key in REASONING_KEYS if message.get(key) is not None), None)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}
