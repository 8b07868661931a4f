"""Work that grows with the turns of a row and not with their square: renderings and calls of an engine, counted."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from llama_padfix import ChatEncoder
from llama_padfix.chat.dates import pin_date
from llama_padfix.chat.render import ChatTemplate
from llama_padfix.chat.spans import spans
from llama_padfix.chat.symbolic import render_symbolic
from llama_padfix.chat.turns import read_template, render_turns
from llama_padfix.core.errors import IGNORE_INDEX, PadfixError
from llama_padfix.encoding.batch import render_plan
from llama_padfix.encoding.batch.render_plan import learn_render_plan
from llama_padfix.tokens.engine import Engine
from tests.support.both import count_plain
from tests.support.byte_tokenizer import make_byte_tokenizer
from tests.support.conversations import Message
from tests.support.families import FOLDER, family_tokenizer, make_nasty

TOOLS = [
    {
        "type": "function",
        "function": {"name": "look", "description": "Look.", "parameters": {"type": "object", "properties": {}}},
    }
]
TURNS = (40, 80, 160)
# What a row takes whatever its length: the text, and its copy in which each character knows its origin.
LINEAR = "qwen3 qwen3_training qwen3_5_think qwen3_5_nothink nemotron_3_nano llama3_1 lfm2_v2"
# Whose prompt hangs on the message before, or whose answers nothing ends: one more for each turn.
EACH = "gemma4_v2 glm4moe gptoss"
# Whose prompt hangs on the message before, and whose loop over the messages looks at no later one.
NOTED = "deepseekv3 deepseek_r1_distill"


def installed(stems: str) -> list[str]:
    """Those of some templates that the installed TRL has: on Python 3.10 it is an older one."""
    return [stem for stem in stems.split() if (FOLDER / f"{stem}.jinja").exists()]


def said(role: str, text: str) -> Message:
    return {"role": role, "content": text}


def called(number: int) -> Message:
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": f"place {number}"}}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def agent(turns: int) -> list[Message]:
    """One question, many calls, and an answer."""
    pairs = [(called(turn), {"role": "tool", "content": f"found {turn}"}) for turn in range(turns)]
    return [said("user", "Where?"), *(message for pair in pairs for message in pair), said("assistant", "Here.")]


def chat(turns: int) -> list[Message]:
    """A question for each answer, with a thought in every third."""
    answers = [said("assistant", f"Yes {turn}") for turn in range(turns)]
    for answer in answers[::3]:
        answer["reasoning_content"] = "Hm, let me see."
    return [one for answer in answers for one in (said("user", "And now?"), answer)]


@pytest.fixture
def symbolic(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a chat template was rendered with symbolic texts."""
    counted: Counter[str] = Counter()

    def counting(*args: Any, **kwargs: Any) -> Any:
        counted["all"] += 1
        return render_symbolic(*args, **kwargs)

    monkeypatch.setattr(render_plan, "render_symbolic", counting)
    return counted


@pytest.mark.parametrize("stem", installed(LINEAR))
@pytest.mark.parametrize("make", [agent, chat])
def test_a_row_is_rendered_twice_however_many_turns_it_has(stem: str, make: Any, renderings: Counter[str]) -> None:
    template = read_template(family_tokenizer(FOLDER / f"{stem}.jinja"))
    for turns in TURNS:
        renderings.clear()
        rendered = render_turns(template, make(turns), TOOLS, allow_loss=True)
        assert len(rendered.turns) == turns + (make is agent)
        assert renderings["all"] <= 2, turns


@pytest.mark.parametrize("stem", installed(EACH))
def test_a_prompt_that_hangs_on_the_messages_is_rendered_once_a_turn(stem: str, renderings: Counter[str]) -> None:
    template = read_template(family_tokenizer(FOLDER / f"{stem}.jinja"))
    for turns in TURNS[:1]:
        renderings.clear()
        render_turns(template, chat(turns), None, allow_loss=True)
        assert renderings["all"] <= turns + 4


def test_calls_whose_names_are_written_again_are_proven_together(renderings: Counter[str]) -> None:
    """What follows a call holds its name too: one rendering shows for all calls which texts are the model's."""
    template = read_template(family_tokenizer(FOLDER / "gptoss.jinja"))
    for turns in TURNS:
        renderings.clear()
        rendered = render_turns(template, agent(turns), TOOLS)
        assert len(rendered.turns) == turns + 1
        assert renderings["all"] <= 5, turns


def test_a_shape_of_calls_takes_no_rendering_for_each(renderings: Counter[str]) -> None:
    encoder = ChatEncoder(family_tokenizer(FOLDER / "gptoss.jinja"))
    rows = [{"messages": agent(turns), "tools": TOOLS} for turns in (1, *TURNS) for _ in range(2)]
    for turns in range(len(TURNS) + 1):
        renderings.clear()
        encoder.encode_rows(rows[2 * turns : 2 * turns + 2])
        assert count_plain(encoder) == 2 * turns + 2
        assert renderings["all"] <= 40, turns


@pytest.mark.parametrize("stem", installed("gptoss gemma4_v2 deepseekv3 deepseek_r1_distill glm4moe qwen3 lfm2_v2"))
def test_what_messages_share_is_what_each_shows_alone(stem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    template = read_template(family_tokenizer(FOLDER / f"{stem}.jinja"))
    rng = random.Random(stem)
    shared = 0
    for _ in range(60):
        row = make_nasty(rng)
        messages = [message for _ in range(rng.randrange(1, 4)) for message in make_nasty(rng)["messages"]]
        for message in messages:
            for call in message.get("tool_calls", ()):
                call["function"]["name"] = rng.choice(("look", "find"))
        found = prove(template, messages, row.get("tools"))
        with monkeypatch.context() as patch:
            patch.setattr(spans, "_read_form", lambda *_: object())
            assert found == prove(template, messages, row.get("tools"))
        shared += not isinstance(found, str)
    assert shared


def prove(template: ChatTemplate, messages: list[Message], tools: Any) -> Any:
    """The turns of a conversation, or the error."""
    try:
        return render_turns(template, messages, tools, allow_loss=True)
    except PadfixError as error:
        return str(error)


@pytest.mark.parametrize("stem", installed(NOTED))
@pytest.mark.parametrize("tools", [False, True])
def test_a_prompt_that_hangs_on_earlier_messages_is_noted(stem: str, tools: bool, renderings: Counter[str]) -> None:
    template = read_template(family_tokenizer(FOLDER / f"{stem}.jinja"))
    for turns in TURNS:
        renderings.clear()
        rendered = render_turns(template, look_once(turns) if tools else chat(turns), allow_loss=True)
        assert len(rendered.turns) == turns + 2 * tools
        assert renderings["all"] <= 4, turns


@pytest.mark.parametrize("tools", [False, True])
def test_long_chats_of_deepseek_are_learned_in_as_many_renderings_as_short_ones(
    tools: bool, renderings: Counter[str]
) -> None:
    encoder = ChatEncoder(family_tokenizer(FOLDER / "deepseekv3.jinja"))
    found = []
    for number, turns in enumerate((1, *TURNS), 1):
        plain = [one for turn in range(turns) for one in (said("user", "And?"), said("assistant", f"Yes {turn}"))]
        renderings.clear()
        encoder.encode_rows([{"messages": look_once(turns) if tools else plain}] * 2)
        found.append(renderings["all"])
        assert tools or count_plain(encoder) == 2 * number
    assert max(found[1:]) <= found[0], found


def look_once(turns: int) -> list[Message]:
    """A call and its answer, with the arguments as JSON text, and then plain turns."""
    call = called(0)
    call["tool_calls"][0]["function"]["arguments"] = '{"at": "sky"}'
    first = [said("user", "Where?"), call, said("tool", "found"), said("assistant", "Here.")]
    return first + [one for turn in range(turns) for one in (said("user", "And?"), said("assistant", f"Yes {turn}"))]


def test_an_empty_answer_that_is_left_out_costs_the_others_no_rendering_each(renderings: Counter[str]) -> None:
    """The texts that can be filled with a letter are found by halves."""
    source = (
        "{% for m in messages %}{% if m.content or not loop.last %}<S>{{ m.role }}\n{{ m.content }}<E>\n{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<S>assistant\n{% endif %}"
    )
    template = read_template(make_byte_tokenizer(("<S>",), "<E>", template=source))
    for turns in TURNS:
        renderings.clear()
        messages = [one for _ in range(turns) for one in (said("user", "Hi"), said("assistant", ""))]
        rendered = render_turns(template, messages, None, allow_loss=True)
        assert len(rendered.turns) == turns - 1
        assert renderings["all"] <= 30, turns


@pytest.mark.parametrize("stem", installed("gptoss llama3_1 qwen3"))
def test_the_plan_of_an_order_takes_no_rendering_for_each_turn(stem: str, symbolic: Counter[str]) -> None:
    tokenizer = family_tokenizer(FOLDER / f"{stem}.jinja")
    template = read_template(tokenizer, pin_date(tokenizer))
    for turns in TURNS:
        symbolic.clear()
        plan = learn_render_plan(template, ["user", "assistant"] * turns)
        assert plan is not None and sum(one.header is not None for one in plan.segments) == turns
        assert symbolic["all"] <= 2, turns


def test_rows_are_encoded_in_one_call_of_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = family_tokenizer(FOLDER / "qwen3.jinja")
    shapes = (*TURNS, 3, 2)
    rows = [{"messages": agent(turns), "tools": TOOLS} for turns in shapes * 2]
    alone = [ChatEncoder(tokenizer)(row) for row in rows]
    encoded: list[int] = []
    encode = Engine.encode

    def counting(self: Engine, texts: Any) -> Any:
        encoded.append(len(texts))
        return encode(self, texts)

    monkeypatch.setattr(Engine, "encode", counting)
    columns = ChatEncoder(tokenizer)(rows)
    assert columns["input_ids"] == [row["input_ids"] for row in alone]
    assert columns["labels"] == [row["labels"] for row in alone]
    # What the template writes for new shapes, the first row of each, which is compared, and all rows.
    assert encoded.count(len(rows)) == encoded.count(len(shapes)) == 1 and len(encoded) == 3
    assert any(label != IGNORE_INDEX for label in columns["labels"][0])
