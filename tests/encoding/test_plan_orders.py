"""Orders of roles: learned without probes where the prompt is constant, and with few where it is not."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import AddedToken, normalizers

from llama_padfix.chat.render import ChatTemplate
from llama_padfix.chat.turns import read_template, render_turns
from llama_padfix.encoding.batch import render_plan
from llama_padfix.encoding.batch.cut_tokens import read_cut_tokens
from llama_padfix.encoding.batch.separable import parts_at_controls
from llama_padfix.encoding.encoder import ChatEncoder
from tests.support.both import assert_same, count_plain, encode_all, talk
from tests.support.byte_tokenizer import make_byte_tokenizer

CHATML = "{% for m in messages %}<S>{{ m.role }}\n{{ m.content }}<E>\n{% endfor %}"
CHATML += "{% if add_generation_prompt %}<S>assistant\n{% endif %}"
# The prompt depends on the conversation, and an answer is written in another way where it is the last one.
ASKING = "{% for m in messages %}<S>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}<t></t>{% endif %}"
ASKING += "{{ m.content }}<E>{% endfor %}{% if add_generation_prompt %}<S>assistant\n{% endif %}"


def make_irregular(count: int) -> list[list[dict[str, str]]]:
    """Conversations of which no two have the same order of roles."""
    orders = [["user", *("assistant" if digit == "1" else "user" for digit in f"{n:07b}")] for n in range(count)]
    return [
        [{"role": role, "content": f"t{place} {row}"} for place, role in enumerate([*order, "assistant"])]
        for row, order in enumerate(orders)
    ]


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of messages of each probe."""
    seen: list[int] = []

    def count(template: ChatTemplate, messages: Any) -> Any:
        seen.append(len(messages))
        return render_turns(template, messages)

    monkeypatch.setattr(render_plan, "render_turns", count)
    return seen


def test_headers_are_read_off_where_the_prompt_is_constant(probes: list[int]) -> None:
    tokenizer = make_byte_tokenizer(("<S>", "<E>"), "<E>", template=CHATML)
    rows = make_irregular(100)
    _, plain = assert_same(tokenizer, rows)
    assert plain == len(rows)
    assert len(probes) == 2 * (8 + 3)  # two for each of the first 8 orders, the 16th, the 32nd and the 64th


def test_headers_that_are_read_wrongly_are_not_used(probes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    read = render_plan._read_headers

    def read_wrongly(*args: Any) -> Any:
        found = read(*args)
        return None if found is None else ([one and one - 1 for one in found[0]], ())

    monkeypatch.setattr(render_plan, "_read_headers", read_wrongly)
    tokenizer = make_byte_tokenizer(("<S>", "<E>"), "<E>", template=CHATML)
    _, plain = assert_same(tokenizer, rows := make_irregular(20))
    assert plain == len(rows) and len(probes) == 2 * len(rows)


def test_single_orders_that_need_probes_are_learned_within_a_budget(probes: list[int]) -> None:
    tokenizer = make_byte_tokenizer(("<S>", "<E>"), "<E>", template=ASKING)
    rows = make_irregular(60)
    encoder = ChatEncoder(tokenizer)
    encode_all(encoder, rows)
    assert count_plain(encoder) == 32 and len(probes) == 2 * 32
    encode_all(encoder, [row for row in rows[40:] for _ in range(3)])  # often enough to pay
    assert count_plain(encoder) == 32 + 3 * 20
    assert_same(tokenizer, [*rows, *rows[50:], *rows[50:]])


def test_orders_beyond_what_is_remembered_are_learned_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llama_padfix.encoding.batch.encoder._KEPT", 5)
    tokenizer = make_byte_tokenizer(("<S>", "<E>"), "<E>", template=CHATML)
    encoder = ChatEncoder(tokenizer)
    rows = make_irregular(12)
    first, second = encode_all(encoder, rows), encode_all(encoder, rows)
    assert first.labels == second.labels and count_plain(encoder) == 2 * len(rows)


# Tokens


def test_added_tokens_that_are_text_part_nothing_and_refuse_nothing() -> None:
    # Gemma's runs of line breaks and words are added tokens.
    tokenizer = make_byte_tokenizer(("<S>", "<E>"), "<E>", template=CHATML, soft=("\n\n", "word", "\n\n\n"))
    rows = [talk("a\n\nb", "word\n\n\nc"), talk("\n\nword", "d\n\n"), talk("e", "\nf")]  # which melts into its header
    _, plain = assert_same(tokenizer, rows)
    assert plain == 2


ROLES = "<S>{% for m in messages %}{{ '<U>' if m.role == 'user' else '<A>' }}{{ m.content }}"
ROLES += "{{ '<E>' if m.role == 'assistant' }}{% endfor %}{% if add_generation_prompt %}<A>{% endif %}"


def make_with_role_marks(*tokens: AddedToken, normalizer: Any = None) -> Any:
    """A tokenizer whose role marks are added tokens and not special, as DeepSeek V3's."""
    tokenizer = make_byte_tokenizer(("<S>", "<E>"), "<E>", template=ROLES)
    tokenizer.add_tokens([AddedToken("<U>", normalized=True), AddedToken("<A>", normalized=True), *tokens])
    if normalizer is not None:
        tokenizer.backend_tokenizer.normalizer = normalizer
    return tokenizer


def test_role_marks_that_are_ordinary_tokens_part_the_texts() -> None:
    tokenizer = make_with_role_marks(normalizer=normalizers.Sequence([]))
    assert parts_at_controls(tokenizer)
    rows = [talk("Hi", "Good"), talk("a <U> b", "c"), talk("a", "b <A> c", "d", "e"), talk("x", "y", "z", "w")]
    _, plain = assert_same(tokenizer, rows)
    assert plain == 2


@pytest.mark.parametrize(
    "added",
    [
        AddedToken(">x", normalized=False, special=True),  # taken first, with the end of a role mark
        AddedToken("A", normalized=False, special=True),  # inside of one
        AddedToken("<A>b", normalized=True),  # the longer one that begins with it
    ],
    ids=str,
)
def test_a_role_mark_that_another_token_may_break_parts_nothing(added: AddedToken) -> None:
    tokenizer = make_with_role_marks(added)
    tokens = read_cut_tokens(read_template(tokenizer))
    assert tokens.find_end("<E><U>") == 3 and tokens.find_end("<A>") is None
    assert_same(tokenizer, [talk("Hi", "xa"), talk("a", "b"), talk("c", "d", "x", "xA")])


def test_a_hidden_token_between_two_texts_is_looked_for() -> None:
    tokenizer = make_byte_tokenizer(("<S>", "<E>"), "<E>", template=CHATML)
    tokenizer.add_tokens([AddedToken("[x\n\ny]", single_word=True, special=True)], special_tokens=True)
    tokens = read_cut_tokens(read_template(tokenizer))
    assert tokens.hidden == ("[x\n\ny]",)
    assert tokens.may_complete("", "\n\n", is_between=True) and not tokens.may_complete("", "\n\n", is_between=False)
    assert not tokens.may_complete("", " and ", is_between=True)
