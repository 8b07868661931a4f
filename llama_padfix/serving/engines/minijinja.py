"""minijinja, the Jinja of servers in Rust: the Python package, set up as transformers sets up jinja2."""

from __future__ import annotations

import datetime
import decimal
import importlib
import json
import math
import re
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from llama_padfix.serving.engines.engine import Engine, EngineMissingError
from llama_padfix.serving.rendering.chat import Chat, Quirk, RenderRefusedError
from llama_padfix.serving.rendering.quirks import NO_ALIAS, NO_ARGUMENTS, UNPINNED_DATE
from llama_padfix.serving.rendering.render import apply_to_chat, context_of

if TYPE_CHECKING:
    import jinja2

    from llama_padfix.serving.folder import ServedFolder

_FUEL = 5_000_000  # steps of minijinja's machine in one rendering
_NAME = "chat"
_CONTROL_BLANKS = "\x1c\x1d\x1e\x1f"  # white space in Python, and not in Rust
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "'": "\\u0027"}

REFUSALS = (
    (r"unknown statement generation", "does not run"),
    (r"unknown (method|filter|test|function)|too many arguments|unsupported types|syntax error", "does not run"),
)
"""Patterns of minijinja's messages, with the causes."""


def _write_numbers(value: object, ensure_ascii: bool = False, indent: int | None = None, **settings: Any) -> str:
    """Return JSON whose exponents have no zero in front, as Rust writes them: 1e-7."""
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **settings)
    in_text = re.split(r'("(?:[^"\\]|\\.)*")', text)
    return "".join(part if part[:1] == '"' else re.sub(r"e([+-]?)0*(\d)", r"e\1\2", part) for part in in_text)


def _escape(environment: jinja2.Environment) -> None:
    before = environment.filters["tojson"]

    def escaped(*args: object, **settings: object) -> str:
        return "".join(_ESCAPES.get(char, char) for char in str(before(*args, **settings)))

    environment.filters["tojson"] = escaped


def _shorten_exponents(environment: jinja2.Environment) -> None:
    environment.filters["tojson"] = _write_numbers


def _write_out(value: object) -> object:
    """Return a float as Rust prints it, without an exponent."""
    if isinstance(value, float) and value == value and value not in (math.inf, -math.inf):
        text = format(decimal.Decimal(repr(value)), "f")
        return text if "." in text else f"{text}.0"
    return value


def _print_without_exponents(environment: jinja2.Environment) -> None:
    string, join = environment.filters["string"], environment.filters["~"]
    environment.finalize = _write_out
    environment.filters["string"] = lambda value: string(_write_out(value))
    environment.filters["~"] = lambda values: join([*map(_write_out, values)])


def _trim(value: object, chars: str | None = None) -> str:
    text = str(value)
    return text.strip(chars) if chars is not None else _strip(text)


def _strip(text: str) -> str:
    """Remove white space as Rust does: the control blanks of Python stay."""
    start, end = 0, len(text)
    while start < end and text[start].isspace() and text[start] not in _CONTROL_BLANKS:
        start += 1
    while end > start and text[end - 1].isspace() and text[end - 1] not in _CONTROL_BLANKS:
        end -= 1
    return text[start:end]


def _trim_as_rust(environment: jinja2.Environment) -> None:
    environment.filters["trim"] = _trim


def _is_iterable(value: object) -> bool:
    return value is None or hasattr(value, "__iter__")


def _iterate_none(environment: jinja2.Environment) -> None:
    environment.tests["iterable"] = _is_iterable


QUIRKS = (
    Quirk("numbers", on_environment=_shorten_exponents, reads="tojson"),
    Quirk("numbers", on_environment=_print_without_exponents),
    Quirk("escaped JSON", on_environment=_escape, reads="tojson"),
    Quirk("white space", on_environment=_trim_as_rust, reads="trim"),
    Quirk("iterable null", on_environment=_iterate_none, reads="iterable"),
)
"""What minijinja renders otherwise than jinja2."""


def open_engine(folder: ServedFolder) -> Engine:
    """Return minijinja with a folder opened."""
    module = load_minijinja()
    quirks = (UNPINNED_DATE, NO_ARGUMENTS, NO_ALIAS, *QUIRKS)
    renderer = MiniJinjaRenderer(module, quirks, trim_blocks=True)
    return Engine(
        "minijinja",
        f"minijinja {version('minijinja')}, run",
        folder.template,
        folder.template_file_name,
        quirks,
        run=renderer.render,
        refusals=REFUSALS,
    )


def load_minijinja() -> Any:  # the package, which has no annotations that hold
    """Return the package; raises `EngineMissingError`."""
    try:
        return importlib.import_module("minijinja")
    except ImportError:
        raise EngineMissingError('pip install "llama-padfix[serving]"') from None


class MiniJinjaRenderer:
    """Renders chats by minijinja after the quirks that change a chat; each source is compiled once."""

    def __init__(self, module: Any, quirks: tuple[Quirk, ...], *, trim_blocks: bool) -> None:
        self._module, self._quirks, self._trim_blocks = module, quirks, trim_blocks
        self._environments: dict[str, Any] = {}
        self._day: datetime.date | None = None

    def render(self, chat: Chat) -> str:
        """Return the text; raises `RenderRefusedError` with minijinja's message."""
        chat, _ = apply_to_chat(chat, self._quirks)
        self._day = chat.day
        try:
            environment = self._environments.get(chat.source)
            if environment is None:
                environment = self._environments[chat.source] = self._compile(chat.source)
            context: Mapping[str, object] = context_of(chat)
            return str(environment.render_template(_NAME, **{k: v for k, v in context.items() if k != "strftime_now"}))
        except Exception as error:  # minijinja's own class, and what a callback raises
            raise RenderRefusedError(str(error).partition("\n")[0]) from None

    def _compile(self, source: str) -> Any:  # minijinja.Environment
        environment = self._module.Environment(
            trim_blocks=self._trim_blocks, lstrip_blocks=self._trim_blocks, fuel=_FUEL, debug=False
        )
        environment.auto_escape_callback = lambda name: False
        environment.add_function("raise_exception", _refuse)
        environment.add_function("strftime_now", self._show_clock)
        environment.add_template(_NAME, source)
        return environment

    def _show_clock(self, pattern: str) -> str:
        return (self._day or datetime.date.today()).strftime(pattern)


def _refuse(message: str) -> None:
    raise RenderRefusedError(message)
