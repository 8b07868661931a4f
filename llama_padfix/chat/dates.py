"""One date for a whole run, and the same one tomorrow: what a chat template reads from the clock, pinned.

A template asks for the time with `strftime_now`, a function that transformers gives to every template. Since
transformers turns arguments into plain data, no argument can take that name's place; a macro of that name in front
of the template can. So the pinned arguments hold the template itself, letter for letter, behind one such line. The
tokenizer is not changed.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from typing import Any

from llama_padfix.chat.jinja_environment import parse_template
from llama_padfix.chat.traced_render import source_of
from llama_padfix.core.compat import gives_clock
from llama_padfix.core.errors import PadfixError, describe
from llama_padfix.tokens.calls import render_or_none

_FORMAT = "%d %b %Y"  # of `date_string` in the templates of Llama 3.1 and 3.2
_FIELDS = tuple(f"%{letter}" for letter in "AaBbcDdeFHhIjMmpRSTUuVWwXxYyZz")
_CLOCK = re.compile(r"\{% macro strftime_now\(format\) %\}\{# (\S+) #\}")
_TOOLS: tuple[list[Any] | None, ...] = (None, [{}])  # a template may have a twin for tools
_PROBES: tuple[tuple[list[dict[str, str]], list[dict[str, Any]] | None], ...] = (
    ([{"role": "user", "content": "Hi"}], None),
    (
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        [{"type": "function", "function": {"name": "look", "description": "L", "parameters": {"type": "object"}}}],
    ),
)


def pin_date(
    tokenizer: Any,
    template_kwargs: Mapping[str, Any] | None = None,
    date: datetime.date | str | None = None,
) -> dict[str, Any]:
    """Return the keyword arguments for `apply_chat_template` with which the template prints one date for ever.

    A template that takes `date_string` gets it, in the format that it would ask of the clock; one that asks the
    clock otherwise is passed as `chat_template`, behind a line that fixes the clock. All values are text. `date` is
    a date or text such as "2024-07-26", by default today, local time; without one a template that prints a
    constant date keeps it. What `template_kwargs` already pin stays, and a template without a date changes
    nothing. Raises `PadfixError` for a date that cannot be read.
    """
    given = dict(template_kwargs or {})
    names = _names_read(tokenizer, given)
    asks_clock = "strftime_now" in names and (date is not None or gives_clock(tokenizer))
    takes_text = "date_string" in names and (date is not None or asks_clock)
    if _CLOCK.match(str(given.get("chat_template"))) or not (asks_clock or takes_text):
        return given
    moment = _read_date(date)
    if takes_text and "date_string" not in given:
        text = moment.strftime(_find_format(tokenizer, given) or _FORMAT)
        pinned = {**given, "date_string": text}
        by_text = _render_all(tokenizer, pinned)
        if asks_clock:
            shows = by_text == _render_all(tokenizer, _fix_clock(tokenizer, given, moment))
        else:
            shows = any(one and text in one for one in by_text)
        given = pinned if shows else given
    if not asks_clock:
        return given
    clocked = _fix_clock(tokenizer, given, moment)
    if "date_string" in given:  # then the template may never look at the clock
        later = _fix_clock(tokenizer, given, moment + datetime.timedelta(days=400))
        if _render_all(tokenizer, clocked) == _render_all(tokenizer, later):
            return given
    return clocked


def find_date(template_kwargs: Mapping[str, Any]) -> str | None:
    """Return the date that the arguments pin, as text that `pin_date` reads again; None where they pin none.

    A `date_string` that the caller wrote is returned as it is.
    """
    clock = _CLOCK.match(str(template_kwargs.get("chat_template")))
    if clock is not None:
        return clock.group(1).removesuffix("T00:00:00")
    text = template_kwargs.get("date_string")
    return None if text is None else str(text)


def _read_date(date: datetime.date | str | None) -> datetime.datetime:
    if date is None:
        date = datetime.date.today()
    if isinstance(date, str):
        for read in (datetime.datetime.fromisoformat, lambda text: datetime.datetime.strptime(text, _FORMAT)):
            try:
                return read(date)
            except ValueError:
                continue
    elif isinstance(date, datetime.datetime):
        return date
    elif isinstance(date, datetime.date):
        return datetime.datetime.combine(date, datetime.time())
    raise PadfixError(f"date={describe(date)} is no date. Write year, month and day: date='2024-07-26'")


def _fix_clock(tokenizer: Any, given: Mapping[str, Any], moment: datetime.datetime) -> dict[str, Any]:
    """Return the arguments with the template behind a macro that says the time."""
    sources = [source_of(tokenizer, tools, given) for tools in _TOOLS]
    fields = dict.fromkeys((*_FIELDS, *re.findall(r"%[-_^#0]?[A-Za-z]", "".join(sources))))
    replaced = "".join(f".replace({name!r}, {moment.strftime(name)!r})" for name in fields)
    clock = (
        f"{{% macro strftime_now(format) %}}{{# {moment.isoformat()} #}}{{% for part in format.split('%%') %}}"
        f"{{{{ '' if loop.first else '%' }}}}{{{{ part{replaced} }}}}{{% endfor %}}{{% endmacro %}}\n"
    )
    plain, with_tools = (source.removesuffix("\n") for source in sources)  # jinja2 drops the last line break
    if plain == with_tools:
        return {**given, "chat_template": clock + sources[0]}
    choice = f"{{% if tools is not none %}}\n{with_tools}{{% else +%}}{plain}{{% endif +%}}"
    return {**given, "chat_template": clock + choice}


def _find_format(tokenizer: Any, given: Mapping[str, Any]) -> str | None:
    """Return the format that the template asks of the clock where it does so once, in the same words everywhere."""
    from jinja2 import nodes

    found = {
        call.args[0].value
        for tree in _parse_all(tokenizer, given)
        for call in tree.find_all(nodes.Call)
        if isinstance(call.node, nodes.Name) and call.node.name == "strftime_now"
        if call.args and isinstance(call.args[0], nodes.Const)
    }
    return str(found.pop()) if len(found) == 1 else None


def _names_read(tokenizer: Any, given: Mapping[str, Any]) -> set[str]:
    """Return the names that the chat templates, with and without tools, look up."""
    from jinja2 import nodes

    trees = _parse_all(tokenizer, given)
    return {name.name for tree in trees for name in tree.find_all(nodes.Name) if name.ctx == "load"}


def _parse_all(tokenizer: Any, given: Mapping[str, Any]) -> list[Any]:
    """Return the syntax tree of each chat template; mostly there is one, with tools and without."""
    trees: dict[str, Any] = {}
    for tools in _TOOLS:
        try:
            source = source_of(tokenizer, tools, given)
            trees[source] = trees.get(source) or parse_template(source)
        except Exception:  # there is none, or one that whoever renders it complains of
            continue
    return list(trees.values())


def _render_all(tokenizer: Any, kwargs: Mapping[str, Any]) -> list[str | None]:
    """Render a few conversations; None for each that the template refuses."""
    return [render_or_none(tokenizer, messages, kwargs, tools=tools) for messages, tools in _PROBES]
