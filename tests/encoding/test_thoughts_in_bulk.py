"""Rows whose answers hold thoughts are encoded together as they are one by one, whatever the thoughts say."""

from __future__ import annotations

import random
from typing import Any

import pytest

from llama_padfix.chat.symbolic import render_with_holes
from llama_padfix.chat.symbolic_slots import Hole, Joined, TemplateBranched, trim
from tests.support.both import Row, assert_same, say_hard, tabulate, talk
from tests.support.conversations import shared
from tests.support.families import FOLDER, family_tokenizer

SAID = ("Two and two.", "four", "4", "Two\n\nlines", "a \\n b", "Yes, yes", "STRASSE straße", "é漢👩", "x\0y", "fo ur")
ODD = (
    "",
    " ",
    "\n\n",
    "a <think> b",
    "a </think> b",
    "</think>",
    "<think>\n",
    "<thi",
    "nk>",
    "</thi",
    "nk> rest",
    "<thinking>a</thinking>",
    "[THINK]",
    "[/THINK] x",
    "<|im_end|>",
    "<tool_call>",
    "\n\n four \n",
    "\u00a0four",
    "<tool_response>",
    "fourTwo",
)
LAYOUTS = (
    "<think>\n{}\n</think>\n\n{}",
    "<think>{}</think>{}",
    "{}\n</think>\n\n{}",
    " \n<think>\n\n{}\n\n</think>\n\n\n{}\n",
    "<think>\n{}\n</think>\n{}",
    "<think>\n\n</think>\n\n{1}",
    "</think>{1}",
    "<think>{}",
    "Well. <think>\n{}\n</think>\n\n{}",
    "<think>\n{}\n</think>\n\n",
    "<think>\n{0}\n</think>\n\n{1}<think>\n{0}\n</think>\n\n{1}",
    "<thinking>\n{}\n</thinking>\n{}",
    "<think>\n<think>\n{}\n</think>\n\n{}",
)
HEAD = "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>' }}"
TAIL = "{{ '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ P }}{% endif %}"
PROMPT = "'<|start_header_id|>assistant<|end_header_id|>'"
R1 = "{% set c = m.content %}{% if '</think>' in c %}{% set c = c.split('</think>')[-1] %}{% endif %}{{ c }}"
KEY = "{% if m.thinking %}{{ '<think>' + m.thinking + '</think>' }}{% endif %}{{ m.content }}"
LAST_KEY = (
    "{% if loop.last and m.reasoning_content %}{{ '[THINK]' + m.reasoning_content | trim + '[/THINK]' }}{% endif %}"
    "{{ m.content | trim }}"
)
STARTS = (
    "{% set c = m.content %}{% if m.role == 'assistant' and c.startswith('<think>\n') and '</think>' in c %}"
    "{% set t = c.split('</think>') %}{{ '(' + t[0].replace('<think>\n', '', 1).rstrip() + ')' + t[1] | trim }}"
    "{% else %}{{ c }}{% endif %}"
)


def tokenizer_of(stem: str) -> Any:
    return family_tokenizer(FOLDER / f"{stem}.jinja")


def template_of(body: str, prompt: str = PROMPT) -> dict[str, Any]:
    return {"chat_template": HEAD + body + TAIL.replace("P", prompt)}


GIVEN: dict[str, tuple[Any, dict[str, Any]]] = {
    "qwen3": (lambda: tokenizer_of("qwen3"), {}),
    "r1": (lambda: shared("3.1-instruct"), template_of(R1)),
    "r1_opens": (lambda: shared("3.1-instruct"), template_of(R1, PROMPT[:-1] + "<think>\n'")),
    "key": (lambda: shared("3.1-instruct"), template_of(KEY)),
    "last_key": (lambda: shared("3.1-instruct"), template_of(LAST_KEY)),
    "starts": (lambda: shared("3.1-instruct"), template_of(STARTS)),
}


def say(rng: random.Random) -> str:
    kind = rng.random()
    return rng.choice(SAID) if kind < 0.8 else rng.choice(ODD) if kind < 0.95 else say_hard(rng)


def answer(rng: random.Random) -> Row:
    said, kind = say(rng), rng.random()
    if kind < 0.2:
        return {"role": "assistant", "content": said}
    if kind < 0.45:
        key = rng.choice(("reasoning_content", "thinking"))
        return {"role": "assistant", "content": said, key: say(rng)}
    layout = LAYOUTS[0] if rng.random() < 0.5 else rng.choice(LAYOUTS)
    made: Row = {"role": "assistant", "content": layout.format(say(rng), said)}
    return made | ({"reasoning_content": say(rng)} if kind > 0.95 else {})


def make_rows(count: int, seed: object) -> list[Row]:
    rng = random.Random(str(seed))
    rows = []
    for _ in range(count):
        messages: list[Row] = [{"role": "system", "content": say(rng)}] * (rng.random() < 0.2)
        for _ in range(rng.choice((1, 1, 1, 2))):
            messages += [{"role": "user", "content": say(rng)}, answer(rng)]
        rows.append({"messages": messages})
    return rows


@pytest.mark.parametrize("name", GIVEN)
@pytest.mark.parametrize("train_on", ["assistant", "last"])
def test_rows_with_thoughts_are_encoded_as_one_by_one(name: str, train_on: str) -> None:
    make, kwargs = GIVEN[name]
    rows = make_rows(120, f"{name}{train_on}")
    engine = {"engine": "tokenizers"} if train_on == "last" else {}
    _, together = assert_same(make(), rows, train_on=train_on, template_kwargs=kwargs, **engine)
    assert together > 30
    assert_same(make(), rows[:20] * 2, train_on=train_on, template_kwargs=kwargs, max_length=40, on_loss="error")


def ask(number: int, layout: str, turns: int = 2) -> Row:
    """A row of one shape for each layout and number of turns; a thought is longer than its answer, or shorter."""
    messages: list[Row] = []
    for turn in range(turns):
        thought, said = f"Thought {number} of {turn}" + " and on" * (number % 3), f"Answer {number}, turn {turn}"
        messages += [{"role": "user", "content": f"Question {number}"}, {"role": "assistant", "content": said}]
        if layout == "key":
            messages[-1]["reasoning_content"] = thought
        else:
            messages[-1]["content"] = layout.format(thought, said)
    return {"messages": messages}


@pytest.mark.parametrize("name", ["qwen3", "r1", "r1_opens"])
@pytest.mark.parametrize("layout", [*LAYOUTS[:7], "key"])
def test_all_rows_of_a_layout_are_encoded_together(name: str, layout: str) -> None:
    make, kwargs = GIVEN[name]
    rows = [ask(number, layout) for number in range(8)]
    found, together = assert_same(make(), rows, template_kwargs=kwargs)
    assert together == len(rows)
    is_kept = "{}" not in layout and layout != "key"
    assert found.counts.lost_reasoning == (0 if is_kept else len(rows))
    assert assert_same(make(), tabulate(rows), template_kwargs=kwargs)[1] == len(rows)
    assert assert_same(make(), rows, template_kwargs=kwargs, on_loss="error")[1] == (len(rows) if is_kept else 0)


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
def test_the_last_text_of_a_row_may_be_a_thought_that_is_left_out(key: str) -> None:
    rows = [talk("Add", f"four {number}") for number in range(6)]
    given: list[Row] = [{"messages": [one, {**two, key: f"Two {place}"}]} for place, (one, two) in enumerate(rows)]
    mixed = [*given, *({"messages": row} for row in rows)]
    for table in (given, mixed, tabulate(given), tabulate(mixed)):
        found, together = assert_same(shared("3.1-instruct"), table, engine="tokenizers")
        assert (found.counts.lost_reasoning, together) == (6, len(table))


def test_rows_of_texts_are_encoded_together() -> None:
    tokenizer, answers = tokenizer_of("qwen3"), [LAYOUTS[0].format(f"Two {n}", f"four {n}") for n in range(6)]
    for rows in (
        [{"prompt": "Add", "completion": said} for said in answers],
        [{"instruction": "Add", "output": said} for said in answers],
        [{"conversations": [{"from": "human", "value": "Add"}, {"from": "gpt", "value": said}]} for said in answers],
    ):
        assert assert_same(tokenizer, rows)[1] == len(rows)


def test_a_row_that_loses_a_thought_is_refused_where_thoughts_must_be_kept() -> None:
    rows = [ask(number, layout) for number in range(4) for layout in ("key", LAYOUTS[0])]
    given = template_of("{{ m.content }}")
    found, together = assert_same(shared("3.1-instruct"), rows, keep_reasoning=True, template_kwargs=given)
    assert (found.counts.kept, together) == (4, 4)


PIECES = ("<think>\n", Hole(0), "\n</think>\n\n", Hole(1), " <end>")
LOOKS = (
    "{{ c.split('</think>')[-1].lstrip('\n') }}",
    "{{ c.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') }}",
    "{{ c.split('</think>', 1) | length }}{{ c.rsplit('</think>', 1)[0] }}",
    "{{ 'A' if '</think>' in c else 'B' }}{{ 'A' if 'no' in c else 'B' }}{{ c }}",
    "{{ 'A' if c.startswith('<think>') else 'B' }}{{ 'A' if c.startswith('<tool>') else 'B' }}{{ c | trim }}",
    "{{ 'A' if c.endswith(' <end>') else 'B' }}{{ 'A' if c.endswith('>>') else 'B' }}{{ c.strip() }}",
    "{{ c.replace('<think>', '[').replace('</think>', ']').replace('no', 'yes') }}",
    "{{ c.lstrip('<think>\n') if false else c.rstrip('<end> ') if false else c.rstrip('>') }}",
    "{{ c.split('\n\n')[-1] if false else c }}",
)
REFUSED = (
    "{{ 'A' if c.startswith('<think>\nno') else 'B' }}{{ c }}",
    "{{ 'A' if 'no\n</think>' in c else 'B' }}{{ c }}",
    "{{ c.split('o\n<')[0] }}",
    "{{ c.split('\n')[0] }}{{ c.replace('think', m.content) }}",
    "{{ c.strip('<think>\n') }}",
    "{{ c == 'no' }}{{ c }}",
    "{{ c | length }}",
    "{{ 'A' if c.endswith('o <end>') else 'B' }}{{ c }}",
)
WORDS = ("yes", "no", "\n", " ", "</think>", "<think>", "<", ">", "</", "end", "<end>", "é", "o\n", "[", "x")


@pytest.mark.parametrize("body", [*LOOKS, *REFUSED])
def test_a_look_into_a_text_with_a_thought_is_refused_or_changes_nothing(body: str) -> None:
    source = "{% for m in messages %}{% set c = m.content %}[" + body + "]{% endfor %}"
    try:
        literals, slots, lacks = render_with_holes(source, [{"role": "user", "content": Joined(PIECES)}], None, {})
    except TemplateBranched:
        assert body in REFUSED
        return
    assert body in LOOKS
    rng, compared = random.Random(body), 0
    for _ in range(80):
        texts = ["".join(rng.choices(WORDS, k=rng.choice((1, 2, 3)))) for _ in range(2)]
        if any(not text.strip() or any(word in text for word in lacks) for text in texts):
            continue
        messages = [{"role": "user", "content": "<think>\n{}\n</think>\n\n{} <end>".format(*texts)}]
        expected = shared("3.1-instruct").apply_chat_template(messages, chat_template=source, tokenize=False)
        said = [trim(texts[slot.place], slot.operations) for slot in slots]
        assert literals[0] + "".join(map("".join, zip(said, literals[1:], strict=True))) == expected
        compared += 1
    assert compared > 4
