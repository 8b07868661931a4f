"""Tools and the calls of them, in whatever keys and texts they come, as chat templates take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llama_padfix.chat.messages import called_functions
from llama_padfix.core.errors import PadfixError, describe
from llama_padfix.encoding.reading.json_values import (
    as_list,
    may_be_filled,
    parse_if_json,
    parse_written,
    read_json,
    seen,
)

if TYPE_CHECKING:
    from llama_padfix.core.types import MessageDict, Messages, Row


def read_tools(columns: Row, *, filled: bool, dropped: list[str]) -> list[Any] | None:  # what a template takes
    """Return the tools of a row; None where it has none.

    Args:
        columns: The columns of the row that are not null.
        filled: Whether the row may have come through Arrow; several tools show it themselves.
        dropped: See `read_json`.
    """
    tools, functions = (_read_list(columns.get(name), name, filled, dropped) for name in ("tools", "functions"))
    # OpenAI's older name is that of the inner schemas.
    wrapped = [tool if "function" in tool else {"type": "function", "function": tool} for tool in functions]
    if tools and wrapped and tools != wrapped:
        raise PadfixError(
            "the row has tools and functions, and they are not the same tools; drop one of the two: "
            'dataset.remove_columns("functions")'
        )
    # An empty list makes templates announce tools that are not there, so it reads as none.
    return tools or wrapped or None


def _read_list(value: object, name: str, filled: bool, dropped: list[str]) -> list[Any]:
    value = parse_written(value)
    tools = as_list(value)
    if tools is None and value not in (None, ""):
        raise PadfixError(
            f"{name} is {seen(value)}, not a list of tools, so the template cannot write them out; "
            "pass a list or the JSON text of a list."
        )
    tools = [parse_written(tool) for tool in tools or ()]
    schemas = [tool for tool in tools if isinstance(tool, Mapping)]
    filled = may_be_filled(schemas) if len(schemas) > 1 else filled
    read = []
    for place, tool in enumerate(tools):
        where = f"{name}[{place}]"
        if not isinstance(tool, Mapping) and (not callable(tool) or name == "functions"):
            raise PadfixError(
                f"{where} is {seen(tool)}, which is neither a schema nor the JSON text of one; write it as "
                '{"type": "function", "function": {"name": "...", "parameters": {...}}}.'
            )
        read.append(tool if callable(tool) else read_json(tool, where, filled=filled, dropped=dropped))
    return read


def read_call_texts(content: object, where: str) -> list[MessageDict]:
    """Return the calls that a text holds: the JSON text of one call or of a list of calls.

    Raises:
        PadfixError: It is another text, or none.
    """
    parsed = parse_if_json(content) if isinstance(content, str) else None
    calls = []
    for call in parsed if isinstance(parsed, list) and parsed else [parsed]:
        made = _make_call(call)
        if made is None:
            raise PadfixError(
                f"{where} is a function_call whose value is not the JSON text of a call: {seen(content)}, "
                'so no tool_calls can be made of it; write {"name": "...", "arguments": {...}} or a list of such.'
            )
        calls.append(made)
    return calls


def _make_call(call: object) -> MessageDict | None:
    """Return a call of a name and arguments, which some sets nest as text; None where it is none."""
    name = call.get("name") if isinstance(call, Mapping) else None
    arguments = call.get("arguments") if isinstance(call, Mapping) else None
    # Templates would quote a text a second time.
    arguments = {} if isinstance(arguments, str) and not arguments.strip() else parse_if_json(arguments)
    if not isinstance(name, str) or not isinstance(arguments, Mapping):
        return None
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def read_calls(message: Row, where: str, *, filled: bool, dropped: list[str]) -> list[MessageDict] | None:
    """Return the calls of a message, in `tool_calls` or in `function_call`, OpenAI's older key; None without calls.

    Args:
        message: The message, with neither of the keys null.
        where: What an error calls it.
        filled: Whether the message may have come through Arrow.
        dropped: See `read_json`.
    """
    calls, older = as_list(message.get("tool_calls")), message.get("function_call")
    if "tool_calls" in message and calls is None:
        raise PadfixError(
            f"{where} has tool_calls that are {seen(message['tool_calls'])}, not a list, which templates loop over; "
            "pass a list of calls (json.loads the text first if it is JSON)."
        )
    if older is not None:
        made = _make_call(parse_if_json(older))
        if made is None:
            raise PadfixError(
                f"{where} has function_call = {seen(older)}, of which no tool_calls can be made; write "
                '"tool_calls": [{"type": "function", "function": {"name": "...", "arguments": {...}}}].'
            )
        if calls:
            raise PadfixError(
                f"{where} has tool_calls and function_call, and which was made is not known; drop one of the two."
            )
        calls = [made]
    return (
        None
        if calls is None
        else [_read_call(c, f"{where}.tool_calls[{n}]", filled, dropped) for n, c in enumerate(calls)]
    )


def _read_call(call: object, where: str, filled: bool, dropped: list[str]) -> Any:  # what a template takes for a call
    if not isinstance(call, Mapping):
        return call
    read = {}
    for key, value in call.items():
        if key == "arguments":
            blank = value is None or (isinstance(value, str) and not value.strip())
            read[key] = {} if blank else read_json(value, f"{where}.arguments", filled=filled, dropped=dropped)
        elif value is not None:
            read[key] = _read_call(value, f"{where}.{key}", filled, dropped) if key == "function" else value
    return read


def rename_results(messages: Sequence[MessageDict]) -> None:
    """Give the results of calls that were written as `function_call` the role of a tool, in place.

    The older keys come together; beside `tool_calls` a role `function` is the template's business.
    """
    for message in messages:
        if message["role"] == "function":
            message["role"] = "tool"


def find_unparsed(messages: Messages) -> str | None:
    """Return the first arguments of a call that are text and no JSON, with their message; None where all are."""
    for index, message in enumerate(messages):
        for function in called_functions(message):
            arguments = function.get("arguments")
            if isinstance(arguments, str) and parse_if_json(arguments) is arguments:
                return f"message {index}: {describe(arguments, 60)}"
    return None
