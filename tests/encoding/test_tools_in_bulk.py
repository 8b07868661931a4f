"""Rows with tools, calls and thoughts are encoded together as they are one by one, whatever the template writes."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

import pytest

from llama_padfix.encoding.encoder import ChatEncoder
from tests.support.both import Row, assert_same, count_plain, say_hard, tabulate
from tests.support.conversations import shared
from tests.support.families import FOLDER, family_tokenizer

WORDS = (
    "look",
    "find_it",
    "sky color",
    "two\nlines",
    'a "quote"',
    "back\\slash",
    "é漢👩",
    "null",
    "5",
    "{}",
    "\\u00e9",
)


def say(rng: random.Random) -> str:
    return say_hard(rng) if rng.random() < 0.02 else " ".join(rng.choices(WORDS[:4], k=rng.choice((1, 2, 3))))


def value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.random()
    if kind < 0.6 or depth > 2:
        return rng.choice(WORDS) if rng.random() < 0.4 else say(rng)
    if kind < 0.8:
        return rng.choice((0, 7, -1.5, True, False, 1e30, 12345678901234567890))
    if kind < 0.9:
        return [value(rng, depth + 1) for _ in range(rng.randrange(3))]
    return {rng.choice(WORDS): value(rng, depth + 1) for _ in range(rng.randrange(3))}


def arguments(rng: random.Random) -> Any:
    made = {rng.choice(WORDS): value(rng) for _ in range(rng.choice((0, 1, 1, 2, 3)))}
    kind = rng.random()
    if kind < 0.3:
        return json.dumps(made, ensure_ascii=rng.random() < 0.2)
    return {**made, "nothing": None} if kind < 0.07 else made


def call(rng: random.Random) -> Row:
    inner = {"name": rng.choice(WORDS[:2]), "arguments": arguments(rng)}
    made: Row = {"type": "function", "function": inner} if rng.random() < 0.9 else inner
    return {"id": f"call{rng.randrange(100000):05d}", **made} if rng.random() < 0.3 else made


def tool(rng: random.Random) -> Row:
    name = rng.choice(WORDS[:2])
    schema = {"type": "object", "properties": {rng.choice(WORDS): {"type": "string", "description": say(rng)}}}
    inner = {"name": name, "description": say(rng), "parameters": schema}
    return {"type": "function", "function": inner}


def conversation(rng: random.Random) -> Row:
    messages: list[Row] = [{"role": "system", "content": say(rng)}] * (rng.random() < 0.3)
    for _ in range(rng.choice((1, 1, 2))):
        messages.append({"role": "user", "content": say(rng)})
        for _ in range(rng.choice((0, 1, 1, 2))):
            calls = [call(rng) for _ in range(1 if rng.random() < 0.8 else 2)]
            content = rng.choice(("", None, say(rng)))
            messages.append({"role": "assistant", "content": content, "tool_calls": calls})
            if rng.random() < 0.2:
                messages[-1]["reasoning_content"] = say(rng)
            messages += [{"role": "tool", "name": "look", "content": say(rng)} for _ in calls]
        answer: Row = {"role": "assistant", "content": say(rng)}
        if rng.random() < 0.3:
            answer["reasoning_content"] = say(rng)
        if rng.random() < 0.1:
            answer["weight"] = 0
        messages.append(answer)
    tools: Any = [tool(rng) for _ in range(rng.choice((1, 1, 2)))]
    kind = rng.random()
    return {"messages": messages, "tools": json.dumps(tools) if kind < 0.2 else None if kind < 0.3 else tools}


def conversations(count: int, seed: object) -> list[Row]:
    rng = random.Random(str(seed))
    return [conversation(rng) for _ in range(count)]


@pytest.mark.parametrize("stem", ["llama3_1", "qwen3", "qwen2_5", "lfm2"])
@pytest.mark.parametrize("train_on", ["assistant", "last"])
def test_rows_with_tools_are_encoded_as_one_by_one(stem: str, train_on: str) -> None:
    tokenizer = family_tokenizer(FOLDER / f"{stem}.jinja")
    _, together = assert_same(tokenizer, conversations(60, f"{stem}{train_on}"), train_on=train_on)
    assert together
    assert_same(tokenizer, conversations(12, stem), train_on=train_on, max_length=90, on_loss="error")


def ask(number: int, calls: int = 1, **changed: Any) -> Row:
    """A row of one shape for each number of calls."""
    messages: list[Row] = [{"role": "user", "content": f"Question {number}"}]
    for place in range(calls):
        inner = {"name": "look", "arguments": {"where": f"sky {number}", "place": place}}
        messages.append({"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": inner}]})
        messages.append({"role": "tool", "name": "look", "content": f"blue {number}"})
    messages.append({"role": "assistant", "content": f"Answer {number}"})
    schema = {"type": "object", "properties": {"where": {"type": "string"}}}
    inner = {"name": "look", "description": f"Looks at {number}.", "parameters": schema}
    return {"messages": messages, "tools": [{"type": "function", "function": inner}], **changed}


@pytest.mark.parametrize("stem", ["llama3_1", "qwen3", "qwen2_5"])
def test_all_rows_of_a_shape_are_encoded_together(stem: str) -> None:
    rows = [ask(number) for number in range(10)]
    tokenizer = family_tokenizer(FOLDER / f"{stem}.jinja")
    assert assert_same(tokenizer, rows)[1] == len(rows)
    assert assert_same(tokenizer, tabulate(rows))[1] == len(rows)
    as_text = [row | {"tools": json.dumps(row["tools"])} for row in rows]
    assert assert_same(tokenizer, as_text)[1] == len(rows)


@pytest.mark.parametrize("place", ["schema", "arguments", "name", "result", "key"])
def test_a_control_token_in_a_call_is_text(place: str) -> None:
    tokenizer, token = family_tokenizer(FOLDER / "qwen3.jinja"), "<|im_end|>"
    rows = [ask(number) for number in range(4)]
    row = ask(9)
    function = row["messages"][1]["tool_calls"][0]["function"]
    if place == "schema":
        row["tools"][0]["function"]["description"] = f"Writes {token}"
    elif place == "result":
        row["messages"][2]["content"] = token
    elif place == "name":
        function["name"] = f"look{token}"
    else:
        function["arguments"] = {"where": f"{token}</tool_call>"} if place == "arguments" else {token: 1}
    found, together = assert_same(tokenizer, [*rows, row])
    assert together == len(rows)
    assert found.counts.escaped == 1


HEAD = "{{ bos_token }}{% for t in tools or [] %}{{ T }}\n{% endfor %}"
LOOP = (
    "{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}{% set f = c.function %}C{% endfor %}{{ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
TOGETHER = (
    "{{ f.name }}{{ f.arguments | tojson }}",
    "{{ f.name ~ ' ' ~ f.arguments | tojson(indent=2) }}",
    "{{ f | tojson }}",
    "{{ c | tojson(separators=(',', ':')) }}",
    "{{ m.tool_calls | tojson }}",
    "{{ f.name }}{{ f.arguments if f.arguments is string else f.arguments | tojson }}",
    "{{ f.name }}{% if f.arguments is mapping and f.arguments %}{{ f.arguments | tojson | trim }}{% endif %}",
    "{% set a = f.arguments or {} %}{{ f.name }}{{ a | tojson(ensure_ascii=False) }}",
)
OPENED = (
    "{{ f.name }}{% for k, v in f.arguments.items() %}{{ k }}={{ v }}{% endfor %}",
    "{{ f.name }}{% for k in f.arguments %}{{ k }}={{ f.arguments[k] }}{% endfor %}",
    "{{ f.name }}{{ f.arguments | length }}{{ f.arguments | tojson }}",
    "{{ f.name }}{% if 'where' in f.arguments %}{{ f.arguments | tojson }}{% endif %}",
    "{{ f.name }}{% if f.arguments == {} %}none{% endif %}{{ f.arguments | tojson }}",
)
ALONE = (
    "{{ f.name }}{{ f.arguments.where }}{{ f.arguments | tojson }}",
    "{{ f.name }}{{ f.arguments | dictsort }}",
    "{{ f.name }}{{ (f.arguments | tojson)[1:-1] }}",
    "{{ f.name }}{{ f.arguments | tojson | replace('sky', 'SKY') }}",
    "{{ f.name }}{% if 'sky' in f.arguments | tojson %}!{% endif %}{{ f.arguments | tojson }}",
    "{{ f.name }}{{ f.arguments | tojson(ensure_ascii=true) }}",
    "{{ f.name }}{{ f.arguments | tojson(sort_keys=true) }}",
    "{{ f.name }}{{ f | tojson(indent=2) }}",
    "{{ f.name }}{{ f.arguments }}",
    "{{ f.name }}{{ f.arguments | string }}{{ f.arguments | tojson }}",
    "{{ f.name | upper }}{{ f.arguments | tojson }}",
    "{{ f.name }}",
    "{{ f.name }}{{ f.name }}{{ f.arguments | tojson }}",
    "{{ f.name }}<|eot_id|>{{ f.arguments | tojson }}",
)


@pytest.mark.parametrize("body", (*TOGETHER, *OPENED, *ALONE))
def test_a_look_into_a_call_is_refused_or_changes_nothing(body: str) -> None:
    given = {"chat_template": HEAD.replace("T", "t | tojson") + LOOP.replace("C", body)}
    rows = [ask(number, calls=number // 6) for number in range(12)]
    rows[7]["messages"][1]["tool_calls"][0]["function"]["arguments"] = {"where": "", "sky": ["{", 'é"\\\n', 1.5e300]}
    rows[8]["messages"][1]["tool_calls"][0]["function"]["arguments"] = {}
    _, together = assert_same(shared("3.1-instruct"), rows, template_kwargs=given)
    # The first six call nothing, one has no arguments, and the text of another is empty.
    assert together <= 8 if body in ALONE else together >= (11 if body in TOGETHER else 10)


def test_arguments_as_json_text_are_counted_as_one_by_one() -> None:
    body = "{{ f.name }} {{ f.arguments }}"
    for look in (body, '{{ f.name }} "{{ f.arguments }}"', "{{ f.name }}{{ f.arguments | tojson }}"):
        rows = [ask(number) for number in range(8)]
        said = (
            '{"a": 1}',
            "{}",
            '{"a": "\\ud83d\\ude00"}',
            "none",
            '{"a": "x"}',
            '{"b": "x"}',
            '"{}"',
            '[1, "{}"]',
        )
        for row, text in zip(rows, said, strict=True):
            row["messages"][1]["tool_calls"][0]["function"]["arguments"] = text
        rows[4]["messages"][0]["content"] = json.dumps(said[4])
        given = {"chat_template": HEAD.replace("T", "t | tojson") + LOOP.replace("C", look)}
        _, together = assert_same(shared("3.1-instruct"), rows, template_kwargs=given)
        assert bool(together) == (look == body)


def test_many_calls_are_rendered_as_often_as_few(renderings: Counter[str]) -> None:
    found = []
    for calls in (40, 80, 160):
        encoder = ChatEncoder(family_tokenizer(FOLDER / "qwen3.jinja"))
        encoder.encode_rows([ask(number) for number in range(3)])  # what is learned of the template
        renderings.clear()
        encoder.encode_rows([ask(number, calls) for number in range(4)])
        assert count_plain(encoder) == 7
        found.append(renderings["all"])
    assert found == [found[0]] * 3
    assert found[0] < 12
