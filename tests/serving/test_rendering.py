"""The library's own rendering for serving: the text of transformers, and an end for every template."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.row_formats import read_row
from llama_padfix.serving.own_chats import OWN_CHATS
from llama_padfix.serving.rendering import environment
from llama_padfix.serving.rendering.chat import Chat, Quirk, RenderRefusedError
from llama_padfix.serving.rendering.content_format import reads_parts, reads_parts_as_sglang
from llama_padfix.serving.rendering.quirks import KEEPS_NULLS, NO_ALIAS, NO_ARGUMENTS, UNPINNED_DATE
from llama_padfix.serving.rendering.render import apply_to_chat, render_chat
from tests.support.families import family_tokenizer, originals
from tests.support.served import read_template


@pytest.mark.parametrize("path", originals(), ids=lambda path: path.stem)
def test_a_chat_without_quirks_is_that_of_transformers(path: Path) -> None:
    tokenizer = family_tokenizer(path)
    same = 0
    for row in OWN_CHATS.values():
        conversation = read_row(row)
        messages, tools = conversation.messages or [], conversation.tools
        try:
            theirs = tokenizer.apply_chat_template(
                messages[:-1], tools=tools, tokenize=False, add_generation_prompt=True
            )
        except Exception:
            theirs = None
        chat = Chat(messages[:-1], tools, {}, tokenizer.get_chat_template(tools=tools), tokenizer.special_tokens_map)
        try:
            ours = render_chat(chat)
        except RenderRefusedError:
            ours = None
        assert ours == theirs
        same += ours is not None
    assert same > 2


HI = ({"role": "user", "content": "Hi"},)


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
        "{% set ns = namespace(s='a') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set ns = namespace(s='a') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}",
        "{{ 'a' * 10**9 }}",
        "{{ [1] * 10**12 }}",
        "{{ ([[1] * 10000] * 10000)|sum(start=[])|length }}",
        "{{ 9999999**9999999 }}",
        "{{ 'a'.ljust(10**12) }}",
        "{{ 'a'|center(10**12) }}",
        "{{ 'a'|indent(10**12) }}",
        "{{ ('a' * 1000000).replace('a', 'b' * 1000000)|length }}",
        "{{ ('a' * 1000000)|replace('a', 'b' * 1000000)|length }}",
        "{{ '%999999999999d' % 3 }}",
    ],
)
def test_a_template_without_an_end_is_stopped(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "MOST_STEPS", 10_000)
    start = time.process_time()
    with pytest.raises(RenderRefusedError, match="was stopped"):
        render_chat(Chat(HI, source=source))
    assert time.process_time() - start < 3


def test_a_template_executes_nothing() -> None:
    for source in ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "{% include '/etc/passwd' %}"):
        try:
            text = render_chat(Chat(HI, source=source))
        except RenderRefusedError:
            text = ""
        assert "root" not in text and "class" not in text


def test_a_quirk_that_changes_nothing_does_not_act() -> None:
    chat = Chat(HI, source="{{ messages[0].content }}")
    json_quirk = Quirk("numbers", on_environment=lambda environment: None, reads="tojson")
    assert apply_to_chat(chat, (UNPINNED_DATE, NO_ARGUMENTS, NO_ALIAS, KEEPS_NULLS, json_quirk)) == (chat, ())


def test_thoughts_and_nulls_reach_the_template_as_transformers_gives_them() -> None:
    message = {"role": "assistant", "content": "4", "reasoning": "Two.", "name": None}
    source = "{{ messages[0]|tojson }}"
    assert "thinking" in render_chat(Chat([message], source=source))
    plain = render_chat(Chat([message], source=source), (NO_ALIAS, KEEPS_NULLS))
    assert plain == '{"role": "assistant", "content": "4", "reasoning": "Two.", "name": null}'


def test_the_date_of_the_training_is_taken_away(make_tokenizer: Callable[[str], Any]) -> None:
    from llama_padfix.chat.dates import pin_date

    tokenizer = make_tokenizer("3.2-instruct")
    kwargs = pin_date(tokenizer, {}, "2024-07-26")
    chat, acting = apply_to_chat(Chat(HI, None, kwargs, "x"), (UNPINNED_DATE, NO_ARGUMENTS))
    assert dict(chat.kwargs) == {} and acting == (UNPINNED_DATE,)


def test_templates_that_read_parts_are_known() -> None:
    assert reads_parts(read_template("gemma3")) and reads_parts_as_sglang(read_template("gemma3"))
    assert not reads_parts(read_template("llama3_1")) and not reads_parts_as_sglang(read_template("qwen2_5"))
    assert not reads_parts("{% broken")


def test_own_chats_are_rows() -> None:
    refused = []
    for name, row in OWN_CHATS.items():
        try:
            read_row(row)
        except PadfixError:
            refused.append(name)
    assert refused == []
