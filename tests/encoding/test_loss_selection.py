"""Which turns are trained, message by message."""

from __future__ import annotations

from typing import Any

import pytest

from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.encoder import ChatEncoder
from tests.support.conversations import (
    shared,
    trained_runs,
)

CHOSEN = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "One"},
    {"role": "user", "content": "Ho"},
    {"role": "assistant", "content": "Two"},
]


def answers_of(encoder: ChatEncoder, row: Any) -> list[str]:
    runs = trained_runs(encoder(row)["labels"])
    return [encoder.tokenizer.decode(run).removesuffix("<|eot_id|>") for run in runs]


@pytest.mark.parametrize(
    ("keys", "trained"),
    [
        ({"train": False}, False),
        ({"weight": 0}, False),
        ({"weight": 0.0}, False),
        ({"train": True, "weight": 0}, False),
        ({"train": False, "weight": 1}, False),
        ({"train": True}, True),
        ({"weight": 1}, True),
        ({"weight": 1.0}, True),
        ({"train": None}, True),
        ({"weight": None, "train": None}, True),
    ],
)
@pytest.mark.parametrize("shape", ["messages", "sharegpt", "prompt-completion"])
def test_a_message_says_whether_it_is_trained(shape: str, keys: dict[str, Any], trained: bool) -> None:
    messages = [*CHOSEN[:1], CHOSEN[1] | keys, *CHOSEN[2:]]
    row: dict[str, Any] = {"messages": messages}
    if shape == "sharegpt":
        row = {"conversations": [{"from": m.pop("role"), "value": m.pop("content"), **m} for m in map(dict, messages)]}
    elif shape == "prompt-completion":
        row = {"prompt": messages[:1], "completion": messages[1:]}
    encoder = ChatEncoder(shared("3.1-instruct"))
    assert answers_of(encoder, row) == (["One", "Two"] if trained else ["Two"])
    assert encoder(row)["input_ids"] == encoder({"messages": CHOSEN})["input_ids"], "the keys are not rendered"


@pytest.mark.parametrize("keys", [{"weight": 0.5}, {"weight": 2}, {"weight": "0"}, {"train": 0}, {"train": "false"}])
def test_a_weight_between_or_beside_zero_and_one_is_an_error_that_names_the_message(keys: dict[str, Any]) -> None:
    with pytest.raises(PadfixError, match=r"row 7: message 3 has train=.* write train: true or false, or weight: 0"):
        ChatEncoder(shared("3.1-instruct")).encode_rows([[*CHOSEN[:3], CHOSEN[3] | keys]], 7)


def test_the_ways_to_choose_turns_add_up() -> None:
    tokenizer = shared("3.1-instruct")
    seen: list[Any] = []

    def choose(message: Any, index: int) -> bool:
        seen.append((dict(message), index))
        return index == 3

    assert answers_of(
        ChatEncoder(tokenizer, train_on=choose), [CHOSEN[0], CHOSEN[1] | {"weight": 1}, *CHOSEN[2:]]
    ) == ["Two"]
    assert seen == [(CHOSEN[1], 1), (CHOSEN[3], 3)], "asked for each assistant message, without the keys"
    assert answers_of(ChatEncoder(tokenizer, train_on={"roles": ["assistant"]}), CHOSEN) == ["One", "Two"]
    assert answers_of(ChatEncoder(tokenizer, train_on="last"), CHOSEN) == ["Two"]
    for train_on in ("last", choose):
        with pytest.raises(PadfixError, match="`train` and `weight` leave none"):
            ChatEncoder(tokenizer, train_on=train_on)([*CHOSEN[:3], CHOSEN[3] | {"train": False}])


@pytest.mark.parametrize("key", ["train", "weight"])
def test_a_dataset_in_which_some_messages_carry_the_key_trains_all_others(key: str) -> None:
    datasets = pytest.importorskip("datasets")
    off: Any = False if key == "train" else 0.0
    rows = [{"messages": CHOSEN}, {"messages": [CHOSEN[0], CHOSEN[1] | {key: off}, *CHOSEN[2:]]}]
    filled = datasets.Dataset.from_list(rows)
    assert filled[0]["messages"][1][key] is None, "Arrow fills in what is missing"
    encoder = ChatEncoder(shared("3.1-instruct"))
    made = filled.map(encoder, batched=True, remove_columns=filled.column_names)
    assert [len(trained_runs(labels)) for labels in made["labels"]] == [2, 1]
    assert made["input_ids"][0] == made["input_ids"][1]
