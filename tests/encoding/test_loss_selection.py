"""Which turns are trained, message by message."""

from __future__ import annotations

import re
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
        ({"train": False, "weight": 0}, False),
        ({"train": True, "weight": 1, "loss": True, "masked": False}, True),
        *[({key: value}, bool(value)) for key in ("loss", "loss_mask", "trainable") for value in (True, False, 0, 1)],
        *[({key: value}, value) for key in ("train", "training") for value in (True, False)],
        ({"step_loss_mask": 0}, False),
        ({"masked": True}, False),
        ({"masked": False}, True),
        ({"masked": None, "loss": None, "trainable": None}, True),
        ({"train_detail": []}, True),
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
    [(key, value)] = keys.items()
    said = f"row 7: message 3 has {key}={value!r}; a turn is trained or it is not: write {key}: "
    with pytest.raises(PadfixError, match=re.escape(said) + "(true or false|0 or 1)"):
        ChatEncoder(shared("3.1-instruct")).encode_rows([[*CHOSEN[:3], CHOSEN[3] | keys]], 7)


@pytest.mark.parametrize(
    "keys",
    [{"loss": "false"}, {"loss": [0, 1]}, {"masked": 1}, {"trainable": 0.5}, {"train_detail": [{"train": True}]}],
)
def test_a_key_of_another_framework_that_says_neither_is_an_error(keys: dict[str, Any]) -> None:
    with pytest.raises(PadfixError, match=f"row 7: message 3 has {next(iter(keys))}.* true or false"):
        ChatEncoder(shared("3.1-instruct")).encode_rows([[*CHOSEN[:3], CHOSEN[3] | keys]], 7)


@pytest.mark.parametrize(
    ("keys", "trains", "not_"),
    [
        ({"train": True, "weight": 0}, "train=True", "weight=0"),
        ({"train": False, "weight": 1}, "weight=1", "train=False"),
        ({"loss": True, "masked": True}, "loss=True", "masked=True"),
        ({"trainable": False, "training": True}, "training=True", "trainable=False"),
    ],
)
def test_keys_that_contradict_each_other_are_an_error_that_names_both(
    keys: dict[str, Any], trains: str, not_: str
) -> None:
    with pytest.raises(PadfixError, match=f"message 3 has {trains}, which trains it, and {not_}, which does not"):
        ChatEncoder(shared("3.1-instruct"))([*CHOSEN[:3], CHOSEN[3] | keys])


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
