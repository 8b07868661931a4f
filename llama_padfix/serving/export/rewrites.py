"""Changes of a chat template's source after which more engines render it, and transformers renders the same text.

None of them is trusted: each is kept only where `proof` shows that no text changes, and that no engine renders more of
them otherwise.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable, Mapping, Sequence

import jinja2.meta

from llama_padfix.chat.dates import find_date
from llama_padfix.chat.jinja_environment import PLAIN, environment_for, parse_template
from llama_padfix.serving.export.json_macro import write_as_macro

_GENERATION = re.compile(r"(\{%[-+]?\s*)(end)?generation(\s*[-+]?%\})")
_CLOCK_CALL = re.compile(r"strftime_now\(\s*(['\"])(.*?)\1\s*\)")
_DEFAULT_DATE = re.compile(r"set\s+date_string\s*=\s*(['\"])(.*?)\1")
_ASCII = re.compile(r"tojson\(\s*ensure_ascii\s*=\s*(?i:false)\s*(?:,\s*)?")
_ITERABLE = re.compile(r"((?:[A-Za-z_]\w*)(?:\.\w+|\[[^\[\]]+\])*) is (not )?iterable")
_SET_EOS = "{% set eos_token = "
_OF_ITS_OWN = ("chat_template", "date_string")  # these have ways of their own
_CLOCK_LINE = re.compile(r"\A\{% macro strftime_now\(format\) %\}.*?\{% endmacro %\}\n", re.DOTALL)


def strip_generation(source: str) -> str:
    """Write the training tag `{% generation %}` as a condition that always holds: white space stays as it is."""
    return _GENERATION.sub(lambda found: f"{found[1]}{'endif' if found[2] else 'if true'}{found[3]}", source)


def pin_arguments(source: str, kwargs: Mapping[str, object]) -> str:
    """Make the arguments of the training the template's own: a date for ever, others as defaults.

    Args:
        source: The template as it was trained, behind the line that pins its clock where there is one.
        kwargs: The arguments of the training.
    """
    read = jinja2.meta.find_undeclared_variables(parse_template(source))
    named = {key: value for key, value in kwargs.items() if key in read and key not in _OF_ITS_OWN}
    date = kwargs.get("date_string")
    clock = find_date({"chat_template": kwargs.get("chat_template")})
    if clock is not None:
        source = _stop_clock(source, clock)
    if date is None and "date_string" in source:
        defaults = {found[1] for found in _DEFAULT_DATE.findall(source)}
        date = defaults.pop() if len(defaults) == 1 else None
    head = f"{{% set date_string = {_literal(date)} %}}" if date is not None else ""
    head += "".join(f"{{% set {key} = {key} | default({_literal(value)}) %}}" for key, value in named.items())
    return head + source


def pin_eos(source: str, token: str) -> str:
    """Write the EOS of the training into a template that prints it, so that the tokenizer may have another."""
    return f"{_SET_EOS}{_literal(token)} %}}{source}"


def holds_eos(source: str) -> bool:
    """Return True if a template sets `eos_token` by itself."""
    return _SET_EOS in source


def _stop_clock(source: str, date: str) -> str:
    """Write the date in place of each call of the clock; the line that pins it stays where a call is not plain."""
    bare = _CLOCK_LINE.sub("", source)
    moment = datetime.datetime.fromisoformat(date)
    written = _CLOCK_CALL.sub(lambda found: _literal(moment.strftime(found[2])), bare)
    written = written.replace("strftime_now is defined", "true")
    return source if "strftime_now" in written else written


def _literal(value: object) -> str:
    """Return a value as Jinja writes it."""
    return "none" if value is None else json.dumps(value, default=str)


def drop_ascii(source: str) -> str:
    """Leave `ensure_ascii=false` away, which is the default of transformers and unknown elsewhere."""
    return _ASCII.sub("tojson(", source).replace("tojson()", "tojson")


def test_null(source: str) -> str:
    """Say that null is not iterable, where an engine takes it for one."""

    def spell(found: re.Match[str]) -> str:
        name = found[1]
        inner = f"({name} is iterable and {name} is not none)"
        return f"(not {inner})" if found[2] else inner

    return _ITERABLE.sub(spell, source)


def spell_out_space(source: str) -> str:
    """Remove the white space that `trim_blocks` and `lstrip_blocks` remove, so that engines without them agree."""
    pieces: list[str] = []
    trimmed = False
    for _, kind, value in environment_for(PLAIN).lex(source):
        text = str(value)
        if trimmed and kind == "data" and text.startswith("\n"):
            text = '{{ "\\n" }}' + text[1:]
        trimmed = False
        if kind in ("block_end", "comment_end", "raw_end", "raw_begin") and text.endswith("}\n"):
            text, trimmed = text[:-1], True
        pieces.append(text)
    return "".join(pieces)


REWRITES: Sequence[tuple[str, Callable[[str], str], bool]] = (
    ("the training tag {% generation %} is a condition that always holds", strip_generation, False),
    ("ensure_ascii=false, the default, is left away", drop_ascii, False),
    ("null is said not to be iterable", test_null, False),
    ("white space around blocks is removed in the source", spell_out_space, False),
    ("JSON is written by a macro, the same in each engine", write_as_macro, True),
)
"""Every change, in the order in which they are tried: what is said of it, and whether an engine has to need it."""
