"""Turns and labels against oracles that share no code with the library."""

from __future__ import annotations

import collections
import contextlib
import functools
import random
from pathlib import Path
from typing import Any

import pytest
from llama_models.datatypes import BuiltinTool, RawMessage, StopReason, ToolCall, ToolPromptFormat
from llama_models.llama3.chat_format import ChatFormat
from llama_models.llama3.tokenizer import Tokenizer

from llama_padfix.chat.prefixes import render_by_prefixes
from llama_padfix.chat.render import ChatTemplate, Rendered, RenderRequest
from llama_padfix.chat.spans.by_origin import find_by_origin
from llama_padfix.chat.turns import read_template, render_turns
from llama_padfix.core.errors import IGNORE_INDEX, PadfixError
from llama_padfix.encoding.encoder import ChatEncoder
from llama_padfix.tokens.control import find_control_text
from tests.conftest import INSTRUCT
from tests.support.both import assert_same
from tests.support.conversations import rows_for, shared, trained_runs
from tests.support.families import family_tokenizer, make_nasty, originals

ROWS = 16
THINKING = ("deepseek_r1_distill", "deepseekv3")  # the prompt opens a thought that the history leaves out
# The reference looks for a stop token behind each answer, and for a prompt that is added on request.
NOT_FOR_PREFIXES = (*THINKING, "glm4moe", "llava_next")
TEMPLATES = [*originals(), *INSTRUCT]
EACH = pytest.mark.parametrize("template", TEMPLATES, ids=lambda one: str(getattr(one, "stem", one)))


def tokenizer_of(template: Path | str) -> Any:
    return shared(template) if isinstance(template, str) else family_tokenizer(template)


@functools.cache
def template_of(template: Path | str) -> ChatTemplate:
    return read_template(tokenizer_of(template))


def rows_of(template: Path | str) -> list[dict[str, Any]]:
    if isinstance(template, str):
        return rows_for(template)[:ROWS]
    return [make_nasty(random.Random(seed), template.stem) for seed in range(1000, 1000 + ROWS)]


# Two ways of the library that have nothing in common: who wrote each character, and what the prefixes are


@EACH
@pytest.mark.slow
def test_where_text_comes_from_and_what_prefixes_show_agree(template: Path | str) -> None:
    read = template_of(template)
    seen: collections.Counter[str] = collections.Counter()
    for row in rows_of(template):
        messages, tools = row["messages"], row.get("tools")
        try:
            text = render_turns(read, messages, tools, allow_loss=True).text
        except PadfixError:
            continue
        spoken = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        for index in spoken:
            request = RenderRequest(read, messages, tools, spoken, [index], text)
            known = find_by_origin(request)
            assert isinstance(known, Rendered)
            shown = None
            with contextlib.suppress(PadfixError):
                shown = render_by_prefixes(request)
            if shown is None:
                seen["prefixes differ"] += 1
                continue
            mine, theirs = known.turns, shown.turns[0]
            assert mine and (mine[0].start, mine[-1].end) == (theirs.start, theirs.end), (row, index)
            seen["same"] += 1
    assert seen["same"] or getattr(template, "stem", "") in THINKING, seen


# A slow reference of our own: what each answer adds to the text, letter by letter and token by token


def reference(tokenizer: Any, row: dict[str, Any], stop: str) -> tuple[list[int], list[int]] | None:
    """Return the ids of a row and its labels as the prefixes of the conversation show them; None where they differ."""
    messages, tools = row["messages"], row.get("tools")

    def write(count: int, prompt: bool = False) -> str:
        text: str = tokenizer.apply_chat_template(
            messages[:count], tools=tools, tokenize=False, add_generation_prompt=prompt
        )
        return text

    whole = write(len(messages))
    trained = [False] * len(whole)
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        try:
            asked, prompt, until = write(index), write(index, True), write(index + 1)
        except Exception:
            return None
        if asked == prompt and stop in prompt:  # it opens an answer behind every conversation
            until = until.removesuffix(prompt[prompt.rindex(stop) + len(stop) :])
        if not (until.startswith(prompt) and whole.startswith(until) and stop in until[len(prompt) :]):
            return None
        for place in range(len(prompt), until.rindex(stop) + len(stop)):
            trained[place] = True
    encoding = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    ids = encoding["input_ids"]
    labels = [
        token if all(trained[start:end]) else IGNORE_INDEX
        for token, (start, end) in zip(ids, encoding["offset_mapping"], strict=True)
    ]
    return ids, [IGNORE_INDEX, *labels[1:]]


@EACH
@pytest.mark.slow
def test_ids_and_labels_are_those_of_a_slow_reference(template: Path | str) -> None:
    tokenizer = tokenizer_of(template)
    encoder = ChatEncoder(tokenizer)
    read = template_of(template)
    assert read.profile.is_traced
    compared = 0
    assert_same(tokenizer, rows_of(template))  # what a batch becomes is what its rows become one by one
    for row in rows_of(template):
        try:
            made = encoder(row)
        except PadfixError:
            continue
        if find_control_text(str(row["messages"]), read.controls):
            continue  # the reference knows no escaping
        expected = reference(tokenizer, row, read.profile.stops[0])
        if expected is None:
            continue
        assert (made["input_ids"], made["labels"]) == expected, row
        compared += 1
    assert compared or getattr(template, "stem", "") in NOT_FOR_PREFIXES


# Meta's own way to write a tool call; test_encode.py compares all other messages with it


def test_a_tool_call_is_trained_as_meta_writes_it_but_for_what_the_template_writes_otherwise() -> None:
    meta = ChatFormat(Tokenizer.get_instance())
    tokenizer = shared("3.1-instruct")
    arguments = {"city": "Oslo", "days": 3}
    call = {"type": "function", "function": {"name": "get_weather", "arguments": arguments}}
    row = [{"role": "user", "content": "Hi"}, {"role": "assistant", "tool_calls": [call]}]
    [run] = trained_runs(ChatEncoder(tokenizer)(row)["labels"])
    said = RawMessage(
        role="assistant",
        content="",
        tool_calls=[ToolCall(call_id="1", tool_name="get_weather", arguments=arguments)],
        stop_reason=StopReason.end_of_turn,
    )
    tokens, _ = meta.encode_message(said, ToolPromptFormat.json)
    # Meta's JSON has one key more; the template that is used at inference leaves it out.
    theirs = tokenizer.decode(tokens[4:]).replace('"type": "function", ', "")
    assert run == tokenizer.encode(theirs, add_special_tokens=False)


def test_a_call_of_a_builtin_tool_ends_where_meta_ends_it() -> None:
    meta = ChatFormat(Tokenizer.get_instance())
    tokenizer = shared("3.1-instruct")
    call = {"type": "function", "function": {"name": "brave_search", "arguments": {"query": "Oslo weather"}}}
    row = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "Rain"},
        {"role": "assistant", "content": "It rains."},
    ]
    encoder = ChatEncoder(tokenizer, template_kwargs={"builtin_tools": ["brave_search"]})
    first, last = trained_runs(encoder(row)["labels"])
    said = RawMessage(
        role="assistant",
        content="",
        tool_calls=[ToolCall(call_id="1", tool_name=BuiltinTool.brave_search, arguments={"query": "Oslo weather"})],
        stop_reason=StopReason.end_of_message,
    )
    tokens, _ = meta.encode_message(said, ToolPromptFormat.json)
    assert tokens[-1] == tokenizer.convert_tokens_to_ids("<|eom_id|>")
    # The template opens the call with a tag, which Meta's package writes for code alone.
    assert first == [tokenizer.convert_tokens_to_ids("<|python_tag|>"), *tokens[4:]]
    answer, _ = meta.encode_message(RawMessage(role="assistant", content="It rains."), ToolPromptFormat.json)
    assert last == answer[4:]
