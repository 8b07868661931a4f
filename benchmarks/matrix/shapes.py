"""The rows of the benchmark's workloads: one conversation after another in each shape that data comes in.

Each shape is made of the conversations of `throughput/data.py`, or of the same text cut anew; row N depends on its
number alone. `plain_of` says what a shape reads as where another library does not take it: that library is handed the
conversation by a `dataset.map`, which its clock counts.
"""

from __future__ import annotations

import copy
import itertools
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "throughput"))

import data

Message = dict[str, Any]
Row = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """How one row is made of a conversation, and how a library that does not know the shape gets it."""

    make: Callable[[int, list[Message]], Row]
    plain_of: Callable[[Row], Row] | None = None
    as_json: bool = False
    """The messages differ in their keys, so `datasets` keeps them as JSON."""


def make_rows(name: str, count: int) -> Iterator[Row]:
    """Yield the rows of a shape."""
    if name == "many_languages":
        yield from _write_in_many_languages(count)
        return
    shape = SHAPES[name]
    for number, row in enumerate(data.make_rows(count)):
        yield shape.make(number, row["messages"])


def _plain(number: int, messages: list[Message]) -> Row:
    return {"messages": messages}


def _alpaca(number: int, messages: list[Message]) -> Row:
    system, question, answer = _first_exchange(messages)
    return {"instruction": question, "input": system if number % 2 else "", "output": answer}


def _read_alpaca(row: Row) -> Row:
    question = f"{row['instruction']}\n\n{row['input']}" if row["input"] else row["instruction"]
    return {"messages": _exchange(question, row["output"])}


def _prompt_as_text(number: int, messages: list[Message]) -> Row:
    _, question, answer = _first_exchange(messages)
    return {"prompt": question, "completion": answer}


def _read_prompt(row: Row) -> Row:
    return {"messages": _exchange(row["prompt"], row["completion"])}


def _prompt_as_messages(number: int, messages: list[Message]) -> Row:
    return {"prompt": messages[:-1], "completion": messages[-1:]}


def _system_column(number: int, messages: list[Message]) -> Row:
    has_system = messages[0]["role"] == "system"
    return {"system": messages[0]["content"] if has_system else None, "messages": messages[has_system:]}


def _read_system(row: Row) -> Row:
    system = [{"role": "system", "content": row["system"]}] if row["system"] else []
    return {"messages": [*system, *row["messages"]]}


def _named(number: int, messages: list[Message]) -> Row:
    return {"messages": [{**m, "name": "Ann" if m["role"] == "user" else None} for m in messages]}


def _weighted(number: int, messages: list[Message]) -> Row:
    """Every tenth answer of the earlier ones has weight 0; TRL reads none, so its labels differ there."""
    last = len(messages) - 1
    return {
        "messages": [
            {**m, "weight": None if m["role"] != "assistant" else int(place == last or (number + place) % 10 != 0)}
            for place, m in enumerate(messages)
        ]
    }


def _unused_tools(number: int, messages: list[Message]) -> Row:
    return {"messages": messages, "tools": None}


def _in_parts(number: int, messages: list[Message]) -> Row:
    return {"messages": [{"role": m["role"], "content": [{"type": "text", "text": m["content"]}]} for m in messages]}


def _sharegpt(number: int, messages: list[Message]) -> Row:
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    return {"conversations": [{"from": names[m["role"]], "value": m["content"]} for m in messages]}


def _read_sharegpt(row: Row) -> Row:
    """TRL takes the column and not its names of roles."""
    names = {"human": "user", "gpt": "assistant"}
    turns = row["conversations"]
    return {"messages": [{"role": names.get(m["from"], m["from"]), "content": m["value"]} for m in turns]}


def _text(number: int, messages: list[Message]) -> Row:
    return {"text": "\n\n".join(m["content"] for m in messages)}


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"{what} in a folder.",
            "parameters": {
                "type": "object",
                "properties": {"path": {"type": "string"}, "pattern": {"type": "string"}, "most": {"type": "integer"}},
                "required": ["path"],
            },
        },
    }
    for name, what in (("search_files", "Search text"), ("list_files", "List files"))
]


def _call(draw: random.Random) -> Message:
    arguments = {
        "path": f"src/{draw.choice('abcdef')}{draw.randrange(100)}.py",
        "pattern": f"def {draw.choice('xyz')}",
    }
    function = {"name": draw.choice(("search_files", "list_files")), "arguments": {**arguments, "most": 5}}
    return {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}


def _tool_calls(number: int, messages: list[Message]) -> Row:
    """A call and its result between each question and its answer."""
    draw, made = random.Random(f"tools:{number}"), list[Message]()
    for message in messages:
        if message["role"] == "assistant":
            result = f"{draw.randrange(9)} lines in {draw.randrange(99)} files"
            made += [_call(draw), {"role": "tool", "name": "search_files", "content": result}]
        made.append(message)
    return {"messages": made, "tools": copy.deepcopy(TOOLS)}


def _many_calls(calls: int) -> Callable[[int, list[Message]], Row]:
    def make(number: int, messages: list[Message]) -> Row:
        draw, (_, question, answer) = random.Random(f"calls:{number}"), _first_exchange(messages)
        made: list[Message] = [{"role": "user", "content": question}]
        for _ in range(calls):
            result = f"{draw.randrange(9)} lines in {draw.randrange(99)} files: " + "ok " * draw.randrange(20)
            made += [_call(draw), {"role": "tool", "name": "search_files", "content": result.strip()}]
        return {"messages": [*made, {"role": "assistant", "content": answer}], "tools": copy.deepcopy(TOOLS)}

    return make


def _thoughts(number: int, messages: list[Message]) -> Row:
    """Each answer with its thought: in a key of its own, in every second row in the text."""
    draw, (prose, _), made = random.Random(f"thoughts:{number}"), data.read_library(), list[Message]()
    for message in messages:
        if message["role"] == "assistant":
            thought = prose.cut(draw, draw.randint(100, 600))
            if number % 2:
                message = {**message, "content": f"<think>\n{thought}\n</think>\n\n{message['content']}"}
            else:
                message = {**message, "reasoning_content": thought}
        made.append(message)
    return {"messages": made}


def _irregular(number: int, messages: list[Message]) -> Row:
    """Questions and answers in an order that no other row has: the digits of the row's number."""
    draw, (prose, _) = random.Random(f"irregular:{number}"), data.read_library()
    roles = ["user", *("assistant" if digit == "1" else "user" for digit in f"{number:011b}"), "assistant"]
    return {"messages": [{"role": role, "content": prose.cut(draw, draw.randint(50, 350))} for role in roles]}


def _first_exchange(messages: list[Message]) -> tuple[str, str, str]:
    has_system = messages[0]["role"] == "system"
    question, answer = messages[has_system : has_system + 2]
    return messages[0]["content"] if has_system else "", question["content"], answer["content"]


def _exchange(question: str, answer: str) -> list[Message]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


# First letters and vowels, or syllables as they are, by script: words are made of them, and common words are common.
_SCRIPTS = {
    "Latin": ("bcdfgjklmnprstvzčšžłñ", "aeiouáéíóúöüå"),
    "Greek": ("βγδζθκλμνπρστφχ", "αεηιουωάέ"),
    "Cyrillic": ("бвгджзклмнпрстфхцчш", "аеиоуыюяё"),
    "Hebrew": ("אבגדהוזחטיכלמנסעפצקרשת", ""),
    "Arabic": ("ابتجحدرسشصعفقكلمنهوي", ""),
    "Devanagari": ("कखगघचजटतदनपबमयरलवसह", "ािीुेो"),
    "Thai": ("กขคงจชดตทนบปพมยรลวสห", "าิีุเแโ"),
    "Hangul": ("".join(map(chr, range(0xAC00, 0xAC00 + 28 * 400, 28))), ""),
    "Kana": ("".join(map(chr, range(0x3042, 0x3094))), ""),
    "Han": ("".join(map(chr, range(0x4E00, 0x4E00 + 3000))), ""),
}
_UNSPACED = ("Thai", "Kana", "Han")
_WORDS = 8_000


def _write_in_many_languages(count: int) -> Iterator[Row]:
    """Yield conversations in ten scripts, of words that are as frequent as their rank allows (Zipf)."""
    words = {script: [*_make_words(script)] for script in _SCRIPTS}
    weights = [*itertools.accumulate(1 / (rank + 3) for rank in range(_WORDS))]
    for number in range(count):
        draw = random.Random(f"languages:{number}")
        script = draw.choice([*_SCRIPTS])
        gap = "" if script in _UNSPACED else " "

        def say(length: int, script: str = script, gap: str = gap, draw: random.Random = draw) -> str:
            sentences = []
            for _ in range(max(1, length // 10)):
                sentences.append(gap.join(draw.choices(words[script], cum_weights=weights, k=draw.randint(5, 15))))
            return ("。" if script in ("Kana", "Han") else ". ").join(sentences)

        messages = [
            _exchange(say(draw.randint(10, 60)), say(draw.randint(20, 200))) for _ in range(draw.randint(1, 3))
        ]
        yield {"messages": [*itertools.chain(*messages)]}


def _make_words(script: str) -> Iterator[str]:
    draw, (heads, vowels) = random.Random(f"words:{script}"), _SCRIPTS[script]
    most = 2 if script in ("Hangul", "Han") else 4
    for _ in range(_WORDS):
        syllables = range(draw.randint(1, most))
        yield "".join(draw.choice(heads) + (draw.choice(vowels) if vowels else "") for _ in syllables)


SHAPES: dict[str, Shape] = {
    "plain": Shape(_plain),
    "alpaca": Shape(_alpaca, _read_alpaca),
    "prompt_text": Shape(_prompt_as_text, _read_prompt),
    "prompt_messages": Shape(_prompt_as_messages),
    "system_column": Shape(_system_column, _read_system),
    "name": Shape(_named),
    "weight": Shape(_weighted),
    "unused_tools": Shape(_unused_tools),
    "text_parts": Shape(_in_parts),
    "sharegpt": Shape(_sharegpt, _read_sharegpt),
    "text_plain": Shape(_text),
    "text_rendered": Shape(_plain),  # which the worker renders
    "tool_calls": Shape(_tool_calls, as_json=True),
    "calls_40": Shape(_many_calls(40), as_json=True),
    "calls_100": Shape(_many_calls(100), as_json=True),
    "thoughts": Shape(_thoughts, as_json=True),
    "irregular": Shape(_irregular),
    "many_languages": Shape(_plain),
}
