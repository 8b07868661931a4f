"""Columns beside a conversation, and older keys in it: read, refused, or named as not read; never ignored."""

from __future__ import annotations

import json
from typing import Any

import numpy
import pyarrow
import pytest

from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.encoder import ChatEncoder
from llama_padfix.encoding.row_formats import read_row
from tests.support.conversations import shared

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
CHAT = [USER, ANSWER]
SYSTEM = {"role": "system", "content": "Be brief"}
FUNCTION = {"name": "look", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}}
TOOL = {"type": "function", "function": FUNCTION}
SHAPES: dict[str, dict[str, Any]] = {
    "messages": {"messages": CHAT},
    "sharegpt": {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
    "prompt-completion": {"prompt": "Hi", "completion": "Hello"},
    "alpaca": {"instruction": "Hi", "output": "Hello"},
}


def encode(row: Any) -> dict[str, list[int]]:
    made: dict[str, list[int]] = ChatEncoder(shared("3.1-instruct"))(row)
    return made


def refusal(row: Any) -> str:
    """What a row is refused with, alone, among others, and in a table: always the same."""
    with pytest.raises(PadfixError) as caught:
        read_row(row)
    encoder = ChatEncoder(shared("3.1-instruct"))
    plain = {name: CHAT if name == "messages" else None for name in {**row, "messages": None}}
    for rows in ([plain, row], pyarrow.table({name: [one.get(name) for one in (plain, row)] for name in plain})):
        with pytest.raises(PadfixError) as again:
            encoder.encode_rows(rows) if isinstance(rows, list) else encoder.encode_table(rows)
        assert str(again.value) == f"row 1: {caught.value}"
    return str(caught.value)


# --- the system turn


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("column", ["system", "system_prompt"])
def test_a_system_column_is_the_first_turn(shape: str, column: str) -> None:
    row = {**SHAPES[shape], column: "Be brief"}
    read = read_row(row)
    assert read.messages == [SYSTEM, *CHAT]
    assert read.trained_from == (2 if shape == "prompt-completion" else 0)
    assert encode(row) == encode([SYSTEM, *CHAT])
    table = pyarrow.table({name: [value, value, None if name == column else value] for name, value in row.items()})
    encoder = ChatEncoder(shared("3.1-instruct"))
    made = encoder.encode_table(table).to_pylist()
    assert made == [encode([SYSTEM, *CHAT])] * 2 + [encode(CHAT)] and encoder.counts.unread_columns == ()
    assert read_row({**SHAPES[shape], column: ""}).messages == CHAT


def test_a_system_column_that_repeats_the_system_turn_is_read_once_and_another_is_an_error() -> None:
    row = {"messages": [SYSTEM, *CHAT]}
    assert read_row({**row, "system": "Be brief", "system_prompt": "Be brief"}).messages == [SYSTEM, *CHAT]
    assert "'Talk'" in refusal({**row, "system_prompt": "Talk"})
    said = refusal({"messages": CHAT, "system": "Talk", "system_prompt": "Be brief"})
    assert "system ('Talk') and system_prompt ('Be brief') are two different system turns" in said
    assert "system_prompt is int 3, not a string" in refusal({"messages": CHAT, "system_prompt": 3})


# --- tools and calls


@pytest.mark.parametrize(
    "columns",
    [
        {"tools": [TOOL]},
        {"tools": json.dumps([TOOL])},
        {"tools": [json.dumps(TOOL)]},
        {"functions": [FUNCTION]},
        {"functions": json.dumps([FUNCTION])},
        {"functions": [json.dumps(FUNCTION)]},
        {"functions": [TOOL]},
        {"functions": [FUNCTION], "tools": [TOOL]},
        {"functions": [], "tools": [TOOL]},
    ],
)
def test_tools_are_read_from_every_column_and_text(columns: Any) -> None:
    assert read_row({"messages": CHAT, **columns}).tools == [TOOL]
    assert encode({"messages": CHAT, **columns}) == encode({"messages": CHAT, "tools": [TOOL]})


def test_tools_that_are_none_are_refused() -> None:
    assert "tools[1] is str 'look', which is neither a schema" in refusal({"messages": CHAT, "tools": ["{}", "look"]})
    assert "functions is str 'look', not a list" in refusal({"messages": CHAT, "functions": "look"})
    other = {"messages": CHAT, "functions": [FUNCTION], "tools": [{"type": "function", "function": {"name": "x"}}]}
    assert "the row has tools and functions, and they are not the same" in refusal(other)


@pytest.mark.parametrize("arguments", ['{"at": "sky"}', {"at": "sky"}])
def test_a_function_call_and_its_result_are_a_call_of_a_tool(arguments: Any) -> None:
    def talk(call: Any, role: str) -> list[Any]:
        return [USER, {**ANSWER, "content": None, **call}, {"role": role, "name": "look", "content": "sun"}, ANSWER]

    older = talk({"function_call": {"name": "look", "arguments": arguments}}, "function")
    function = {"name": "look", "arguments": {"at": "sky"}}
    newer = talk({"tool_calls": [{"type": "function", "function": function}]}, "tool")
    assert read_row(older).messages == newer
    assert encode(older) == encode(newer)
    as_text = talk({"function_call": json.dumps({"name": "look", "arguments": arguments})}, "function")
    assert read_row(as_text).messages == newer
    both = refusal({"messages": talk({**older[1], **newer[1]}, "tool")})
    assert "messages[1] has tool_calls and function_call" in both
    said = refusal({"messages": talk({"function_call": "look(sky)"}, "function")})
    assert "messages[1] has function_call = str 'look(sky)'" in said and '"tool_calls": [{' in said


@pytest.mark.parametrize("blank", ["", "  ", None])
def test_blank_arguments_are_no_arguments(blank: Any) -> None:
    for function in ({"name": "now", "arguments": blank}, {"name": "now", "arguments": {}}):
        call = {"type": "function", "function": function}
        messages = read_row([USER, {"role": "assistant", "content": "", "tool_calls": [call]}]).messages or []
        assert messages[1]["tool_calls"] == [{"type": "function", "function": {"name": "now", "arguments": {}}}]
    if blank is not None:
        value = json.dumps({"name": "now", "arguments": blank})
        read = read_row(
            {"conversations": [{"from": "human", "value": "Hi"}, {"from": "function_call", "value": value}]}
        )
        assert read.messages is not None and read.messages[1]["tool_calls"][0]["function"]["arguments"] == {}


# --- media, verdicts, pairs


@pytest.mark.parametrize("name", ["image", "images", "video", "videos", "audio", "audios"])
def test_rows_with_media_are_refused_and_without_are_read(name: str) -> None:
    said = refusal({"messages": CHAT, name: ["1.jpg"]})
    assert f"the row has {name} = ['1.jpg'], and only text can be encoded" in said
    assert f'dataset.filter(lambda row: not row["{name}"])' in said
    assert "and only text" in refusal({**SHAPES["sharegpt"], name: "1.jpg"})
    assert "messages[0] has" in refusal({"messages": [{**USER, name: ["1.jpg"]}, ANSWER]})
    with pytest.raises(PadfixError, match="only text can be encoded"):
        read_row({"text": "A cat", name: "1.jpg"})
    nothing: Any
    for nothing in (None, "", []):
        assert read_row({"messages": CHAT, name: nothing}).messages == CHAT


@pytest.mark.parametrize("name", ["label", "kto_tag"])
def test_an_answer_that_is_not_desired_is_refused(name: str) -> None:
    for shape in SHAPES.values():
        assert f"{name} is False, which marks an answer that is not to be learned (KTO)" in refusal(
            {**shape, name: False}
        )
        assert read_row({**shape, name: True}).messages == CHAT
    assert f'dataset.filter(lambda row: row["{name}"])' in refusal({"messages": CHAT, name: 0})
    assert read_row({"messages": CHAT, name: "greeting"}).messages == CHAT
    assert read_row({"text": "A review", name: 0}).text == "A review"


@pytest.mark.parametrize("answers", [{"chosen": ANSWER, "rejected": ANSWER}, {"chosen": CHAT, "rejected": CHAT}])
def test_preference_pairs_are_refused_with_the_line_that_makes_rows_of_them(answers: Any) -> None:
    said = refusal({**SHAPES["sharegpt"], **answers})
    assert "the row has chosen and rejected, the answers of a preference pair (DPO)" in said
    assert "if conversations is what to train on: dataset.remove_columns(['chosen', 'rejected'])" in said
    assert 'dataset.rename_column("chosen", "completion")' in refusal({"prompt": "Hi", **answers})
    assert 'dataset.rename_column("chosen", "messages")' in refusal(answers)
    assert read_row({"messages": CHAT, "rejected": False}).messages == CHAT, "a note of a reviewer is no answer"


@pytest.mark.parametrize("mark", ["<image>", "<video>", "<audio>"])
def test_a_question_about_an_image_that_is_not_there_is_counted(mark: str) -> None:
    asked = {"role": "user", "content": f"{mark}\nWhat?"}
    parts = {"role": "user", "content": [{"type": "text", "text": mark}]}
    rows: list[Any] = [CHAT, [asked, ANSWER], [USER, {**ANSWER, "content": mark}], [parts, ANSWER]]
    encoder = ChatEncoder(shared("3.1-instruct"))
    _, counts = encoder.encode_rows(rows)
    assert (counts.kept, counts.media_marks, counts.remarkable) == (4, 2, True)
    assert f"media_marks: row 1 ({mark} in message 0), row 3 ({mark} in message 0)" in counts.name_rows()
    encoder = ChatEncoder(shared("3.1-instruct"))
    encoder.encode_table(pyarrow.table({"messages": rows[:3]}))
    assert encoder.counts.media_marks == 1


def test_values_of_numpy_are_read_as_those_of_python() -> None:
    empty, tools = numpy.array([], dtype=object), numpy.array([json.dumps(TOOL)], dtype=object)
    assert read_row({"messages": CHAT, "images": empty, "tools": tools, "label": numpy.bool_(True)}).tools == [TOOL]
    assert "label is False" in refusal({"messages": CHAT, "label": numpy.bool_(False)})
    with pytest.raises(PadfixError, match="system is ndarray"):
        read_row({"messages": CHAT, "system": numpy.array(["a", "b"])})
    untrained = [USER, {**ANSWER, "loss": numpy.bool_(False)}, USER, {**ANSWER, "train": numpy.bool_(True)}]
    encoded = encode(untrained)["labels"]
    assert sum(label != -100 for label in encoded) == 2


def test_a_value_that_pandas_fills_in_is_none() -> None:
    row = {"messages": CHAT, "conversations": float("nan"), "image": float("nan"), "system": float("nan")}
    encoder = ChatEncoder(shared("3.1-instruct"))
    assert encoder([row, {"messages": CHAT}])["labels"] == encoder([CHAT, CHAT])["labels"]
    assert encoder.counts.unread_columns == ()


# --- what is not read


def test_columns_that_are_not_read_are_named_once() -> None:
    rows: list[Any] = [
        {"messages": CHAT, "id": 1, "tools": [TOOL], "label": True, "image": None, "note": None},
        {"messages": CHAT, "id": 2, "label": "good", "text": "Hi"},
        {**SHAPES["alpaca"], "input": "", "history": []},
        {"text": "A review", "label": 0, "system": "Talk"},
        CHAT,
    ]
    encoder = ChatEncoder(shared("3.1-instruct"))
    _, counts = encoder.encode_rows(rows)
    assert counts.unread_columns == ("id", "label", "text", "system")
    assert "; columns that are not read: id, label, text, system; " in str(counts) and not counts.remarkable
    encoder.encode_rows([{"messages": CHAT, "id": 1, "source": "x"}])
    assert encoder.counts.unread_columns == ("id", "label", "text", "system", "source")
    assert "not read" not in str(ChatEncoder(shared("3.1-instruct")).encode_rows([{"messages": CHAT}])[1])


def test_a_table_names_the_columns_that_are_not_read_and_not_carried() -> None:
    columns = {
        "messages": [CHAT] * 3,
        "id": [1, 2, 3],
        "note": [None, "x", None],
        "empty": [None] * 3,
        "text": ["t"] * 3,
    }
    encoder = ChatEncoder(shared("3.1-instruct"))
    encoder.encode_table(pyarrow.table(columns), carry=["id"])
    assert encoder.counts.unread_columns == ("note", "text")
    mixed = pyarrow.table({"messages": [CHAT, None], "text": [None, "t"], "id": [1, 2]})
    encoder = ChatEncoder(shared("3.1-instruct"))
    encoder.encode_table(mixed)
    assert encoder.counts.unread_columns == ("id",)


@pytest.mark.parametrize("as_table", [False, True])
def test_the_keys_of_messages_that_nothing_reads_are_named_once(as_table: bool) -> None:
    """Those that the template names (`ipython`), and those of a tool's answer, are none of them."""
    weighed = [{**CHAT[0], "note": None, "ipython": "x"}, {**CHAT[1], "loss_weight": 0.0, "weight": 1, "note": None}]
    answered = [
        {"role": "tool", "content": "1", "call": "c"},
        {"role": "assistant", "content": "A", "loss_weight": 1.0},
    ]
    rows = [{"messages": CHAT}, {"messages": weighed}, {"messages": [*CHAT, *answered]}]
    encoder = ChatEncoder(shared("3.1-instruct"))
    if as_table:
        encoder.encode_table(pyarrow.Table.from_pylist(rows))
    else:
        encoder.encode_rows(rows)
    assert encoder.counts.kept == 3 and encoder.counts.unread_columns == ("messages[].loss_weight",)
    assert "not read: messages[].loss_weight" in str(encoder.counts)


def test_the_names_are_kept_with_a_cached_dataset(tmp_path: Any) -> None:
    from llama_padfix import encode_dataset

    rows = [{"messages": CHAT, "id": n} for n in range(3)]
    for _ in range(2):
        encoder = ChatEncoder(shared("3.1-instruct"))
        encode_dataset(encoder, rows, progress=False, cache_dir=tmp_path)
        assert encoder.counts.unread_columns == ("id",)
