"""What the environment relies on in jinja2, each point tried against the installed version."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from typing import Any

import pytest
from jinja2 import Environment
from jinja2.sandbox import SandboxedEnvironment

from llama_padfix.chat.jinja_environment import FILTERS, Effect, StringPolicy, compile_template
from llama_padfix.chat.symbolic import render_symbolic
from llama_padfix.chat.symbolic_slots import TemplateBranched


class Recorder(StringPolicy):
    """Records each decision that is left to a policy."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def record(self, decision: str, *values: object) -> None:
        self.seen.append(" ".join((decision, *map(str, values))))

    def on_join(self, pieces: Iterable[object]) -> str:
        texts = [str(piece) for piece in pieces]
        self.record("join", *texts)
        return "".join(texts)

    def on_print(self, value: object) -> object:
        self.record("print", value)
        return value

    def on_generation(self, text: str) -> str:
        self.record("generation", text)
        return text

    def on_modulo(self, left: object, right: object) -> object:
        self.record("%", left, right)
        return left

    def on_key(self, key: object) -> object:
        self.record("key", key)
        return key

    def on_call(
        self, function: Callable[..., object], args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> tuple[Callable[..., object], tuple[object, ...]]:
        self.record("call", getattr(function, "__name__", function), *args, *kwargs)
        return function, args

    def on_format(self, pattern: str, name: str, function: Callable[..., str]) -> Callable[..., str]:
        self.record(name, pattern)
        return function

    def on_filter(self, name: str, effect: Effect, function: Callable[..., object]) -> Callable[..., object]:
        return self.recorded("filter", name, function)

    def on_test(self, name: str, function: Callable[..., object]) -> Callable[..., object]:
        return self.recorded("test", name, function)

    def recorded(self, kind: str, name: str, function: Callable[..., Any]) -> Callable[..., object]:
        @functools.wraps(function)  # which keeps the mark that jinja2 passes its context first
        def wrapped(*args: object, **kwargs: object) -> object:
            self.record(kind, name, *(value for value in args if isinstance(value, str)))
            return function(*args, **kwargs)

        return wrapped


class Key(str):
    """A string that is more than characters, as those are about which a policy decides."""


def require(relied_on: str, source: str, decision: str) -> None:
    """Fail unless rendering a template leaves the decision to the policy."""
    broken = f"jinja2 {version('jinja2')} breaks what jinja_environment relies on: {relied_on}"
    policy = Recorder()
    try:
        compile_template(source, policy).render(x="X", key=Key("X"), pairs={"X": 1}, show=lambda caller: caller())
    except Exception as error:
        pytest.fail(f"{broken}: {type(error).__name__}: {error}")
    assert decision in policy.seen, broken


@pytest.mark.parametrize(
    ("relied_on", "source", "decision"),
    [
        ("Environment.concat joins what a template prints", "a{{ x }}b", "join a X b"),
        ("and a macro", "{% macro f(y) %}-{{ y }}{% endmacro %}{% set z = f(x) %}", "join - X"),
        ("and a block that is set", "{% set z %}-{{ x }}{% endset %}", "join - X"),
        ("and a block that is filtered", "{% filter trim %}-{{ x }}{% endfilter %}", "join - X"),
        ("and a block that is called", "{% call show() %}-{{ x }}{% endcall %}", "join - X"),
        ("a tree without Concat, in which ~ is a filter, can be compiled", "{{ '-' ~ x ~ 1 }}", "join - X 1"),
        ("finalize is called for each value that is printed", "{{ x }}", "print X"),
        ("and for a constant", "{{ 7 }}", "print 7"),
        ("Extension.call_method calls a tag's method", "{% generation %}-{{ x }}{% endgeneration %}", "generation -X"),
        ("call_binop is called for the operators of intercepted_binops", "{{ '%s' % x }}", "% %s X"),
        ("getitem is called for a variable key", "{{ pairs[key] }}", "key X"),
        ("call is called for a method", "{{ x.strip('-') }}", "call strip -"),
        ("and for a global function", "{{ dict(a=x) }}", "call dict a"),
        ("filters holds what is called", "{{ x | upper }}", "filter upper X"),
        ("and by map", "{{ [x] | map('upper') | first }}", "filter upper X"),
        ("and by a block that is filtered", "{% filter upper %}{{ x }}{% endfilter %}", "filter upper X"),
        ("a wrapped filter is passed the context that its mark names", "{{ [x] | join('-') }}", "filter join -"),
        ("tests holds what is called", "{{ x is lower }}", "test lower X"),
        ("and by select", "{{ [x] | select('eq', 'X') | first }}", "test eq X X"),
        ("loopcontrols is an extension", "{% for y in x %}{{ y }}{% break %}{% endfor %}", "print X"),
    ],
)  # fmt: skip
def test_jinja2_leaves_to_the_policy(relied_on: str, source: str, decision: str) -> None:
    require(relied_on, source, decision)


@pytest.mark.skipif(not hasattr(SandboxedEnvironment, "wrap_str_format"), reason="the result of format is LOST there")
@pytest.mark.parametrize(("name", "given"), [("format", "a=x"), ("format_map", "{'a': x}")])
def test_jinja2_leaves_the_formatting_of_a_pattern_to_the_policy(name: str, given: str) -> None:
    require("wrap_str_format is called for a pattern", f"{{{{ '-{{a}}'.{name}({given}) }}}}", f"{name} -{{a}}")


@pytest.mark.parametrize(
    ("source", "message"), [("{{ x }}", "jinja2 [0-9].*on: this"), ("{{ 1 / 0 }}", "ZeroDivision")]
)
def test_a_point_that_breaks_is_named_with_the_version(source: str, message: str) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception), match=message):
        require("this", source, "no such decision")


def test_the_table_of_filters_holds_filters_of_jinja2() -> None:
    assert set(FILTERS) <= set(Environment().filters), f"jinja2 {version('jinja2')} has no such filter"


@pytest.mark.parametrize("operator", ["in", "not in"])
def test_a_tree_in_which_membership_is_a_test_can_be_compiled(operator: str) -> None:
    source = f"{{% for m in messages %}}{{{{ 'a' {operator} m.content }}}}{{% endfor %}}"
    literals, slots, lacks = render_symbolic(source, [{"role": "user"}], {})
    assert "".join(literals) == str(operator == "not in"), f"jinja2 {version('jinja2')}"
    assert not slots and lacks == {"a"}
    with pytest.raises(TemplateBranched, match="a search"):
        render_symbolic(source.replace("'a'", "messages[0].content"), [{"role": "user"}], {})
