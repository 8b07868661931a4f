"""`PadCollator`: padding by position, next to the collator that compares ids; the loss that comes of it."""

from __future__ import annotations

import copy
import pickle
import sys
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llama_padfix.collator import PadCollator
from llama_padfix.records import PadfixError

BOS = 128000
END = 128001
EOT = 128009

CHATS = [
    [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}],
    [
        {"role": "user", "content": "Count to three, please."},
        {"role": "assistant", "content": "One, two, three."},
        {"role": "user", "content": "Thanks."},
        {"role": "assistant", "content": "With pleasure. Anything else I can do for you today?"},
    ],
    [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "Bonjour à tous !"}],
]


def encode(tokenizer: Any) -> list[dict[str, Any]]:
    made = [tokenizer.apply_chat_template(chat, tokenize=True) for chat in CHATS]
    return [{"input_ids": list(ids if isinstance(ids, list) else ids["input_ids"])} for ids in made]


def test_stop_tokens_keep_their_labels_where_the_plain_collator_loses_them(tokenizer: Any) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer.pad_token = "<|eot_id|>"  # the usual `tokenizer.pad_token = tokenizer.eos_token`
    rows = encode(tokenizer)
    true_stops = sum(row["input_ids"].count(EOT) for row in rows)
    usual = transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False)(copy.deepcopy(rows))
    ours = PadCollator(tokenizer.pad_token_id)(rows)

    assert torch.equal(usual["input_ids"], ours["input_ids"])
    assert torch.equal(usual["attention_mask"], ours["attention_mask"])
    # The trap: not one stop token is trained, so that the model never learns to stop.
    assert true_stops == 11 and (usual["labels"] == EOT).sum() == 0
    assert (ours["labels"] == EOT).sum() == true_stops
    real = ours["attention_mask"] == 1
    real[:, 0] = False
    assert torch.equal(ours["labels"], torch.where(real, ours["input_ids"], -100))


@pytest.mark.parametrize("side", ["left", "right"])
def test_shape_padding_and_types(side: str) -> None:
    rows = [{"input_ids": [1, 2, 3, 4, 5]}, {"input_ids": [1, 9]}]
    batch = PadCollator(0, pad_to_multiple_of=4, padding_side=side)(rows)
    assert list(batch) == ["input_ids", "attention_mask", "labels"]
    assert all(tensor.dtype == torch.int64 and tensor.shape == (2, 8) for tensor in batch.values())
    left, right = (3, 6) if side == "left" else (0, 0), (3, 6) if side == "right" else (0, 0)
    for i, ids in enumerate([[1, 2, 3, 4, 5], [1, 9]]):
        assert batch["input_ids"][i].tolist() == [0] * left[i] + ids + [0] * right[i]
        assert batch["attention_mask"][i].tolist() == [0] * left[i] + [1] * len(ids) + [0] * right[i]
        assert batch["labels"][i].tolist() == [-100] * (left[i] + 1) + ids[1:] + [-100] * right[i]
    assert PadCollator(0, padding_side=side)(rows)["labels"].shape == (2, 5)
    assert PadCollator(0, pad_to_multiple_of=5, padding_side=side)(rows)["labels"].shape == (2, 5)


def test_lists_arrays_and_tensors_give_the_same_and_stay_as_they_were() -> None:
    columns = {"input_ids": [7, 8, 9], "attention_mask": [1, 1, 1], "labels": [7, -100, 9]}
    makers: list[Any] = [
        list,
        tuple,
        torch.tensor,
        lambda ids: numpy.array(ids, dtype=numpy.int32),
        lambda ids: torch.tensor(ids, dtype=torch.int32),
    ]
    rows = [{name: make(column) for name, column in columns.items()} for make in makers]
    rows.append({**rows[0], "attention_mask": numpy.array([True] * 3), "name": "x", "position_ids": [0]})
    before = copy.deepcopy(rows)
    batch = PadCollator(0)(rows)
    assert list(batch) == ["input_ids", "attention_mask", "labels"]
    assert batch["input_ids"].tolist() == [[7, 8, 9]] * 6
    assert batch["attention_mask"].tolist() == [[1, 1, 1]] * 6
    assert batch["labels"].tolist() == [[-100, -100, 9]] * 6
    batch["input_ids"].zero_()
    assert str(rows) == str(before)


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_padded_by_somebody_else(side: str) -> None:
    rows = [
        {"input_ids": [0, 0, 5, 6, 7], "attention_mask": [0, 0, 1, 1, 1]},
        {"input_ids": [5, 6, 0, 0], "attention_mask": [1, 1, 0, 0]},
        {"input_ids": [5, 0, 0]},
    ]
    for labels in (False, True):
        given_rows = [{**row, "labels": row["input_ids"]} for row in rows] if labels else rows
        batch = PadCollator(0, padding_side=side)(given_rows)
        real = [
            [pair for pair, m in zip(zip(ids, own, strict=True), mask, strict=True) if m]
            for ids, own, mask in zip(
                *(batch[k].tolist() for k in ("input_ids", "labels", "attention_mask")), strict=True
            )
        ]
        assert real == [[(5, -100), (6, 6), (7, 7)], [(5, -100), (6, 6)], [(5, -100), (0, 0), (0, 0)]]
        assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()


@pytest.mark.parametrize("side", ["left", "right"])
def test_loss_of_a_batch_is_the_token_weighted_mean_of_its_rows(tokenizer: Any, make_model: Any, side: str) -> None:
    model = make_model().double().eval()
    rows: list[dict[str, Any]] = encode(tokenizer)
    for row in rows:  # answers only; of unequal lengths
        half = len(row["input_ids"]) - 9
        row["labels"] = [-100] * half + row["input_ids"][half:]
    rows[1]["labels"] = list(rows[1]["input_ids"])
    collate = PadCollator(END, pad_to_multiple_of=8, padding_side=side)
    with torch.no_grad():
        whole = model(**collate(rows)).loss.item()
        total = weights = 0.0
        for row in rows:
            alone = PadCollator(END)([row])
            count = int((alone["labels"] != -100).sum())
            total += model(input_ids=alone["input_ids"], labels=alone["labels"]).loss.item() * count
            weights += count
        assert whole == pytest.approx(total / weights, rel=1e-6)
        # The same by hand, on each row alone, from the logits: the mean over trained tokens.
        by_hand = []
        for row in rows:
            logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0].double().log_softmax(-1)
            labels = row["labels"]
            by_hand += [-logits[k - 1, labels[k]].item() for k in range(1, len(labels)) if labels[k] != -100]
        assert whole == pytest.approx(sum(by_hand) / len(by_hand), rel=1e-5)


def test_works_in_the_workers_of_a_dataloader() -> None:
    collate = PadCollator(0, 8, "left")
    assert pickle.loads(pickle.dumps(collate)) == collate and hash(collate) == hash(PadCollator(0, 8, "left"))
    rows: Any = [{"input_ids": [1, 2, 3]}, {"input_ids": [4]}]
    loader = torch.utils.data.DataLoader(rows, batch_size=2, collate_fn=collate, num_workers=1)
    assert next(iter(loader))["input_ids"].tolist() == [[0] * 5 + [1, 2, 3], [0] * 7 + [4]]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pad_token_id": None}, ["pad_token_id is None", "`prepare(tokenizer)`"]),
        ({"pad_token_id": -1}, ["-1", "`prepare(tokenizer)`"]),
        ({"pad_token_id": "<pad>"}, ["'<pad>'", "`prepare(tokenizer)`"]),
        ({"pad_token_id": True}, ["True"]),
        ({"pad_token_id": 0, "pad_to_multiple_of": 0}, ["pad_to_multiple_of is 0"]),
        ({"pad_token_id": 0, "pad_to_multiple_of": 8.0}, ["8.0"]),
        ({"pad_token_id": 0, "padding_side": "both"}, ["'both'", '"right"']),
    ],
)
def test_settings_that_cannot_work(settings: Any, words: list[str]) -> None:
    with pytest.raises(PadfixError) as caught:
        PadCollator(**settings)
    assert all(word in str(caught.value) for word in words), caught.value


GOOD = {"input_ids": [1, 2, 3]}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], ["no rows"]),
        (GOOD, ["dict", "collator([row])"]),
        (None, ["NoneType"]),
        ([GOOD, {"input_ids": []}], ["Row 1 is empty", "filter"]),
        ([GOOD, {"text": "a"}], ["Row 1", "text", "encode(dataset)"]),
        ([GOOD, [1, 2]], ["Row 1", "[1, 2]"]),
        ([{**GOOD, "labels": [1, 2, 3]}, GOOD, GOOD], ["2 of 3 rows", "row 1"]),
        ([{**GOOD, "labels": [1, 2, 3]}, {**GOOD, "labels": None}], ["1 of 2 rows", "row 1"]),
        ([GOOD, {**GOOD, "labels": [1]}], ["Row 1", "labels has length 1", "input_ids 3"]),
        ([{**GOOD, "attention_mask": [1] * 4}], ["Row 0", "attention_mask has length 4", "input_ids 3"]),
        ([{"input_ids": [1.0, 2.0]}], ["Row 0", "float64"]),
        ([{"input_ids": torch.tensor([1.0], dtype=torch.bfloat16)}], ["Row 0", "torch.bfloat16"]),
        ([{**GOOD, "labels": numpy.array([1.0, 2.0, 3.0])}], ["labels", "float64"]),
        ([{"input_ids": ["1"]}], ["Row 0", "not integers"]),
        ([{"input_ids": [[1, 2], [3]]}], ["Row 0", "one-dimensional"]),
        ([{"input_ids": torch.ones(1, 3, dtype=torch.int64)}], ["Row 0", "one-dimensional"]),
        ([{"input_ids": 3}], ["Row 0", "one-dimensional"]),
        ([GOOD, {"input_ids": [1, -100]}], ["Row 1", "-100", "labels only"]),
    ],
)
def test_rows_that_cannot_be_padded(rows: Any, words: list[str]) -> None:
    with pytest.raises(PadfixError) as caught:
        PadCollator(0)(rows)
    assert all(word in str(caught.value) for word in words), caught.value


def test_torch_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(PadfixError, match="pip install torch"):
        PadCollator(0)([GOOD])


# Ids from a small range, so that the pad id (2) stands inside rows too.
tokens = st.lists(st.integers(0, 4), min_size=1, max_size=9)


@given(st.lists(tokens, min_size=1, max_size=5), st.sampled_from(["left", "right"]), st.sampled_from([None, 1, 4, 8]))
def test_property_stripping_by_the_mask_gives_the_rows_back(rows: Any, side: str, multiple: int | None) -> None:
    labels = [[100 + k for k in range(len(row))] for row in rows]
    batch = PadCollator(2, multiple, side)(
        [{"input_ids": row, "labels": own} for row, own in zip(rows, labels, strict=True)]
    )
    width = batch["input_ids"].shape[1]
    longest = max(map(len, rows))
    assert width % (multiple or 1) == 0 and longest <= width < longest + (multiple or 1)
    for i, row in enumerate(rows):
        real = batch["attention_mask"][i] == 1
        assert real.nonzero().flatten().tolist() == list(
            range(width - len(row), width) if side == "left" else range(len(row))
        )
        assert batch["input_ids"][i][real].tolist() == row
        assert (batch["input_ids"][i][~real] == 2).all()
        assert batch["labels"][i][real].tolist() == [-100, *labels[i][1:]]
        assert (batch["labels"][i][~real] == -100).all()
