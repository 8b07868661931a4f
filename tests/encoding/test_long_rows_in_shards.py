"""`max_shard_size` and rows of any length: no shard is larger, wherever a run was stopped, and no row is lost."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from datasets import Dataset, load_dataset, load_from_disk

from llama_padfix import ChatEncoder, Counts, PadfixError, PairEncoder, encode_dataset
from llama_padfix.encoding.counts import CountedRow
from llama_padfix.encoding.dataset import arrow_stream, reader
from llama_padfix.encoding.dataset.arrow_stream import EncodedFile
from llama_padfix.encoding.dataset.parts import pack_parts
from tests.support.small_llama import shared_small

MOST = 40_000  # bytes: about five thousand ids and labels
LONG = 1_500  # characters, and so tokens, of the longest answers but one
UNREADABLE: dict[str, Any] = {"messages": [{"role": "user", "content": None}, {"role": "assistant", "content": "Yes"}]}


def row(number: int, length: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"{number}?"}, {"role": "assistant", "content": "a" * length}]}


def make_rows() -> list[dict[str, Any]]:
    """Two chunks; a row that is larger than a shard, two that cannot be read, long ones, and many short."""
    lengths = random.Random(3)
    rows = [row(number, lengths.randint(1, LONG) if number % 16 == 0 else 3) for number in range(1_100)]
    rows[512] = row(512, 9_000)
    rows[700] = rows[1_099] = UNREADABLE
    return rows


ROWS = make_rows()


@pytest.fixture(scope="module")
def shared_tokenizer() -> Any:
    """A vocabulary of bytes: sizes do not depend on it."""
    return shared_small()


@pytest.fixture(autouse=True)
def pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk of these rows is encoded in pieces, as one of 1,000 times longer rows is."""
    monkeypatch.setattr(reader, "_PIECE_BYTES", 50_000)


def make_encoder(kind: type[ChatEncoder] = ChatEncoder, **options: Any) -> Any:
    return kind(shared_small(), on_error="drop", **options)


def encode(folder: Path, rows: Any = ROWS, most: int | str | None = MOST, **options: Any) -> tuple[Dataset, Counts]:
    encoder = options.pop("encoder", None) or make_encoder()
    found = encode_dataset(encoder, rows, progress=False, cache_dir=folder, max_shard_size=most, **options)
    return found, encoder.counts


@pytest.fixture(scope="module")
def whole() -> tuple[Dataset, Counts]:
    """What one call makes of the rows in memory."""
    encoder = make_encoder()
    return encode_dataset(encoder, ROWS, progress=False), encoder.counts


def files_of(encoded: Dataset) -> list[Path]:
    return [Path(file["filename"]) for file in encoded.cache_files]


def contents(folder: Path) -> dict[str, bytes]:
    """What lies below a folder, without locks; the names of cached files differ by their rows alone."""
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock"
    }


def rows_in(path: Path) -> int:
    return len(Dataset.from_file(str(path)))


def same(found: Dataset, expected: Dataset) -> bool:
    return bool(found.with_format("arrow")[:].equals(expected.with_format("arrow")[:]))


# ---- sizes


def test_no_shard_of_several_rows_is_larger_than_asked(whole: tuple[Dataset, Counts], tmp_path: Path) -> None:
    encoded, counts = encode(tmp_path)
    sizes = [(path.stat().st_size, rows_in(path)) for path in files_of(encoded)]
    assert all(size <= MOST or rows == 1 for size, rows in sizes)
    assert [rows for size, rows in sizes if size > MOST] == [1]  # row 512
    assert all(one + two > MOST for (one, _), (two, _) in pairwise(sizes))  # and none is too small
    assert same(encoded, whole[0]) and (counts, counts.examples) == (whole[1], whole[1].examples)
    assert (counts.rows, counts.kept, counts.dropped_invalid) == (1_100, 1_098, 2)
    folder = files_of(encoded)[0].parent
    assert same(load_from_disk(str(folder)), whole[0])
    read = load_dataset("arrow", data_files=str(folder / "*.arrow"), split="train", cache_dir=str(tmp_path / "hf"))
    assert same(read, whole[0])
    again, counted = encode(tmp_path)
    assert same(again, whole[0]) and (counted, counted.examples) == (counts, counts.examples)


@pytest.mark.parametrize("most", [4_000, 9_999])
def test_small_rows_fill_a_shard_up_to_its_size(most: int, tmp_path: Path) -> None:
    rows = [{"text": "a"}] * 1_001  # of a few bytes, so that no room is left
    encoded, counts = encode(tmp_path, rows, most)
    sizes = [path.stat().st_size for path in files_of(encoded)]
    assert max(sizes) <= most and min(sizes[:-2]) > 0.8 * most and counts.kept == len(encoded) == 1_001


@pytest.mark.parametrize("most", [1, "1KB"])  # less than a file without rows
def test_the_smallest_shard_is_a_row(most: int | str, tmp_path: Path) -> None:
    rows = [row(0, 3), UNREADABLE, row(2, 2_000), row(3, 1), UNREADABLE]
    encoded, counts = encode(tmp_path, rows, most)
    assert [rows_in(path) for path in files_of(encoded)] == [1, 1, 1]
    assert same(encoded, encode_dataset(make_encoder(), rows, progress=False))
    assert (counts.rows, counts.kept, counts.dropped_invalid) == (5, 3, 2)
    assert [example.row for example in counts.examples] == [1, 4]


@pytest.mark.parametrize("rows", [[], Dataset.from_dict({"messages": []})])
def test_no_rows_are_an_error_and_leave_nothing(rows: Any, tmp_path: Path) -> None:
    with pytest.raises(PadfixError, match="holds no rows"):
        encode(tmp_path, rows)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("most", [1, MOST, "10MB"])
def test_a_chunk_of_which_no_row_is_left_is_counted(most: int | str, tmp_path: Path) -> None:
    few = [row(0, 3), row(1, 400)]
    rows = [*few, *[UNREADABLE] * 2_998, *few]  # of the second and third chunk nothing is left
    for _ in range(2):  # the second time from the files
        encoded, counts = encode(tmp_path, rows, most)
        assert encoded["input_ids"][2:] == encoded["input_ids"][:2] and len(encoded) == 4
        assert (counts.rows, counts.kept, counts.dropped_invalid) == (3_002, 4, 2_998)
    assert all(rows_in(path) <= 1 for path in files_of(encoded)) or most != 1


@pytest.mark.parametrize("kind", ["table", "list that Arrow cannot hold", "mapped"])
@pytest.mark.parametrize("processes", [None, 2])
def test_bytes_depend_neither_on_processes_nor_on_what_holds_the_rows(
    kind: str, processes: int | None, tmp_path: Path
) -> None:
    rows: Any = [one for one in ROWS if one is not UNREADABLE]
    expected = contents(files_of(encode(tmp_path / "expected", rows)[0])[0].parent)
    if kind == "table":
        rows = pyarrow.Table.from_pylist(rows)
    elif kind == "mapped":
        Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
        rows = load_from_disk(tmp_path / "saved")
    else:
        question, answer = rows[5]["messages"]
        rows[5] = {"messages": [dict(reversed(question.items())), answer]}
    encoded, counts = encode(tmp_path / "found", rows, num_proc=processes)
    found = contents(files_of(encoded)[0].parent)
    assert found.keys() == expected.keys() and counts.rows == counts.kept == 1_098
    for name in found:
        if name.endswith(".arrow"):
            assert body_of(found[name]) == body_of(expected[name])


def body_of(stream: bytes) -> bytes:
    """An Arrow stream behind its schema, which holds the fingerprint."""
    return stream[8 + int.from_bytes(stream[4:8], "little") :]


@pytest.mark.parametrize("task", ["dpo", "kto", "reward", "orpo"])
def test_preferences_have_shards_of_the_same_sizes(task: Any, tmp_path: Path) -> None:
    def answer(number: int, text: str) -> str:
        return text * (1 + number % 5 * 300)

    rows = [
        {
            "prompt": f"{number}?",
            "chosen": answer(number, "y"),
            "rejected": answer(number, "y" if number == 7 else "n"),
        }
        for number in range(40)
    ]
    plain = PairEncoder(shared_small(), task=task)
    expected = encode_dataset(plain, rows, progress=False)
    for processes in (None, 2):
        encoder = PairEncoder(shared_small(), task=task)
        encoded, counts = encode(tmp_path / f"{processes}", rows, encoder=encoder, num_proc=processes)
        assert same(encoded, expected) and counts == plain.counts and counts.dropped_equal == 1
        assert len(files_of(encoded)) > 5 and all(path.stat().st_size <= MOST for path in files_of(encoded))
    assert contents(tmp_path / "None") == contents(tmp_path / "2")


def test_the_pieces_of_a_long_text_are_rows_of_shards(tmp_path: Path) -> None:
    rows = [{"text": f"{number} " * 2_000} for number in range(12)]
    encoded, counts = encode(tmp_path, rows, encoder=make_encoder(max_length=1_000))
    assert same(encoded, encode_dataset(make_encoder(max_length=1_000), rows, progress=False))
    assert (counts.rows, counts.split, counts.pieces) == (12, 12, len(encoded)) and len(encoded) > 48
    assert all(path.stat().st_size <= MOST for path in files_of(encoded))


def test_a_part_is_written_before_the_next_piece_is_encoded() -> None:
    begun: list[int] = []

    def encoded() -> Iterator[tuple[Any, Counts]]:
        for number in range(5):
            begun.append(number)
            ids = pyarrow.array([[number] * 1_000] * 10, pyarrow.list_(pyarrow.int32()))
            yield pyarrow.table({"input_ids": ids, "labels": ids}), Counts(rows=10, kept=10)

    seen = [(len(begun), len(message), counts) for message, counts in pack_parts(encoded(), 0, 50_000)]
    assert [number for number, _, _ in seen] == [1, 2, 2, 3, 4, 4, 5, 5, 5]  # six rows each, and two at the end
    assert all(length <= 50_000 for _, length, _ in seen)
    assert [counts for _, _, counts in seen if counts is not None] == [Counts(rows=50, kept=50)] and seen[-1][2]


def test_the_counts_of_a_chunk_take_room_of_its_last_part() -> None:
    counts = Counts(rows=1, examples=(CountedRow(0, "escaped", "x" * 3_000),))
    for number in range(1, 40):
        ids = pyarrow.array([[1] * 99] * number, pyarrow.list_(pyarrow.int32()))
        sizes = [len(message) for message, _ in pack_parts([(pyarrow.table({"input_ids": ids}), counts)], 0, 10_000)]
        assert max(sizes) <= 10_000 and len(sizes) == 1 + (number > 16), number


# ---- stops


def stop_before(monkeypatch: pytest.MonkeyPatch, part: int) -> Callable[[], int]:
    """Interrupt before a part of the next run is written; the result tells how many were."""
    written, append = [0], EncodedFile.append

    def stop(self: EncodedFile, message: Any, counts: Any) -> None:
        if written[0] == part:
            self._stream.write(bytes(message)[: len(message) // 2])
            raise KeyboardInterrupt
        written[0] += 1
        append(self, message, counts)

    monkeypatch.setattr(EncodedFile, "append", stop)
    return lambda: written[0]


@pytest.mark.slow
@pytest.mark.parametrize("most", [MOST, 1, None])
def test_a_run_that_was_stopped_anywhere_goes_on_to_the_same_bytes_and_counts(
    most: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrow_stream, "PART_BYTES", 30_000)  # also of the one file
    rows = ROWS if most != 1 else [*ROWS[:7], *[UNREADABLE] * 990, *ROWS[510:516]]  # of two chunks, too
    expected, counts = encode(tmp_path / "expected", rows, most)
    right = contents(tmp_path / "expected")
    with monkeypatch.context() as patched:
        parts = stop_before(patched, -1)
        encode(tmp_path / "count", rows, most)
        total = parts()
    assert total > 10
    for first in range(0, total, 3):
        folder = tmp_path / f"{first}"
        for stop in (first, random.Random(first).randrange(total)):
            with monkeypatch.context() as patched:
                stop_before(patched, stop)
                encoder = make_encoder()
                try:
                    encode(folder, rows, most, encoder=encoder)
                except KeyboardInterrupt:
                    assert encoder.counts.rows in (0, 1_000)
                    assert not [*folder.rglob("state.json")]
        found, counted = encode(folder, rows, most)
        assert contents(folder) == right and (counted, counted.examples) == (counts, counts.examples)
    assert same(found, expected)


class Killed(ChatEncoder):
    """Comes to harm at the piece that holds a row."""

    at = -1
    harm: Callable[[], None]

    def encode_chunk(self, table: Any, first_row: int = 0, **options: Any) -> tuple[Any, Counts]:
        if first_row <= self.at < first_row + table.num_rows:
            self.harm()
        return super().encode_chunk(table, first_row, **options)


def kill_oneself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this platform")
@pytest.mark.parametrize("at", [30, 600, 999, 1_001])
@pytest.mark.parametrize("processes", [None, 2])
def test_a_process_that_is_killed_inside_a_chunk_loses_no_more_than_the_chunk(
    at: int, processes: int | None, whole: tuple[Dataset, Counts], tmp_path: Path
) -> None:
    encode(tmp_path / "expected")
    rows = Dataset.from_list(ROWS)  # the same rows, as a table
    dying = make_encoder(Killed)
    dying.at, dying.harm = at, kill_oneself

    def die() -> None:
        encode(tmp_path / "found", rows, encoder=dying, num_proc=processes)

    process = multiprocessing.get_context("fork").Process(target=die)
    process.start()
    process.join(120)
    assert process.exitcode == (1 if processes else -signal.SIGKILL)
    left = [*(tmp_path / "found").rglob("data-*.arrow")]
    assert left and not [*(tmp_path / "found").rglob("state.json")]
    assert len(left) > 5 or at == 30 or processes  # shards of a chunk that is not whole
    encoder = make_encoder(Killed)
    encoded, counts = encode(tmp_path / "found", rows, encoder=encoder)
    assert same(encoded, whole[0]) and (counts, counts.examples) == (whole[1], whole[1].examples)
    assert len(files_of(encoded)) == len([*(tmp_path / "found").rglob("data-*.arrow")])
    assert [p.name for p in files_of(encoded)] == sorted(p.name for p in (tmp_path / "expected").rglob("data-*.arrow"))


def test_a_chunk_that_was_written_whole_is_not_encoded_again(tmp_path: Path) -> None:
    rows = pyarrow.Table.from_pylist(ROWS)

    def interrupt() -> None:
        raise KeyboardInterrupt

    encoder = make_encoder(Killed)
    encoder.at, encoder.harm = 1_050, interrupt
    with pytest.raises(KeyboardInterrupt):
        encode(tmp_path, rows, encoder=encoder)
    assert encoder.counts.rows == 1_000
    encoder = make_encoder(Killed)
    encoder.at, encoder.harm = 999, interrupt  # of the chunk that is there
    assert encode(tmp_path, rows, encoder=encoder)[1].rows == 1_100


# ---- damage


def test_damaged_missing_and_stale_shards_are_written_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoded, counts = encode(tmp_path)
    right, files = contents(tmp_path), files_of(encoded)
    for number in range(1, len(files), len(files) // 3):
        damaged = files[number]
        content = damaged.read_bytes()
        for harm in (None, content[:-900] + b"\0" * 900, content[:-8], files[number - 1].read_bytes()):
            caplog.clear()
            damaged.unlink()
            if harm is not None:
                damaged.write_bytes(harm)
            # What a run that was killed may have left of another shard is no part of this one.
            (damaged.parent / f"data-{number + 1:05d}.partial.arrow").write_bytes(content[:-8])
            (damaged.parent / f"data-{number:05d}.partial.arrow").write_bytes(content[:-200])
            found, counted = encode(tmp_path)
            assert [name in caplog.text for name in (damaged.name, "was damaged")] == [harm is not None] * 2
            for aside in damaged.parent.glob("*.damaged"):
                assert aside.name == f"{damaged.name}.damaged"  # no file is called so that is none
                aside.unlink()
            assert contents(tmp_path) == right and counted == counts
    assert len(found) == counts.kept
