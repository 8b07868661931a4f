"""The generation prompt in front of each answer, noted in one rendering, is the one that its own rendering shows."""

from __future__ import annotations

import random
from typing import Any

import jinja2
import pytest

from llama_padfix.chat.jinja_environment import parse_template
from llama_padfix.chat.render import ChatTemplate
from llama_padfix.chat.seams.noted import PROMPTS, Prompts
from llama_padfix.chat.seams.same_state import find_parts
from llama_padfix.chat.spans.prompted import read_noted, read_rendered
from llama_padfix.chat.trace import read_trace
from llama_padfix.chat.traced_render import render_traced
from llama_padfix.chat.turns import read_template, render_turns
from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.batch.render_plan import learn_render_plan
from tests.support.both import assert_same, talk
from tests.support.byte_tokenizer import make_byte_tokenizer
from tests.support.conversations import Message, say
from tests.support.families import FOLDER, family_tokenizer, make_nasty

LOOP = "{% for m in messages %}{{ '<S>' ~ m.role ~ '|' ~ m.content ~ '<E>' }}{% endfor %}"
PROMPT = "{% if add_generation_prompt %}<S>assistant|{% endif %}"
FLAG = (
    "{% set ns = namespace(tool=false, count=0) %}{% for m in messages %}{% set ns.tool = m.role == 'tool' %}"
    "{% set ns.count = ns.count + 1 %}{{ '<S>' ~ m.role ~ '|' ~ m.content ~ '<E>' }}{% endfor %}"
)
GATHER = (
    "{% set ns = namespace(system='', tool=false) %}{% for m in messages %}{% if m.role == 'system' %}"
    "{% set ns.system = ns.system ~ m.content %}{% endif %}{% endfor %}{{ ns.system }}"
)
# Templates whose prompts are noted.
NOTED = {
    "plain": LOOP + PROMPT,
    "none": LOOP,
    "flag": FLAG + "{% if add_generation_prompt and not ns.tool %}<S>assistant|{{ ns.count }}<think>{% endif %}",
    "always": FLAG + "{% if ns.tool %}<T>{% endif %}{% if add_generation_prompt %}<S>assistant|{% endif %}",
    "gathered": GATHER + LOOP + PROMPT,
    "gathered flag": GATHER
    + LOOP.replace("%}{{", "%}{% set ns.tool = m.role == 'tool' %}{{", 1)
    + "{% if add_generation_prompt and not ns.tool %}<S>assistant|<think>{% endif %}",
    "gathered late": GATHER + LOOP + "{% if add_generation_prompt %}<S>assistant|{{ ns.system }}{% endif %}",
    "default": "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
    + LOOP
    + PROMPT,
    "asks behind an answer": FLAG.replace("{% set ns.count", "{% set ns.first = m.content %}{% set ns.count")
    + "{% if not (add_generation_prompt or ns.tool) and ns.count > 1 and '~' in ns.first %}!{% endif %}"
    + "{% if add_generation_prompt and not ns.tool %}<S>assistant|{% endif %}",
    "first": "{% if messages[0].role == 'system' %}<T>{% endif %}" + LOOP + PROMPT,
    "raises": FLAG + "{% if ns.tool %}{{ raise_exception('a tool at the end') }}{% endif %}" + PROMPT,
    "content": LOOP.replace("{% for", "{% set ns = namespace(last='') %}{% for").replace(
        "{% endfor", "{% set ns.last = m.content %}{% endfor"
    )
    + "{% if add_generation_prompt %}<S>{{ ns.last }}|{% endif %}",
    "inner loop": LOOP.replace(
        "{% endfor", "{% for c in m.content %}{% if loop.last %}!{% endif %}{% endfor %}{% endfor"
    )
    + PROMPT,
    "macro": "{% macro head(role) %}<S>{{ role }}|{% endmacro %}"
    + LOOP
    + "{% if add_generation_prompt %}{{ head('assistant') }}{% endif %}",
    "continue": LOOP.replace("%}{{", "%}{% if m.role == 'system' %}{% continue %}{% endif %}{{", 1) + PROMPT,
}
UNPLANNED = ("content", "inner loop")  # whose plans depend on texts
# Templates whose loop may do otherwise for the first messages alone.
OTHERS = {
    "last": LOOP.replace("'<E>'", "('' if loop.last else '<E>')") + PROMPT,
    "length": LOOP.replace("m.content ~", "messages | length ~") + PROMPT,
    "asked": LOOP.replace("m.content ~", "add_generation_prompt ~") + PROMPT,
    "counted": "{% set n = messages | length %}" + LOOP + "{% if add_generation_prompt %}<S>{{ n }}{% endif %}",
    "behind": LOOP + "{% if add_generation_prompt %}<S>{{ messages[-1].role }}{% endif %}",
    "sets": FLAG + "{% set ns.tool = true %}" + PROMPT,
    "alias": FLAG.replace("%}{% for", "%}{% set other = ns %}{% for") + "{% set other.tool = true %}" + PROMPT,
    "macro sets": "{% macro mark(n) %}{% set n.tool = true %}{% endmacro %}" + FLAG + "{{ mark(ns) }}" + PROMPT,
    "break": LOOP.replace("%}{{", "%}{% if m.role == 'tool' %}{% break %}{% endif %}{{", 1) + PROMPT,
    "joiner": "{% set j = joiner('-') %}" + LOOP.replace("m.content", "j()") + "{{ j() }}" + PROMPT,
    "own name": LOOP + "{% if add_generation_prompt %}<S>{{ m is defined }}{% endif %}",
    "set inside": LOOP.replace("%}{{", "%}{% set x = m.role %}{{", 1) + "{{ x }}" + PROMPT,
    "sliced": LOOP.replace("in messages", "in messages[1:]") + PROMPT,
    "filtered": LOOP.replace("in messages", "in messages if m.content") + PROMPT,
    "next": LOOP.replace("m.content ~", "loop.nextitem is defined ~") + PROMPT,
    "inside a choice": "{% if tools %}" + LOOP + "{% else %}" + LOOP + "{% endif %}" + PROMPT,
}


def converse(rng: random.Random, roles: str = "user assistant tool system") -> list[Message]:
    """Messages of any roles in any order."""
    return [
        {"role": rng.choice(roles.split()), "content": say(rng) if rng.random() < 0.9 else ""}
        for _ in range(rng.randrange(2, 9))
    ]


def compare_prompts(tokenizer: Any, messages: list[Message]) -> tuple[int, int]:
    """Compare what is noted with renderings; return how many answers have a prompt, and how many had it noted."""
    prompts = Prompts()
    whole = read_trace(render_traced(tokenizer, messages, None, {PROMPTS: prompts}))
    assert whole.text == tokenizer.apply_chat_template(messages, tokenize=False)
    found = 0
    answers = [index for index, one in enumerate(messages) if index and one["role"] == "assistant"]
    for index in answers:
        noted = prompts.find(index)
        shown = None if noted is None else read_noted(*noted, whole)
        if shown is not None:
            assert shown == read_rendered(
                read_trace(render_traced(tokenizer, messages[:index], None, None, True)), whole
            )
            found += 1
    return len(answers), found


@pytest.mark.parametrize("name", NOTED)
def test_a_noted_prompt_is_the_one_that_is_rendered(name: str) -> None:
    tokenizer = make_byte_tokenizer(("<S>", "<T>"), "<E>", template=NOTED[name])
    assert find_parts(parse_template(NOTED[name])) is not None
    rng, counts = random.Random(name), []
    for _ in range(60):
        messages = converse(rng)
        try:
            counts.append(compare_prompts(tokenizer, messages))
        except jinja2.TemplateError:
            assert name == "raises"
    assert sum(found for _, found in counts) > 10 or name == "content"


@pytest.mark.parametrize("name", NOTED)
def test_the_plan_of_an_order_is_that_of_renderings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    template = read_template(make_byte_tokenizer(("<S>", "<T>"), "<E>", template=NOTED[name]))
    rng, learned = random.Random(name), 0
    for _ in range(40):
        roles = ["user", *rng.choices(("user", "assistant", "assistant", "tool", "system"), k=rng.randrange(1, 6))]
        plan = learn_render_plan(template, roles)
        with monkeypatch.context() as patch:
            patch.setattr(Prompts, "find", lambda *_: None)
            assert learn_render_plan(template, roles) == plan, roles
        learned += plan is not None
    assert learned or name in UNPLANNED


@pytest.mark.parametrize("name", OTHERS)
def test_where_a_later_message_can_count_nothing_is_noted(name: str) -> None:
    assert find_parts(parse_template(OTHERS[name])) is None


@pytest.mark.parametrize("stem", ["deepseekv3", "deepseek_r1_distill", "gemma", "phi3", "qwen2_5_vl"])
def test_a_family_notes_the_prompts_that_it_renders(stem: str) -> None:
    tokenizer, rng, found = family_tokenizer(FOLDER / f"{stem}.jinja"), random.Random(stem), 0
    for _ in range(80):
        try:
            found += compare_prompts(tokenizer, converse(rng))[1]
        except jinja2.TemplateError:  # which refuses the order
            continue
    assert found


@pytest.mark.parametrize("stem", ["deepseekv3", "deepseek_r1_distill"])
def test_turns_by_noted_prompts_are_those_by_renderings(stem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    template, rng, proven = read_template(family_tokenizer(FOLDER / f"{stem}.jinja")), random.Random(stem), 0
    for _ in range(120):
        messages = make_nasty(rng)["messages"] if rng.random() < 0.5 else converse(rng)
        shown = prove(template, messages)
        with monkeypatch.context() as patch:
            patch.setattr(Prompts, "find", lambda *_: None)
            assert shown == prove(template, messages)
        proven += not isinstance(shown, str)
    assert proven > 30


def prove(template: ChatTemplate, messages: list[Message]) -> Any:
    """The turns of a conversation, or the error."""
    try:
        return render_turns(template, messages, allow_loss=True)
    except PadfixError as error:
        return str(error)


@pytest.mark.parametrize("stem", ["deepseekv3", "deepseek_r1_distill"])
def test_orders_in_bulk_are_encoded_as_one_by_one(stem: str) -> None:
    rng = random.Random(stem)
    rows = [{"messages": converse(rng, "user assistant assistant system tool")} for _ in range(40)]
    rows += [{"messages": [one for _ in range(n) for one in talk(say(rng), say(rng))]} for n in (3, 50)]
    late = [*talk("Hi", "Yes"), {"role": "system", "content": "Late."}]
    rows += [{"messages": late + talk("And?", "No")}, {"messages": late + late}]
    _, together = assert_same(family_tokenizer(FOLDER / f"{stem}.jinja"), rows)
    assert together > 2
