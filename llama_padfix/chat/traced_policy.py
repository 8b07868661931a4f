"""What becomes of traced text where a template joins, prints, formats, filters or calls."""

# ruff: noqa: D102 - the methods are those of StringPolicy
from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from llama_padfix.chat.jinja_environment import Effect, StringPolicy
from llama_padfix.chat.traced_str import (
    CLOSES,
    OPENS,
    Traced,
    concat,
    format_braces,
    lift,
    origins_in,
    print_value,
    taint,
)

if TYPE_CHECKING:
    from llama_padfix.chat.jinja_environment import Function


class TracedPolicy(StringPolicy):
    """Keeps the origin of every character; what jinja2 makes anew of traced texts is tainted."""

    def on_join(self, pieces: Iterable[object]) -> Traced:
        return concat(pieces)

    def on_print(self, value: object) -> object:
        return print_value(value)

    def on_generation(self, text: str) -> Traced:
        return concat((Traced("", ((0, OPENS),)), text, Traced("", ((0, CLOSES),))))

    def on_modulo(self, left: object, right: object) -> object:
        return lift(left) if type(left) is str and origins_in(right) else left

    def on_call(
        self, function: Function, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> tuple[Function, tuple[object, ...]]:
        owner = getattr(function, "__self__", None)
        if type(owner) is str and (args or kwargs):  # a method of plain text, which is the template's
            name = function.__name__
            if name == "join" and args and isinstance(args[0], Iterable):
                args = (list(args[0]), *args[1:])
            if origins_in((args, kwargs)):
                function = getattr(lift(owner), name)
        return function, args

    def on_format(self, pattern: str, name: str, function: Callable[..., str]) -> Callable[..., str]:
        @functools.wraps(function)
        def traced(*args: object, **kwargs: object) -> str:
            made = str.__str__(function(*args, **kwargs))
            if name == "format":
                return format_braces(made, pattern, args, kwargs)
            return taint(made, (lift(pattern), args)) if origins_in((pattern, args)) else made

        return traced

    def on_filter(self, name: str, effect: Effect, function: Function) -> Function:
        if effect in (Effect.PASSES, Effect.ITEMS):
            return function

        @functools.wraps(function)  # which keeps the mark that jinja2 passes its context first
        def joined(context: object, value: object, d: str = "", attribute: object = None) -> object:
            return function(context, value, lift(str(d)), attribute)

        @functools.wraps(function)
        def tainted(*args: object, **kwargs: object) -> object:
            made = function(*args, **kwargs)
            # `indent` adds lines that a plain text joined, which shows no origin, to a traced one.
            if isinstance(made, str) and (type(made) is not Traced or name == "indent") and made:
                sources = [value for value in (*args, *kwargs.values()) if isinstance(value, (str, list, tuple, dict))]
                if origins_in(sources) and not any(made is source for source in sources):
                    first = sources[0]
                    return taint(str.__str__(made), [lift(first) if isinstance(first, str) else first, *sources[1:]])
            return made

        def formatted(value: object, *args: object, **kwargs: object) -> object:
            values = kwargs or args
            return lift(str(value)) % values if origins_in((value, values)) else function(value, *args, **kwargs)

        chosen: Mapping[str, Function] = {"join": joined, "format": formatted}
        return chosen.get(name, tainted)


TRACED = TracedPolicy()
