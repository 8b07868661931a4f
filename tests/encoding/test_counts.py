"""What the counts add up and which rows they name."""

from __future__ import annotations

import re
from typing import Any

import pytest

from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.counts import CountedRow
from llama_padfix.encoding.encoder import ChatEncoder
from tests.support.conversations import (
    QUESTION,
    encoder_for,
    shared,
    trained_runs,
)

EOT = 128009


# What the counts name


def test_rows_that_spell_control_tokens_are_named_with_the_tokens() -> None:
    encoder = ChatEncoder(shared("3.1-instruct"), allowed_tokens=["<|python_tag|>"])
    rows = [
        QUESTION,
        [{"role": "user", "content": "a <|eot_id|> and <|end_of_text|>, <|eot_id|>"}, QUESTION[1]],
        [QUESTION[0], {"role": "assistant", "content": "<|python_tag|>4"}],
        [{"role": "user", "content": "<|python_tag|>"}, {"role": "assistant", "content": "<|python_tag|>4"}],
    ]
    _, counts = encoder.encode_rows(rows, 100)
    assert (counts.escaped, counts.allowed) == (2, 2)
    assert counts.examples == (
        CountedRow(101, "escaped", "'<|end_of_text|>', '<|eot_id|>'"),
        CountedRow(102, "allowed", "'<|python_tag|>'"),
        CountedRow(103, "escaped", "'<|python_tag|>'"),
        CountedRow(103, "allowed", "'<|python_tag|>'"),
    )
    assert counts.name_rows() == [
        "escaped: row 101 ('<|end_of_text|>', '<|eot_id|>'), row 103 ('<|python_tag|>')",
        "allowed: row 102 ('<|python_tag|>'), row 103 ('<|python_tag|>')",
    ]
    assert "2 with control tokens in their text, encoded as text; 2 with control tokens in their text, left in" in str(
        counts
    )
    everything, counts = ChatEncoder(shared("3.1-instruct"), special_tokens="allow").encode_rows(rows)
    assert (counts.escaped, counts.allowed) == (0, 3) and everything["input_ids"][1].count(EOT) == 5
    with pytest.raises(PadfixError, match=r"row 1: .*'<\|end_of_text\|>', '<\|eot_id\|>', which special_tokens"):
        ChatEncoder(shared("3.1-instruct"), special_tokens="error").encode_rows(rows)


def test_as_many_rows_are_named_as_anybody_reads() -> None:
    spelled, long = [{"role": "user", "content": "<|eot_id|>"}, QUESTION[1]], [*QUESTION, *QUESTION, *QUESTION]
    longer = [QUESTION[0], {"role": "assistant", "content": "word " * 90}]
    encoder = ChatEncoder(shared("3.1-instruct"), on_error="drop", max_length=60)
    for start in range(0, 40, 4):
        encoder.encode_rows([spelled, {"messages": []}, longer, long], start)
    counts = encoder.counts
    kinds = [example.kind for example in counts.examples]
    assert {kind: kinds.count(kind) for kind in kinds} == dict.fromkeys(
        ("escaped", "dropped_invalid", "dropped_too_long", "cut"), 5
    )
    assert [example.row for example in counts.examples if example.kind == "cut"] == [3, 7, 11, 15, 19]
    lines = dict(line.split(": ", 1) for line in counts.name_rows())
    assert all(line.endswith(", ...") for line in lines.values())
    assert lines["dropped_invalid"].startswith("row 1 (the conversation is empty")
    assert re.match(r"row 2 \(\d+ tokens\), row 6 \(", lines["dropped_too_long"])
    assert max(len(example.detail) for example in counts.examples) <= 100


def test_what_a_row_says_cannot_break_out_of_the_line_that_names_it() -> None:
    raises = "{% if 'bad' in m.content %}{{ raise_exception(m.content) }}{% endif %}{{ m.content }}<|eot_id|>"
    encoder = encoder_for(raises, on_error="drop")
    encoder.encode_rows([[QUESTION[0], {"role": "assistant", "content": "bad \x1b[31m\n::error::" + "y" * 900}]])
    [example] = encoder.counts.examples
    assert "bad \\x1b[31m\\n::error" in example.detail and example.detail.isprintable()
    assert len(example.detail) == 100 and example.detail.endswith("...")


def test_a_turn_without_a_stop_token_is_trained_to_its_end_and_counted() -> None:
    encoder = encoder_for("{{ m.content }}{% if not loop.last %}<|eot_id|>{% endif %}")
    row = encoder([*QUESTION, *QUESTION])
    assert [encoder.tokenizer.decode(run) for run in trained_runs(row["labels"])] == ["4<|eot_id|>", "4"]
    assert encoder.counts.unstopped == 1
    assert encoder.counts.examples == (CountedRow(None, "unstopped", "message 3"),)
    assert "1 with a trained turn that the template leaves without a stop token" in str(encoder.counts)
    encoder([*QUESTION, *QUESTION, QUESTION[0]])
    encoder([*QUESTION, *QUESTION[:1], QUESTION[1] | {"train": False}])
    assert encoder.counts.unstopped == 1, "none that is trained lacks it"


@pytest.mark.parametrize("train_on", ["assistant", "last"])
@pytest.mark.parametrize(
    ("assistant", "disagreeing"),
    [
        ("{% generation %}{{ m.content }}<|eot_id|>{% endgeneration %}", 0),
        ("{% generation %}{{ m.content }}<|eot_id|>\n\n{% endgeneration %}", 0),
        ("{% generation %}{{ m.content }}{% endgeneration %}<|eot_id|>", 1),
        ("{% generation %}{% endgeneration %}{{ m.content }}<|eot_id|>", 1),
        ("{{ m.content }}<|eot_id|>", 0),
    ],
)
def test_a_generation_tag_that_marks_something_else_is_counted(
    assistant: str, disagreeing: int, train_on: Any
) -> None:
    encoder = encoder_for(assistant, train_on=train_on)
    row = encoder([*QUESTION, *QUESTION])
    assert len(trained_runs(row["labels"])) == (2 if train_on == "assistant" else 1)
    assert encoder.counts.disagreeing == disagreeing
    said = "in which {% generation %} marks other text than is trained" in str(encoder.counts)
    assert said == bool(disagreeing) == ("disagreeing: a row" in encoder.counts.name_rows())


@pytest.mark.parametrize("empty", ["", " \n", [{"type": "text", "text": ""}]])
def test_an_empty_answer_is_counted_and_named(empty: Any) -> None:
    encoder, nothing = ChatEncoder(shared("3.1-instruct")), {"role": "assistant", "content": empty}
    _, counts = encoder.encode_rows([QUESTION, [*QUESTION, QUESTION[0], nothing], QUESTION])
    assert (counts.kept, counts.empty, counts.remarkable) == (3, 1, True)
    assert "empty: row 1 (message 3)" in counts.name_rows()
    assert "1 with an empty answer, which trains its end alone" in str(counts)


def test_an_answer_that_only_calls_or_thinks_or_is_not_trained_is_not_empty() -> None:
    encoder, nothing = ChatEncoder(shared("3.1-instruct")), {"role": "assistant", "content": ""}
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": "sky"}}}
    for row in (
        [QUESTION[0], {**nothing, "tool_calls": [call]}],
        [QUESTION[0], {**nothing, "reasoning_content": "Two."}],
        [QUESTION[0], {**nothing, "train": False}, *QUESTION],
        {"prompt": [QUESTION[0], nothing, QUESTION[0]], "completion": "4"},
    ):
        encoder.encode_rows([row])
    assert encoder.counts.empty == 0


def test_reasoning_that_the_template_leaves_out_is_counted() -> None:
    encoder = ChatEncoder(shared("3.1-instruct"))
    encoder([QUESTION[0], QUESTION[1] | {"reasoning_content": "Two and two."}])
    assert (encoder.counts.unreasoned, encoder.counts.lost_reasoning, encoder.counts.lossy) == (1, 1, 1)
    said = "The chat template leaves out the thoughts of message 1"
    assert encoder.counts.name_rows() == [f"lost_reasoning: a row ({said})"]
    assert "1 whose reasoning the template leaves out of a trained turn" in str(encoder.counts)
    encoder([QUESTION[0], QUESTION[1] | {"reasoning_content": " \n"}])
    encoder([QUESTION[0], QUESTION[1] | {"reasoning_content": "Two", "train": False}, *QUESTION])
    writes = encoder_for("<think>{{ m.reasoning_content }}</think>{{ m.content }}<|eot_id|>")
    writes([QUESTION[0], QUESTION[1] | {"reasoning_content": "Two and two."}])
    assert (encoder.counts.unreasoned, encoder.counts.lost_reasoning) == (1, 2), "one is of a turn that is not trained"
    assert writes.counts.unreasoned == writes.counts.lossy == 0


def test_arguments_as_json_text_that_the_template_quotes_again_are_counted() -> None:
    def call(arguments: Any) -> list[Any]:
        calls = [{"type": "function", "function": {"name": "look", "arguments": arguments}}]
        return [QUESTION[0], {"role": "assistant", "tool_calls": calls}]

    encoder = ChatEncoder(shared("3.1-instruct"))
    encoder(call({"city": "Zürich"}))
    encoder(call({"query": '{"a": 1}'}))
    assert encoder.counts.quoted == 0
    encoder(call('{"city": "Zürich"}'))
    assert encoder.counts.quoted == 1 and encoder.counts.name_rows() == ["quoted: a row (message 1)"]
    assert "1 whose tool arguments are JSON text that the template quotes again" in str(encoder.counts)
    writes = encoder_for(
        "{% if m.tool_calls %}{{ m.tool_calls[0].function.name ~ m.tool_calls[0].function.arguments }}"
        "{% else %}{{ m.content }}{% endif %}<|eot_id|>"
    )
    writes(call('{"city": "Zürich"}'))
    assert writes.counts.quoted == 0


@pytest.mark.parametrize("engine", [None, "row"])
def test_arguments_that_are_text_and_no_json_are_counted(engine: str | None) -> None:
    """As Qwen 3 has it: text is written as it stands, anything else as JSON."""
    writes = "{% set a = c.function.arguments %}{{ c.function.name ~ (a if a is string else a | tojson) }}"
    template = f"{{% for c in m.tool_calls or [] %}}{writes}{{% endfor %}}{{{{ m.content }}}}<|eot_id|>"

    def call(*arguments: Any) -> list[Any]:
        calls = [{"type": "function", "function": {"name": "look", "arguments": each}} for each in arguments]
        return [QUESTION[0], {"role": "assistant", "content": "", "tool_calls": calls}]

    rows = [
        call({"at": "sky"}),
        call('{"at": "sky"}'),
        call("{'at': 'sky'}"),
        call({}, '{"at": "s'),
        QUESTION,
        call(""),
    ]
    encoder = encoder_for(template)
    if engine is None:
        encoder.encode_rows(rows)
    else:
        for row in rows:
            encoder(row)
    assert encoder.counts.unparsed == 2 and encoder.counts.kept == 6
    [named] = [line for line in encoder.counts.name_rows() if line.startswith("unparsed")]
    assert """(message 1: "{'at': 'sky'}")""" in named
    assert "2 whose tool arguments are text that is no JSON" in str(encoder.counts)
