"""Rows of every shape become one shape, or an error that names the row."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.row_formats import ROLES, SHAPES, Conversation, read_row, to_messages

USER = {"role": "user", "content": "Hi"}
ASSISTANT = {"role": "assistant", "content": "Hello"}
CHAT = [USER, ASSISTANT]
SHAREGPT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
SYSTEM = {"role": "system", "content": "Be brief"}
TOOLS = [{"type": "function", "function": {"name": "weather"}}]


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def error_of(row: Any, *, row_number: int | str | None = 17, shape: str | None = None) -> str:
    with pytest.raises(PadfixError) as caught:
        read_row(row, row_number=row_number, shape=shape)
    return str(caught.value)


# --- each shape reads as the same conversation ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "shape", "trained_from"),
    [
        (CHAT, "messages", 0),
        (tuple(CHAT), "messages", 0),
        (SHAREGPT, "messages", 0),
        ({"messages": CHAT}, "messages", 0),
        ({"messages": SHAREGPT}, "messages", 0),
        ({"conversations": SHAREGPT}, "sharegpt", 0),
        ({"conversation": SHAREGPT}, "sharegpt", 0),
        ({"conversations": CHAT}, "sharegpt", 0),
        ({"conversation": CHAT}, "sharegpt", 0),
        ({"instruction": "Hi", "output": "Hello"}, "alpaca", 0),
        ({"instruction": "Hi", "input": "", "output": "Hello", "system": "", "history": []}, "alpaca", 0),
        ({"prompt": "Hi", "completion": "Hello"}, "prompt-completion", 1),
        ({"prompt": [USER], "completion": [ASSISTANT]}, "prompt-completion", 1),
        ({"prompt": "Hi", "completion": [ASSISTANT]}, "prompt-completion", 1),
        ({"prompt": [USER], "completion": "Hello"}, "prompt-completion", 1),
        ({"prompt": SHAREGPT[:1], "completion": SHAREGPT[1:]}, "prompt-completion", 1),
    ],
)
def test_every_chat_shape_reads_as_the_same_messages(row: Any, shape: str, trained_from: int) -> None:
    expected = Conversation(messages=CHAT, text=None, shape=shape, trained_from=trained_from)
    assert read_row(row) == expected
    assert to_messages(row) == CHAT


def test_a_text_row_is_text_and_has_no_messages() -> None:
    assert read_row({"text": "Once upon"}) == Conversation(messages=None, text="Once upon", shape="text")
    assert read_row({"text": "", "tools": "not looked at"}).text == ""
    with pytest.raises(PadfixError, match=r"plain text \('Once upon'\).*read_row\(row\)\.text"):
        to_messages({"text": "Once upon"})


def test_every_message_of_a_prompt_is_untrained_whatever_its_role() -> None:
    prompt = [SYSTEM, USER, ASSISTANT, USER]
    read = read_row({"prompt": prompt, "completion": [ASSISTANT, USER, ASSISTANT]})
    assert read.messages == [*prompt, ASSISTANT, USER, ASSISTANT]
    assert read.trained_from == 4


def test_alpaca_puts_input_below_the_instruction_and_history_before_it() -> None:
    row = {
        "instruction": "Translate",
        "input": "chat",
        "output": "cat",
        "system": "Be brief",
        "history": [["Hi", "Hello"], ("How?", "Well")],
    }
    assert to_messages(row) == [
        SYSTEM,
        USER,
        ASSISTANT,
        {"role": "user", "content": "How?"},
        {"role": "assistant", "content": "Well"},
        {"role": "user", "content": "Translate\n\nchat"},
        {"role": "assistant", "content": "cat"},
    ]


def test_sharegpt_takes_its_system_column_once() -> None:
    assert to_messages({"conversations": SHAREGPT, "system": "Be brief"}) == [SYSTEM, *CHAT]
    assert to_messages({"conversations": [SYSTEM, *CHAT], "system": "Be brief"}) == [SYSTEM, *CHAT]
    assert to_messages({"conversations": [SYSTEM, *CHAT], "system": ""}) == [SYSTEM, *CHAT]


def test_a_system_column_beside_messages_is_the_first_turn() -> None:
    assert to_messages({"messages": CHAT, "system": "Be brief"}) == [SYSTEM, *CHAT]


def test_tools_are_a_list_or_the_json_of_one() -> None:
    for shape in ("messages", "conversations"):
        for tools in (TOOLS, json.dumps(TOOLS), np.array(TOOLS, dtype=object)):
            assert read_row({shape: CHAT, "tools": tools}).tools == TOOLS
        for text in ("", "[]", "null"):
            assert read_row({shape: CHAT, "tools": text}).tools is None
        assert read_row({shape: CHAT, "tools": []}).tools is None


def test_extra_keys_of_a_message_are_kept() -> None:
    messages = [
        {"role": "user", "content": "Hi", "name": "Ann"},
        {"role": "assistant", "content": "", "tool_calls": [call("weather", city="Oslo")], "weight": 0},
        {"role": "tool", "content": "12", "tool_call_id": "1", "name": "weather"},
        {"role": "assistant", "content": "12 degrees", "reasoning_content": "easy", "train": True},
    ]
    assert to_messages({"messages": messages}) == messages
    assert to_messages([{"from": "gpt", "value": "Hi", "weight": 1}]) == [
        {"role": "assistant", "content": "Hi", "weight": 1}
    ]


def test_role_and_content_win_over_from_and_value() -> None:
    both = {**USER, "from": "gpt", "value": "metadata"}
    assert to_messages([both]) == [both]
    # One Arrow column that holds both spellings: the other pair is null in each message.
    assert to_messages([{**USER, "from": None, "value": None}]) == [USER]
    assert to_messages([{"role": None, "content": None, **SHAREGPT[0]}]) == [USER]


@pytest.mark.parametrize("content", ["", "  \n", [{"type": "text", "text": "Hi", "cache_control": "x"}]])
def test_blank_text_and_text_parts_are_content(content: Any) -> None:
    assert to_messages([{"role": "user", "content": content}]) == [{"role": "user", "content": content}]


def test_a_numpy_array_of_messages_is_a_list() -> None:
    assert to_messages(np.array(CHAT, dtype=object)) == CHAT
    assert to_messages({"conversations": np.array(SHAREGPT, dtype=object)}) == CHAT


def test_a_conversation_without_an_assistant_turn_is_not_judged_here() -> None:
    assert to_messages([USER]) == [USER]


# --- which shape ---------------------------------------------------------------------------------------------

EVERYTHING = {
    "messages": [{"role": "user", "content": "messages"}],
    "conversations": [{"from": "human", "value": "conversations"}],
    "prompt": "prompt",
    "completion": "completion",
    "instruction": "instruction",
    "output": "output",
    "text": "text",
}


def test_precedence_is_the_order_of_shapes_and_null_columns_are_absent() -> None:
    row: dict[str, Any] = dict(EVERYTHING)
    seen = []
    for columns in ("messages", "conversations", "prompt", "instruction", "text"):
        seen.append(read_row(row).shape)
        row[columns] = None
    assert seen == list(SHAPES) == ["messages", "sharegpt", "prompt-completion", "alpaca", "text"]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_named_shape_wins_over_precedence(shape: str) -> None:
    assert read_row(EVERYTHING, shape=shape).shape == shape


def test_a_named_shape_that_the_row_lacks_is_an_error() -> None:
    text = error_of({"messages": CHAT, "output": None}, shape="alpaca")
    assert text.startswith("row 17: the columns are messages, output (null), which make no alpaca row")
    assert "accepted: alpaca: instruction + output)" in text
    assert "make no text row" in error_of(CHAT, shape="text")
    text = error_of({"messages": CHAT}, shape="vicuna")
    assert "'vicuna'" in text
    assert all(name in text for name in SHAPES)


# --- roles ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spelled", "role"), [item for item in ROLES.items() if item[0] != "function_call"])
def test_a_sharegpt_role_becomes_the_standard_one_in_any_case(spelled: str, role: str) -> None:
    for spelling in (spelled, spelled.upper(), spelled.capitalize()):
        assert to_messages([{"from": spelling, "value": "Hi"}]) == [{"role": role, "content": "Hi"}]


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool", "ipython", "function"])
def test_roles_that_templates_know_stay_as_they_are_in_messages(role: str) -> None:
    assert to_messages([{"role": role, "content": "Hi"}]) == [{"role": role, "content": "Hi"}]


@pytest.mark.parametrize(("spelled", "role"), [("human", "user"), ("gpt", "assistant"), ("observation", "tool")])
def test_sharegpt_roles_in_messages_never_reach_the_header(spelled: str, role: str) -> None:
    assert to_messages([{"role": spelled, "content": "Hi"}]) == [{"role": role, "content": "Hi"}]


@pytest.mark.parametrize("key", ["role", "from"])
def test_a_function_call_becomes_tool_calls(key: str) -> None:
    def read(value: str) -> Any:
        (message,) = to_messages([{key: "function_call", "value" if key == "from" else "content": value}])
        assert (message["role"], message["content"]) == ("assistant", None)
        return message["tool_calls"]

    one = {"name": "weather", "arguments": {"city": "Oslo", "day": None}}
    assert read(json.dumps(one)) == [call("weather", city="Oslo", day=None)]
    assert read(json.dumps([one, {**one, "arguments": {}}])) == [
        call("weather", city="Oslo", day=None),
        call("weather"),
    ]
    nested = {"name": "weather", "arguments": json.dumps(one["arguments"])}
    assert read(json.dumps(nested)) == [call("weather", city="Oslo", day=None)]


@pytest.mark.parametrize(
    "value",
    [
        "weather(Oslo)",
        "[]",
        "3",
        '"weather"',
        '{"name": "weather"}',
        '{"name": 3, "arguments": {}}',
        '{"name": "weather", "arguments": "Oslo"}',
        '[{"name": "weather", "arguments": {}}, 3]',
        {"name": "weather", "arguments": {}},
        None,
    ],
)
def test_a_function_call_that_is_not_json_of_a_call_is_an_error(value: Any) -> None:
    text = error_of({"conversations": [{"from": "human", "value": "Hi"}, {"from": "function_call", "value": value}]})
    assert text.startswith("row 17: conversations[1] is a function_call whose value is not the JSON text of a call")
    assert repr(value) in text
    assert '{"name": "...", "arguments": {...}}' in text


@pytest.mark.parametrize("role", ["narrator", "", 3, ["user"]])
def test_an_unknown_role_names_row_place_value_and_the_accepted_ones(role: Any) -> None:
    for key, content in (("role", "content"), ("from", "value")):
        text = error_of({"messages": [USER, {key: role, content: "Hi"}]})
        assert text.startswith(f"row 17: messages[1] has the role {role!r}, ")
        assert all(spelling in text for spelling in ROLES)


# --- every other error ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        (3, ["saw int 3", '{"messages": [...]}']),
        (None, ["saw NoneType None"]),
        ("Hi", ["saw str 'Hi'"]),
        ({}, ["the columns are none, which make no known shape"]),
        (
            {"question": "Hi", "instruction": "Hi", "output": None},
            [
                "columns are question, instruction, output (null)",
                "messages: messages; sharegpt: conversations or conversation; prompt-completion: prompt + ",
                "completion; alpaca: instruction + output; text: text",
            ],
        ),
        ({"messages": json.dumps(CHAT)}, ["messages is str '[{", "not a list of messages", "json.loads"]),
        ({"messages": {"role": "user"}}, ["messages is dict"]),
        ({"conversations": 3}, ["conversations is int 3"]),
        ([], ["the conversation is empty (no message in messages)", "drop the row"]),
        ({"messages": []}, ["the conversation is empty"]),
        ({"conversations": [], "system": "Be brief"}, ["empty (no message in conversations)"]),
        ({"prompt": [], "completion": []}, ["empty (no message in prompt and completion)"]),
        ({"prompt": 3, "completion": "Hi"}, ["prompt is int 3"]),
        ({"prompt": "Hi", "completion": {"a": 1}}, ["completion is dict {'a': 1}"]),
        ({"prompt": "Hi", "completion": [{"role": "user"}]}, ["completion[0] (user) has no content"]),
        (["Hi"], ["messages[0] is str 'Hi', not a message"]),
        ([USER, None], ["messages[1] is NoneType None, not a message"]),
        ([{"content": "Hi"}], ["messages[0] has no role (its keys are content)", "`from` and `value`"]),
        ([{"role": None, "content": "Hi"}], ["messages[0] has no role (its keys are content)"]),
        ([{}], ["has no role (its keys are none)"]),
        ([USER, {"role": "assistant"}], ["messages[1] (assistant) has no content", "tool_calls", "drop"]),
        ([{"role": "user", "content": None}], ["messages[0] (user) has no content"]),
        ([{"from": "human", "value": None}], ["messages[0] (user) has no value"]),
        ([{"from": "human", "content": "Hi"}], ["messages[0] (user) has no value"]),
        ([{"role": "user", "content": None, "tool_calls": [call("f")]}], ["(user) has no content"]),
        ([{"role": "assistant", "content": None, "tool_calls": []}], ["(assistant) has no content"]),
        ([{"role": "assistant", "content": "Hi", "tool_calls": "[{}]"}], ["tool_calls that are str '[{}]'"]),
        ([{"role": "user", "content": 3}], ["messages[0] (user) has content", "int 3", "pass a string"]),
        ([{"role": "user", "content": {"text": "Hi"}}], ["dict {'text': 'Hi'}"]),
        ([{"role": "user", "content": []}], ["list []"]),
        ([{"role": "user", "content": ["Hi"]}], ["str 'Hi'", '[{"type": "text", "text": "..."}]']),
        ([{"role": "user", "content": [{"type": "text", "text": 3}]}], ["dict {'type': 'text', 'text': 3}"]),
        (
            [{"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "image"}]}],
            ["dict {'type': 'image'}", "only text can be encoded"],
        ),
        ({"text": 3}, ["text is int 3, not a string"]),
        ({"instruction": 3, "output": "Hi"}, ["instruction is int 3"]),
        ({"instruction": "Hi", "input": 3, "output": "Hi"}, ["input is int 3"]),
        ({"instruction": "Hi", "output": ["Hi"]}, ["output is list ['Hi']"]),
        ({"instruction": "Hi", "output": "Hi", "system": 3}, ["system is int 3"]),
        ({"instruction": "Hi", "output": "Hi", "history": "Hi"}, ["history is str 'Hi'", "pairs"]),
        ({"instruction": "Hi", "output": "Hi", "history": [["Hi"]]}, ["history is list [['Hi']]"]),
        ({"instruction": "Hi", "output": "Hi", "history": ["Hi"]}, ["history is list ['Hi']"]),
        ({"instruction": "Hi", "output": "Hi", "history": [["a", "b", "c"]]}, ["history is list [['a', 'b', 'c']]"]),
        ({"instruction": "Hi", "output": "Hi", "history": [["Hi", 3]]}, ["history[0] (assistant) is int 3"]),
        ({"conversations": [SYSTEM, *CHAT], "system": "Talk"}, ["'Talk'", "'Be brief'", "drop one"]),
        ({"messages": CHAT, "tools": "weather"}, ["tools is str 'weather'", "JSON text of a list"]),
        ({"messages": CHAT, "tools": '{"a": 1}'}, ["tools is dict {'a': 1}", "JSON text of a list"]),
        ({"messages": CHAT, "tools": {"a": 1}}, ["tools is dict {'a': 1}"]),
        ({"messages": CHAT, "tools": 0}, ["tools is int 0"]),
    ],
)
def test_an_error_names_the_row_what_was_seen_and_what_mends_it(row: Any, parts: list[str]) -> None:
    before = copy.deepcopy(row)
    text = error_of(row)
    assert text.startswith("row 17: ")
    assert [part for part in parts if part not in text] == [], text
    assert error_of(row, row_number=None) == text.removeprefix("row 17: ")
    assert error_of(row, row_number="train 3") == text.replace("row 17: ", "row train 3: ")
    assert row == before


def test_an_error_stays_short_when_the_value_is_long() -> None:
    assert len(error_of({"messages": "x" * 10_000})) < 400


# --- nulls that Arrow fills in -------------------------------------------------------------------------------

RAGGED: list[dict[str, Any]] = [
    {
        "messages": [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "tool_calls": [call("weather", city="Oslo", options={"unit": "C"})]},
            {"role": "tool", "content": "12", "name": "weather"},
        ],
        "tools": [{"name": "weather", "parameters": {"properties": {"city": {"type": "string"}}}}],
    },
    {
        "messages": [
            {"role": "user", "content": "Sum?", "weight": 0.5},
            {"role": "assistant", "content": "Now:", "tool_calls": [{**call("sum", terms=[1, 2]), "id": "a"}]},
            {"role": "assistant", "content": "3", "tool_calls": [call("stop")]},
        ],
        "tools": [{"name": "sum", "parameters": {"properties": {"terms": {"items": {"type": "integer"}}}}}],
    },
    {"messages": CHAT},
]


def test_rows_that_went_through_arrow_read_as_before() -> None:
    stored = datasets.Dataset.from_list(RAGGED)
    first = stored[0]["messages"]
    # If Arrow filled nothing, this test would show nothing.
    assert first[0]["tool_calls"] is None
    assert first[1]["tool_calls"][0]["function"]["arguments"]["terms"] is None
    # By way of pandas every list inside is a numpy array.
    framed = stored.to_pandas().to_dict("records")
    assert isinstance(framed[0]["messages"], np.ndarray)
    for row, original in zip([*stored, *framed], RAGGED * 2, strict=True):
        read = read_row(row)
        # Whether a call's content was absent or null, Arrow does not say; null is what templates ask for.
        expected = [{"content": None, **message} for message in original["messages"]]
        assert read.messages == expected
        assert read.tools == original.get("tools")


def test_a_call_keeps_null_content_as_it_was_written() -> None:
    absent: dict[str, Any] = {"role": "assistant", "tool_calls": [call("f", x=1)]}
    assert to_messages([absent]) == [absent]
    assert to_messages([{**absent, "content": None}]) == [{**absent, "content": None}]


def test_arguments_lose_null_keys_but_not_null_items_nor_json_text() -> None:
    kept = to_messages([{"role": "assistant", "tool_calls": [call("f", x=None, y=[1, None], z={"a": None})]}])
    assert kept[0]["tool_calls"] == [call("f", y=[1, None], z={})]
    text = {"type": "function", "function": {"name": "f", "arguments": '{"x": null}'}}
    assert to_messages([{"role": "assistant", "tool_calls": [text]}])[0]["tool_calls"] == [text]
    tools = '[{"name": "f", "default": null}]'
    assert read_row({"messages": CHAT, "tools": tools}).tools == [{"name": "f", "default": None}]


# --- properties ----------------------------------------------------------------------------------------------

TO_SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}

json_values = st.recursive(
    st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=5,
)
messages_of: Mapping[str, st.SearchStrategy[list[dict[str, Any]]]] = {
    kind: st.lists(
        st.fixed_dictionaries(
            {"role": st.sampled_from(roles), "content": st.text()},
            optional={"name": st.text(), "weight": st.floats(0, 1), "extra": json_values},
        ),
        min_size=1,
        max_size=6,
    )
    for kind, roles in {
        "messages": ["system", "developer", "user", "assistant", "tool", "ipython", "function"],
        "sharegpt": sorted(TO_SHAREGPT),
    }.items()
}


@given(messages_of["messages"])
def test_messages_with_accepted_roles_read_as_themselves(messages: list[dict[str, Any]]) -> None:
    before = copy.deepcopy(messages)
    assert read_row(messages).messages == messages == before
    assert read_row({"messages": messages}).messages == messages


@given(messages_of["sharegpt"])
def test_the_sharegpt_spelling_reads_as_the_same_messages(messages: list[dict[str, Any]]) -> None:
    spelled = [
        {"from": TO_SHAREGPT[message["role"]], "value": message["content"]}
        | {key: value for key, value in message.items() if key not in ("role", "content")}
        for message in messages
    ]
    assert read_row({"conversations": spelled}).messages == messages
    assert read_row(spelled) == read_row(messages)


def test_what_is_returned_shares_nothing_with_the_row() -> None:
    for row in (*RAGGED, {"conversations": [SYSTEM, *SHAREGPT], "tools": TOOLS, "system": "Be brief"}):
        before = copy.deepcopy(row)
        read = read_row(row)
        for message in read.messages or []:
            for part in message.get("tool_calls", []):
                part["function"]["arguments"]["new"] = 1
            message["role"] = message["new"] = "changed"
        for tool in read.tools or []:
            tool["name"] = "changed"
        assert row == before
