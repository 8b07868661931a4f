"""The jinja2 environment that transformers renders chat templates in, for texts that are more than their characters.

jinja2 joins with `str.join` wherever a template prints, calls a macro or writes `~`. A kind of text that is to survive
that (one that knows its origin, one that cannot be looked into) brings a function of its own for all three.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox

__all__ = ["ChatEnvironment", "raise_exception"]


class Generation(jinja2.ext.Extension):
    """The tag `{% generation %}`: what stands in it is what `ChatEnvironment.mark_generation` makes of it."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Callable[[], str]) -> str:
        # jinja2 declares the environment's own class, and not the one that loads this tag.
        return self.environment.mark_generation(caller())  # type: ignore[attr-defined,no-any-return]


class ChatEnvironment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Renders chat templates as transformers does; `concat`, a function of a module, joins texts.

    `finalize` is what jinja2 calls on each value that is printed.
    """

    intercepted_binops = frozenset({"%"})

    def __init__(self, finalize: Callable[[Any], Any]) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols], finalize=finalize
        )
        self.globals["raise_exception"] = raise_exception

    def mark_generation(self, text: str) -> str:
        """Return what is written for a text that the template marks as the model's."""
        return text

    def _generate(self, *args: Any, **kwargs: Any) -> str:
        # The generated module imports how `~` joins; the last import holds.
        code = super()._generate(*args, **kwargs)
        module, name = self.concat.__module__, self.concat.__name__
        ours = f"from {module} import {name} as str_join, {name} as markup_join\n"
        head, line, rest = code.partition("from jinja2.runtime import ")
        imported, end, rest = rest.partition("\n")
        return f"{head}{line}{imported}{end}{ours}{rest}"


def raise_exception(message: str) -> None:
    """Refuse a conversation, as templates do."""
    raise jinja2.TemplateError(str.__str__(message))
