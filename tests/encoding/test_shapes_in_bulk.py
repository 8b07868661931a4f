"""Rows of every shape are encoded together as they are one by one: ids, labels, counts, errors, order and numbers."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pyarrow
import pytest

from llama_padfix.encoding.encoder import ChatEncoder
from tests.support.both import assert_same, encode_all, encode_carefully, talk
from tests.support.conversations import shared

Row = dict[str, Any]
WORDS = ("Hi", "Good day", " padded ", "two\n\nlines", "é漢", "7")


def say(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.choice((1, 1, 2, 3)))) + rng.choice(("", "", "", ".", "<|eot_id|>"))


def chat(rng: random.Random, key: str = "role", content: str = "content") -> list[Row]:
    roles = ["system"] * (rng.random() < 0.3) + ["user", "assistant"] * rng.choice((1, 1, 2))
    names = {"user": "human", "assistant": "gpt"} if key == "from" else {}
    return [{key: names.get(role, role), content: say(rng)} for role in roles]


def alpaca(rng: random.Random) -> Row:
    return {"instruction": say(rng), "input": rng.choice(("", "", None, say(rng))), "output": say(rng)}


def with_history(rng: random.Random) -> Row:
    return alpaca(rng) | {"history": rng.choice((None, [], [[say(rng), say(rng)]]))}


def completion(rng: random.Random) -> Row:
    return {"prompt": say(rng), "completion": say(rng)}


def completion_in_messages(rng: random.Random) -> Row:
    messages = chat(rng)
    cut = max(1, len(messages) - rng.choice((1, 2)))
    return {"prompt": messages[:cut], "completion": messages[cut:]}


def half_in_messages(rng: random.Random) -> Row:
    return {"prompt": chat(rng)[:-1] or talk("a"), "completion": say(rng)}


def with_system(rng: random.Random) -> Row:
    name = rng.choice(("system", "system_prompt"))
    return {"conversations": chat(rng, "from", "value"), name: rng.choice((None, "", say(rng), "Hi"))}


def with_empty_tools(rng: random.Random) -> Row:
    return {"messages": chat(rng), "tools": rng.choice((None, "", "[]", "null"))}


def with_names(rng: random.Random) -> Row:
    return {"messages": [message | {"name": rng.choice(("Ann", "Bob", "", None))} for message in chat(rng)]}


def with_flags(rng: random.Random) -> Row:
    key, values = rng.choice((("weight", (0, 1, None)), ("train", (True, False, None)), ("loss", (0.0, 1.0, None))))
    return {"messages": [message | {key: rng.choice(values)} for message in chat(rng)]}


def with_parts(rng: random.Random) -> Row:
    def part(message: Row) -> Row:
        return message | {"content": [{"type": "text", "text": message["content"]}] * rng.choice((1,) * 9 + (2,))}

    return {"messages": [part(message) for message in chat(rng)]}


def with_more_columns(rng: random.Random) -> Row:
    more: Row = {
        "id": rng.randint(0, 99),
        "source": say(rng),
        "score": rng.random(),
        "tags": ["a"],
        "label": rng.random() < 0.9,
    }
    return {"messages": chat(rng), **more}


def text(rng: random.Random) -> Row:
    return {"text": say(rng), "label": rng.randint(0, 3)}


def rendered(rng: random.Random) -> Row:
    made = shared("3.1-instruct").apply_chat_template(chat(rng), tokenize=False)
    return {
        "text": rng.choice(("", "", "", "<|begin_of_text|>")) + made + rng.choice(("", "", "<|end_of_text|>", "x"))
    }


SHAPED: tuple[Callable[[random.Random], Row], ...] = (
    alpaca,
    with_history,
    completion,
    completion_in_messages,
    half_in_messages,
    with_system,
    with_empty_tools,
    with_names,
    with_flags,
    with_parts,
    with_more_columns,
    text,
    rendered,
)
ODD: tuple[Any, ...] = (None, "", " ", 7, [], {}, [None], "[]", True, 0.5, float("nan"))


def spoil(rng: random.Random, row: Row) -> Row:
    """The row with one value that is something else: of a column, or of a key of a message."""
    row = dict(row)
    name = rng.choice(list(row))
    if isinstance(row[name], list) and row[name] and isinstance(row[name][-1], dict) and rng.random() < 0.7:
        place = rng.randrange(len(row[name]))
        message = dict(row[name][place])
        message[rng.choice(list(message))] = rng.choice(ODD)
        row[name] = [*row[name][:place], message, *row[name][place + 1 :]]
    else:
        row[name] = rng.choice(ODD)
    return row


@pytest.mark.parametrize("shape", SHAPED, ids=lambda shape: str(shape.__name__))
def test_rows_of_a_shape_are_encoded_together_as_one_by_one(shape: Callable[[random.Random], Row]) -> None:
    rng = random.Random(shape.__name__)
    rows = [shape(rng) for _ in range(14)]
    made, taken = assert_same(shared("3.1-instruct"), pyarrow.Table.from_pylist(rows))
    assert made.counts.kept > 5
    assert taken > 4 or shape is with_parts  # which Llama's template writes as Python code
    settings = {"max_length": rng.randint(20, 50), "truncation": rng.choice(("turns", "tokens"))}
    assert_same(shared("3.1-instruct"), rows, **settings, train_on=rng.choice(("assistant", "last")))


def test_odd_values_of_all_shapes_among_each_other_keep_order_numbers_and_errors() -> None:
    rng = random.Random("odd")
    rows = [shape(rng) for shape in SHAPED * 2] + [spoil(rng, shape(rng)) for shape in SHAPED * 3]
    rng.shuffle(rows)
    made, taken = assert_same(shared("3.1-instruct"), rows)
    assert made.counts.dropped_invalid > 5 and taken > 15
    encoder = ChatEncoder(shared("3.1-instruct"))
    for start in range(0, len(rows), 8):
        part = rows[start : start + 8]
        assert encode_all(encoder, part) == encode_carefully(encoder, part)
    assert not encoder.doubtful
