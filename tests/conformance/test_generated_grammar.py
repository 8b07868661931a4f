"""Thousands of rows of composed templates, compared token by token with what their composition says."""

from __future__ import annotations

import collections
import json

import pytest

from tests.conformance.grammar.compose import compose, mask_supplied
from tests.conformance.grammar.options import DIMENSIONS, PLAIN
from tests.conformance.grammar.parts import Piece
from tests.conformance.grammar.run import (
    judge,
    label,
    make_rows,
    options_of,
    tokenizer_for,
    verdict,
)

ROWS, SEED = 5_000, 0
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]


@pytest.mark.slow
def test_every_row_is_labeled_exactly() -> None:
    failing, seen = [], set[str]()
    for composed, conversations in make_rows(SEED, ROWS):
        seen |= options_of(composed.recipe)
        for messages, one in zip(conversations, judge(composed, conversations), strict=True):
            if one.kind != "exact":
                failing.append((one, composed.recipe, messages))
    wrong = [case for case in failing if case[0].kind != "refused"]
    assert not wrong, f"{len(wrong)} of {ROWS} rows, the first: {wrong[0]}"
    assert len(failing) < 0.005 * ROWS, f"{len(failing)} of {ROWS} rows are refused, the first: {failing[0]}"
    assert seen == {f"{name}: {option}" for name, options in DIMENSIONS.items() for option in options[1:]}


def test_a_wrong_label_and_a_refusal_are_seen() -> None:
    composed = compose(PLAIN)
    tokenizer = tokenizer_for(composed)
    want = label(tokenizer, composed.write(CHAT))
    assert judge(composed, [CHAT])[0].kind == "exact"
    assert verdict(tokenizer, (want[0], [*want[1][:-2], -100, -100]), want).kind == "wrong"
    assert verdict(tokenizer, (want[0], [-100] * len(want[0])), want).kind == "untrained"
    assert verdict(tokenizer, "it cannot be proven: no reason.", want).kind == "refused"


def test_a_prompt_that_is_there_as_a_whole_is_not_made() -> None:
    pieces = [Piece("<A>", False), Piece("<think>\nhm", True)]
    assert mask_supplied(pieces, "<A><think>\n")[2:] == [Piece("<think>\n", False), Piece("hm", True)]
    assert mask_supplied(pieces, "<A><think>\n\n") == mask_supplied(pieces, "<A><think>\n")
    assert mask_supplied(pieces, "<A><think>\n\nWell") == pieces


def test_the_same_seed_makes_the_same_rows() -> None:
    first, again = (json.dumps([one for _, rows in make_rows(7, 60) for one in rows]) for _ in range(2))
    assert first == again
    roles = collections.Counter(message["role"] for _, rows in make_rows(7, 200) for row in rows for message in row)
    assert set(roles) == {"system", "user", "assistant", "tool"}
