"""Thousands of rows of composed templates, compared token by token with what their composition says."""

from __future__ import annotations

import collections
import json

import pytest

from tests.conformance.grammar.compose import compose, mask_supplied
from tests.conformance.grammar.options import DIMENSIONS, PLAIN, normalize
from tests.conformance.grammar.parts import Piece
from tests.conformance.grammar.run import (
    Fault,
    judge,
    label,
    make_rows,
    options_of,
    read_faults,
    tokenizer_for,
    verdict,
)

ROWS, SEED = 5_000, 0
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]


@pytest.mark.slow
def test_every_row_is_labeled_exactly_but_for_the_known_faults() -> None:
    faults = read_faults()
    failing, seen, kept = [], set[str](), 0
    for composed, conversations in make_rows(SEED, ROWS):
        seen |= options_of(composed.recipe)
        if any(fault.covers(composed.recipe) for fault in faults):
            continue
        for messages, one in zip(conversations, judge(composed, conversations), strict=True):
            kept += 1
            if one.kind != "exact":
                failing.append((one, composed.recipe, messages))
    wrong = [case for case in failing if case[0].kind != "refused"]
    assert not wrong, f"{len(wrong)} of {kept} rows, the first: {wrong[0]}"
    assert len(failing) < 0.005 * kept, f"{len(failing)} of {kept} rows are refused, the first: {failing[0]}"
    assert seen == {f"{name}: {option}" for name, options in DIMENSIONS.items() for option in options[1:]}


def name_fault(fault: Fault) -> str:
    return f"{fault.kind}, {', '.join(fault.options.values())}"


# A fix shows as an unexpected pass: take the fault out of known_faults.json, or write the file anew with
# `python -m tests.conformance.grammar.run --record --rows 5000`.
@pytest.mark.xfail(strict=True, reason="these compositions are labeled wrongly or refused")
@pytest.mark.parametrize("fault", read_faults(), ids=name_fault)
def test_a_known_fault_is_labeled_exactly(fault: Fault) -> None:
    recipe = normalize(PLAIN | fault.options)
    assert judge(compose(recipe), [list(fault.messages)])[0].kind == "exact"


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
    assert mask_supplied(pieces, "<A><think>\n\n") == pieces


def test_the_same_seed_makes_the_same_rows() -> None:
    first, again = (json.dumps([one for _, rows in make_rows(7, 60) for one in rows]) for _ in range(2))
    assert first == again
    roles = collections.Counter(message["role"] for _, rows in make_rows(7, 200) for row in rows for message in row)
    assert set(roles) == {"system", "user", "assistant", "tool"}
