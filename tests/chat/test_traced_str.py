"""Traced text does what text does, and what a message wrote never becomes the template's."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import jinja2.sandbox
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_padfix.chat.traced_render import render_traced
from llama_padfix.chat.traced_str import (
    CLOSES,
    LOST,
    OPENS,
    TEMPLATE,
    TOOLS,
    Traced,
    concat,
    lift,
    origins_in,
    taint,
    trace,
)

# Each character shows by itself who wrote it: nobody else uses it.
WRITERS: dict[int, str] = {TEMPLATE: "ab ,\n", 3: "甲é;\t", 4: "乙ß.\u3000", TOOLS: "丙|\x0b"}
WRITER_OF = {char: origin for origin, chars in WRITERS.items() for char in chars}


def pieces_of(origin: int) -> st.SearchStrategy[Traced]:
    return st.text(alphabet=WRITERS[origin], max_size=5).map(lambda text: Traced(text, ((len(text), origin),)))


TEXTS = st.lists(st.sampled_from(sorted(WRITERS)).flatmap(pieces_of), max_size=5).map(concat)
EXACT: dict[str, Any] = {
    "strip": lambda t: t.strip(),
    "strip of characters": lambda t: t.strip("a甲乙"),
    "lstrip": lambda t: t.lstrip("ab甲"),
    "rstrip": lambda t: t.rstrip(),
    "slice": lambda t: t[1:4],
    "slice from behind": lambda t: t[-3:-1],
    "slice that is empty": lambda t: t[4:1],
    "whole slice": lambda t: t[:],
    "index": lambda t: t[-1] if t else t,
    "split": lambda t: t.split(","),
    "split at most": lambda t: t.split(";", 1),
    "split at white space": lambda t: t.split(),
    "split at white space at most": lambda t: t.split(None, 1),
    "split at two characters": lambda t: t.split("ab"),
    "rsplit": lambda t: t.rsplit(";", 1),
    "rsplit at white space": lambda t: t.rsplit(None, 1),
    "splitlines": lambda t: t.splitlines(),
    "splitlines with ends": lambda t: t.splitlines(True),
    "partition": lambda t: t.partition(";"),
    "rpartition": lambda t: t.rpartition("b"),
    "replace": lambda t: t.replace("甲", "ba"),
    "replace with nothing": lambda t: t.replace(";", ""),
    "replace at most": lambda t: t.replace("a", "bb", 2),
    "replace with a message": lambda t: t.replace("a", trace("é;", 3)),
    "join": lambda t: t.join(["a", trace("乙", 4), "b"]),
    "join from plain text": lambda t: lift(",").join([t, "a", t]),
    "lower": lambda t: t.lower(),
    "times": lambda t: t * 2,
    "times from the left": lambda t: 2 * t,
    "times nothing": lambda t: t * -1,
    "plus": lambda t: "a" + t + "b",
    "removeprefix": lambda t: t.removeprefix("a甲"),
    "removesuffix": lambda t: t.removesuffix(";"),
    "removesuffix of nothing": lambda t: t.removesuffix(""),
    "iteration": lambda t: list(t),
    "percent": lambda t: lift("a%sb%s") % (t, "a"),
    "str": lambda t: str(t),
    "format without a field": lambda t: format(t),
    "pickle": lambda t: pickle.loads(pickle.dumps(t)),
}
# What these give is not followed to the character.
TAINTED: dict[str, Any] = {
    "reversed": lambda t: t[::-1],
    "replace nothing": lambda t: t.replace("", "a"),
    "upper": lambda t: t.upper(),
    "title": lambda t: t.title(),
    "capitalize": lambda t: t.capitalize(),
    "swapcase": lambda t: t.swapcase(),
    "casefold": lambda t: t.casefold(),
    "center": lambda t: t.center(20, "a"),
    "ljust": lambda t: t.ljust(20),
    "rjust": lambda t: t.rjust(20, "b"),
    "zfill": lambda t: t.zfill(20),
    "expandtabs": lambda t: t.expandtabs(4),
    "translate": lambda t: t.translate({ord("a"): "bb", ord("b"): None}),
    "format with a width": lambda t: format(t, "20"),
    "percent with a width": lambda t: lift("a%9s") % t,
}


def origins_of(text: Any) -> list[int]:
    """The origin of each character; a plain text is the template's."""
    return [origin for length, origin in lift(text)._runs for _ in range(length)]


def flat(made: Any) -> list[Any]:
    return list(made) if isinstance(made, (list, tuple)) else [made]


def plain_of(text: str) -> str:
    return "".join((text, ""))


def compare_with_plain(traced: Traced, operation: Any) -> list[Any]:
    made = flat(operation(traced))
    assert [plain_of(one) for one in made] == [plain_of(one) for one in flat(operation(lift(plain_of(traced))))]
    assert all(len(origins_of(one)) == len(one) for one in made)
    return made


@settings(max_examples=300, deadline=None)  # each is given to all operations: to make one takes the most time
@given(TEXTS)
def test_every_character_keeps_its_writer(traced: Traced) -> None:
    for name, operation in EXACT.items():
        for text in compare_with_plain(traced, operation):
            for char, origin in zip(plain_of(text), origins_of(text), strict=True):
                assert WRITER_OF.get(char, origin) == origin, (name, char, origin)


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_what_is_not_followed_is_never_the_templates(traced: Traced) -> None:
    sources = origins_in(traced) - {TEMPLATE}
    for name, operation in TAINTED.items():
        for text in compare_with_plain(traced, operation):
            for char, origin in zip(plain_of(text), origins_of(text), strict=True):
                assert origin in {*sources, LOST, TEMPLATE}, name
                if WRITER_OF.get(char, TEMPLATE) != TEMPLATE:
                    assert origin != TEMPLATE, (name, char, traced._runs)


@given(TEXTS)
def test_a_text_does_what_a_plain_one_does(traced: Traced) -> None:
    plain = plain_of(traced)
    for name in ("strip", "split", "splitlines", "title", "upper", "expandtabs", "swapcase"):
        assert flat(getattr(traced, name)()) == flat(getattr(plain, name)())
    for name, args in (
        ("split", (",", 1)),
        ("rsplit", (None, 2)),
        ("partition", ("b",)),
        ("rpartition", (",",)),
        ("replace", ("a", "bb", 1)),
        ("removeprefix", ("a",)),
        ("removesuffix", ("b",)),
        ("center", (9, "x")),
        ("join", (["p", "q"],)),
    ):
        assert flat(getattr(traced, name)(*args)) == flat(getattr(plain, name)(*args))
    assert [traced[2:], traced[::-1], traced * 3, f"{traced:>9}"] == [plain[2:], plain[::-1], plain * 3, f"{plain:>9}"]
    assert (hash(traced), len(traced), traced == plain, bool(traced)) == (hash(plain), len(plain), True, bool(plain))


# Every method of str, as a template calls it

ASKS = ("count", "endswith", "find", "index", "rfind", "rindex", "startswith")
ANSWERS = {name for name in dir(str) if name.startswith("is")} | set(ASKS)
METHODS: dict[str, tuple[str, ...]] = {
    "capitalize": ("c.capitalize()",),
    "casefold": ("c.casefold()",),
    "center": ("c.center(30, '*')", "'x'.center(30, c[0])"),
    "expandtabs": ("c.expandtabs(3)",),
    "format": (
        "'{}-{}'.format(c, 1)",
        "'{x}'.format(x=c)",
        "c.format(1)",
        "'{:>30}'.format(c)",
        "'{0[0]}'.format(c)",
        "'{}{x}'.format([c], x={'k': c})",
    ),
    "format_map": ("'{x}'.format_map({'x': c})", "c.format_map({})"),
    "join": ("', '.join([c, 'a'])", "c.join(['p', 'q'])", "''.join(c)"),
    "ljust": ("c.ljust(30)",),
    "lower": ("c.lower()",),
    "lstrip": ("c.lstrip('甲')",),
    "partition": ("c.partition(',')[2]", "'x,y'.partition(',')[0] ~ c"),
    "removeprefix": ("c.removeprefix('甲')", "'甲 b'.removeprefix(c)"),
    "removesuffix": ("c.removesuffix('é')",),
    "replace": ("c.replace('甲', 'x')", "'a-b'.replace('-', c)", "c.replace('', '+')", "'a'.replace('', c)"),
    "rjust": ("c.rjust(30)",),
    "rpartition": ("c.rpartition(',')[0]",),
    "rsplit": ("c.rsplit(',', 1)[1]", "c.rsplit()[0]"),
    "rstrip": ("c.rstrip('é ')",),
    "split": ("c.split(',')[1]", "c.split()[1]", "c.split(',') | join('/')"),
    "splitlines": ("c.splitlines()[0]", "c.splitlines(True)[0]"),
    "strip": ("c.strip()",),
    "swapcase": ("c.swapcase()",),
    "title": ("c.title()",),
    "translate": ("c.translate({97: 'z'})",),
    "upper": ("c.upper()",),
    "zfill": ("c.zfill(30)",),
}
CONTENT = "甲 é, 甲\té \n甲"
TAKES = {"maketrans": "a table of characters", "encode": "bytes, which cannot be traced"}


def tokenizer_with(source: str) -> Any:
    """Return what `render_traced` reads of a tokenizer, and no more."""
    return SimpleNamespace(chat_template=source, special_tokens_map={})


def test_every_method_of_text_is_tried() -> None:
    public = {name for name in dir(str) if not name.startswith("_")}
    assert {*METHODS, *ANSWERS, *TAKES} == public


@pytest.mark.parametrize("expression", [each for several in METHODS.values() for each in several])
def test_what_a_template_does_with_a_method_keeps_the_message_apart(expression: str) -> None:
    source = "<{% set c = messages[0].content %}{{ " + expression + " }}>"
    expected = jinja2.sandbox.ImmutableSandboxedEnvironment().from_string(source)
    messages = [{"role": "user", "content": CONTENT}]
    made = render_traced(tokenizer_with(source), messages)
    assert plain_of(made) == expected.render(messages=messages)
    origins = origins_of(made)
    assert origins[0] == origins[-1] == TEMPLATE
    written = [(char, origin) for char, origin in zip(plain_of(made), origins, strict=True) if char in "甲é"]
    assert written or "removeprefix(c)" in expression
    if "removeprefix(c)" not in expression:  # there the template wrote the character itself
        assert {origin for _, origin in written} <= {0, LOST}


@pytest.mark.parametrize("name", sorted(ANSWERS))
def test_what_a_template_asks_of_a_text_is_answered_as_always(name: str) -> None:
    call = f"c.{name}('é')" if name in ASKS else f"c.{name}()"
    source = "{% set c = messages[0].content %}{{ " + call + " }}"
    messages = [{"role": "user", "content": CONTENT}]
    expected = jinja2.sandbox.ImmutableSandboxedEnvironment().from_string(source).render(messages=messages)
    assert plain_of(render_traced(tokenizer_with(source), messages)) == expected


def test_a_template_writes_its_lines_and_marks_as_transformers_does() -> None:
    source = "{% for m in messages %}\n  {% generation %}\n[{{ m.content }}]\n  {% endgeneration %}\n{% endfor %}\n"
    made = render_traced(tokenizer_with(source), [{"role": "user", "content": "甲"}])
    assert plain_of(made) == "[甲]\n"
    assert [origin for _, origin in made._runs] == [OPENS, TEMPLATE, 0, TEMPLATE, CLOSES]


def test_a_template_may_refuse_a_conversation() -> None:
    messages = [{"role": "user", "content": "no"}]
    with pytest.raises(jinja2.TemplateError, match=r"^no$"):
        render_traced(tokenizer_with("{{ raise_exception(messages[0].content) }}"), messages)


def test_bytes_cannot_be_traced() -> None:
    with pytest.raises(TypeError, match="cannot be traced"):
        trace("x", 0).encode()
    with pytest.raises(TypeError, match="expected str instance, int found"):
        lift("x").join(["a", 1])  # type: ignore[list-item]


# The pieces


def test_a_text_made_of_several_sources_is_lost_and_of_one_is_theirs() -> None:
    one, two = trace("x", 0), trace("y", 1)
    assert origins_of(taint("made", (one, two))) == [LOST] * 4
    assert origins_of(taint("made", (one, "plain", 5, None))) == [0] * 4
    assert origins_of(taint("made", ("plain",))) == [LOST] * 4
    assert origins_of(Traced("made")) == [LOST] * 4
    assert origins_of((one + "b").center(4)) == [LOST] * 4
    assert origins_of(one.center(4)) == [0] * 4


def test_the_origins_inside_a_value_are_found_wherever_they_are() -> None:
    one, two = trace("x", 0), trace("y", 1)
    assert origins_in({"a": [{one: "plain"}, (two,)], "b": {two}}) == {0, 1}
    assert origins_in(["plain", 3, None, {}]) == set()
    assert origins_in(lift("plain")) == {TEMPLATE}
    assert origins_in(trace("", 7)) == {7}, "an empty text of a message counts"


def test_a_message_is_traced_but_for_its_plain_keys() -> None:
    message = {"role": "user", "content": ["a", {"k": ("b",)}], "n": 3, "none": None}
    made = trace(message, 2, frozenset({"role"}))
    assert made == {"role": "user", "content": ["a", {"k": ["b"]}], "n": 3, "none": None}
    assert type(made["role"]) is str and origins_in(made["content"]) == {2}
    assert [type(key) for key in made] == [str, Traced, Traced, Traced]
    assert message["content"][1] == {"k": ("b",)}, "the user's own stays"  # type: ignore[index]


def test_marks_without_width_survive_joining_and_cutting() -> None:
    opened, closed = Traced("", ((0, OPENS),)), Traced("", ((0, CLOSES),))
    made = concat(("a", opened, trace("x", 1), closed, "b"))
    assert made == "axb" and [origin for _, origin in made._runs] == [TEMPLATE, OPENS, 1, CLOSES, TEMPLATE]
    assert (
        OPENS in origins_in(made[1:2]) and OPENS in origins_in(made.strip("b")) and OPENS not in origins_in(made[2:])
    )
    assert concat(("a", trace("", 4), 5, None)) == "a5None"
    assert 4 in origins_in(concat(("a", trace("", 4), "b")))
