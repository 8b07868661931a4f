"""Packed rows: no document is lost or cut, rows are full, and batches mark where each document begins."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_padfix import PadfixError, prepare, read_encoding
from llama_padfix.encoding.packing import pack
from llama_padfix.encoding.packing.bins import fill_bins
from llama_padfix.encoding.packing.collator import PackCollator
from llama_padfix.encoding.packing.pack import add_lengths, pack_rows
from tests.support.small_llama import small_tokenizer

CAPACITY = 64


def fill_by_search(lengths: list[int], capacity: int) -> list[int]:
    """Best fit decreasing as it is defined: how full the bins are."""
    filled: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [full for full in filled if full + length <= capacity]
        if fitting:
            filled[filled.index(max(fitting))] += length
        else:
            filled.append(length)
    return sorted(filled)


@given(st.lists(st.integers(1, CAPACITY), max_size=60))
@settings(max_examples=200, deadline=None)
def test_bins_are_those_of_best_fit_decreasing(lengths: list[int]) -> None:
    bins = fill_bins(np.array(lengths, dtype=np.int32), CAPACITY)
    assert sorted(row for own in bins for row in own) == list(range(len(lengths)))
    assert sorted(sum(lengths[row] for row in own) for own in bins) == fill_by_search(lengths, CAPACITY)


def documents(count: int, seed: int = 0, longest: int = CAPACITY) -> list[dict[str, list[int]]]:
    """Encoded rows whose ids name the row; some have a label at their first token, as rows of text do."""
    dice = random.Random(seed)
    rows = []
    for row in range(count):
        ids = [row * 100 + place for place in range(dice.randint(2, longest))]
        cut = dice.choice((0, 1, len(ids) // 2))
        rows.append({"input_ids": ids, "labels": [-100] * cut + ids[cut:]})
    return rows


def as_dataset(rows: list[dict[str, list[int]]]) -> Dataset:
    ids = pa.list_(pa.int32())
    return Dataset(pa.table({name: pa.array([row[name] for row in rows], ids) for name in ("input_ids", "labels")}))


def unpack(packed: Any) -> list[tuple[list[int], list[int]]]:
    """Return ids and labels of the documents of packed rows."""
    found = []
    for row in packed.with_format(None):
        assert len(row["input_ids"]) == len(row["labels"]) == sum(row["seq_lengths"]) <= CAPACITY
        start = 0
        for length in row["seq_lengths"]:
            found.append((row["input_ids"][start : start + length], row["labels"][start : start + length]))
            start += length
    return found


def expected(rows: list[dict[str, list[int]]]) -> list[tuple[list[int], list[int]]]:
    return sorted((row["input_ids"], [-100, *row["labels"][1:]]) for row in rows)


def test_packed_rows_hold_every_document_whole() -> None:
    rows = documents(300)
    packed = pack_rows(as_dataset(rows), CAPACITY, progress=False)
    assert sorted(unpack(packed)) == expected(rows)
    assert len(packed) * CAPACITY <= 1.05 * sum(len(row["input_ids"]) for row in rows)


def test_windows_slices_splits_and_streams_hold_the_same_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = documents(700, seed=1)
    monkeypatch.setattr(pack, "_WINDOW_ROWS", 256)
    monkeypatch.setattr(pack, "_STREAM_ROWS", 100)
    whole = as_dataset(rows)
    assert sorted(unpack(pack_rows(whole, CAPACITY, progress=False))) == expected(rows)
    part = whole.select(range(13, 311)).with_format("numpy")
    packed = pack_rows(part, CAPACITY, progress=False)
    assert sorted(unpack(packed)) == expected(rows[13:311])
    assert packed.format["type"] == "numpy" and type(packed[0]["seq_lengths"]) is np.ndarray
    splits = pack_rows(DatasetDict(train=whole, test=part), CAPACITY, progress=False)
    assert sorted(unpack(splits["test"])) == expected(rows[13:311])
    stream = pack_rows(whole.to_iterable_dataset(), CAPACITY)
    assert sorted(unpack(stream)) == expected(rows)
    assert stream.features == packed.features


def test_a_row_longer_than_a_packed_row_is_an_error() -> None:
    with pytest.raises(PadfixError, match=r"A row has 64 tokens, and a packed row holds 32\. .*max_length=32"):
        pack_rows(as_dataset([{"input_ids": [*range(64)], "labels": [*range(64)]}]), 32, progress=False)


ROWS = [
    {"input_ids": [1, 2, 3, 4, 5], "labels": [1, 2, 3, 4, 5], "seq_lengths": [3, 2]},
    {"input_ids": [6, 7], "labels": [-100, 7], "seq_lengths": [2]},
]


def test_a_batch_in_rows_marks_documents_and_fills_up() -> None:
    batch = PackCollator(9, pad_to_multiple_of=4)(ROWS)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5, 9, 9, 9], [6, 7, 9, 9, 9, 9, 9, 9]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0, 1, 2], [0, 1, 0, 1, 2, 3, 4, 5]]
    assert batch["labels"].tolist() == [[-100, 2, 3, -100, 5, -100, -100, -100], [-100, 7, *[-100] * 6]]
    assert batch["use_cache"] is False and "attention_mask" not in batch


def test_a_flat_batch_has_the_bounds_of_its_documents() -> None:
    batch = PackCollator(9, "flat")(ROWS)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5, 6, 7]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0, 1]]
    assert batch["labels"].tolist() == [[-100, 2, 3, -100, 5, -100, 7]]
    assert batch["cu_seq_lens_q"].tolist() == batch["cu_seq_lens_k"].tolist() == [0, 3, 5, 7]
    assert batch["cu_seq_lens_q"].dtype == batch["seq_idx"].dtype == torch.int32
    assert batch["max_length_q"] == batch["max_length_k"] == 3
    assert batch["seq_idx"].tolist() == [[0, 0, 0, 1, 1, 2, 2]]


def as_arrow(rows: list[dict[str, list[int]]]) -> Any:
    return pa.Table.from_pylist(rows)


def as_arrays(rows: list[dict[str, list[int]]]) -> Any:
    return [{name: np.array(value, dtype=np.int32) for name, value in row.items()} for row in rows]


def as_tensors(rows: list[dict[str, list[int]]]) -> Any:
    return [{name: torch.tensor(value) for name, value in row.items()} for row in rows]


@pytest.mark.parametrize("layout", ["rows", "flat"])
@pytest.mark.parametrize("convert", [as_arrow, as_arrays, as_tensors])
def test_rows_of_any_kind_give_the_same_batch(layout: Any, convert: Callable[[Any], Any]) -> None:
    wanted, batch = PackCollator(0, layout)(ROWS), PackCollator(0, layout)(convert(ROWS))
    assert wanted.keys() == batch.keys()
    for name, value in wanted.items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(batch[name])), name


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"input_ids": [1, 2], "labels": [1, 2]}, "Row 0 has no seq_lengths.*remove_unused_columns=False"),
        ({"input_ids": [1, 2], "labels": [1, 2], "seq_lengths": [1]}, "add up to 1, and it has 2 tokens"),
        ({"input_ids": [1, 2], "labels": [1, 2], "seq_lengths": [2, 0]}, "add up to 2, and it has 2 tokens"),
    ],
)
def test_rows_without_true_lengths_are_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(PadfixError, match=message):
        PackCollator(0)([row])


def test_a_layout_that_does_not_exist_is_refused() -> None:
    with pytest.raises(PadfixError, match="layout is 'pairs'"):
        PackCollator(0, "pairs")  # type: ignore[arg-type]


CHATS = [
    {"messages": [{"role": "user", "content": "a" * (7 * n % 60)}, {"role": "assistant", "content": f"answer {n}"}]}
    for n in range(40)
]


def test_prepare_packs_what_it_encodes() -> None:
    alone, packing = (
        prepare(small_tokenizer(), max_length=512),
        prepare(small_tokenizer(), max_length=512, packing=True),
    )
    rows, packed = alone.encode(CHATS, progress=False), packing.encode(CHATS, progress=False)
    assert len(packed) < len(rows) / 2
    assert packed.column_names == ["input_ids", "labels", "seq_lengths"]
    assert sum(len(row["seq_lengths"]) for row in packed) == len(rows) == packing.counts.kept
    trained = [sum((np.array(row["labels"]) >= 0).sum() for row in own) for own in (rows, packed)]
    assert trained[0] == trained[1] > 0
    assert read_encoding(packed) == read_encoding(rows)
    assert isinstance(packing.collator, PackCollator)
    assert "no model was given" in str(packing)


def test_packing_needs_a_length() -> None:
    tokenizer = small_tokenizer()
    with pytest.raises(PadfixError, match=r"max_length is None\. Pass max_length=2048"):
        prepare(tokenizer, packing=True)
    assert tokenizer.pad_token is None


def test_lengths_are_a_column_for_the_sampler() -> None:
    rows = documents(20)
    found = add_lengths(as_dataset(rows).select(range(5, 15)))
    assert found["length"][:] == [len(row["input_ids"]) for row in rows[5:15]]
    with pytest.raises(PadfixError, match="a stream is read in its own order"):
        add_lengths(as_dataset(rows).to_iterable_dataset())
