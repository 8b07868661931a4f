"""`max_shard_size`: the shards of `save_to_disk`, with the rows and bytes of one run however often it was stopped."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict, load_dataset, load_from_disk

from llama_padfix import ChatEncoder, PadfixError, encode_dataset, read_encoding
from llama_padfix.encoding.dataset import parts, workers

CHUNKS, ROWS = 4, 3_500
MOST = 1_000_000  # bytes: two chunks, and not three


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    said = ({"role": role, "content": f"{role} {place}"} for place in range(ROWS) for role in ("user", "assistant"))
    return [{"messages": [one, two]} for one, two in zip(said, said, strict=True)]


@pytest.fixture(scope="module")
def whole(rows: list[Any], shared_tokenizer: Any) -> Dataset:
    return encode_dataset(ChatEncoder(shared_tokenizer), rows, progress=False)


def files_of(encoded: Dataset) -> list[Path]:
    return [Path(file["filename"]) for file in encoded.cache_files]


def encode(encoder: ChatEncoder, rows: Any, folder: Path, most: int | str = MOST) -> Dataset:
    return encode_dataset(encoder, rows, progress=False, cache_dir=folder, max_shard_size=most)


def stop_at(monkeypatch: pytest.MonkeyPatch, chunk: int) -> list[int]:
    """Interrupt at a chunk of the next run; the list grows by each chunk that is encoded."""
    encoded, pack = list[int](), parts.pack_parts

    def count(*given: Any) -> Any:
        if len(encoded) == chunk:
            raise KeyboardInterrupt
        encoded.append(len(encoded))
        return pack(*given)

    monkeypatch.setattr(workers, "pack_parts", count)
    return encoded


def test_shards_are_named_and_read_as_those_of_datasets(
    rows: list[Any], whole: Dataset, encoder: ChatEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = encode(encoder, rows, tmp_path)
    files = files_of(encoded)
    assert [file.name for file in files] == ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    assert all(file.stat().st_size <= MOST for file in files)
    table = whole.with_format("arrow")[:]
    folder = files[0].parent
    read = load_dataset("arrow", data_files=str(folder / "*.arrow"), split="train", cache_dir=str(tmp_path / "hf"))
    for found in (encoded, load_from_disk(str(folder)), read):
        assert found.with_format("arrow")[:].equals(table)
    assert read_encoding(load_from_disk(str(folder))) == encoder.encoding
    assert {path.name for path in folder.iterdir()} == {*(f.name for f in files), "state.json", "dataset_info.json"}
    # Again: read, with the same counts.
    chunks = stop_at(monkeypatch, 0)
    assert encode(encoder, rows, tmp_path).with_format("arrow")[:].equals(table) and chunks == []
    assert encoder.counts.rows == 2 * ROWS


@pytest.mark.parametrize("at", [1, 2, 3])  # in the first shard, between two, in the second
def test_a_run_that_was_stopped_goes_on_in_its_shard(
    at: int, rows: list[Any], whole: Dataset, encoder: ChatEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        stop_at(patched, at)
        with pytest.raises(KeyboardInterrupt):
            encode(encoder, rows, tmp_path)
    assert not [*tmp_path.glob("*/state.json")]
    chunks = stop_at(monkeypatch, CHUNKS)
    encoded = encode(encoder, rows, tmp_path)
    assert len(chunks) == CHUNKS - at  # what was written is not encoded again
    assert encoder.counts.rows == 1000 * at + ROWS  # also what the stopped run encoded
    assert encoded.with_format("arrow")[:].equals(whole.with_format("arrow")[:])
    names = [file.name for file in files_of(encoded)]
    assert names == ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]


def test_a_damaged_or_missing_shard_is_encoded_again(
    rows: list[Any], whole: Dataset, encoder: ChatEncoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = files_of(encode(encoder, rows, tmp_path))
    right = (first.read_bytes(), second.read_bytes())
    for damaged in (first, second):
        damaged.write_bytes(damaged.read_bytes()[:-2000] + b"\0" * 2000)
        assert encode(encoder, rows, tmp_path).with_format("arrow")[:].equals(whole.with_format("arrow")[:])
        assert (first.read_bytes(), second.read_bytes()) == right
        assert f"{damaged.name} was damaged" in caplog.text
        caplog.clear()
        for aside in first.parent.glob("*.damaged"):
            aside.unlink()
    second.unlink()
    encode(encoder, rows, tmp_path)
    assert (first.read_bytes(), second.read_bytes()) == right and not caplog.records


def test_another_size_is_another_folder_and_each_split_has_its_own(
    rows: list[Any], encoder: ChatEncoder, tmp_path: Path
) -> None:
    few = rows[:1500]
    sizes = [len(files_of(encode(encoder, few[:40], tmp_path, size))) for size in (1, "1KB", "10MB", 10_000_000)]
    assert sizes == [40, 40, 1, 1]  # a row, where nothing smaller is
    splits = DatasetDict(a=Dataset.from_list(few), b=Dataset.from_list(rows[1500:]))
    encoded = encode_dataset(encoder, splits, progress=False, cache_dir=tmp_path / "splits", max_shard_size="10MB")
    assert type(encoded) is DatasetDict and {split: len(part) for split, part in encoded.items()} == {
        "a": 1500,
        "b": 2000,
    }
    assert len({file.parent for part in encoded.values() for file in files_of(part)}) == 2


def test_a_fast_way_that_proves_wrong_begins_again_with_the_first_shard(
    rows: list[Any], whole: Dataset, encoder: ChatEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llama_padfix.encoding.batch.cross_check import FastPathMismatch

    calls, pack = itertools.count(), parts.pack_parts

    def prove_wrong(*given: Any) -> Any:
        if next(calls) == 3:  # the first shard is whole
            raise FastPathMismatch("a difference")
        return pack(*given)

    monkeypatch.setattr(workers, "pack_parts", prove_wrong)
    encoded = encode(encoder, rows, tmp_path)
    assert encoded.with_format("arrow")[:].equals(whole.with_format("arrow")[:])


@pytest.mark.parametrize("wrong", ["many", "0MB", 0, -1, True, 1.5])
def test_a_size_is_one(wrong: Any, encoder: ChatEncoder, tmp_path: Path) -> None:
    with pytest.raises(PadfixError, match="max_shard_size"):
        encode(encoder, [{"text": "A"}], tmp_path, wrong)


def test_rows_in_memory_and_streams_have_no_shards(rows: list[Any], encoder: ChatEncoder, tmp_path: Path) -> None:
    with pytest.raises(PadfixError, match=r"lies in memory.*cache_dir"):
        encode_dataset(encoder, rows, progress=False, max_shard_size="1MB")
    with pytest.raises(PadfixError, match="max_shard_size out"):
        encode_dataset(encoder, Dataset.from_list(rows[:2]).to_iterable_dataset(), max_shard_size="1MB")


def test_nothing_is_left_where_no_row_is(shared_tokenizer: Any, tmp_path: Path) -> None:
    encoder = ChatEncoder(shared_tokenizer, on_error="drop")
    with pytest.raises(PadfixError, match="No row of the dataset is left to train on: 1 rows: 0 kept"):
        encode(encoder, [{"messages": [{"role": "user", "content": "A"}]}], tmp_path)
    assert (encoder.counts.rows, encoder.counts.kept) == (1, 0)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []
