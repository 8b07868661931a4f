from __future__ import annotations

import datetime
import pickle
from typing import Any

import pytest

from llama_padfix.chat.dates import find_date, pin_date
from llama_padfix.chat.turns import read_template, render_turns
from llama_padfix.core.errors import PadfixError
from tests.conftest import fresh_tokenizer
from tests.support.conversations import shared
from tests.support.families import family_tokenizer, originals

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
PAST = "2019-02-03"
CLOCKED = ("gptoss", "llama3_2", "muse_glimmer")
BY_STEM = {path.stem: path for path in originals()}


def text_with(tokenizer: Any, kwargs: dict[str, Any]) -> str:
    return str(tokenizer.apply_chat_template(CHAT, tokenize=False, **kwargs))


@pytest.mark.parametrize("stem", sorted(BY_STEM))
def test_every_template_is_pinned_to_a_given_date_or_prints_none(stem: str) -> None:
    tokenizer = family_tokenizer(BY_STEM[stem])
    kwargs = pin_date(tokenizer, {"more": 1}, PAST)
    if stem not in (*CLOCKED, "llama3_1"):
        assert kwargs == {"more": 1}
        return
    text = text_with(tokenizer, kwargs)
    assert ("2019-02-03" in text) != ("03 Feb 2019" in text)
    assert datetime.datetime.now().strftime("%d %b %Y") not in text and "26 Jul 2024" not in text
    assert pin_date(tokenizer, kwargs) == kwargs == pin_date(tokenizer, {"more": 1}, datetime.date(2019, 2, 3))
    made = render_turns(read_template(tokenizer, kwargs), CHAT)
    assert made.text == text and [turn.message for turn in made.turns] == [1]


@pytest.mark.parametrize("stem", CLOCKED)
def test_without_a_date_it_is_today(stem: str) -> None:
    tokenizer = family_tokenizer(BY_STEM[stem])
    kwargs = pin_date(tokenizer, None)
    assert kwargs.keys() & {"date_string", "chat_template"}
    assert kwargs == pin_date(tokenizer, {}, datetime.date.today().isoformat())
    assert text_with(tokenizer, kwargs) == text_with(tokenizer, {})


def test_llama_takes_the_date_as_text_and_3_1_keeps_its_constant() -> None:
    assert pin_date(shared("3.1-instruct"), {}) == {}
    assert pin_date(shared("3.1-instruct"), {}, PAST) == {"date_string": "03 Feb 2019"}
    assert pin_date(shared("3.2-instruct"), {}, PAST) == {"date_string": "03 Feb 2019"}
    assert pin_date(shared("3.2-instruct"), {"date_string": "my own"}) == {"date_string": "my own"}
    assert pin_date(shared("3-base"), {}, PAST) == {}


def test_the_clock_of_a_tool_template_and_a_clock_beside_the_text_are_pinned() -> None:
    tokenizer = fresh_tokenizer("3.1-instruct")
    turns = "{% for m in messages %}<|start_header_id|>{{ m.content }}<|eot_id|>{% endfor %}"
    tools_first = "\n  {{ strftime_now('%H:%M %j %-d 100%% %q') }}" + turns + "\n"
    tokenizer.chat_template = {"default": "\n  {% if true %}\n " + turns + "{% endif %}\n", "tool_use": tools_first}
    kwargs = pin_date(tokenizer, {}, "2019-02-03T04:05")
    rest = "<|start_header_id|>Hi<|eot_id|><|start_header_id|>Ho<|eot_id|>"
    pinned = tokenizer.apply_chat_template(CHAT, tools=[{}], tokenize=False, **kwargs)
    assert pinned == "\n  04:05 034 3 100% %q" + rest
    assert text_with(tokenizer, kwargs) == text_with(tokenizer, {}) == "\n" + rest
    assert find_date(kwargs) == "2019-02-03T04:05:00"
    tokenizer.chat_template = "{{ date_string is defined and date_string }} {{ strftime_now('%A') }}" + turns
    kwargs = pin_date(tokenizer, {"date_string": "D"}, PAST)
    assert text_with(tokenizer, kwargs).startswith("D Sunday")
    # A template that only speaks of the date when it is asked to.
    tokenizer.chat_template = "{% if dated %}{{ strftime_now('%Y') }}{% endif %}" + turns
    assert text_with(tokenizer, {**pin_date(tokenizer, {}, PAST), "dated": True}).startswith("2019")
    # Its own format, not Llama's.
    tokenizer.chat_template = (
        "{% if not date_string is defined %}{% set date_string = strftime_now('%B %Y') %}{% endif %}{{ date_string }}"
    )
    assert pin_date(tokenizer, {}, PAST) == {"date_string": "February 2019"}


def test_pinned_arguments_travel_to_other_processes_and_are_recorded_as_a_date() -> None:
    kwargs = pin_date(family_tokenizer(BY_STEM["gptoss"]), {}, PAST)
    assert pickle.loads(pickle.dumps(kwargs)) == kwargs
    assert kwargs["chat_template"].endswith("\n" + BY_STEM["gptoss"].read_text(encoding="utf-8"))
    assert find_date(kwargs) == PAST
    assert find_date({"date_string": "26 Jul 2024"}) == "26 Jul 2024"
    assert find_date({}) is None


@pytest.mark.parametrize("date", ["today", 5, "2024-13-01"])
def test_a_date_that_cannot_be_read_is_an_error(date: Any) -> None:
    with pytest.raises(PadfixError, match="2024-07-26"):
        pin_date(shared("3.2-instruct"), {}, date)
