"""Conversations read as columns: whatever Arrow or Python holds them in, what is encoded is what the rows say."""

from __future__ import annotations

import collections
import types
from collections.abc import Callable
from typing import Any

import numpy
import pyarrow
import pytest

from llama_padfix.encoding.batch.chat_columns import Words, read_chat_rows, read_chat_table
from llama_padfix.encoding.batch.outlines import read_plain
from llama_padfix.encoding.encoder import ChatEncoder
from tests.support.both import assert_same, count_plain, encode_all, talk
from tests.support.conversations import shared

MESSAGE = pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())])
TEXTS = (
    "Hi",
    "Good",
    "x y",
    " pad ",
    "\n\nq",
    "",
    "  ",
    "<|eot_id|>",
    "é",
    "\u00a0z",
    "z\u00a0",
    "\x1c",
    "\x85.",
    "7",
)
ORDERS = (
    ("user", "assistant"),
    ("system", "user", "assistant"),
    ("user", "assistant", "user", "assistant"),
    ("User", "ASSISTANT"),
    ("user", "assistant", "tool", "assistant"),
)
CHATS = [
    [{"role": role, "content": TEXTS[(number * 5 + place * 3) % len(TEXTS)]} for place, role in enumerate(order)]
    for number, order in enumerate(ORDERS * 8)
]
COUNT = len(CHATS)


def column(kind: Any = None, chats: Any = CHATS) -> Any:
    made = pyarrow.array(chats, pyarrow.list_(MESSAGE))
    return made if kind is None else made.cast(kind)


def table(messages: Any, **others: Any) -> Any:
    return pyarrow.table({"messages": messages, **others})


def rebuild(roles: Any, contents: Any, mask: Any = None) -> Any:
    """The column anew from other arrays of roles and contents."""
    struct = pyarrow.StructArray.from_arrays([roles, contents], ["role", "content"], mask=mask)
    return pyarrow.ListArray.from_arrays(column().offsets, struct)


def fields() -> tuple[Any, Any]:
    return column().values.field(0), column().values.field(1)


def change(**changed: Any) -> list[Any]:
    """The chats with some rows replaced, by their numbers."""
    return [changed.get(f"r{number}", chat) for number, chat in enumerate(CHATS)]


def mark(count: int, *places: int) -> Any:
    mask = numpy.zeros(count, bool)
    mask[list(places)] = True
    return pyarrow.array(mask)


def extended(**values: Any) -> Any:
    """The chats with more fields in each message: null, but where `values` has one for the first message of a row."""
    chats = [[{**message, "name": None, "weight": None} for message in chat] for chat in CHATS]
    for name, value in values.items():
        chats[int(name[1:])][-1]["weight"] = value
    kind = [
        ("content", pyarrow.string()),
        ("weight", pyarrow.int64()),
        *[(n, pyarrow.string()) for n in ("role", "name")],
    ]
    return pyarrow.array(chats, pyarrow.list_(pyarrow.struct(kind)))


def sharegpt(**others: Any) -> Any:
    names = {"user": "human", "assistant": "gpt"}
    chats = [[{"from": names.get(m["role"], m["role"]), "value": m["content"]} for m in chat] for chat in CHATS]
    return pyarrow.table({"conversations": chats, **others})


def every_third(value: Any) -> list[Any]:
    return [value if number % 3 else None for number in range(COUNT)]


LARGE = pyarrow.struct([("role", pyarrow.large_string()), ("content", pyarrow.large_string())])
MIXED = pyarrow.struct([("role", pyarrow.large_string()), ("content", pyarrow.string())])
SOME_NULL = {
    "r3": None,
    "r5": [],
    "r6": [None, *talk("a", "b")],
    "r8": [{"role": None, "content": "x"}, *talk("a", "b")],
}
SOME_NULL |= {"r9": [{"role": "user", "content": None}, *talk("a", "b")[1:]]}
TWO_COLUMNS: dict[str, Any] = {"messages": pyarrow.array(every_third(CHATS[0]), pyarrow.list_(MESSAGE))}
KEYS = pyarrow.struct([(name, pyarrow.string()) for name in ("role", "value", "from")])
CALLS = [[{"from": "human", "value": "a"}, {"from": "function_call", "value": '{"name":"f","arguments":{}}'}]]

# Each table with the number of its rows that the batch encoder takes.
TABLES: dict[str, tuple[Callable[[], Any], int]] = {
    "lists of structs": (lambda: table(column()), 10),
    "large lists": (lambda: table(column(pyarrow.large_list(MESSAGE))), 10),
    "large strings": (lambda: table(column(pyarrow.list_(LARGE))), 10),
    "strings of two kinds": (lambda: table(column(pyarrow.list_(MIXED))), 10),
    "dictionaries": (lambda: table(rebuild(*(one.dictionary_encode() for one in fields()))), 10),
    "views": (lambda: table(rebuild(*(one.cast(pyarrow.string_view()) for one in fields()))), 10),
    "bytes": (lambda: table(rebuild(*(one.cast(pyarrow.binary()) for one in fields()))), 0),
    "a slice of a table": (lambda: table(column()).slice(7, 21), 5),
    "a slice of a column": (lambda: table(column()[5:30]), 6),
    "chunks": (lambda: table(pyarrow.chunked_array([column()[:3], column()[3:3], column()[3:]])), 10),
    "a slice of chunks": (lambda: table(pyarrow.chunked_array([column()[:3], column()[3:]])).slice(2, 30), 8),
    "a record batch": (lambda: table(column()).to_batches()[0].slice(7, 21), 5),
    "no rows": (lambda: table(column()[:0]), 0),
    "no chunks": (lambda: table(pyarrow.chunked_array([], pyarrow.list_(MESSAGE))), 0),
    "no columns": (lambda: pyarrow.table({}), 0),
    "nulls": (lambda: table(column(chats=change(**SOME_NULL))), 8),
    "null lists that hold messages": (
        lambda: table(pyarrow.ListArray.from_arrays(column().offsets, column().values, mask=mark(COUNT, 2, 4, 11))),
        10,
    ),
    "null messages that hold texts": (
        lambda: table(rebuild(*fields(), mask=mark(len(column().values), 1, 9, 20))),
        8,
    ),
    "a slice of messages": (
        lambda: table(pyarrow.ListArray.from_arrays(pyarrow.array([0, 2, 2, 4, 7]), column().values[3:12])),
        1,
    ),
    "other fields, all null": (lambda: table(extended()), 10),
    "other fields, some not null": (lambda: table(extended(r0=0, r2=1)), 9),
    "ShareGPT": (sharegpt, 10),
    "ShareGPT with a system": (lambda: sharegpt(system=every_third("Be kind")), 9),
    "ShareGPT with an empty system": (lambda: sharegpt(system=every_third("")), 10),
    "messages or ShareGPT": (lambda: sharegpt(**TWO_COLUMNS), 31),
    "tools as text": (lambda: table(column(), tools=every_third("[]")), 10),
    "tools, all null": (lambda: table(column(), tools=pyarrow.nulls(COUNT), system=pyarrow.nulls(COUNT)), 10),
    "one name for two columns": (lambda: pyarrow.Table.from_arrays([column(), column()], ["messages"] * 2), 0),
    "columns of other shapes": (lambda: table(column(), text=["t"] * COUNT, prompt=["p"] * COUNT), 10),
    "lists of one length": (lambda: table(pyarrow.array([talk("a", "b")] * 6, pyarrow.list_(MESSAGE, 2))), 6),
    "both kinds of keys": (
        lambda: table([[{**m, "from": "human", "value": "z"} for m in chat] for chat in CHATS]),
        10,
    ),
    "both kinds of keys, one null": (
        lambda: table(
            pyarrow.array(
                [[{"role": None, "value": m["content"], "from": m["role"]} for m in chat] for chat in CHATS],
                pyarrow.list_(KEYS),
            )
        ),
        10,
    ),
    "calls": (lambda: pyarrow.table({"conversations": CALLS * 4}), 0),
    "unknown roles": (
        lambda: table(column(chats=change(r0=[{"role": "critic", "content": "a"}, *talk("a", "b")]))),
        9,
    ),
    "no lists": (lambda: table(pyarrow.array(["x"] * 3)), 0),
    "lists of maps": (
        lambda: table(pyarrow.array([[("role", "user")]] * 3, pyarrow.map_(*[pyarrow.string()] * 2))),
        0,
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_encoded_as_its_rows_are(name: str) -> None:
    make, plain = TABLES[name]
    for settings in ({}, {"max_length": 45}, {"max_length": 45, "truncation": "tokens"}):
        _, taken = assert_same(shared("3.1-instruct"), make(), **settings)
        assert taken == plain


class Text(str):
    __slots__ = ()

    def strip(self, *_: Any) -> str:
        return "something else"


class Message(collections.UserDict):
    pass


class Odd(dict):
    def __getitem__(self, key: str) -> Any:
        return "odd" if key == "content" else super().__getitem__(key)


class List(list):
    def __iter__(self) -> Any:
        return iter(talk("Another", "tale"))


ROWS: dict[str, tuple[Any, bool]] = {
    "a row": ({"messages": talk("a", "b")}, True),
    "a bare list": (talk("a", "b"), True),
    "a mapping that is no dict": (types.MappingProxyType({"messages": talk("a", "b")}), True),
    "messages that are no dicts": ({"messages": [Message(m) for m in talk("a", "b")]}, False),
    "dicts of a class": ({"messages": [Odd(m) for m in talk("a", "b")]}, False),
    "one dict of a class": ({"messages": [*talk("a"), Odd(talk("a", "b")[1])]}, False),
    "a tuple": ({"messages": tuple(talk("a", "b"))}, False),
    "a bare tuple": (tuple(talk("a", "b")), False),
    "a list of a class": ({"messages": List(talk("a", "b"))}, False),
    "texts of a class": ({"messages": talk(Text(" a "), Text(" b "))}, False),
    "roles of a class": ({"messages": [{**m, "role": Text(m["role"])} for m in talk("a", "b")]}, False),
    "an array": ({"messages": numpy.array(talk("a", "b"), object)}, False),
    "parts": ({"messages": [*talk("a"), {"role": "assistant", "content": [{"type": "text", "text": "b"}]}]}, False),
    "null keys": ({"messages": [{**m, "name": None} for m in talk("a", "b")]}, True),
    "weights": ({"messages": [{**m, "weight": 1} for m in talk("a", "b")]}, True),
    "no text": ({"messages": [*talk("a"), {"role": "assistant", "content": None}]}, False),
    "a number": ({"messages": talk("a", 7)}, False),  # type: ignore[arg-type]
    "capitals": ({"messages": [{"role": "USER", "content": "a"}, {"role": "Assistant", "content": "b"}]}, True),
    "ShareGPT": ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, True),
    "ShareGPT as messages": ({"messages": [{"from": "human", "value": "a"}, {"from": "bot", "value": "b"}]}, True),
    "messages as conversations": ({"conversations": talk("a", "b"), "messages": None}, True),
    "a system": ({"conversations": talk("a", "b"), "system": "Be kind"}, True),
    "empty tools": ({"messages": talk("a", "b"), "tools": []}, True),
    "no tools": ({"messages": talk("a", "b"), "tools": None, "system": None}, True),
    "half of a surrogate pair": (talk("a", "\ud83d"), False),
    "surrogates of two texts": (talk("a\ud83d", "\ude00b"), False),
    "a text": ({"text": "Hello"}, True),
    "a prompt": ({"prompt": "a", "completion": "b"}, True),
    "no row": (None, False),
    "no messages": ({"messages": []}, False),
    "nobody answers": (talk("a"), False),
    "a blank text": (talk("a", " \u00a0\x85"), False),
    "an empty text": (talk("", "b"), False),
    "zero width is not blank": (talk("\u200b", "\ufeff"), True),
    "a control token": (talk("a", "<|eot_id|>"), False),
    "half of a control token": (talk("a<|eot_id|", "b<"), True),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_any_class_is_encoded_as_what_it_is(name: str) -> None:
    row, plain = ROWS[name]
    made, taken = assert_same(shared("3.1-instruct"), [row, talk("Hi", "Good"), row])
    assert taken == 1 + 2 * plain
    assert len(made.labels) in (1, 3)


def test_rows_of_all_classes_together_keep_their_order_and_their_numbers() -> None:
    rows = [row for row, _ in ROWS.values()] * 2
    assert_same(shared("3.1-instruct"), rows)
    assert_same(shared("3.1-instruct"), rows[::-1], max_length=38)
    raised, _ = assert_same(shared("3.1-instruct"), rows, on_error="raise")
    assert raised.error.startswith("row 15: ")


def test_words_that_a_template_asks_for_are_looked_for_in_every_text() -> None:
    rows: list[Any] = [talk("yes", "b"), talk("a", "x yes"), talk("ye", "s"), talk("a", "b"), talk("YES", "\0")]
    words = Words(["yes", "."])
    for chats in (read_chat_rows(rows, words), read_chat_table(table(rows), words)):
        assert [reading is not None for reading in chats.readings] == [False, False, True, True, True]


def roles_of(column: str, key: str, *roles: str) -> list[str] | None:
    reading = read_plain(column, key, roles)
    return None if reading is None else [message["role"] for message in reading.messages or ()]


def test_roles_are_those_that_reading_a_row_gives() -> None:
    assert roles_of("messages", "role", "User", "ASSISTANT") == ["user", "assistant"]
    assert roles_of("conversations", "from", "human", "gpt", "observation") == ["user", "assistant", "tool"]
    assert roles_of("messages", "role", "critic") is None
    assert roles_of("conversations", "from", "human", "function_call") is None


@pytest.mark.slow
def test_a_table_of_several_chunks_names_its_rows_by_their_numbers() -> None:
    many = pyarrow.concat_tables([table(column(chats=change(**SOME_NULL)))] * 60)
    encoder = ChatEncoder(shared("3.1-instruct"), on_error="drop")
    made = encode_all(encoder, many)
    assert made.counts.rows == 60 * COUNT > 2000 and count_plain(encoder) == 60 * 8
    assert [example.row for example in made.examples if example.kind == "dropped_invalid"] == [3, 5, 6, 8, 9]
    once = encode_all(ChatEncoder(shared("3.1-instruct"), on_error="drop"), table(column(chats=change(**SOME_NULL))))
    assert made.input_ids == once.input_ids * 60 and made.labels == once.labels * 60
