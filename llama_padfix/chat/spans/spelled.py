"""Where a conversation only spells a control token, so that it must be encoded as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llama_padfix.chat.messages import texts_in
from llama_padfix.chat.render import ChatTemplate
from llama_padfix.chat.trace import Trace, read_trace
from llama_padfix.chat.traced_render import render_traced
from llama_padfix.chat.traced_str import LOST, TOOLS, trace
from llama_padfix.tokens.control import find_control_text

if TYPE_CHECKING:
    from llama_padfix.core.types import Messages, Tool


def find_spelled(
    template: ChatTemplate,
    messages: Messages,
    tools: Sequence[Tool] | None,
    whole: Trace,
    rewritten: Sequence[tuple[int, int, str]],
) -> tuple[tuple[int, int], ...] | int:
    """Return where text that a message or a tool wrote spells a control token, or the place that stays unknown.

    A tag that an assistant wrote is its own, but not one in the arguments of its calls.
    """
    spelled: list[tuple[int, int]] = []
    tags = frozenset(template.tags)
    called: Trace | None = None
    found = find_control_text(whole.text, template.controls + template.tags)
    for start, end, token in sorted([*found, *rewritten]) if rewritten else found:
        scaffold, content = whole.scaffold[start:end], whole.text[start:end]
        if scaffold == content:
            continue
        if token in tags:
            origins = _origins(whole, start, end)
            authors = [messages[origin] for origin in origins if origin >= 0]
            if len(authors) == len(origins) and all(author.get("role") == "assistant" for author in authors):
                if not any(content in _text_of(author.get("tool_calls")) for author in authors):
                    continue
                called = called or _trace_calls(template, messages, tools)
                if called is None or called.text != whole.text:
                    return start
                if TOOLS not in _origins(called, start, end):
                    continue
            elif LOST in origins and not any(content in _text_of(part) for part in _foreign_parts(messages, tools)):
                continue
        if spelled and start < spelled[-1][1]:  # inside one that is made of more text
            start, end = spelled[-1][0], max(end, spelled.pop()[1])
        spelled.append((start, end))
    for start, end, _ in rewritten if spelled else ():
        if not any(left <= start and end <= right for left, right in spelled):
            return start  # a true token in a stretch that is encoded as text
    if whole.lost:
        lost = [(start, end) for start, end, origin in whole.content_spans if origin == LOST]
        for start, end in spelled:
            if any(start < right and left < end for left, right in lost):
                return start
    return tuple(spelled)


def _origins(trace: Trace, start: int, end: int) -> set[int]:
    """Return who wrote the content among these characters."""
    return {origin for left, right, origin in trace.content_spans if left < end and start < right}


def _trace_calls(template: ChatTemplate, messages: Messages, tools: Sequence[Tool] | None) -> Trace | None:
    """Return the conversation traced with its tool calls kept apart from the rest of their messages."""
    given = [
        {key: trace(value, TOOLS) if key == "tool_calls" else value for key, value in message.items()}
        for message in messages
    ]
    try:
        return read_trace(render_traced(template.tokenizer, given, tools, template.kwargs))
    except Exception:  # a template is a program of its author: it may raise anything
        return None


def _foreign_parts(messages: Messages, tools: Sequence[Tool] | None) -> list[object]:
    """Return all that others than the assistant write in a conversation, and what is written to tools."""
    return [
        tools,
        *(message for message in messages if message.get("role") != "assistant"),
        *(message.get("tool_calls") for message in messages),
    ]


def _text_of(value: object) -> str:
    """Return all texts inside a value, keys included, apart from each other."""
    return "\0".join(texts_in(value))
