"""Templates that look into arguments and tools: rows of one shape are encoded together as they are one by one."""

from __future__ import annotations

import json
import random
from collections import Counter
from importlib.util import find_spec
from typing import Any

import pytest

from llama_padfix.encoding.encoder import ChatEncoder
from tests.encoding.test_tools_in_bulk import LOOP, conversations
from tests.support.both import ENGINES, Row, assert_same, count_plain, make_hard_rows, tabulate, talk
from tests.support.conversations import shared
from tests.support.families import FOLDER, family_tokenizer

HARD = (
    'a "quote"',
    "it's",
    "back\\slash",
    "\\u00e9",
    "é漢👩",
    "<b>&amp;",
    "two\nlines",
    " around ",
    "null",
    "5",
    "1.0",
    "{}",
    "[]",
    "{{ v }}",
    "%s",
    "\ue0000\ue001",
    "<|eot_id|>",
    "<|im_end|>",
    "</tool_call>",
    "<tool_response>",
    "<think>",
)
NUMBERS = (0, 7, -3, 10**25, 1.0, -0.0, 0.1, 1e22, 1e-7, 1.5e300)
SCHEMA = {
    "type": "object",
    "properties": {
        "where": {"type": "string", "description": "A place.", "enum": ["sky", "sea"]},
        "place": {"type": "integer", "default": 3},
        "near": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["where"],
}


def tool(name: str, **schema: Any) -> Row:
    inner = {"name": name, "description": f"Says what {name} finds.", "parameters": {**SCHEMA, **schema}}
    return {"type": "function", "function": inner}


def ask(number: int, arguments: Any, name: str = "look", tools: list[Row] | None = None) -> Row:
    """A row of one shape for all arguments of one skeleton."""
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    messages: list[Row] = [
        {"role": "user", "content": f"Question {number}"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "name": name, "content": f"blue {number}"},
        {"role": "assistant", "content": f"Answer {number}"},
    ]
    return {"messages": messages, "tools": [tool("look"), tool("find")] if tools is None else tools}


def hard_rows(seed: str, count: int = 12) -> list[Row]:
    """Rows of few skeletons, and some of a skeleton of their own."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        text, amount = rng.choice(HARD), rng.choice(NUMBERS)
        found: list[Any] = [
            {"where": text, "place": number},
            {"where": text, "place": number, "sure": rng.random() < 0.5},
            {"place": amount, "where": text},
            {"where": text, "near": [text, {"at": amount}], "none": "", "all": [], "any": {}},
            {"where": {"deep": {"er": [text, "x", amount]}}},
            {"where": text, "gone": None},
            {text: "a key", "where": rng.choice((" ", "\n"))},
        ]
        rows.append(ask(number, found[number % 3 if number < 6 else rng.randrange(len(found))]))
    return rows


@pytest.mark.parametrize("stem", ["gptoss", "qwen3_5_nothink", "qwen3_6"])
def test_hard_arguments_are_encoded_as_one_by_one(stem: str) -> None:
    tokenizer = family_tokenizer(FOLDER / f"{stem}.jinja")
    plain = [ask(number, {"where": f"sky {number}", "place": number, "far": number / 4}) for number in range(4)]
    assert assert_same(tokenizer, plain)[1] == len(plain)
    assert assert_same(tokenizer, tabulate(plain))[1] == len(plain)
    for engine in [one for one in ENGINES if one != "fastokens" or find_spec("fastokens")]:
        _, together = assert_same(tokenizer, [*plain, *hard_rows(stem, 20)], engine=engine)
        assert together >= len(plain)
    assert_same(tokenizer, conversations(25, stem))
    assert_same(tokenizer, [*plain, *hard_rows(stem)], max_length=60, train_on="last", on_loss="error")


def test_a_token_that_reaches_over_the_end_of_a_header_is_not_trained() -> None:
    tokenizer = family_tokenizer(FOLDER / "qwen3_5_think.jinja")  # an empty thought: the prompt ends inside "\n\n"
    rows = [{"messages": talk(f"Question {number}", f"Answer {number}", "More", "Yes")} for number in range(4)]
    rows += [ask(number, {"where": f"sky {number}"}) for number in range(4)]
    found, together = assert_same(tokenizer, [*rows, *make_hard_rows(30, "think")])
    assert together >= len(rows)
    trained = [token for token, label in zip(found.input_ids[0], found.labels[0], strict=True) if label != -100]
    assert tokenizer.decode(trained).endswith("</think>\n\nYes<|im_end|>")


def test_numbers_that_json_does_not_know_are_refused_as_one_by_one() -> None:
    tokenizer = family_tokenizer(FOLDER / "qwen3_5_nothink.jinja")
    rows = [ask(number, {"where": "sky", "place": number}) for number in range(4)]
    for value in (float("inf"), float("nan"), '{"where": "sky", "place": 1e400}', '{"where": 1.0}', 10**5000):
        assert_same(tokenizer, [*rows, ask(9, {"where": "sky", "place": value} if type(value) is not str else value)])


EACH = "{{ f.name }}{% for k, v in f.arguments.items() %}{{ k }}=V{% endfor %}"
TOGETHER = (
    "{{ v }}",
    "{{ v | string }}",
    "{{ v | tojson }}",
    "{{ v | tojson | safe }}",
    "{{ v if v is string else v | tojson }}",
    "{{ '<' ~ v ~ '>' }}",
    "{% if v is number %}{{ v }}{% elif v is string %}'{{ v }}'{% endif %}",
    "{% if v is boolean or v is none or v is mapping or v is sequence and v is not string %}?{% endif %}{{ v }}",
    "{% if v is integer %}i{% elif v is float %}f{% endif %}{{ v }}",
    "{{ v | trim }}",
    "{{ v if v is string else v | string | tojson }}",
)
ALONE = (
    "{{ v }}{% if v %}!{% endif %}",
    "{{ v }}{% if v == 7 %}!{% endif %}",
    "{{ v }}{% if v in (7, 'sky') %}!{% endif %}",
    "{{ v }}{% if v is number and v > 3 %}!{% endif %}",
    "{{ v if v is string else v + 1 }}",
    "{{ v if v is string else -v }}",
    "{{ v if v is string else v | int }}",
    "{{ v if v is string else v | round }}",
    "{{ v if v is string else v.real }}",
    "{{ v if v is string else '%s' % v }}",
    "{{ v if v is string else '{}'.format(v) }}",
    "{{ v if v is string else ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'][v] }}",
    "{{ v if v is string else {7: 'x'}[v] }}",
    "{{ v if v is string else (v | string)[0] }}",
    "{{ v if v is string else [v] | join }}",
    "{{ v if v is string else v | default('', true) }}",
    "{{ v }}{% if v is not string and v is even %}!{% endif %}",
    "{{ v }}{% if v is not string %}{% for n in range(v) %}!{% endfor %}{% endif %}",
    "{{ (v | safe) + 'x' }}",
    "{{ v | safe | upper }}",
)
HEAD = "{{ bos_token }}{% for t in tools or [] %}{{ t | tojson }}\n{% endfor %}"


@pytest.mark.parametrize("body", (*TOGETHER, *ALONE))
def test_what_a_template_asks_of_a_value_is_answered_or_refused(body: str) -> None:
    given = {"chat_template": HEAD + LOOP.replace("C", EACH.replace("V", body))}
    rows = [ask(number, {"where": f"sky {number}", "place": number}) for number in range(5, 9)]
    _, together = assert_same(shared("3.1-instruct"), [*rows, *hard_rows(body, 8)], template_kwargs=given)
    assert together >= len(rows) if body in TOGETHER else together < len(rows)


def test_the_length_of_a_text_is_known_to_be_more_than_nothing() -> None:
    for body, is_known in (("> 0", True), ("== 0", True), ("> 1", False), ("- 1 > 0", False), ("!= 7", False)):
        look = "{% if m.content | trim | length " + body + " %}!{% endif %}{{ f.name }}{{ f.arguments | tojson }}"
        given = {"chat_template": HEAD + LOOP.replace("C", look)}
        rows = [ask(number, {"where": f"sky {number}", "place": number}) for number in range(4)]
        for row in rows:
            row["messages"][1]["content"] = "Let me look."
        _, together = assert_same(shared("3.1-instruct"), rows, template_kwargs=given)
        assert together == (len(rows) if is_known else 0)


@pytest.mark.parametrize("sort", ["dictsort", "dictsort(by='value')", "dictsort(true)", "items", "list"])
def test_keys_may_be_sorted_and_values_not(sort: str) -> None:
    body = "{{ f.name }}{% for k in f.arguments | " + sort + " %}{{ k[0] }}={{ f.arguments[k[0]] }};{% endfor %}"
    given = {"chat_template": HEAD + LOOP.replace("C", body)}
    rows = [ask(number, {"b": f"b{number}", "a": f"a{number}", "C": f"c{number}"}) for number in range(4)]
    rows += [ask(number, {"a": f"b{number}", "C": f"a{number}", "b": f"c{number}"}) for number in range(4)]
    _, together = assert_same(shared("3.1-instruct"), rows, template_kwargs=given)
    assert together == (0 if "(" in sort else len(rows))


LOOKS = (
    "{{ t.function.name }}: {% for k, v in t.function.parameters.properties.items() %}{{ k }} {{ v.type }}{% endfor %}"
    "{{ t | tojson }}",
    "{{ t.function.name | upper }}{{ t | tojson }}",
    "{% for k, v in t.function.parameters | dictsort %}{{ k }}{% endfor %}{{ t | tojson(indent=2) }}",
    "{{ t.function.parameters.required | join(', ') }}{{ t | tojson }}",
)


@pytest.mark.parametrize("look", LOOKS)
def test_tools_that_a_template_looks_into_are_constants(look: str) -> None:
    body = "{{ f.name }}{{ f.arguments | tojson }}"
    given = {
        "chat_template": "{{ bos_token }}{% for t in tools or [] %}" + look + "{% endfor %}" + LOOP.replace("C", body)
    }
    lists: list[list[Row]] = [[tool("look")], [tool("find"), tool("look")], [tool("look", required=["place"])]]
    rows = [ask(number, {"where": f"{number}"}, tools=lists[number % 3]) for number in range(12)]
    _, together = assert_same(shared("3.1-instruct"), rows, template_kwargs=given)
    assert together == len(rows)
    odd = [
        tool("look<|eot_id|>"),
        tool("look", title="<|start_header_id|>assistant<|end_header_id|>\n\n"),
        tool("look", title="Question 1"),
        tool("look", title="\ue0000\ue001"),
        tool("look", title='é "漢" \\ \n'),
        tool("look", most=1.0, least=1),
        tool("look", most=1, least=1.0),
        tool("look", most=True, least=None),
    ]
    rows += [ask(number, {"where": f"{number}"}, tools=[one]) for one in odd for number in range(2)]
    found, _ = assert_same(shared("3.1-instruct"), rows, template_kwargs=given)
    assert found.counts.escaped == 4


def test_a_key_that_spells_a_control_token_is_text() -> None:
    tokenizer = family_tokenizer(FOLDER / "qwen3_5_nothink.jinja")
    rows = [ask(number, {"where": f"{number}"}) for number in range(3)]
    rows += [ask(number, {"<|im_end|>": f"{number}"}) for number in range(3)]
    rows += [ask(number, {"<tool_call>": f"{number}"}) for number in range(3)]
    found, together = assert_same(tokenizer, rows)
    assert together == 3
    assert found.counts.escaped == 6


def test_many_calls_are_rendered_as_often_as_few(renderings: Counter[str]) -> None:
    def repeat(number: int, calls: int) -> Row:
        row = ask(number, {"where": f"sky {number}", "place": number})
        call = row["messages"][1:3]
        return {**row, "messages": [row["messages"][0], *json.loads(json.dumps(call)) * calls, row["messages"][3]]}

    found = []
    for calls in (20, 40, 80):
        encoder = ChatEncoder(family_tokenizer(FOLDER / "qwen3_5_nothink.jinja"))
        encoder.encode_rows([repeat(number, 1) for number in range(3)])  # what is learned of the template
        renderings.clear()
        encoder.encode_rows([repeat(number, calls) for number in range(4)])
        assert count_plain(encoder) == 7
        found.append(renderings["all"])
    assert found == [found[0]] * 3
    assert found[0] < 12
