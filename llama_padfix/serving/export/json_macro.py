"""`tojson` written as a macro of the template itself, because engines write the same value as other JSON.

minijinja escapes `< > & '` and writes 1e-7, llama.cpp writes 1 for 1.0. In jinja2 the macro writes what `tojson` does:
JSON holds no raw backspace, so one can stand for `\\\\` while the escapes of minijinja are taken back.
"""

from __future__ import annotations

from collections.abc import Sequence

from llama_padfix.chat.jinja_environment import PLAIN, environment_for

NAME = "write_json"
_TEXT = (
    r"tojson | replace('\\\\', '\b') | replace('\\u003c', '<') | replace('\\u003e', '>') | replace('\\u0026', '&')"
    r""" | replace('\\u0027', "'") | replace('\b', '\\\\')"""
)
_NUMBER = (
    "{%- set text = value | tojson -%}"
    "{%- if text[-3:-1] == 'e-' -%}{{- text[:-1] ~ '0' ~ text[-1:] -}}"
    "{%- elif 'e' in text and 'e-' not in text and 'e+' not in text -%}{{- text | replace('e', 'e+') -}}"
    "{%- elif '.' in text or 'e' in text or 'n' in text or 'N' in text -%}{{- text -}}"
    "{%- else -%}{{- text ~ '.0' -}}{%- endif -%}"
)
_STEP = "{%- if pad -%}{{- pad ~ step -}}{%- elif not loop.first -%}{{- ' ' -}}{%- endif -%}"
_NEXT = "(pad ~ step) if pad else '', step"
MACRO = (
    f"{{%- macro {NAME}(value, pad='', step='') -%}}{{%- set held = value -%}}"
    f"{{%- if value is string -%}}{{{{- value | {_TEXT} -}}}}"
    "{%- elif value is mapping -%}{{- '{' -}}"
    "{%- for key in held -%}"
    f"{{%- if not loop.first -%}}{{{{- ',' -}}}}{{%- endif -%}}{_STEP}"
    f"{{{{- (key | {_TEXT}) ~ ': ' ~ {NAME}(value[key], {_NEXT}) -}}}}"
    "{%- if loop.last -%}{{- pad -}}{%- endif -%}"
    "{%- endfor -%}{{- '}' -}}"
    f"{{%- elif value is number and value is not boolean and value is not integer -%}}{_NUMBER}"
    "{%- elif value is none or value is undefined or value is boolean or value is number -%}{{- value | tojson -}}"
    "{%- else -%}{{- '[' -}}"
    "{%- for item in held -%}"
    f"{{%- if not loop.first -%}}{{{{- ',' -}}}}{{%- endif -%}}{_STEP}"
    f"{{{{- {NAME}(item, {_NEXT}) -}}}}"
    "{%- if loop.last -%}{{- pad -}}{%- endif -%}"
    "{%- endfor -%}{{- ']' -}}"
    "{%- endif -%}{%- endmacro %}"
)
"""`pad` is the line break and blanks before a closing bracket, `step` the blanks of a level; both empty in a line.

The loops go over `held`: vLLM takes a template whose macro loops over a parameter for one that reads content as parts.
"""

_OPENING, _CLOSING = {")": "(", "]": "[", "}": "{"}, frozenset(")]}")
_OPERANDS = frozenset({"name", "string", "integer", "float"})
_WORDS = frozenset({"in", "not", "and", "or", "is", "if", "else"})


def write_as_macro(source: str) -> str:
    """Return a template that calls the macro in the place of each `tojson` without other arguments than `indent`."""
    if NAME in source:
        return source
    tokens = [(kind, str(text)) for _, kind, text in environment_for(PLAIN).lex(source)]
    changed, place = False, 0
    while place < len(tokens):
        if tokens[place] == ("name", "tojson"):
            found = _find_call(tokens, place)
            if found is not None:
                start, operand, end, indent = found
                given = f", '\\n', '{' ' * indent}'" if indent is not None else ""
                call = [("name", NAME), ("operator", "("), *operand, ("data", given), ("operator", ")")]
                tokens[start:end] = call
                place, changed = start + len(call) - 1, True
        place += 1
    return MACRO + "".join(text for _, text in tokens) if changed else source


_Tokens = Sequence[tuple[str, str]]


def _find_call(tokens: _Tokens, place: int) -> tuple[int, list[tuple[str, str]], int, int | None] | None:
    """Return where `operand | tojson` begins, its operand, where it ends and its indent; None for another form."""
    bar = _before(tokens, place)
    if tokens[bar] != ("operator", "|"):
        return None
    end, indent = place + 1, None
    if _is(tokens, end, "("):
        close = next(n for n in range(end, len(tokens)) if tokens[n] == ("operator", ")"))
        inside = "".join(text for _, text in tokens[end + 1 : close]).replace(" ", "")
        name, _, number = inside.partition("=")
        if inside and not (name == "indent" and number.isdecimal()):
            return None
        end, indent = close + 1, int(number) if inside else None
    start = _find_operand(tokens, bar)
    return None if start is None else (start, [*tokens[start:bar]], end, indent)


def _find_operand(tokens: _Tokens, bar: int) -> int | None:
    """Return where the expression begins that a filter is applied to; None where that is not plain."""
    place = _before(tokens, bar)
    while True:
        kind, text = tokens[place]
        if kind == "operator" and text in _CLOSING:
            place = _find_opening(tokens, place)
            before = _before(tokens, place)
            called = tokens[before][0] == "name" and tokens[before][1] not in _WORDS
            if called or tokens[before][1] in _CLOSING:  # a call or a subscript of what stands before
                place = before
                continue
        elif kind not in _OPERANDS or text in _WORDS:
            return None
        before = _before(tokens, place)
        if tokens[before][1] not in (".", "|"):
            negated = tokens[before] == ("operator", "-") and not _ends_operand(tokens[_before(tokens, before)])
            return None if negated else place
        place = _before(tokens, before)


def _ends_operand(token: tuple[str, str]) -> bool:
    kind, text = token
    return text in _CLOSING if kind == "operator" else kind in _OPERANDS and text not in _WORDS


def _find_opening(tokens: _Tokens, place: int) -> int:
    depth = 0
    for at in range(place, -1, -1):
        kind, text = tokens[at]
        if kind == "operator" and text in _CLOSING:
            depth += 1
        elif kind == "operator" and text in _OPENING.values():
            depth -= 1
            if depth == 0:
                return at
    return 0


def _before(tokens: _Tokens, place: int) -> int:
    """Return the last token before a place that is no white space."""
    place -= 1
    while place > 0 and tokens[place][0] == "whitespace":
        place -= 1
    return place


def _is(tokens: _Tokens, place: int, text: str) -> bool:
    return place < len(tokens) and tokens[place] == ("operator", text)
