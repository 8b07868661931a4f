"""What a template leaves out: every message, thought, text, call and schema is in the ids, or it is counted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from llama_padfix.chat.losses.held import find_losses
from llama_padfix.chat.losses.thoughts import split_thoughts
from llama_padfix.chat.render import Rendered
from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.counts import Counts
from llama_padfix.encoding.encoder import ChatEncoder
from tests.support.conversations import QUESTION, encoder_for, shared
from tests.support.families import PARTS_ONLY, family_tokenizer, originals

BY_STEM = {path.stem: path for path in originals()}
NAMES = ("lost_reasoning", "lost_text", "lost_message", "lost_tools")
Row = dict[str, Any]


def user(text: str) -> Row:
    return {"role": "user", "content": text}


def answer(text: str | None, **more: Any) -> Row:
    return {"role": "assistant", "content": text, **more}


def result(role: str = "tool", text: str = "zresult") -> Row:
    return {"role": role, "content": text, "name": "zcall", "tool_call_id": "abcdefghi"}


CALL = {"type": "function", "id": "abcdefghi", "function": {"name": "zcall", "arguments": {"city": "zargument"}}}
CITY = {"type": "string", "description": "zparameter"}
TOOL = {"name": "ztool", "description": "zschema", "parameters": {"type": "object", "properties": {"zcity": CITY}}}
TOOLS = [{"type": "function", "function": TOOL}]
THOUGHT = "<think>\nzthought {}\n</think>\n\nzanswer {}"
TWO = [user("zfirst"), answer(THOUGHT.format("zone", "ztwo")), user("zsecond")]
ROWS: dict[str, Row] = {
    "a thought in content": {"messages": TWO[:2]},
    "thoughts in content": {"messages": [*TWO, answer(THOUGHT.format("zthree", "zfour"))]},
    "an untrained thought": {
        "messages": [TWO[0], TWO[1] | {"train": False}, TWO[2], answer(THOUGHT.format("zthree", "zfour"))]
    },
    **{
        f"thoughts in {key}": {
            "messages": [user("za"), answer("zb", **{key: "zthought"}), user("zc"), answer("zd", **{key: "ze"})]
        }
        for key in ("reasoning_content", "reasoning", "thinking")
    },
    "no thoughts": {"messages": [user("za"), answer("zb"), user("zc"), answer("zd")]},
    "a developer": {"messages": [{"role": "developer", "content": "zorder"}, user("za"), answer("zb")]},
    "a second system turn": {
        "messages": [
            {"role": "system", "content": "zorder"},
            user("za"),
            answer("zb"),
            {"role": "system", "content": "zlate"},
            user("zc"),
            answer("zd"),
        ]
    },
    "two system turns": {"messages": [{"role": "system", "content": word} for word in ("zorder", "zlate")] + TWO[:2]},
    "tools": {"messages": TWO[:2], "tools": TOOLS},
    "text beside a call": {
        "messages": [user("za"), answer("zbeside ", tool_calls=[CALL]), result(), answer(" zend")],
        "tools": TOOLS,
    },
    "a thought beside a call": {
        "messages": [
            user("za"),
            answer("", tool_calls=[CALL], reasoning_content="zthought"),
            result(),
            answer(" zend"),
        ]
    },
    "a tool": {"messages": [user("za"), answer("zb"), result("tool"), answer("zc")]},
    **{
        f"a call and {role}": {"messages": [user("za"), answer(None, tool_calls=[CALL]), result(role), answer("zc")]}
        for role in ("tool", "function", "ipython")
    },
    "a function": {"messages": [user("za"), answer("zb"), result("function"), answer("zc")]},
    "an ipython": {"messages": [user("za"), answer("zb"), result("ipython"), answer("zc")]},
}


def marks_in(value: object) -> Iterator[str]:
    """Yield the marked words of a row; the name in a tool's answer is no text of its own."""
    if isinstance(value, str):
        yield from re.findall(r"z[a-z]+", value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from marks_in(key)
            if not (key == "name" and "role" in value):
                yield from marks_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from marks_in(item)


def with_parts(row: Row) -> Row:
    messages = [
        m | {"content": [{"type": "text", "text": m["content"]}]} if m["content"] else m for m in row["messages"]
    ]
    return row | {"messages": messages}


@pytest.mark.parametrize("stem", BY_STEM)
@pytest.mark.slow
def test_every_mark_of_a_row_is_in_its_ids_or_the_row_is_counted(stem: str) -> None:
    tokenizer = family_tokenizer(BY_STEM[stem])
    encoder, strict = ChatEncoder(tokenizer), ChatEncoder(tokenizer, on_loss="error")
    for kind, row in ROWS.items():
        row = with_parts(row) if stem in PARTS_ONLY else row
        counted: list[Counts] = []
        for count in (1, 3):
            try:
                made, counts = encoder.encode_rows([row] * count)
            except PadfixError:
                assert count == 1, kind
                break
            text = tokenizer.decode(made["input_ids"][0])
            missing = {mark for mark in marks_in(row) if mark not in text}
            assert bool(counts.lossy) == bool(missing), (kind, missing, counts.name_rows())
            assert bool(missing) == any(getattr(counts, name) for name in NAMES), kind
            assert ("zthought" in missing) <= bool(counts.lost_reasoning), kind
            assert ("zbeside" in missing) <= bool(counts.lost_text), kind
            assert bool(missing & {"zorder", "zlate", "zresult"}) == bool(counts.lost_message), kind
            assert bool(missing & {"ztool", "zcall", "zargument"}) <= bool(counts.lost_tools), kind
            if missing and count == 1:
                with pytest.raises(PadfixError, match=r"[Uu]se |[Kk]eep "):
                    strict([row])
            counted.append(counts)
        if counted:
            one, three = (
                {name: value for name, value in vars(c).items() if name != "examples" and value} for c in counted
            )
            assert {name: 3 * value for name, value in one.items()} == three, kind


@pytest.mark.parametrize(
    ("stem", "kind", "name", "said"),
    [
        ("deepseek_r1_distill", "a thought in content", "lost_reasoning", "the thoughts of message 1"),
        ("qwen3", "thoughts in content", "lost_reasoning", "the thoughts of message 1"),
        ("qwen3", "an untrained thought", "lost_reasoning", "the thoughts of message 1"),
        ("llama3_1", "text beside a call", "lost_text", "the text of message 1, which stands beside a tool call"),
        ("gptoss", "a second system turn", "lost_message", "message 3, whose role is 'system'"),
        ("qwen3", "a developer", "lost_message", "message 0, whose role is 'developer'"),
        ("gemma3", "tools", "lost_tools", "the tool 'ztool'"),
    ],
)
def test_what_is_missing_is_counted_under_its_own_name(stem: str, kind: str, name: str, said: str) -> None:
    encoder = ChatEncoder(family_tokenizer(BY_STEM[stem]))
    encoder(ROWS[kind])
    counts = encoder.counts
    assert [each for each in NAMES if getattr(counts, each)] == [name]
    assert counts.unreasoned == (name == "lost_reasoning" and "untrained" not in kind)
    [line] = [line for line in counts.name_rows() if not line.startswith("empty_reasoning")]
    assert line.startswith(f"{name}: a row (The chat template leaves out {said}")


def test_the_same_words_elsewhere_hide_no_loss() -> None:
    keeps = "{{ m.content.split('</think>')[-1] }}<|eot_id|>"
    same = [user("Why? Because."), answer("<think>Because.</think>Because.")]
    encoder = encoder_for(keeps)
    encoder(same)
    assert encoder.counts.lost_reasoning == 1
    order = [{"role": "developer", "content": "You"}, user("You are"), answer("You")]
    encoder = ChatEncoder(family_tokenizer(BY_STEM["qwen2_5"]))
    encoder(order)
    assert (encoder.counts.lost_message, encoder.counts.lost_text) == (1, 0)


@pytest.mark.parametrize("rewritten", ["tojson", "tojson | tojson", "upper", "replace('\\n', ' ')", "trim", "indent"])
def test_a_text_that_is_written_in_another_form_is_not_lost(rewritten: str) -> None:
    encoder = encoder_for(f"{{{{ m.content | {rewritten} }}}}<|eot_id|>")
    encoder([user("x"), answer('Say "h\u00fcbsch" \\ and\n\n<b>go</b> \n'), *QUESTION])
    assert encoder.counts.lossy == 0


def test_only_what_a_text_lacks_is_called_lost() -> None:
    encoder = encoder_for("{{ m.content.split('|')[0] }}<|eot_id|>")
    encoder([user("x"), answer("kept|gone")])
    assert encoder.counts.name_rows() == [
        "lost_text: a row (The chat template writes only a part of the text of message 1)"
    ]


@pytest.mark.parametrize(
    ("text", "thoughts", "rest"),
    [
        ("plain", [], ["plain"]),
        ("<think>a</think>b", ["a"], ["b"]),
        ("a</think>b", ["a"], ["b"]),
        ("x<think>a</think>b<think>c</think>", ["a", "c"], ["x", "b"]),
        ("x<think>a", ["a"], ["x"]),
        ("[THINK]a[/THINK]b", ["a"], ["b"]),
        ("<think>\n\n</think>\n\nb", [], ["\n\nb"]),
        ("", [], []),
    ],
)
def test_a_thought_is_told_from_the_text_around_it(text: str, thoughts: list[str], rest: list[str]) -> None:
    assert split_thoughts(text) == (thoughts, rest)


def test_without_authors_the_whole_text_is_searched() -> None:
    [loss] = find_losses([user("here"), answer("there")], None, Rendered("here is the text", ()))
    assert (loss.kind, loss.message) == ("lost_text", 1)


def test_an_empty_thought_that_is_trained_is_counted_and_the_argument_named() -> None:
    tokenizer = family_tokenizer(BY_STEM["qwen3"])
    for rows in ([QUESTION], [QUESTION] * 3, [QUESTION] * 300):
        encoder = ChatEncoder(tokenizer)
        encoder.encode_rows(rows, 7)
        assert encoder.counts.empty_reasoning == len(rows)
        [line] = encoder.counts.name_rows()
        assert line.startswith("empty_reasoning: row 7 (message 1; template_kwargs={'enable_thinking': False} puts")
    quiet = ChatEncoder(tokenizer, template_kwargs={"enable_thinking": False})
    quiet.encode_rows([QUESTION] * 3)
    assert quiet.counts.empty_reasoning == 0
    said = ChatEncoder(tokenizer)
    said([[user("x"), answer("<think>\n\n</think>\n\ny")], [user("x"), answer("<think>a</think>y")]])
    assert said.counts.empty_reasoning == 0


@pytest.mark.parametrize("train_on", ["assistant", "last"])
def test_plain_rows_of_a_thinking_template_are_still_encoded_in_bulk(train_on: Any) -> None:
    rows = [[*QUESTION, *QUESTION], QUESTION, [*QUESTION, *QUESTION, *QUESTION]] * 4
    for stem in ("qwen3", "nemotron_3_nano", "qwen3_5_think"):
        alone, together = (ChatEncoder(family_tokenizer(BY_STEM[stem]), 60, train_on) for _ in range(2))
        columns = together.encode_rows(rows)[0]
        exact = [alone.encode_rows([row], number)[0] for number, row in enumerate(rows)]
        assert columns["labels"] == [labels for made in exact for labels in made["labels"]]
        assert (together.counts, together.counts.examples) == (alone.counts, alone.counts.examples)
        batch = together._learned.batch_encoder if together._learned else None
        assert batch is None or batch.rows == 0 or batch.compared


def test_an_empty_thought_is_counted_in_bulk_as_row_by_row() -> None:
    template = "<think>\n\n</think>\n\n{{ m.content }}<|eot_id|>"
    rows = [QUESTION, [*QUESTION, *QUESTION], [user("long " * 90), answer("b")], QUESTION[:1], QUESTION] * 3
    together, alone = (encoder_for(template, max_length=60, on_error="drop") for _ in range(2))
    columns, counts = together.encode_rows(rows)
    for number, row in enumerate(rows):
        alone.encode_rows([row], number)
    assert (counts, counts.examples) == (alone.counts, alone.counts.examples)
    assert counts.empty_reasoning == len(columns["labels"]) == 9
    batch = together._learned.batch_encoder if together._learned else None
    assert batch is not None and batch.rows > 3, "these rows went through the batch encoder"


def test_rows_without_a_loss_count_nothing() -> None:
    encoder = ChatEncoder(shared("3.1-instruct"), on_loss="error")
    encoder([{"messages": [{"role": "system", "content": "s"}, *QUESTION], "tools": TOOLS}, QUESTION])
    assert encoder.counts.lossy == 0


def test_the_templates_are_there() -> None:
    assert len(BY_STEM) > 30 and all(isinstance(path, Path) for path in BY_STEM.values())
