"""`dedupe_bos` on the real Llama 3 tokenizer, on every kind of value, and by properties."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llama_padfix.core.errors import PadfixError
from llama_padfix.tokens.bos import dedupe_bos

BOS = 128000
BOS_TEXT = "<|begin_of_text|>"
END = 128001
EOT = 128009
PAD = 128004

CHATS = [
    [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}],
    [
        {"role": "system", "content": "Answer in French."},
        {"role": "user", "content": "How are you? 你好"},
        {"role": "assistant", "content": "Très bien, merci. Et vous ?"},
    ],
    [{"role": "user", "content": "def f():\n    return 1"}, {"role": "assistant", "content": "```1```"}],
]


def template_ids(tokenizer: Any, messages: Any) -> list[int]:
    made = tokenizer.apply_chat_template(messages, tokenize=True)
    return list(made if isinstance(made, list) else made["input_ids"])  # 5.x returns a BatchEncoding


def rendered(tokenizer: Any, chats: Any) -> list[str]:
    return [tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats]


@pytest.mark.parametrize("messages", CHATS)
def test_rendered_and_tokenized_again_equals_the_template(tokenizer: Any, messages: Any) -> None:
    twice = tokenizer(rendered(tokenizer, [messages])[0])
    assert twice["input_ids"][:2] == [BOS, BOS]  # the trap is real
    once = dedupe_bos(twice, tokenizer)
    assert type(once) is type(twice)
    assert once["input_ids"] == template_ids(tokenizer, messages)
    assert once["attention_mask"] == [1] * len(once["input_ids"])
    assert dedupe_bos(twice["input_ids"], tokenizer) == once["input_ids"]
    assert twice["input_ids"][:2] == [BOS, BOS]  # the argument is as it was


@pytest.mark.parametrize("release", ["3.1-instruct", "3.2-instruct", "3.1-instruct-early"])
def test_rendered_text(make_tokenizer: Any, release: str) -> None:
    tokenizer = make_tokenizer(release)
    texts = rendered(tokenizer, CHATS)
    assert all(text.startswith(BOS_TEXT) for text in texts)
    assert dedupe_bos(texts, tokenizer) == texts
    doubled = [BOS_TEXT + text for text in texts]
    assert dedupe_bos(doubled, tokenizer) == texts
    assert dedupe_bos(BOS_TEXT * 2 + doubled[0], tokenizer) == texts[0]


def test_text_is_cut_at_the_start_only() -> None:
    spaced = f"{BOS_TEXT} {BOS_TEXT}x"
    assert dedupe_bos(spaced, bos_token=BOS_TEXT) == spaced
    later = f"{BOS_TEXT}a{BOS_TEXT}{BOS_TEXT}b"
    assert dedupe_bos(later, bos_token=BOS_TEXT) == later
    assert dedupe_bos(" " + BOS_TEXT * 2, bos_token=BOS_TEXT) == " " + BOS_TEXT * 2
    assert dedupe_bos("", bos_token=BOS_TEXT) == ""
    assert dedupe_bos((BOS_TEXT * 2,), bos_token=BOS_TEXT) == (BOS_TEXT,)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["pt", "np"])
def test_padded_batch(tokenizer: Any, side: str, kind: str) -> None:
    tokenizer.pad_token = "<|end_of_text|>"
    tokenizer.padding_side = side
    twice = tokenizer(rendered(tokenizer, CHATS), padding=True, return_tensors=kind)
    before = copy.deepcopy(dict(twice))
    once = dedupe_bos(twice, tokenizer)
    assert type(once) is type(twice)
    ids, mask = once["input_ids"], once["attention_mask"]
    assert type(ids) is type(twice["input_ids"]) and ids.dtype == twice["input_ids"].dtype
    assert ids.shape == mask.shape == (len(CHATS), twice["input_ids"].shape[1] - 1)  # trimmed
    for row, row_mask, messages in zip(ids.tolist(), mask.tolist(), CHATS, strict=True):
        assert [i for i, m in zip(row, row_mask, strict=True) if m] == template_ids(tokenizer, messages)
        assert {i for i, m in zip(row, row_mask, strict=True) if not m} <= {END}
    for name, column in before.items():
        assert (twice[name] == column).all()


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_that_lose_different_numbers_stay_rectangular(tokenizer: Any, side: str) -> None:
    tokenizer.pad_token = "<|end_of_text|>"
    tokenizer.padding_side = side
    texts = rendered(tokenizer, CHATS)
    texts[0] = texts[0].removeprefix(BOS_TEXT)  # one BOS from the tokenizer: nothing to cut
    texts[1] = BOS_TEXT + texts[1]  # three
    twice = tokenizer(texts, padding=True, return_tensors="pt")
    twice["labels"] = torch.where(twice["attention_mask"] == 1, twice["input_ids"], -100)
    once = dedupe_bos(twice, tokenizer)
    for i, messages in enumerate(CHATS):
        keep = once["attention_mask"][i] == 1
        padded = (~keep).nonzero().flatten().tolist()
        width = keep.shape[0]
        assert padded == (list(range(len(padded))) if side == "left" else list(range(width - len(padded), width)))
        assert once["input_ids"][i][keep].tolist() == template_ids(tokenizer, messages)
        assert once["input_ids"][i][~keep].tolist() == [END] * len(padded)
        assert once["labels"][i][~keep].tolist() == [-100] * len(padded)
        # Row 0 was not cut, and its labels are its own.
        expected = once["input_ids"][i][keep].tolist()
        assert once["labels"][i][keep].tolist() == (expected if i == 0 else [-100, *expected[1:]])
    longest = max(len(template_ids(tokenizer, messages)) for messages in CHATS)
    assert once["input_ids"].shape == (3, longest)


def test_all_columns_of_a_row_are_cut_together() -> None:
    row = {
        "input_ids": [PAD, BOS, BOS, BOS, 5, 6],
        "attention_mask": [0, 1, 1, 1, 1, 1],
        "labels": [-100, 1, 2, 3, 5, 6],
        "token_type_ids": [0, 1, 2, 3, 4, 5],
        "position_ids": [0, 0, 1, 2, 3, 4],
        "special_tokens_mask": [1, 1, 1, 1, 0, 0],
        "assistant_masks": [0, 0, 0, 0, 0, 1],
        "completion_mask": [0, 0, 0, 0, 1, 1],
        "loss_mask": None,
        "offset_mapping": [(0, 0), (0, 0), (0, 0), (0, 0), (0, 1), (1, 2)],
        "id": "a",
        "scores": [1, 2, 3, 4, 5, 6],  # as long by chance, and not known to be per token
    }
    before = copy.deepcopy(row)
    assert dedupe_bos(row, bos_token_id=BOS) == {
        "input_ids": [PAD, BOS, 5, 6],
        "attention_mask": [0, 1, 1, 1],
        "labels": [-100, -100, 5, 6],
        "token_type_ids": [0, 1, 4, 5],
        "position_ids": [0, 0, 1, 2],
        "special_tokens_mask": [1, 1, 0, 0],
        "assistant_masks": [0, 0, 0, 1],
        "completion_mask": [0, 0, 1, 1],
        "loss_mask": None,
        "offset_mapping": [(0, 0), (0, 0), (0, 1), (1, 2)],
        "id": "a",
        "scores": [1, 2, 3, 4, 5, 6],
    }
    assert row == before


def test_position_ids_of_a_packed_row() -> None:
    row = {"input_ids": [BOS, BOS, 5, 6, BOS, BOS, 7], "position_ids": [0, 1, 2, 3, 0, 1, 2]}
    assert dedupe_bos(row, bos_token_id=BOS) == {
        "input_ids": [BOS, 5, 6, BOS, BOS, 7],
        "position_ids": [0, 1, 2, 0, 1, 2],
    }
    with pytest.raises(PadfixError, match="before packing"):
        dedupe_bos({**row, "seq_lengths": [4, 3]}, bos_token_id=BOS)
    alone = {"input_ids": [BOS, 7], "seq_lengths": [2]}
    assert dedupe_bos(alone, bos_token_id=BOS) == alone


def test_kinds_of_ids() -> None:
    assert dedupe_bos([BOS, BOS, 5], bos_token_id=BOS) == [BOS, 5]
    assert dedupe_bos((BOS, BOS, BOS), bos_token_id=BOS) == (BOS,)
    array = numpy.array([BOS, BOS, 5], dtype=numpy.int32)
    cut = dedupe_bos(array, bos_token_id=BOS)
    assert isinstance(cut, numpy.ndarray) and cut.dtype == numpy.int32 and cut.tolist() == [BOS, 5]
    tensor = dedupe_bos(torch.tensor([BOS, BOS, 5]), bos_token_id=BOS)
    assert isinstance(tensor, torch.Tensor) and tensor.dtype == torch.int64 and tensor.tolist() == [BOS, 5]
    assert dedupe_bos([[BOS, BOS, 5], [5], [], [BOS, 1]], bos_token_id=BOS) == [[BOS, 5], [5], [], [BOS, 1]]
    ragged = dedupe_bos([torch.tensor([BOS, BOS]), torch.tensor([1])], bos_token_id=BOS)
    assert [row.tolist() for row in ragged] == [[BOS], [1]]
    holder = numpy.empty(2, dtype=object)
    holder[:] = [numpy.array([BOS, BOS, 3]), numpy.array([BOS])]
    assert [row.tolist() for row in dedupe_bos(holder, bos_token_id=BOS)] == [[BOS, 3], [BOS]]
    rows = [{"input_ids": [BOS, BOS, 5], "labels": [1, 2, 5]}, {"input_ids": [5], "labels": [5]}]
    assert dedupe_bos(rows, bos_token_id=BOS) == [{"input_ids": [BOS, 5], "labels": [-100, 5]}, rows[1]]


@pytest.mark.parametrize(
    "value",
    [
        [],
        [[]],
        [5, BOS, BOS],
        [BOS, 5, BOS, BOS],
        [BOS],
        {"input_ids": [5, 6], "labels": [5]},
        {"input_ids": [BOS, 5], "labels": [BOS, 5]},
        {"input_ids": [[BOS, 5], [6]], "labels": [0, 1]},
    ],
)
def test_nothing_to_cut(value: Any) -> None:
    assert dedupe_bos(value, bos_token_id=BOS) == value


def test_labels_of_a_classifier_pass_through() -> None:
    batch = {"input_ids": [[BOS, BOS, 5], [BOS, 6]], "labels": [0, 1]}
    assert dedupe_bos(batch, bos_token_id=BOS) == {"input_ids": [[BOS, 5], [BOS, 6]], "labels": [0, 1]}
    tensors = {"input_ids": torch.tensor([[BOS, BOS, 5]] * 2), "labels": torch.tensor([0, 1])}
    cut = dedupe_bos(tensors, bos_token_id=BOS)
    assert cut["input_ids"].tolist() == [[BOS, 5]] * 2 and cut["labels"].tolist() == [0, 1]
    assert dedupe_bos({"input_ids": [BOS, BOS], "labels": 1}, bos_token_id=BOS) == {"input_ids": [BOS], "labels": 1}


def test_left_padding_is_found_by_the_pad_id() -> None:
    assert dedupe_bos([PAD, PAD, BOS, BOS, 5], bos_token_id=BOS, pad_token_id=PAD) == [PAD, PAD, BOS, 5]
    assert dedupe_bos([PAD, BOS, BOS, 5], bos_token_id=BOS) == [PAD, BOS, BOS, 5]
    batch = torch.tensor([[PAD, BOS, BOS, 5], [BOS, BOS, 6, 7]])
    assert dedupe_bos(batch, bos_token_id=BOS, pad_token_id=PAD).tolist() == [[PAD, BOS, 5], [BOS, 6, 7]]


def test_pad_equal_to_bos_needs_a_mask() -> None:
    ids = [BOS, BOS, 5]
    with pytest.raises(PadfixError, match="attention_mask"):
        dedupe_bos(ids, bos_token_id=BOS, pad_token_id=BOS)
    row = {"input_ids": ids, "attention_mask": [0, 1, 1]}
    assert dedupe_bos(row, bos_token_id=BOS, pad_token_id=BOS) == row
    assert dedupe_bos([BOS, 5, BOS, BOS], bos_token_id=BOS, pad_token_id=BOS) == [BOS, 5, BOS, BOS]


def test_rectangular_refill() -> None:
    # No mask: the last EOT may be a true one although the pad id is the same, so that no column of it goes.
    uncut = numpy.array([[BOS, 1, 2, EOT], [BOS, BOS, 3, EOT]])
    assert dedupe_bos(uncut, bos_token_id=BOS, pad_token_id=EOT).tolist() == [[BOS, 1, 2, EOT], [BOS, 3, EOT, EOT]]
    with pytest.raises(PadfixError, match="pad_token_id="):
        dedupe_bos(uncut, bos_token_id=BOS)
    unlike = numpy.array([[BOS, 1, 2, EOT], [BOS, BOS, 3, 4]])
    assert dedupe_bos(unlike, bos_token_id=BOS, pad_token_id=EOT).tolist() == [
        [BOS, 1, 2, EOT],
        [BOS, 3, 4, EOT],
    ]
    # The id at a padded position of the batch serves where none is given.
    masked = {
        "input_ids": numpy.array([[BOS, 1, 2, 3], [BOS, BOS, 3, 3], [BOS, BOS, 4, PAD]]),
        "attention_mask": numpy.array([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0]]),
        "special_tokens_mask": numpy.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 1]]),
    }
    cut = dedupe_bos(masked, bos_token_id=BOS)
    assert cut["input_ids"].tolist() == [[BOS, 1, 2, 3], [BOS, 3, 3, PAD], [BOS, 4, PAD, PAD]]
    assert cut["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]]
    assert cut["special_tokens_mask"].tolist() == [[1, 0, 0, 0], [1, 0, 0, 1], [1, 0, 1, 1]]
    # All lose the same number: no pad id is needed.
    assert dedupe_bos(uncut[1:], bos_token_id=BOS).tolist() == [[BOS, 3, EOT]]


def test_a_full_row_in_a_left_padded_batch_is_refilled_on_the_left() -> None:
    batch = {
        "input_ids": torch.tensor([[PAD, BOS, 5, 6], [BOS, BOS, BOS, 7]]),
        "attention_mask": torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]]),
    }
    cut = dedupe_bos(batch, bos_token_id=BOS)
    assert cut["input_ids"].tolist() == [[BOS, 5, 6], [PAD, BOS, 7]]
    assert cut["attention_mask"].tolist() == [[1, 1, 1], [0, 1, 1]]


def test_width_that_was_padded_everywhere_stays_but_for_what_was_cut() -> None:
    batch = {
        "input_ids": torch.tensor([[BOS, BOS, 5, PAD, PAD], [BOS, 6, PAD, PAD, PAD], [PAD] * 5]),
        "attention_mask": torch.tensor([[1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [0] * 5]),
    }
    cut = dedupe_bos(batch, bos_token_id=BOS)
    assert cut["input_ids"].tolist() == [[BOS, 5, PAD, PAD], [BOS, 6, PAD, PAD], [PAD] * 4]
    flipped = torch.tensor([[PAD, PAD, BOS, BOS, 5], [PAD, PAD, PAD, BOS, 6]])
    batch = {"input_ids": flipped, "attention_mask": (flipped != PAD).int()}
    cut = dedupe_bos(batch, bos_token_id=BOS)
    assert cut["input_ids"].tolist() == [[PAD, PAD, BOS, 5], [PAD, PAD, BOS, 6]]


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("layout", [None, "torch", "numpy"])
def test_dataset_map(tokenizer: Any, batched: bool, layout: str | None) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    rows = [dict(tokenizer(text)) for text in rendered(tokenizer, CHATS)]
    dataset = datasets.Dataset.from_list([{**row, "labels": row["input_ids"], "name": "n"} for row in rows])
    done = dataset.with_format(layout).map(lambda row: dedupe_bos(row, tokenizer), batched=batched)
    expected = [template_ids(tokenizer, messages) for messages in CHATS]
    done = done.with_format(None)
    assert [list(ids) for ids in done["input_ids"]] == expected
    assert [list(ids) for ids in done["labels"]] == [[-100, *ids[1:]] for ids in expected]
    assert list(done["name"]) == ["n"] * 3


@pytest.mark.parametrize(
    ("value", "known", "words"),
    [
        ([BOS, BOS], {}, ["bos_token_id=", "tokenizer"]),
        ("text", {"bos_token_id": BOS}, ["bos_token=", "tokenizer"]),
        ("text", {"bos_token": ""}, ["bos_token="]),
        ({"text": "x"}, {"bos_token_id": BOS}, ["input_ids", 'row["text"]']),
        (3.5, {"bos_token_id": BOS}, ["float", "dataset.map"]),
        ([1.5], {"bos_token_id": BOS}, ["list", "dataset.map"]),
        (numpy.zeros((1, 1, 1)), {"bos_token_id": BOS}, ["ndarray"]),
        ({"input_ids": [BOS, BOS], "labels": [1]}, {"bos_token_id": BOS}, ["Row 0", "labels has 1", "input_ids 2"]),
        ({"input_ids": [[BOS, BOS]], "labels": [[1, 1], [1]]}, {"bos_token_id": BOS}, ["Row 1"]),
        ({"input_ids": [1], "attention_mask": [1, 1]}, {"bos_token_id": BOS}, ["attention_mask has 2"]),
    ],
)
def test_errors(value: Any, known: Any, words: list[str]) -> None:
    with pytest.raises(PadfixError) as caught:
        dedupe_bos(value, **known)
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_list_needs_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['numpy'] = None\n"
        "from llama_padfix.tokens.bos import dedupe_bos\n"
        "row = {'input_ids': [1, 1, 5], 'labels': [1, 1, 5]}\n"
        "assert dedupe_bos(row, bos_token_id=1) == {'input_ids': [1, 5], 'labels': [-100, 5]}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Small ids, so that BOS (1), padding (0) and text meet often.
bodies = st.lists(st.integers(1, 4), max_size=6)
bos_runs = st.integers(0, 4)
pads = st.integers(0, 3)


@given(bos_runs, bodies)
def test_property_one_run_one_bos_same_tail(count: int, body: list[int]) -> None:
    row = [1] * count + body
    once = dedupe_bos(row, bos_token_id=1)
    tail = row
    while tail[:1] == [1]:
        tail = tail[1:]
    assert once == ([1] if row[:1] == [1] else []) + tail
    assert dedupe_bos(once, bos_token_id=1) == once


@given(
    st.lists(st.tuples(pads, bos_runs, bodies, pads), min_size=1, max_size=4), st.sampled_from(["list", "np", "pt"])
)
def test_property_columns_stay_aligned(parts: list[Any], kind: str) -> None:
    width = max(left + count + len(body) + right for left, count, body, right in parts)
    batch: dict[str, Any] = {"input_ids": [], "attention_mask": [], "labels": [], "token_type_ids": []}
    for left, count, body, right in parts:
        real = [1] * count + body
        right = right if kind == "list" else width - left - len(real)
        batch["input_ids"].append([0] * left + real + [0] * right)
        batch["attention_mask"].append([0] * left + [1] * len(real) + [0] * right)
        batch["labels"].append([-100] * left + [100 + k for k in range(len(real))] + [-100] * right)
        batch["token_type_ids"].append([0] * left + [50 + k for k in range(len(real))] + [0] * right)
    if kind != "list":
        make = numpy.array if kind == "np" else torch.tensor
        batch = {name: make(column, dtype=(numpy if kind == "np" else torch).int64) for name, column in batch.items()}
    before = copy.deepcopy(batch)
    done = dedupe_bos(batch, bos_token_id=1, pad_token_id=0)
    plain = {n: c if kind == "list" else c.tolist() for n, c in done.items()}
    for i, (_, count, body, _) in enumerate(parts):
        columns = (plain[name][i] for name in ("input_ids", "labels", "token_type_ids", "attention_mask"))
        every = list(zip(*columns, strict=True))
        real = [1] * count + body
        run = next((k for k, token in enumerate(real) if token != 1), len(real))
        surplus = max(0, run - 1)
        pairs = [(token, 100 + k, 50 + k, 1) for k, token in enumerate(real)]
        kept = pairs[:1] + pairs[1 + surplus :]
        if surplus:
            kept = [(1, -100, 50, 1), *kept[1:]]
        assert [pair for pair in every if pair[3]] == kept
        assert all(pair == (0, -100, 0, 0) for pair in every if not pair[3])
        real_at = [k for k, pair in enumerate(every) if pair[3]]
        assert real_at == list(range(real_at[0], real_at[0] + len(real_at))) if real_at else True
    if kind != "list":
        assert all((batch[name] == before[name]).all() for name in batch)
        assert len({tuple(column.shape) for column in done.values()}) == 1
    else:
        assert batch == before
    again = dedupe_bos(done, bos_token_id=1, pad_token_id=0)
    assert all(again[name] is done[name] for name in done)
