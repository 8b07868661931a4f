"""Rows are read from whatever holds them: a sample of fixed size, or all of them in constant memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from datasets import Dataset, IterableDataset

from llama_padfix import PadfixError
from llama_padfix.doctor.diagnose import diagnose
from llama_padfix.doctor.observe.rows import rows_of_batch, rows_of_dataset, sample_of
from llama_padfix.encoding.sources import is_batch, is_encoded

ROW = {"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}
FAULTY = {"input_ids": [1, 2, 3], "labels": [-100, -100, -100]}


class TorchDataset(torch.utils.data.Dataset[Any]):
    """A map-style dataset as people write them: it never raises IndexError."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, place: int) -> dict[str, Any]:
        return {"input_ids": torch.tensor([place, 1]), "labels": torch.tensor([-100, 1])}


def stream(rows: int) -> Any:
    def generate() -> Iterator[dict[str, Any]]:
        for number in range(rows):
            yield FAULTY if number % 100 == 7 else ROW

    return IterableDataset.from_generator(generate)


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (Dataset.from_list([ROW]), True),
        (Dataset.from_list([{"text": "a"}]), False),
        ([ROW], True),
        ([{"text": "a"}], False),
        ([], False),
        ((), False),
        ("input_ids", False),
        ({"input_ids": [[1]]}, False),
        (None, False),
        (object(), False),
        (TorchDataset(), True),
        (stream(3), True),
        (IterableDataset.from_generator(lambda: iter([{"text": "a"}])), False),
        (IterableDataset.from_generator(lambda: iter(())), False),
    ],
)
def test_what_is_encoded_is_known(value: Any, encoded: bool) -> None:
    assert is_encoded(value) is encoded
    assert not is_batch(value)


def test_a_torch_dataset_is_read_to_its_length() -> None:
    rows = list(rows_of_dataset(TorchDataset(), "dataset"))
    assert [row.input_ids.tolist() for row in rows] == [[place, 1] for place in range(5)]
    assert [row.number for row in rows] == [0, 1, 2, 3, 4]
    assert diagnose(TorchDataset(), select=["LBL"]).findings == ()


def test_a_stream_begins_anew_after_it_was_looked_at() -> None:
    report = diagnose(stream(50), select=["LBL001"], max_rows=None)
    [finding] = report.findings
    assert (finding.rows, finding.seen, finding.evidence[0].row) == (1, 50, 7)


def test_a_stream_is_read_no_further_than_asked() -> None:
    def generate() -> Iterator[dict[str, Any]]:
        for number in range(10_000):
            assert number <= 20
            read.append(number)
            yield FAULTY if number % 100 == 7 else ROW

    read: list[int] = []
    [finding] = diagnose(IterableDataset.from_generator(generate), select=["LBL001"], max_rows=20).findings
    assert (finding.rows, finding.seen) == (1, 20)
    assert read == []  # what the stream noted down is put back


def test_a_dataset_is_sampled_the_same_way_every_time() -> None:
    rows = Dataset.from_dict(
        {
            "input_ids": [[n, 2] for n in range(5000)],
            "labels": [[-100, -100 if n % 10 == 7 else 2] for n in range(5000)],
        }
    )
    report = diagnose(rows, select=["LBL001"])
    [sample], [finding] = report.samples, report.findings
    assert (sample.source, sample.seen, sample.total) == ("dataset", 1000, 5000)
    assert sample.columns == ("input_ids", "labels")
    assert finding.seen == 1000 and 60 < finding.rows < 140
    assert all(evidence.row % 10 == 7 for evidence in finding.evidence)
    assert diagnose(rows, select=["LBL001"]).findings == report.findings
    _, places = sample_of(rows, "dataset", 1000)
    assert places is not None and len(set(places)) == 1000 and places == sorted(places)
    assert max(places) > 4900 and min(places) < 100

    [all_of_them] = diagnose(rows, select=["LBL001"], max_rows=None).findings
    assert (all_of_them.rows, all_of_them.seen) == (500, 5000)


@pytest.mark.slow
def test_a_big_stream_is_read_in_constant_memory_with_progress(capfd: pytest.CaptureFixture[str]) -> None:
    def peak(rows: int) -> int:
        tracemalloc.start()
        try:
            [finding] = diagnose(stream(rows), select=["LBL001", "LBL007", "EMB002"], max_rows=None).findings
            assert (finding.rows, finding.seen) == (rows // 100, rows)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(200)  # what is imported once is not counted
    few, many = peak(300), peak(6000)
    assert many < few + 200_000  # a list of the rows would take 100 times that
    diagnose(stream(300), select=["LBL001"], max_rows=None, progress=True)
    assert "Looking at rows" in capfd.readouterr().err


def test_a_batch_is_read_with_its_padding() -> None:
    batch = {
        "input_ids": torch.tensor([[1, 2, 3], [4, 9, 9]]),
        "labels": torch.tensor([[-100, 2, 3], [-100, -100, -100]]),
        "attention_mask": torch.tensor([[1, 1, 1], [1, 0, 0]]),
    }
    first, second = rows_of_batch(batch, "train batch", 6)
    assert (first.source, first.number, second.number) == ("train batch", 6, 7)
    assert second.attention_mask is not None and second.attention_mask.tolist() == [1, 0, 0]
    assert second.position_ids is None


def test_masks_and_positions_of_other_shapes_are_left_out() -> None:
    batch = {
        "input_ids": torch.ones(2, 3, dtype=torch.long),
        "attention_mask": torch.ones(2, 1, 3, 3),
        "position_ids": torch.zeros(3, 2, 3),
    }
    for row in rows_of_batch(batch, "batch"):
        assert row.attention_mask is None and row.position_ids is None


def test_columns_of_unequal_length_are_refused() -> None:
    rows = [{"input_ids": [1, 2, 3], "labels": [1, 2]}]
    with pytest.raises(PadfixError, match=r"row 0 of the dataset: labels has shape \(2,\) beside 3 input_ids"):
        list(rows_of_dataset(rows, "dataset"))


def test_a_row_that_is_not_encoded_is_named() -> None:
    with pytest.raises(PadfixError, match=r"row 1 of the dataset has no input_ids"):
        list(rows_of_dataset([ROW, {"text": "a"}], "dataset"))
