"""What is worth saying of a rendered conversation: which counts it adds to, and what was seen."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from llama_padfix.chat.render import Rendered

__all__ = ["collect_row_notes", "name_tokens"]

_REASONING = ("reasoning_content", "thinking", "reasoning")  # the names that transformers and templates know


def collect_row_notes(
    rendered: Rendered,
    messages: Sequence[Mapping[str, Any]],
    wanted: Collection[int],
    escaped: Collection[tuple[int, int]],
) -> dict[str, str]:
    """Return the fields of `Counts` that count this row, each with what was seen.

    `wanted` are the trained messages, `escaped` those of the spelled control tokens that become text.
    """
    found: dict[str, str] = {}
    if rendered.losses:
        more = len(rendered.losses) - 1
        found["lossy"] = rendered.losses[0].partition(". ")[0] + (f", and {more} more" if more else "")
    if rendered.spelled:
        allowed = set(rendered.spelled) - set(escaped)
        found |= {"escaped": name_tokens(rendered, escaped)} if escaped else {}
        found |= {"allowed": name_tokens(rendered, allowed)} if allowed else {}
    unstopped = [turn.message for turn in rendered.turns if not turn.stops]
    if unstopped:
        found["unstopped"] = f"message {unstopped[0]}"
    if rendered.generation and not _agrees(rendered):
        found["disagreeing"] = ""
    for index in wanted:
        message = messages[index]
        thoughts = [message[name] for name in _REASONING if isinstance(message.get(name), str)]
        if any(thought.strip() and thought.strip() not in rendered.text for thought in thoughts):
            found.setdefault("unreasoned", f"message {index}")
        for call in message.get("tool_calls") or ():
            function = call.get("function", call) if isinstance(call, Mapping) else {}
            arguments = function.get("arguments") if isinstance(function, Mapping) else None
            if isinstance(arguments, str) and arguments.lstrip().startswith("{") and _is_quoted(arguments, rendered):
                found.setdefault("quoted", f"message {index}")
    return found


def name_tokens(rendered: Rendered, spelled: Collection[tuple[int, int]]) -> str:
    """Return the tokens that stand at these places, each once."""
    return ", ".join(sorted({repr(rendered.text[start:end]) for start, end in spelled}))


def _is_quoted(arguments: str, rendered: Rendered) -> bool:
    """Tell whether JSON text was written as a JSON string."""
    return any(json.dumps(arguments, ensure_ascii=ascii) in rendered.text for ascii in (False, True))


def _agrees(rendered: Rendered) -> bool:
    """Tell whether `{% generation %}` marks what is trained; turns that nobody asked for are not compared."""
    marked = tuple(
        (start, end)
        for start, end in rendered.generation
        if any(turn.start < end and start < turn.end for turn in rendered.turns)
    )
    return replace(rendered, generation=marked or rendered.generation).agrees
