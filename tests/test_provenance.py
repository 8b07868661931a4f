from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_padfix.provenance import LOST, TEMPLATE, Traced, concat, origins_in

WORDS = st.text(alphabet="ab \n,é", max_size=8)
OPERATIONS: list[Any] = [
    lambda t: t.strip(),
    lambda t: t.lstrip("a"),
    lambda t: t.rstrip(),
    lambda t: t[1:4],
    lambda t: t[::-1],
    lambda t: t.split(","),
    lambda t: t.rsplit(None, 1),
    lambda t: t.splitlines(),
    lambda t: t.splitlines(True),
    lambda t: t.partition(","),
    lambda t: t.rpartition("b"),
    lambda t: t.replace("a", "xy", 2),
    lambda t: t.replace("", "-"),
    lambda t: t.join(["p", "q"]),
    lambda t: t.upper(),
    lambda t: t.center(12, "*"),
    lambda t: t.expandtabs(),
    lambda t: t * 2,
    lambda t: "<" + t + ">",
    lambda t: t.removeprefix("a"),
    lambda t: t.zfill(9),
    lambda t: list(t),
    lambda t: "%s|%s" % (t, "x"),  # noqa: UP031
]


def flat(made: Any) -> list[Any]:
    return list(made) if isinstance(made, (list, tuple)) else [made]


@given(WORDS, WORDS, st.sampled_from(OPERATIONS))
def test_a_traced_text_does_what_text_does_and_each_character_keeps_its_origin(
    one: str, two: str, operation: Any
) -> None:
    # Upper case is the message's and lower case the template's, so that a character shows its origin.
    traced = concat((Traced(one, ((len(one), 3),)), two))
    made, expected = flat(operation(traced)), flat(operation(one + two))
    assert [str.__str__(text) for text in made] == expected
    for text in made:
        if isinstance(text, Traced):
            assert sum(length for length, _ in text._runs) == len(text)
            assert origins_in(text) <= {3, TEMPLATE, LOST}


@given(WORDS, st.sampled_from(OPERATIONS))
def test_what_a_message_wrote_never_becomes_the_templates(word: str, operation: Any) -> None:
    secret = "".join(chr(0xE000 + ord(char) % 256) if char in "é" else char for char in word)
    for text in flat(operation(Traced(secret, ((len(secret), 3),)))):
        if not isinstance(text, Traced):
            continue
        position = 0
        for length, origin in text._runs:
            if origin == TEMPLATE:
                assert "\ue0e9" not in text[position : position + length]
            position += length


def test_text_that_cannot_be_followed_is_refused_or_lost() -> None:
    with pytest.raises(TypeError, match="cannot be traced"):
        Traced("x", ((1, 0),)).encode()
    assert origins_in(concat((Traced("x", ((1, 0),)), "y")).center(9)) == {LOST}
