"""The outline of tools and calls: each call's arguments, and each tool's schema, is one object written as JSON.

See `outlines`. An object that reading may change has no outline, and its row is read one by one: one that holds a
null, which Arrow may have filled in, or a value that JSON does not know.
"""

from __future__ import annotations

import json
import marshal
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from llama_padfix.encoding.reading.json_values import parse_written

_KNOWN_TOOLS = 1024
_known_tools: dict[bytes, str] = {}


def outline_tools(value: object, texts: list[str]) -> tuple[Any, ...] | None:  # see `Outline`
    """Return the outline of a row's tools, a list or its JSON text, and add their schemas to the texts; None without.

    A tool is the type `dict`.
    """
    if type(value) is str:
        written = _read_tools(value)
    else:
        written = [_write_tool(tool) for tool in value] if type(value) is list else None
    if not written or None in written:
        return None
    texts += written  # type: ignore[arg-type]  # none is None
    return (list, *[dict] * len(written))


@lru_cache(maxsize=256)
def _read_tools(text: str) -> list[str | None] | None:
    tools = parse_written(text)
    return [_write_tool(tool) for tool in tools] if type(tools) is list else None


def _write_tool(tool: Any) -> str | None:  # of any type
    try:
        key = marshal.dumps(tool, 2)  # tells 1 from "1" and True, and knows no class but those of JSON
    except ValueError:
        return None
    found = _known_tools.get(key)
    if found is None:
        found = _write(tool)
        if found is None:
            return None
        if len(_known_tools) >= _KNOWN_TOOLS:
            _known_tools.clear()
        _known_tools[key] = found
    return found


def outline_calls(value: object, texts: list[str]) -> tuple[Any, ...] | None:  # see `Outline`
    """Return the outline of a message's calls, and add their texts and arguments to the texts; None without."""
    if type(value) is not list:
        return None
    made: list[Any] = [list]
    for call in value:
        outlined = _outline_call(call, texts)
        if outlined is None:
            return None
        made.append(outlined)
    return tuple(made)


def _outline_call(call: object, texts: list[str]) -> tuple[Any, ...] | None:
    if type(call) is not dict:
        return None
    made: list[Any] = [dict]
    for key, item in call.items():
        kind: Any = type(item)
        if key == "arguments":
            if kind is dict and item:
                written = _write(item)
                if written is None:
                    return None
                texts.append(written)
                made += (key, dict)
            elif item is None or (kind is dict and not item) or (kind is str and not item.strip()):
                made += (key, (dict,))
            elif kind is str and _is_plain_json(item):
                texts.append(item)
                made += (key, str)
            else:
                return None
        elif kind is str:
            if not item or key == "type":
                if "\ue000" in item:
                    return None
                made += (key, item)
            else:
                texts.append(item)
                made += (key, str)
        elif item is None:
            made += (key, None)
        elif kind is dict and key == "function":
            inner = _outline_call(item, texts)
            if inner is None:
                return None
            made += (key, inner)
        else:
            return None
    return tuple(made)


def _is_plain_json(text: str) -> bool:
    r"""Return True for JSON text without `\u`: reading counts the other, and half of a letter may look lost."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return "\\u" not in text


def are_quoted(arguments: Sequence[str], texts: str) -> bool:
    """Return True if arguments that are JSON text may also stand in the texts of their row as a JSON string."""
    return any(json.dumps(text, ensure_ascii=ascii) in texts for text in arguments for ascii in (False, True))


def _write(value: object) -> str | None:
    """Return an object that is not empty as compact JSON text; None where reading may change it."""
    if type(value) is not dict or not value or not _is_whole(value):
        return None
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:  # nan
        return None


def _is_whole(value: Any) -> bool:  # of any type
    """Return True for a value of the types of JSON that holds no null."""
    kind = type(value)
    if kind is dict:
        return all(type(key) is str and (type(item) is str or _is_whole(item)) for key, item in value.items())
    if kind is list:
        return all(type(item) is str or _is_whole(item) for item in value)
    return kind in (str, int, float, bool)
