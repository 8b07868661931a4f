"""Contents in parts: a table of them is read flat, and its rows get the ids, labels and counts of one by one."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pyarrow
import pytest

from llama_padfix.encoding.batch.chat_columns import Words, read_chat_rows, read_chat_table
from llama_padfix.encoding.encoder import ChatEncoder
from tests.support.both import assert_same, count_plain, say_hard, tabulate, talk
from tests.support.conversations import say
from tests.support.families import FOLDER, family_tokenizer

TEMPLATES = ("gemma3", "qwen2_5_vl", "llama3_2", "qwen3_vl", "llama3", "lfm2_2_5_vl", "gemma")
"""Those that join parts, those that write each, those that print the list as it is, and those that refuse it."""
ENGINES = ("tokenizers", "cached", "fastokens")
NAMES: tuple[Any, ...] = ("Ann", "", None)


def part(text: Any, **others: Any) -> dict[str, Any]:
    return {"type": "text", "text": text, **others}


def in_parts(rng: random.Random, number: int) -> dict[str, Any]:
    """A row in parts: most are one, some two, and some hold what only reading row by row decides about."""
    speak = say_hard if number % 3 else say
    messages: list[dict[str, Any]] = talk(*(speak(rng) or "x" for _ in range(rng.choice((2, 2, 4)))))
    for message in messages:
        message["content"] = [part(message["content"])]
    if number % 4 == 1:
        messages[0]["content"].append(part(speak(rng)))
    if number % 16 == 3:
        messages[-1]["content"].insert(0, part(speak(rng)))
    odd: dict[int, Any] = {5: None, 25: [], 45: [part(None)], 65: [part("")], 85: [None, part("a")]}
    odd |= {105: [{"type": "image", "text": None}, part("a")], 125: [part("<|eot_"), part("id|>")]}
    odd |= {145: [part("a", image="b.png")], 165: [{"type": None, "text": "a"}], 185: [part("<image> a")]}
    if number in odd:
        messages[0]["content"] = odd[number]
    return {"messages": messages}


def make_table(count: int = 200) -> pyarrow.Table:
    rng = random.Random("parts")
    return tabulate([in_parts(rng, number) for number in range(count)])


@pytest.mark.parametrize("name", TEMPLATES)
def test_hostile_parts_are_encoded_together_as_one_by_one(name: str) -> None:
    settings = {"template_kwargs": {"date_string": "26 Jul 2024"}} if name.startswith("llama3_") else {}
    table = make_table()
    _, taken = assert_same(family_tokenizer(FOLDER / f"{name}.jinja"), table, **settings)
    assert taken > (60 if name == "gemma3" else -1)


@pytest.mark.parametrize("engine", ENGINES)
def test_hostile_parts_have_the_same_ids_with_each_engine(engine: str) -> None:
    assert_same(family_tokenizer(FOLDER / "gemma3.jinja"), make_table(120), engine=engine)


def test_several_parts_of_a_message_are_encoded_together() -> None:
    rows = [{"messages": talk("q", "a")} for _ in range(12)]
    for number, row in enumerate(rows):
        question: Any = [part(f" one {number} "), part("two"), part("three\n")]
        row["messages"][0]["content"], row["messages"][1]["content"] = question, [part(f"yes {number}"), part("no")]
    for given in (rows, tabulate(rows)):
        assert assert_same(family_tokenizer(FOLDER / "gemma3.jinja"), given)[1] == 12


def test_texts_and_parts_among_each_other_keep_their_order() -> None:
    rng = random.Random("mixed")
    rows = [in_parts(rng, number) if number % 2 else {"messages": talk(say(rng), say(rng))} for number in range(60)]
    assert assert_same(family_tokenizer(FOLDER / "gemma3.jinja"), rows)[1] > 20


def ask(text: Any, **others: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text, **others}, {"role": "assistant", "content": "a"}]


NAN = float("nan")
TABLES: dict[str, list[dict[str, Any]]] = {
    "names": [{"messages": ask("BAD" * (n % 5 == 0) + "q", name=NAMES[n % 3])} for n in range(40)],
    "weights": [{"messages": ask("q", weight=(0, 1, None, 2)[n % 4])} for n in range(40)],
    "numbers that are none": [{"messages": ask("q", score=(0.5, NAN, None)[n % 3])} for n in range(40)],
    "flags": [{"messages": ask("q", train=(True, False, None)[n % 3])} for n in range(40)],
    "calls": [{"messages": ask("q", tool_calls=([{"function": {"name": "f"}}], [], None)[n % 3])} for n in range(40)],
    "thoughts": [{"messages": ask("q", reasoning_content=("t", "", None)[n % 3])} for n in range(40)],
    "a system column": [{"messages": ask(f"q{n}"), "system": ("s", "", None)[n % 3]} for n in range(40)],
    "tools": [{"messages": ask("q"), "tools": ("[]", "", None)[n % 3]} for n in range(40)],
    "a shape of its own in each row": [{"messages": [*ask("q", name="n") * (n + 1)]} for n in range(90)],
    "alpaca": [{"instruction": "do", "input": (" in", "", None)[n % 3], "output": f"o{n}"} for n in range(40)],
    "history": [{"instruction": "i", "output": "o", "history": ([["a", "b"]], [], None)[n % 3]} for n in range(40)],
    "prompts": [{"prompt": ("p", "HEAD", "")[n % 3], "completion": ("xHEADx", "BAD", "c")[n % 3]} for n in range(40)],
    "messages or a text": [{"messages": (ask("q"), None)[n % 2], "text": "BAD HEAD"} for n in range(40)],
    "no messages": [{"messages": (ask("q", name="n"), None, [], [None])[n % 4]} for n in range(40)],
    "refused rows": [{"messages": ask("q"), "label": (0, 1, None, True)[n % 3]} for n in range(40)],
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_read_as_its_rows(name: str) -> None:
    words, table = Words(["BAD", "<image>"], "HEAD"), tabulate(TABLES[name])
    for given in (table, table.slice(7, 21), pyarrow.concat_tables([table, table.slice(3)])):
        found, expected = read_chat_table(given, words), read_chat_rows(given.to_pylist(), words)
        for row, (one, other) in enumerate(zip(found.readings, expected.readings, strict=True)):
            assert (one is None) == (other is None), given.slice(row, 1).to_pylist()
            if one is None or other is None:
                continue
            assert repr((one.messages, one.trained_from)) == repr((other.messages, other.trained_from))
            texts, others = (made.texts[made.bounds[row] : made.bounds[row + 1]] for made in (found, expected))
            assert list(texts) == list(others)
            assert found.has_outer_whitespace[row] or all(text and text == text.strip() for text in texts)


def keep(row: dict[str, Any], number: int) -> None:
    """Leave a row as it is."""


def split(row: dict[str, Any], number: int) -> None:
    for message in row["messages"]:
        message["content"] = [part(message["content"])]


def name_every_other(row: dict[str, Any], number: int) -> None:
    row["messages"][0]["name"] = "Ann" if number % 2 else None


def add_system(row: dict[str, Any], number: int) -> None:
    row["system"] = f"Answer {number}." if number % 2 else None


@pytest.mark.skipif(
    not hasattr(pyarrow.MemoryPool, "total_bytes_allocated"), reason="this pyarrow does not count them"
)
@pytest.mark.parametrize("change", [keep, split, name_every_other, add_system])
def test_texts_and_words_are_held_where_numpy_holds_its_arrays(change: Callable[[dict[str, Any], int], None]) -> None:
    # Each page that Arrow's own pool hands out first is one that the kernel must find and clear.
    long_texts = [[" ".join(f"w{n * k % 997}" for k in range(200)) for k in (3, 7)] for n in range(600)]
    rows: list[Any] = [{"messages": talk(*texts)} for texts in long_texts]
    for number, row in enumerate(rows):
        change(row, number)
    table = pyarrow.concat_tables([tabulate(rows[:300]), tabulate(rows[300:])])
    encoder = ChatEncoder(family_tokenizer(FOLDER / "gemma3.jinja"), engine="cached")
    encoder.encode_table(table.slice(0, 2))
    pool = pyarrow.default_memory_pool()
    before = pool.total_bytes_allocated()
    encoder.encode_table(table)
    assert count_plain(encoder) == 602
    assert pool.total_bytes_allocated() - before < table.nbytes / 10
