"""`PadCollator`: padding by position, next to the collator that compares ids; the loss that comes of it."""

from __future__ import annotations

import copy
import pickle
import sys
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.collator import PadCollator

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


def arrow_rows(columns: dict[str, list[Any]]) -> dict[str, Any]:
    """The same rows in every form in which Arrow hands them over."""
    pyarrow = pytest.importorskip("pyarrow")
    kinds = [pyarrow.list_(pyarrow.int32()), pyarrow.large_list(pyarrow.int64())]
    whole, large = (
        pyarrow.table({name: pyarrow.array(rows, kind) for name, rows in columns.items()}) for kind in kinds
    )
    chunked = pyarrow.concat_tables([whole.slice(0, 1), whole.slice(1)])
    count = whole.num_rows
    return {
        "table": whole,
        "large lists": large,
        "chunks": chunked,
        "a part": pyarrow.concat_tables([whole, whole]).combine_chunks().slice(count, count),
        "record batch": whole.to_batches()[0],
        "tables of one row": [whole.slice(i, 1) for i in range(count)],
        "scalars": [{name: chunked[name][i] for name in columns} for i in range(count)],
        "arrays": [{name: chunked[name][i].values for name in columns} for i in range(count)],
    }


@pytest.mark.parametrize("side", ["left", "right"])
def test_arrow_rows_are_padded_as_lists_are(side: str) -> None:
    columns: dict[str, list[Any]] = {
        "input_ids": [[1, 2, 3], [4], [5, 6]],
        "labels": [[-100, 2, 3], [4], [-100, 6]],
        "attention_mask": [[1, 1, 1], [1], [1, 0]],
        "length": [[3], [1], [2]],
    }
    collate = PadCollator(0, 4, side)
    for names in (["input_ids"], ["input_ids", "labels", "length"], list(columns)):
        chosen = {name: columns[name] for name in names}
        expected = collate([dict(zip(chosen, row, strict=True)) for row in zip(*chosen.values(), strict=True)])
        for form, rows in arrow_rows(chosen).items():
            batch = collate(rows)
            assert all(torch.equal(batch[name], expected[name]) for name in expected), form
            batch["input_ids"].zero_()
            assert torch.equal(collate(rows)["input_ids"], expected["input_ids"]), form


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"input_ids": [[1], [2, None]]}, r"Row 1: input_ids holds (object|float64), not integers"),
        ({"input_ids": [[1], None]}, "Row 1 has no input_ids"),
        ({"input_ids": [[1], [2]], "labels": [[1], None]}, "1 of 2 rows have no labels"),
        ({"text": [[1], [2]]}, r"Row 0 has no input_ids: \['text'\]"),
        ({"input_ids": [[1], []]}, "Row 1 is empty"),
        ({"input_ids": [[1], [2]], "labels": [[1], [2, 3]]}, "Row 1: labels has length 2"),
    ],
)
def test_arrow_rows_that_cannot_be_padded(columns: Any, words: str) -> None:
    for rows in arrow_rows(columns).values():
        with pytest.raises(PadfixError, match=words):
            PadCollator(0)(rows)


@pytest.mark.parametrize("form", [None, "numpy", "torch", "arrow"])
def test_rows_as_datasets_hand_them_to_a_dataloader(form: Any) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [{"input_ids": [7, 8, 9], "labels": [7, -100, 9]}, {"input_ids": [5], "labels": [5]}]
    held = datasets.Dataset.from_list(rows)
    expected = {
        "input_ids": torch.tensor([[7, 8, 9], [5, 0, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1], [1, 0, 0]]),
        "labels": torch.tensor([[-100, -100, 9], [-100, -100, -100]]),
    }
    sources = [held.to_iterable_dataset().with_format(form)]
    if form != "arrow":  # datasets itself fails to part such a batch into rows
        sources.append(held.with_format(form))
    for source in sources:
        [batch] = torch.utils.data.DataLoader(source, batch_size=2, collate_fn=PadCollator(0))
        assert all(torch.equal(batch[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([1, 2.5], "holds float64"),
        ([1, None], "holds object"),
        ([1, "2"], "not integers"),
        ([True, False], "holds bool"),
        ([1, [2]], "one-dimensional"),
        ([1, 2**63], "not integers|hold -"),
        ([1, 2**70], "holds object"),
    ],
)
@pytest.mark.parametrize("name", ["input_ids", "labels"])
def test_lists_that_begin_well_are_read_to_their_end(ids: Any, words: str, name: str) -> None:
    if name == "labels" and ids[1] == 2**63:
        return  # an unsigned label has always been read as what its bits say
    row = {"input_ids": [1, 2], name: ids}
    with pytest.raises(PadfixError, match=words):
        PadCollator(0)([{"input_ids": [1, 2], "labels": [1, 2]}, {"labels": [1, 2], **row}])


def test_lists_of_other_integers_are_read() -> None:
    for ids in (
        [numpy.int64(1), 2],
        [1, numpy.int32(2)],
        [True, 2],
        [1, True + 1],
        [torch.tensor(1), torch.tensor(2)],
    ):
        assert PadCollator(0)([{"input_ids": ids}])["input_ids"].tolist() == [[1, 2]]
    batch = PadCollator(0)([{"input_ids": [1, 2**40], "labels": [1, -(2**40)]}])
    assert batch["input_ids"].tolist() == [[1, 2**40]] and batch["labels"].tolist() == [[-100, -(2**40)]]
    big_endian = PadCollator(0)([{"input_ids": numpy.array([1, 2], dtype=">i4")}])
    assert big_endian["input_ids"].tolist() == [[1, 2]]


def collate_slowly(
    rows: list[dict[str, list[int]]], pad: int, multiple: int, left: bool
) -> dict[str, list[list[int]]]:
    """What the collator promises, in plain Python."""
    width = -(-max(len(row["input_ids"]) for row in rows) // multiple) * multiple
    batch: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "labels": []}
    for row in rows:
        ids, gap = row["input_ids"], width - len(row["input_ids"])
        mask, labels = row.get("attention_mask", [1] * len(ids)), list(row.get("labels", ids))
        labels = [label if real else -100 for label, real in zip(labels, mask, strict=True)]
        first = next((k for k, real in enumerate(mask) if real), 0)
        labels[first] = -100
        for name, column, value in (("input_ids", ids, pad), ("attention_mask", mask, 0), ("labels", labels, -100)):
            batch[name].append([value] * gap + column if left else column + [value] * gap)
    return batch


HOLDERS: list[Any] = [
    list,
    tuple,
    lambda ids: numpy.array(ids, dtype=numpy.int32),
    numpy.array,
    torch.tensor,
    lambda ids: torch.tensor(ids, dtype=torch.int32),
]


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2), st.integers(-9, 9)), min_size=1), min_size=1),
    st.sets(st.sampled_from(["labels", "attention_mask"])),
    st.lists(st.sampled_from(HOLDERS), min_size=1, max_size=3),
    st.sampled_from([1, 4]),
    st.booleans(),
)
@settings(max_examples=200, deadline=None)
@pytest.mark.slow
def test_property_any_rows_in_any_holders(
    drawn: Any, names: set[str], holders: list[Any], multiple: int, left: bool
) -> None:
    plain = [
        dict(zip(("input_ids", "attention_mask", "labels"), map(list, zip(*row, strict=True)), strict=True))
        for row in drawn
    ]
    plain = [{name: row[name] for name in ("input_ids", *sorted(names))} for row in plain]
    rows = [
        {name: holders[(i + k) % len(holders)](column) for k, (name, column) in enumerate(row.items())}
        for i, row in enumerate(plain)
    ]
    batch = PadCollator(2, multiple, "left" if left else "right")(rows)
    expected = collate_slowly(plain, 2, multiple, left)
    assert {name: tensor.tolist() for name, tensor in batch.items()} == expected
    assert all(tensor.is_contiguous() and tensor.dtype == torch.int64 for tensor in batch.values())


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
