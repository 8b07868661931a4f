"""Chat templates rendered in a sandbox of our own, in which every character keeps its origin.

The environment is the one that transformers renders chat templates in. That its text is the template's is not
taken on trust: the caller compares it with what the tokenizer renders.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from string import Formatter
from typing import Any

from llama_padfix.chat.traced_str import (
    CLOSES,
    OPENS,
    TEMPLATE,
    TOOLS,
    Traced,
    concat,
    lift,
    origins_in,
    print_value,
    taint,
    trace,
)
from llama_padfix.core.compat import gives_clock

__all__ = ["parse_template", "render_traced", "source_of"]

_PLAIN_KEYS = frozenset({"role"})  # the template writes a role into its headers: it counts as the template's
_REASONING = ("reasoning_content", "thinking", "reasoning")
_ITEMS_ONLY = {"attr", "map", "select", "reject", "selectattr", "rejectattr", "default", "d", "first", "last", "items"}


def source_of(tokenizer: Any, tools: Sequence[Any] | None, kwargs: Mapping[str, Any] | None = None) -> str:
    """Return the source of the chat template that the tokenizer would render; `kwargs` may name or hold one."""
    given = (kwargs or {}).get("chat_template")
    found = tokenizer.get_chat_template(given, tools) if hasattr(tokenizer, "get_chat_template") else given
    return str(found if found is not None else tokenizer.chat_template)


def render_traced(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    add_generation_prompt: bool = False,
) -> Traced:
    """Return the conversation as the tokenizer's template renders it; may raise whatever a template raises."""
    template = _compile(source_of(tokenizer, tools, kwargs))
    given = [
        trace({key: value for key, value in message.items() if value is not None}, index, _PLAIN_KEYS)
        for index, message in enumerate(messages)
    ]
    if _aliases_reasoning():
        given = [_alias_reasoning(message) for message in given]
    clock = {"strftime_now": lambda pattern: datetime.now().strftime(pattern)} if gives_clock(tokenizer) else {}
    context = {**clock, **tokenizer.special_tokens_map, **(kwargs or {})}
    context.update(
        messages=given,
        tools=trace(list(tools), TOOLS) if tools is not None else None,
        documents=None,
        add_generation_prompt=add_generation_prompt,
    )
    return concat(template.generate(**context))


@functools.cache
def _aliases_reasoning() -> bool:
    from transformers.utils import chat_template_utils

    return hasattr(chat_template_utils, "_alias_reasoning_fields")


def _alias_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    reasoning = next((message[key] for key in _REASONING if message.get(key) is not None), None)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}


def parse_template(source: str) -> Any:
    """Return the syntax tree of a chat template."""
    return _environment().parse(source)


@functools.lru_cache(maxsize=64)
def _compile(source: str) -> Any:
    return _environment().from_string(source)


@functools.cache
def _environment() -> Any:
    from llama_padfix.chat.jinja_environment import ChatEnvironment

    class Environment(ChatEnvironment):
        concat = staticmethod(concat)

        def mark_generation(self, text: str) -> Traced:
            return concat((Traced("", ((0, OPENS),)), text, Traced("", ((0, CLOSES),))))

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if type(left) is str and origins_in(right):
                return lift(left) % right
            return super().call_binop(context, operator, left, right)

        def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
            owner = getattr(__obj, "__self__", None)
            if type(owner) is str and (args or kwargs):
                name = __obj.__name__
                if name == "join" and len(args) == 1:
                    args = (list(args[0]),)
                if origins_in((args, kwargs)) and hasattr(Traced, name):
                    __obj = getattr(lift(owner), name)
            return super().call(__context, __obj, *args, **kwargs)

        def wrap_str_format(self, value: Any) -> Any:
            wrapped = super().wrap_str_format(value)
            if wrapped is None:
                return None
            pattern = value.__self__

            @functools.wraps(wrapped)
            def traced(*args: Any, **kwargs: Any) -> Any:
                made = str.__str__(wrapped(*args, **kwargs))
                if not origins_in((pattern, args, kwargs)):
                    return made
                found = _format(pattern, args, kwargs) if value.__name__ == "format" else None
                return found if found == made else taint(made, (lift(pattern), args, kwargs))

            return traced

    environment = Environment(finalize=print_value)
    for name, function in list(environment.filters.items()):
        if name not in _ITEMS_ONLY:
            environment.filters[name] = _keeping_origin(function)
    environment.filters.update(tojson=_tojson, join=_join(environment.filters["map"]))
    environment.globals["dict"] = _TemplateDict()
    return environment


class _TemplateDict:
    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


def _keeping_origin(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a filter: text that it makes anew of traced text is tainted."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        made = function(*args, **kwargs)
        if isinstance(made, str) and type(made) is not Traced and made:
            sources = [value for value in (*args, *kwargs.values()) if isinstance(value, (str, list, tuple, dict))]
            if origins_in(sources) and not any(made is source for source in sources):
                lifted = [lift(value) if isinstance(value, str) else value for value in sources[:1]]
                return taint(str.__str__(made), [*lifted, *sources[1:]])
            return made
        if isinstance(made, list) and args and isinstance(args[-1], str):
            return [taint(item, args) if type(item) is str and origins_in(args) else item for item in made]
        return made

    return wrapped


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    return taint(text, value) if origins_in(value) else text


def _join(mapped: Callable[..., Any]) -> Callable[..., Any]:
    import jinja2

    @jinja2.pass_context
    def join(context: Any, value: Any, d: str = "", attribute: Any = None) -> str:
        items = mapped(context, value, attribute=attribute) if attribute is not None else value
        return lift(str(d)).join([str(item) for item in items])

    return join


def _format(pattern: str, args: Any, kwargs: Any) -> Traced | None:
    """Return `pattern.format(...)` traced where every field is a bare name or number."""
    pieces: list[str] = []
    place = 0
    text = str.__str__(pattern)
    if type(pattern) is Traced and origins_in(pattern) != {TEMPLATE}:
        return None
    for literal, field, spec, conversion in Formatter().parse(text):
        pieces.append(literal)
        if field is None:
            continue
        if spec or conversion not in (None, "s") or not (field.isalnum() or field.isidentifier() or not field):
            return None
        if not field:
            field, place = str(place), place + 1
        value = args[int(field)] if field.isdigit() else kwargs[field]
        pieces.append(value if isinstance(value, str) else str(value))
    return concat(pieces)
