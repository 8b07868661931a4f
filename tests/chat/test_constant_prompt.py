"""What the syntax tree of a template proves of its generation prompt."""

from __future__ import annotations

from typing import Any

import pytest

from llama_padfix import ChatEncoder
from llama_padfix.chat.profile.template_profile import observe_template
from llama_padfix.chat.turns import read_template
from tests.support.byte_tokenizer import make_byte_tokenizer
from tests.support.families import FOLDER, family_tokenizer

TURNS = "{% for m in messages %}{{ '<S>' + m.role + '\n' + m.content + '<E>\n' }}{% endfor %}"
PROMPT = "{{ '<S>assistant\n' }}"


def ask(body: str) -> str:
    return f"{{% if add_generation_prompt %}}{body}{{% endif %}}"


def thinking(test: str, otherwise: str = "") -> str:
    return f"{PROMPT}{{% if {test} %}}<T>\n{{% else %}}{otherwise}{{% endif %}}"


CONSTANT = {
    "nothing but text": TURNS + ask(PROMPT),
    "an argument": TURNS + ask(thinking("enable_thinking is defined and enable_thinking")),
    "an argument's default": TURNS + ask(thinking("enable_thinking | default(true)")),
    "a name that is set once": "{% set thinks = thinks if thinks is defined else true %}"
    + TURNS
    + ask(thinking("thinks")),
    "a choice inside": TURNS + ask("<S>assistant{{ '\n<T>' if enable_thinking else '\n' }}"),
    "asked elsewhere too": TURNS
    + "{% if messages[-1].role == 'assistant' and not add_generation_prompt %}{% endif %}"
    + ask(PROMPT),
}
CHANGING = {
    "the last message": TURNS + ask(thinking("messages[-1].role == 'tool'")),
    "the tools": TURNS + ask(thinking("tools")),
    "a namespace": "{% set ns = namespace(t=1) %}" + TURNS + ask(thinking("ns.t")),
    "a name that a loop sets": TURNS
    + "{% for m in messages %}{% set thinks = m %}{% endfor %}"
    + ask(thinking("thinks")),
    "a name that is set by messages": "{% set thinks = messages | length > 4 %}" + TURNS + ask(thinking("thinks")),
    "a name that is set twice": "{% set t = 1 %}"
    + TURNS
    + "{% if tools %}{% set t = 0 %}{% endif %}"
    + ask(thinking("t")),
    "a macro": "{% macro t() %}{% endmacro %}" + TURNS + ask(thinking("t()")),
    "the tools, around it": TURNS + "{% if tools %}" + ask(thinking("enable_thinking")) + "{% endif %}",
    "the clock": TURNS + ask(PROMPT + "{{ strftime_now('%d') }}"),
    "a choice that stands around it": TURNS
    + "{% if messages[1] %}"
    + ask(PROMPT)
    + "{% else %}"
    + ask("<T>")
    + "{% endif %}",
    "a second one": TURNS + "{% if add_generation_prompt and messages[1] %}<T>{% endif %}" + ask(PROMPT) + "{{ '' }}",
}


def tokenizer_of(source: str) -> Any:
    tokenizer = make_byte_tokenizer(("<S>", "<E>", "<T>"), "<E>")
    tokenizer.chat_template = source
    return tokenizer


@pytest.mark.parametrize("source", CONSTANT.values(), ids=CONSTANT)
def test_a_prompt_that_only_arguments_change_is_constant(source: str) -> None:
    profile = observe_template(tokenizer_of(source))
    assert profile is not None and profile.prompt_is_constant and profile.prompt.startswith("<S>assistant\n")


@pytest.mark.parametrize("source", CHANGING.values(), ids=CHANGING)
def test_a_prompt_that_a_conversation_may_change_is_not(source: str) -> None:
    profile = observe_template(tokenizer_of(source))
    assert profile is not None and not profile.prompt_is_constant


def test_a_constant_prompt_that_not_every_conversation_has_is_known_as_such() -> None:
    for source, is_always in (
        (TURNS + ask(PROMPT), True),
        (TURNS + "{% if messages[-1].role != 'tool' %}" + ask(PROMPT) + "{% endif %}", False),
        (TURNS + ask(PROMPT) + "{{ messages[0].content[:0] }}", False),
    ):
        profile = observe_template(tokenizer_of(source))
        assert profile is not None and profile.prompt_is_constant
        assert profile.prompt_is_always_written is is_always


def test_the_prompt_is_that_of_the_arguments() -> None:
    tokenizer = tokenizer_of(CONSTANT["an argument"])
    for thinks, prompt in ((True, "<S>assistant\n<T>\n"), (False, "<S>assistant\n")):
        profile = read_template(tokenizer, {"enable_thinking": thinks}).profile
        assert profile.prompt_is_constant and profile.prompt == prompt


def test_a_constant_prompt_moves_no_label() -> None:
    """Where a history lacks a part of the prompt, the turn begins where it did when each prefix was rendered."""
    chat = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes"},
        {"role": "user", "content": "<think>"},
        {"role": "assistant", "content": "<think>\nHm\n</think>\n\nNo"},
    ]
    for stem in ("qwen3", "qwen3_5_think", "qwen3_5_nothink", "nemotron_3_nano", "glm4moe"):
        tokenizer = family_tokenizer(FOLDER / f"{stem}.jinja")
        row = ChatEncoder(tokenizer)(chat)
        varied = tokenizer.chat_template
        try:  # the same text, of a prompt that might be another
            tokenizer.chat_template = varied + "{% if add_generation_prompt and messages | length > 99 %}x{% endif %}"
            assert not read_template(tokenizer).profile.prompt_is_constant
            assert ChatEncoder(tokenizer)(chat) == row
        finally:
            tokenizer.chat_template = varied
