"""What llama.cpp finds out about a chat template by rendering probes: common/jinja/caps.cpp of llama.cpp 0.5.0.

llama.cpp watches which values a template reads. Here each value has a text of its own, which is searched in what was
rendered, and contents note whether they are looped over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jinja2

from llama_padfix.serving.rendering.chat import Chat, Quirk, RenderRefusedError
from llama_padfix.serving.rendering.render import render_chat

_TEXT, _SYSTEM, _NAME, _ARGUMENT = "Probetext", "Probesystem", "probetool", "Probeargument"


@dataclass(frozen=True)
class Capabilities:
    """What a template can do, as far as llama.cpp changes a request for it."""

    reads_text: bool
    """`supports_string_content`."""

    reads_parts: bool
    """`supports_typed_content`."""

    writes_system: bool
    """`supports_system_role`."""

    writes_calls: bool
    """`supports_tool_calls`."""

    reads_objects: bool
    """`supports_object_arguments`: arguments of a call as an object."""


@lru_cache(maxsize=64)
def probe(source: str) -> Capabilities:
    """Return what a template can do."""
    content, empty = _WatchedText(_TEXT), _WatchedList()
    text = _render(source, [_user(content)])
    shown_empty = (
        _render(source, [_user(empty)], _NO_JSON) if " string" in source else None
    )  # where it asks for a text
    parts = [{"type": "text", "text": _SYSTEM}]
    systems = [_render(source, [{"role": "system", "content": given}, _user("Hi")]) for given in (_SYSTEM, parts)]
    as_object, as_text = (_render(source, _call(given)) for given in ({"arg": _ARGUMENT}, f'{{"arg": "{_ARGUMENT}"}}'))
    reads_objects = as_object is not None and _ARGUMENT in as_object
    called = as_object if as_object is not None else as_text
    return Capabilities(
        reads_text=text is not None and (_TEXT in text or not content.was_looped),
        reads_parts=content.was_looped or (empty.was_looped and shown_empty is not None),
        writes_system=any(shown is not None and _SYSTEM in shown for shown in systems),
        writes_calls=called is not None and (_NAME in called or _ARGUMENT in called),
        reads_objects=reads_objects,
    )


class _WatchedText(str):
    """A text that notes whether a template loops over it."""

    was_looped = False

    def __iter__(self) -> Iterator[str]:
        self.was_looped = True
        return super().__iter__()


class _WatchedList(list[object]):
    """The same of an empty list."""

    was_looped = False

    def __iter__(self) -> Iterator[object]:
        self.was_looped = True
        return super().__iter__()


def _user(content: object) -> dict[str, object]:
    return {"role": "user", "content": content}


def _call(arguments: object) -> list[dict[str, Any]]:
    function = {"name": _NAME, "arguments": arguments}
    return [
        _user("Hi"),
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "call00001", "type": "function", "function": function}],
        },
        {"role": "tool", "content": "Result", "tool_call_id": "call00001"},
        {"role": "assistant", "content": "Done."},
        _user("Bye"),
    ]


def _write_no_json(environment: jinja2.Environment) -> None:
    environment.filters["tojson"] = lambda value, **settings: "null"


_NO_JSON = Quirk("message keys", on_environment=_write_no_json)  # Python's JSON loops over a list too


def _render(source: str, messages: Sequence[dict[str, Any]], *quirks: Quirk) -> str | None:
    parameters = {
        "type": "object",
        "properties": {"arg": {"type": "string", "description": "It"}},
        "required": ["arg"],
    }
    tools = [{"type": "function", "function": {"name": "tool1", "description": "It", "parameters": parameters}}]
    given = tools if len(messages) > 2 else []
    tokens = {"bos_token": "", "eos_token": ""}
    try:
        return render_chat(Chat(messages, given, source=source, tokens=tokens, aliases_thoughts=False), quirks)
    except RenderRefusedError:
        return None
