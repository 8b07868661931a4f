"""Orders of roles: learned without probes where the prompt is constant, and with few where it is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llama_padfix.chat.render import ChatTemplate
from llama_padfix.chat.symbolic import render_symbolic
from llama_padfix.chat.turns import read_template, render_turns
from llama_padfix.encoding.batch import render_plan
from llama_padfix.encoding.batch.cut_tokens import read_cut_tokens
from llama_padfix.encoding.batch.separable import parts_at_controls
from llama_padfix.encoding.encoder import ChatEncoder
from llama_padfix.tokens.engine import Engine
from tests.support.both import assert_same, count_plain, encode_all, make_hard_rows, talk
from tests.support.byte_tokenizer import make_byte_tokenizer

CHATML = "{% for m in messages %}<S>{{ m.role }}\n{{ m.content }}<E>\n{% endfor %}"
CHATML += "{% if add_generation_prompt %}<S>assistant\n{% endif %}"
KEEPING = (
    "{% set seen = namespace(last='') %}" + CHATML
)  # orders of a template that may keep something are not composed
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

    def count(template: ChatTemplate, messages: Any, **settings: Any) -> Any:
        seen.append(len(messages))
        return render_turns(template, messages, **settings)

    monkeypatch.setattr(render_plan, "render_turns", count)
    return seen


@pytest.mark.parametrize(("template", "orders"), [(KEEPING, 7), (CHATML, 5)])
def test_headers_are_read_off_where_the_prompt_is_constant(template: str, orders: int, probes: list[int]) -> None:
    tokenizer = make_byte_tokenizer(("<S>", "<E>"), "<E>", template=template)
    rows = make_irregular(100)
    _, plain = assert_same(tokenizer, rows, engine="auto")
    assert plain == len(rows)
    # Two for each of the first two orders that are learned, the 4th, the 8th and so on; most others are composed.
    assert len(probes) == 2 * orders


def test_headers_that_are_read_wrongly_are_not_used(probes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    read = render_plan._read_headers

    def read_wrongly(*args: Any) -> Any:
        found = read(*args)
        return None if found is None else ([one and one - 1 for one in found[0]], ())

    monkeypatch.setattr(render_plan, "_read_headers", read_wrongly)
    tokenizer = make_byte_tokenizer(("<S>", "<E>"), "<E>", template=CHATML)
    _, plain = assert_same(tokenizer, rows := make_irregular(20), engine="auto")
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


PARTS = "{% for m in messages %}<S>{{ m.role }}\n{% if m.content is string %}{{ m.content | trim }}{% else %}"
PARTS += "{% for part in m.content %}{{ part.text | trim }}{% endfor %}{% endif %}<E>\n{% endfor %}"
PARTS += "{% if add_generation_prompt %}<S>assistant\n{% endif %}"


def add_name(message: dict[str, Any]) -> dict[str, Any]:
    return message | ({"name": "Ann"} if message["role"] == "user" else {})


def write_in_parts(message: dict[str, Any]) -> dict[str, Any]:
    return message | {"content": [{"type": "text", "text": message["content"]}]}


@pytest.mark.parametrize("shape", [add_name, write_in_parts])
def test_conversations_that_begin_alike_are_compared_with_plain_ones_once(
    shape: Callable[[dict[str, Any]], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = make_byte_tokenizer(("<S>", "<E>"), "<E>", template=PARTS)
    rows = [{"messages": [*map(shape, talk(*(f" t{row} {n}\n" for n in range(2 * row + 2))))]} for row in range(6)]
    written, calls = list[int](), list[int]()
    encode = Engine.encode

    def count(source: str, messages: Any, *settings: Any) -> Any:
        written.append(len(messages))
        return render_symbolic(source, messages, *settings)

    def count_calls(engine: Engine, texts: Any) -> Any:
        calls.append(len(texts))
        return encode(engine, texts)

    monkeypatch.setattr("llama_padfix.encoding.batch.orders.alike.render_symbolic", count)
    monkeypatch.setattr(Engine, "encode", count_calls)
    encoder = ChatEncoder(tokenizer)
    encode_all(encoder, rows * 3)
    assert count_plain(encoder) == 3 * len(rows)
    assert len(written) == len(rows)  # each whole, without the prompt, which is constant; the plan has the plain one
    assert len(calls) <= 4  # what all plans write is encoded in one
    assert_same(tokenizer, rows)


NAMED = "{% for m in messages %}<S>{{ m.role }}\n{% if CONDITION %}{{ m.name }}: {% endif %}{{ m.content }}<E>\n"
NAMED += "{% endfor %}{% if add_generation_prompt %}<S>assistant\n{% endif %}"


@pytest.mark.parametrize(
    ("condition", "taken"), [("m.name and loop.index0 == 4", 16), ("m.name and 'BAD' in m.content", 0)]
)
def test_names_that_some_orders_or_some_texts_write_are_written(condition: str, taken: int) -> None:
    template = NAMED.replace("CONDITION", condition)
    tokenizer = make_byte_tokenizer(("<S>", "<E>"), "<E>", template=template)
    rows: list[Any] = []
    for turns in (1, 2, 3, 4):  # the first two are probed
        texts = [f"{'BAD' * (place % 5 == 3)} {turns} {place}" for place in range(2 * turns)]
        rows += [{"messages": [{**message, "name": "Ann"} for message in talk(*texts)]}] * 8
    assert assert_same(tokenizer, rows)[1] == taken


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


MISTRAL = "<S>{% for m in messages %}{% if m.role == 'user' %}[I] {{ m.content }}[/I]{% else %} {{ m.content | trim }}"
MISTRAL += "<E>{% endif %}{% endfor %}"


def make_sentencepiece(**parts: Any) -> Any:
    """A tokenizer of SentencePiece's kind, with bytes for what its letters do not spell."""
    letters = [chr(code) for code in range(33, 127)] + ["\u2581", "\u2581t", "th", "\u2581th", "\u2581\u2581"]
    vocabulary = {token: place for place, token in enumerate([f"<0x{byte:02X}>" for byte in range(256)] + letters)}
    merges = [("t", "h"), ("\u2581", "t"), ("\u2581", "th"), ("\u2581", "\u2581")]
    backend = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True))
    for name, part in parts.items():
        setattr(backend, name, part)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<E>", bos_token="<S>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["[I]", "[/I]"]})
    tokenizer.chat_template = MISTRAL
    return tokenizer


IN_FRONT = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
SENTENCEPIECE: dict[str, dict[str, Any]] = {
    "in front of each part": {"normalizer": IN_FRONT},
    "in front of a text": {"pre_tokenizer": pre_tokenizers.Metaspace(prepend_scheme="first", split=False)},
    "in front of each word": {"pre_tokenizer": pre_tokenizers.Metaspace()},
}


@pytest.mark.parametrize("name", SENTENCEPIECE)
def test_a_space_that_sentencepiece_writes_parts_nothing(name: str) -> None:
    tokenizer = make_sentencepiece(**SENTENCEPIECE[name])
    rows = [row for row in make_hard_rows(40, name) if row["messages"][0]["role"] == "user"]
    odd = [talk("that", "\u2581the"), talk(" the\u2581", "e\u0301 the\n\n the")]
    _, plain = assert_same(tokenizer, [*rows, *odd])
    assert plain > len(rows) / 2


# What a template leaves out


def test_a_message_that_a_template_leaves_out_is_counted_and_refused_on_request() -> None:
    # Mistral 7B v0.3 writes the system text into the last question, and none where an answer follows.
    source = "{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}[I]"
    source += "{{ messages[0].content ~ '/' if loop.last and messages[0].role == 'system' }}{{ m.content }}[/I]"
    source += "{% else %}{{ m.content }}<E>{% endif %}{% endfor %}"
    tokenizer = make_byte_tokenizer(("<S>", "<E>", "[I]", "[/I]"), "<E>", template=f"<S>{source}")
    system = {"role": "system", "content": "b"}
    rows = [talk("a", "b"), [system, *talk("ab", "b")], [{**system, "content": " "}, *talk("c", "d")]]
    rows += [[{**system, "content": "x<E>"}, *talk("c", "d", "e", "f")]]
    for settings in ({}, {"train_on": "last"}, {"max_length": 6}):
        made, plain = assert_same(tokenizer, rows, **settings)
        assert plain == 3 and made.counts.lost_message == (1 if "max_length" in settings else 2)
    for on_error in ("drop", "raise"):
        _, plain = assert_same(tokenizer, rows, on_loss="error", on_error=on_error)
        assert plain == 1
