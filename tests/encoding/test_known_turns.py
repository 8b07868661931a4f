"""Orders of roles that are composed of known turns: equal to those that are learned, and only where that is proven."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from llama_padfix.chat.turns import read_template
from llama_padfix.encoding.batch.encoder import BatchEncoder, make_batch_encoder
from llama_padfix.encoding.batch.orders import known_turns
from llama_padfix.encoding.batch.orders.reach import Reach, read_reach
from llama_padfix.encoding.encoder import ChatEncoder
from llama_padfix.tokens.engine import choose_engine
from tests.conftest import fresh_tokenizer
from tests.encoding.test_plan_orders import CHATML, make_irregular
from tests.support.both import assert_same, count_plain, encode_all, encode_carefully, make_hard_rows
from tests.support.byte_tokenizer import make_byte_tokenizer
from tests.support.families import FOLDER, family_tokenizer

TURN = "<S>{{ m.role }}\n{{ m.content | trim }}<E>\n"
LOOP = "{% for m in messages %}" + TURN + "{% endfor %}"
PROMPT = "{% if add_generation_prompt %}<S>assistant\n{% endif %}"
FIRST = "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set messages = messages[1:] %}"
FIRST += "{% else %}{% set system = 'None.' %}{% endif %}<S>system\n{{ system }}<E>\n" + LOOP
# All that a turn may depend on shows in what stands around its text.
PLACED = "{% for m in messages %}{{ '<B>' if loop.index0 == 2 }}{{ '<L>' if loop.last }}"
PLACED += "{{ '<T>' if messages[0].role == 'system' and m.role == 'user' }}"
PLACED += "{{ '!' if messages | length > 3 and m.role == 'user' }}<S>{{ m.role }}\n{{ m.content | trim }}<E>"
PLACED += "{{ '?' if m.role == 'user' }}{{ '.' if loop.index0 == 2 }}\n{% endfor %}"


@pytest.mark.parametrize(
    ("source", "reach"),
    [
        (LOOP + PROMPT, Reach(0, 1)),
        ("{% set all = messages %}" + LOOP.replace("messages", "all"), Reach(0, 1)),
        (LOOP.replace("<S>", "{{ '<B>' if loop.first and not loop.last }}<S>"), Reach(0, 1)),
        (
            LOOP.replace("<S>", "{% if m.tools %}{% for t in m.tools | items %}{{ t }}{% endfor %}{% endif %}"),
            Reach(0, 1),
        ),
        (FIRST + PROMPT, Reach(2, 2)),
        (PLACED + PROMPT, Reach(4, 3)),
    ],
)
def test_a_loop_that_looks_at_one_message_at_a_time_has_a_reach(source: str, reach: Reach) -> None:
    assert read_reach(source) == reach


@pytest.mark.parametrize(
    "source",
    [
        "{% set ns = namespace(n=0) %}" + LOOP.replace("<E>", "{% set ns.n = ns.n + 1 %}{{ ns.n }}<E>"),
        "{% set c = cycler('a', 'b') %}" + LOOP.replace("<E>", "{{ c.next() }}<E>"),
        "{% set j = joiner(',') %}" + LOOP.replace("<S>", "{{ j() }}<S>"),
        "{% set names = 'abc' | map('upper') %}" + LOOP.replace("<E>", "{{ names | first }}<E>"),
        "{% set names = [] %}" + LOOP.replace("<E>", "{% set _ = names.append(1) %}{{ names | length }}<E>"),
        "{% macro write(m) %}" + TURN + "{% endmacro %}{% for m in messages %}{{ write(m) }}{% endfor %}",
        LOOP.replace("<E>", "{{ loop.cycle('<E>', '<F>') }}"),
        LOOP.replace("<E>", "{{ '<F>' if loop.index0 % 2 }}<E>"),
        LOOP.replace("<E>", "{{ '<F>' if loop.index == messages | length }}<E>"),
        LOOP.replace("<E>", "{{ '<F>' if loop.length > 3 }}<E>"),
        LOOP.replace("<E>", "{{ '<F>' if loop.revindex == 2 }}<E>"),
        LOOP.replace("<E>", "{{ '<F>' if loop.previtem and loop.previtem.role == m.role }}<E>"),
        LOOP.replace("<E>", "{{ '<F>' if loop.changed(m.role) }}<E>"),
        LOOP.replace("<E>", "{% set outer = loop %}{{ outer.length }}<E>"),
        LOOP.replace("<E>", "{% for other in messages %}{{ other.role }}{% endfor %}<E>"),
        LOOP.replace("<E>", "{% for other in messages[1:] %}{{ other.role }}{% endfor %}<E>"),
        "{% for m in messages %}{{ m.role }}{% endfor %}" + LOOP,
        "{{ messages | map(attribute='role') | join }}" + LOOP,
        "{{ messages[-1].role }}" + LOOP,
        "{{ messages[:2] | length }}" + LOOP,
        "{% set rest = messages[:-1] %}" + LOOP.replace("messages", "rest"),
        "{% set messages = messages | selectattr('role', 'ne', 'tool') %}" + LOOP,
        LOOP.replace("in messages", "in messages if m.role != 'tool'"),
        LOOP + "{{ messages | tojson }}",
        "{{ messages | length }}" + LOOP,
        "{% if messages %}<B>{% endif %}" + LOOP,
    ],
)
def test_a_template_that_looks_farther_or_keeps_something_has_none(source: str) -> None:
    assert read_reach(source) is None


def draw_orders(count: int, seed: str) -> list[tuple[str, ...]]:
    """Orders of up to ten messages, of which some begin with a system prompt."""
    rng, orders = random.Random(seed), dict[tuple[str, ...], None]()
    while len(orders) < count:
        first = rng.choice(("system", "user", "user", "assistant"))
        inner = rng.choices(("user", "assistant"), k=rng.randrange(10))
        orders |= dict.fromkeys([(first, *inner, "assistant")])
    return [*orders]


def make_encoder(tokenizer: Any) -> BatchEncoder:
    engine = choose_engine(tokenizer, "tokenizers")
    encoder = make_batch_encoder(read_template(tokenizer), engine.encode, "assistant")
    assert encoder is not None
    return encoder


def lay_out(encoder: BatchEncoder, orders: Sequence[tuple[str, ...]]) -> list[Any]:
    """What the encoder's tables hold of each order, without the places in which it keeps that."""
    from llama_padfix.encoding.batch.chat_columns import read_chat_rows

    rows = [{"messages": [{"role": role, "content": "text"} for role in order]} for order in orders]
    chats, laid = read_chat_rows(rows), list[Any]()
    encoder.learn(chats)
    arrays = encoder.tabulator.arrays
    for reading in chats.readings:
        table = encoder.tables.get(reading) if reading is not None else None
        if table is None:
            laid.append(None)
            continue
        start, end = arrays.bounds[table.number : table.number + 2]
        tokens = arrays.tokens[slice(*arrays.token_bounds[table.number : table.number + 2])]
        headers = [[] if code < 0 else encoder.tabulator.headers[code].tolist() for code in arrays.headers[start:end]]
        fields = {name: value for name, value in vars(table).items() if name != "number"}
        laid.append((fields, headers, arrays.ends[start:end], tokens))
    return laid


def make_tokenizers() -> dict[str, Any]:
    marks = ("<S>", "<E>", "<B>", "<L>", "<T>")
    made = {name: make_byte_tokenizer(marks, "<E>", template=source + PROMPT) for name, source in SOURCES.items()}
    return {"llama3": family_tokenizer(FOLDER / "llama3.jinja"), "llama3_1": fresh_tokenizer("3.1-instruct"), **made}


# A question ends where the next message begins.
NEXT = "{% for m in messages %}{{ '<T>' if m.role == 'user' else '<L>' if loop.last else '<B>' }}<S>{{ m.role }}\n"
NEXT += "{{ m.content | trim }}{{ '<E>' if m.role == 'assistant' }}{% endfor %}"
SOURCES = {"chatml": LOOP, "first": FIRST, "placed": PLACED, "next": NEXT}


@pytest.mark.parametrize("name", ["llama3", "llama3_1", *SOURCES])
def test_orders_that_are_composed_equal_those_that_are_learned(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = make_tokenizers()[name]
    monkeypatch.setattr("llama_padfix.encoding.batch.encoder._ALONE", 1_000)  # orders that need probes
    orders = draw_orders(400, name)
    composing = make_encoder(tokenizer)
    made = [one for start in range(0, 400, 100) for one in lay_out(composing, orders[start : start + 100])]
    monkeypatch.setattr(known_turns, "read_reach", lambda source: None)
    learning = make_encoder(tokenizer)
    assert made == lay_out(learning, orders)
    assert len(learning.plans) == 400 and sum(one is not None for one in made) > 250
    assert composing.turns.found > 100 and not composing.turns.contradicted
    assert len(composing.plans) < (60 if name in ("llama3", "chatml") else 250)


@pytest.mark.parametrize("name", ["llama3", "placed"])
def test_rows_of_composed_orders_equal_those_of_the_careful_way(name: str) -> None:
    tokenizer = make_tokenizers()[name]
    hard = make_hard_rows(1, "words")
    rows, rng = list[Any](), random.Random("rows")
    for order in draw_orders(150, "rows"):
        texts = [hard[0]["messages"][rng.randrange(2)]["content"] + f" {rng.random()}" for _ in order]
        rows.append({"messages": [{"role": r, "content": t} for r, t in zip(order, texts, strict=True)]})
    for settings in ({}, {"train_on": "last"}, {"max_length": 200}):
        _, plain = assert_same(tokenizer, rows, **settings)
        assert plain > 100


def test_a_turn_that_is_written_in_two_ways_ends_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    # Seen as one that looks at one message at a time, this template counts the answers.
    counts = "{% set ns = namespace(n=0) %}" + CHATML.replace(
        "<E>", "{% if m.role == 'user' %}{% set ns.n = ns.n + 1 %}{{ '<T>' if ns.n == 3 }}{% endif %}<E>"
    )
    tokenizer = make_byte_tokenizer(("<S>", "<E>", "<T>"), "<E>", template=counts)
    rows = make_irregular(100)
    assert_same(tokenizer, rows)
    monkeypatch.setattr(known_turns, "read_reach", lambda source: Reach(0, 1))
    encoder = ChatEncoder(tokenizer, on_error="drop")
    assert encode_all(encoder, rows) == encode_carefully(encoder, rows)
    assert encoder.doubtful and not count_plain(encoder)
