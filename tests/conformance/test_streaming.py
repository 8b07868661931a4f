"""Encoding in bounded memory: what is written, read again, taken up again, and done by several processes."""

from __future__ import annotations

import copy
import errno
import logging
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest
from datasets import Dataset, DatasetDict, IterableDataset, load_from_disk
from datasets.fingerprint import Hasher

from llama_padfix import ChatEncoder, Counts, PadfixError, prepare, read_encoding
from llama_padfix.encoding.batch.cross_check import FastPathMismatch
from llama_padfix.encoding.dataset import arrow_stream as encoded_file
from llama_padfix.encoding.dataset import reader as chunks
from llama_padfix.encoding.dataset.encode import encode_dataset
from llama_padfix.encoding.dataset.reader import CHUNK_ROWS, cut_table
from tests.support.small_llama import shared_small

FORK = multiprocessing.get_context("fork") if "fork" in multiprocessing.get_all_start_methods() else None
forking = pytest.mark.skipif(FORK is None, reason="no fork on this platform")


def row(number: int) -> dict[str, Any]:
    spelled = " <|eot_id|>" if number % 500 == 7 else ""
    return {
        "messages": [
            {"role": "user", "content": f"Question {number}?{spelled}"},
            {"role": "assistant", "content": f"Answer {number}." * (1 + number % 3)},
        ]
    }


UNREADABLE: dict[str, Any] = {"messages": [{"role": "user", "content": None}, {"role": "assistant", "content": "Yes"}]}
pytestmark = pytest.mark.slow
ROWS = [row(number) for number in range(3 * CHUNK_ROWS + 400)]
LAST = len(ROWS) - 1


@pytest.fixture(scope="module")
def shared_tokenizer() -> Any:
    return shared_small()  # what is written, and when, does not depend on the vocabulary


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stored") / "rows"
    Dataset.from_list(ROWS).save_to_disk(folder)
    return folder


@pytest.fixture
def source(stored: Path, tmp_path: Path) -> Any:
    """The rows in files, in a folder that nothing is cached in yet."""
    for path in stored.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return load_from_disk(tmp_path)


@pytest.fixture(scope="module")
def undisturbed(shared_tokenizer: Any, stored: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Counts]:
    """What one process writes when nothing happens to it."""
    encoder = ChatEncoder(shared_tokenizer)
    encoded = encode_dataset(encoder, load_from_disk(stored), progress=False, cache_dir=tmp_path_factory.mktemp("c"))
    assert encoded["input_ids"][LAST] == ChatEncoder(shared_tokenizer)(ROWS[LAST])["input_ids"]
    return file_of(encoded).read_bytes(), encoder.counts


def file_of(encoded: Any) -> Path:
    [file] = encoded.cache_files
    return Path(file["filename"])


def written(folder: Path) -> list[str]:
    """The endings of the names of what encoding wrote."""
    return sorted(path.name.split(".", 1)[1] for path in folder.glob("cache-*") if path.suffix != ".lock")


def whole(counts: Counts) -> dict[str, Any]:
    return vars(counts)  # with the examples, which == leaves out


class Watched(ChatEncoder):
    """Tells of each chunk that it begins, wherever that happens, and may come to harm in one."""

    harm: tuple[int, Callable[[], None]] | None = None
    log: Path | None = None

    def encode_chunk(self, table: Any, first_row: int = 0, **options: Any) -> tuple[Any, Counts]:
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(f"{first_row}\n")
        if self.harm is not None and self.harm[0] == first_row:
            self.harm[1]()
        return super().encode_chunk(table, first_row, **options)


def watch(shared_tokenizer: Any, log: Path, harm: tuple[int, Callable[[], None]] | None = None) -> Watched:
    encoder = Watched(shared_tokenizer)
    encoder.log, encoder.harm = log, harm
    log.write_text("")
    return encoder


def begun(log: Path) -> list[int]:
    return sorted(int(line) for line in log.read_text().split())


def kill_oneself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt() -> None:
    raise KeyboardInterrupt


def run_forked(work: Callable[..., object], *arguments: Any) -> int | None:
    assert FORK is not None
    process = FORK.Process(target=work, args=arguments)
    process.start()
    process.join(120)
    process.kill()
    process.join()
    return process.exitcode


def test_a_dataset_in_files_becomes_a_mapped_file_beside_them(
    source: Any, shared_tokenizer: Any, tmp_path: Path
) -> None:
    prepared = prepare(copy.deepcopy(shared_tokenizer), device="cpu")
    encoded = prepared.encode(source, progress=False)
    assert file_of(encoded).parent == tmp_path and written(tmp_path) == ["arrow"]
    assert encoded.features["labels"].feature.dtype == "int32" and encoded.column_names == ["input_ids", "labels"]
    for number in (0, CHUNK_ROWS - 1, CHUNK_ROWS, LAST):
        assert encoded.with_format(None)[number] == prepared.encoder(ROWS[number])
    assert prepared.counts.escaped == 7 and prepared.counts.examples[-1].row == 2007
    assert source.cleanup_cache_files() == 1  # what datasets calls a cache file of these rows


def test_a_second_call_reads_the_file_and_says_the_same(
    source: Any, shared_tokenizer: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = ChatEncoder(shared_tokenizer), ChatEncoder(shared_tokenizer, engine="tokenizers")
    with caplog.at_level(logging.WARNING, "llama_padfix"):
        encoded = encode_dataset(first, source, progress=False)
        monkeypatch.delattr(ChatEncoder, "encode_chunk")
        monkeypatch.delattr(ChatEncoder, "encode_rows")
        again = encode_dataset(second, source, progress=False)
        encode_dataset(second, source, progress=False)
    assert file_of(again) == file_of(encoded) and again[:] == encoded[:]
    assert (
        file_of(again).stem == f"cache-{again._fingerprint}" == f"cache-{encoded._fingerprint}"
    )  # so that `map` on it is cached, too
    assert read_encoding(again) == read_encoding(encoded) == first.encoding
    assert caplog.messages[0] == caplog.messages[1] and "\n  escaped: row 7 " in caplog.messages[0]
    assert second.counts == first.counts + first.counts and second.counts.examples == first.counts.examples


def last_only(message: Mapping[str, Any], index: int) -> bool:
    return index > 0


def name_of(encoder: ChatEncoder, dataset: Any, folder: Path) -> str:
    return file_of(encode_dataset(encoder, dataset, progress=False, cache_dir=folder)).name


def test_whatever_decides_the_ids_gives_another_file(shared_tokenizer: Any, tmp_path: Path) -> None:
    few = Dataset.from_list([{**item, "text": "Once"} for item in ROWS[:8]])
    other_template, eos = copy.deepcopy(shared_tokenizer), copy.deepcopy(shared_tokenizer)
    other_template.chat_template += "{# #}"
    eos.eos_token = "<|end_of_text|>"
    given: list[Any] = [{}, {"max_length": 300}, {"train_on": "last"}, {"train_on": last_only}]
    encoders = [
        *(ChatEncoder(shared_tokenizer, **one) for one in given),
        ChatEncoder(shared_tokenizer, train_on=lambda message, index: index > 0 and bool(message)),
        ChatEncoder(shared_tokenizer, special_tokens="allow"),
        ChatEncoder(shared_tokenizer, template_kwargs={"date_string": "03 Feb 2019"}),
        ChatEncoder(other_template),
        ChatEncoder(eos),
    ]
    names = [name_of(encoder, few, tmp_path) for encoder in encoders]
    variants = [few.select(range(7)), few.shuffle(seed=1), few.with_format(columns=["text"]), few.to_list()]
    variants.append(few.with_transform(lambda batch: {"text": batch["text"]}))
    variants.append([*few.to_list()[:7], {**row(7), "text": None}])
    names += [name_of(encoders[0], variant, tmp_path) for variant in variants]
    assert len({*names}) == len(names)
    again = [ChatEncoder(shared_tokenizer, **one) for one in given]
    assert [name_of(encoder, few, tmp_path) for encoder in again] == names[:4]
    assert name_of(again[0], [dict(reversed(item.items())) for item in few.to_list()][::-1][::-1], tmp_path)
    assert name_of(again[0], copy.deepcopy(few.to_list()), tmp_path) == name_of(again[0], few.to_list(), tmp_path)


def test_a_tokenizer_that_is_changed_after_its_encoder_was_used_gives_another_file(
    shared_tokenizer: Any, tmp_path: Path
) -> None:
    tokenizer = copy.deepcopy(shared_tokenizer)
    encoder = ChatEncoder(tokenizer)
    before = name_of(encoder, ROWS[:2], tmp_path)
    tokenizer.add_tokens(["Question 0"])
    encoded = encode_dataset(encoder, ROWS[:2], progress=False, cache_dir=tmp_path)
    assert file_of(encoded).name != before and len(tokenizer) - 1 in encoded[0]["input_ids"]


def test_a_setting_that_cannot_be_hashed_is_not_cached_and_that_is_said(
    shared_tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = (number for number in range(1))  # which no pickler knows

    def choose(message: Mapping[str, Any], index: int) -> bool:
        return found is not None

    encoded = encode_dataset(
        ChatEncoder(shared_tokenizer, train_on=choose), ROWS[:2], progress=False, cache_dir=tmp_path
    )
    assert len(encoded) == 2 and written(tmp_path) == []
    assert "the encoded rows are not cached: train_on cannot be hashed" in caplog.text


def test_rows_from_memory_stay_there_while_they_are_few(
    encoder: ChatEncoder, monkeypatch: pytest.MonkeyPatch, undisturbed: tuple[bytes, Counts]
) -> None:
    for rows in (ROWS, Dataset.from_list(ROWS)):
        small = encode_dataset(encoder, rows, progress=False)
        assert not small.cache_files
        monkeypatch.setattr(encoded_file, "_IN_MEMORY", 500_000)
        large = encode_dataset(encoder, rows, progress=False)
        monkeypatch.undo()
        folder = Path(datasets.fingerprint.get_temporary_cache_files_directory())
        assert file_of(large).parent == folder and written(folder) == ["arrow"]
        assert large[:] == small[:] and body_of(file_of(large).read_bytes()) == body_of(undisturbed[0])
        file_of(large).unlink()


def body_of(stream: bytes) -> bytes:
    """An Arrow stream behind its schema, which holds the fingerprint."""
    return stream[8 + int.from_bytes(stream[4:8], "little") :]


def test_with_caching_disabled_nothing_is_left_and_nothing_read(
    source: Any, shared_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.fingerprint, "_CACHING_ENABLED", False)
    few = source.select(range(5))
    log = tmp_path / "log"
    encoder = watch(shared_tokenizer, log)
    for _ in range(2):
        encode_dataset(encoder, few, progress=False)
    assert begun(log) == [0, 0] and written(tmp_path) == []


def test_splits_are_cached_each(source: Any, encoder: ChatEncoder, tmp_path: Path) -> None:
    splits = DatasetDict(train=source.select(range(3)), test=source.select(range(3, 6)))
    encoded = encode_dataset(encoder, splits, progress=False, cache_dir=tmp_path / "new" / "cache")
    assert file_of(encoded["train"]) != file_of(encoded["test"])
    assert written(tmp_path / "new" / "cache") == ["arrow", "arrow"]


def test_no_file_is_left_where_no_row_is(shared_tokenizer: Any, tmp_path: Path) -> None:
    encoder = ChatEncoder(shared_tokenizer, on_error="drop")
    for _ in range(2):
        with pytest.raises(PadfixError, match="No row of the dataset is left"):
            encode_dataset(encoder, [UNREADABLE] * 2, progress=False, cache_dir=tmp_path)
    assert written(tmp_path) == [] and encoder.counts.dropped_invalid == 4


def test_a_chunk_without_a_row_left_is_no_chunk_less(shared_tokenizer: Any, tmp_path: Path) -> None:
    encoder = ChatEncoder(shared_tokenizer, on_error="drop")
    rows = [*ROWS[:CHUNK_ROWS], *[UNREADABLE] * CHUNK_ROWS, *ROWS[:3]]
    for _ in range(2):
        encoded = encode_dataset(encoder, rows, progress=False, cache_dir=tmp_path)
        assert len(encoded) == CHUNK_ROWS + 3 and encoded[CHUNK_ROWS + 1] == encoded[1]
    assert encoder.counts.dropped_invalid == 2 * CHUNK_ROWS


@forking
@pytest.mark.parametrize("chunk", [0, 1, 3])
def test_a_killed_run_goes_on_at_its_chunk_and_writes_the_same_bytes(
    chunk: int, source: Any, shared_tokenizer: Any, tmp_path: Path, undisturbed: tuple[bytes, Counts]
) -> None:
    log = tmp_path / "log"
    dying = watch(shared_tokenizer, log, (chunk * CHUNK_ROWS, kill_oneself))
    assert run_forked(encode_dataset, dying, source) == -signal.SIGKILL
    assert written(tmp_path) == ["partial.arrow"]
    encoder = watch(shared_tokenizer, log)
    encoded = encode_dataset(encoder, source, progress=False)
    assert begun(log) == [number * CHUNK_ROWS for number in range(chunk, 4)]
    assert file_of(encoded).read_bytes() == undisturbed[0] and written(tmp_path) == ["arrow"]
    assert whole(encoder.counts) == whole(undisturbed[1])


def test_an_interrupted_run_counts_what_it_did_and_goes_on(
    source: Any, shared_tokenizer: Any, tmp_path: Path, undisturbed: tuple[bytes, Counts]
) -> None:
    log = tmp_path / "log"
    encoder = watch(shared_tokenizer, log, (2 * CHUNK_ROWS, interrupt))
    with pytest.raises(KeyboardInterrupt):
        encode_dataset(encoder, source, progress=False)
    assert encoder.counts.rows == 2 * CHUNK_ROWS
    encoder = watch(shared_tokenizer, log)
    assert file_of(encode_dataset(encoder, source, progress=False)).read_bytes() == undisturbed[0]
    assert begun(log) == [2 * CHUNK_ROWS, 3 * CHUNK_ROWS] and whole(encoder.counts) == whole(undisturbed[1])


def cut_at(*lengths: float) -> Callable[[bytes], bytes]:
    return lambda content: content[: int(sum(lengths) * len(content))]


HARMS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "head cut": lambda content: content[:100],
    "one byte missing": lambda content: content[:-1],
    "half": lambda content: content[: len(content) // 2],
    "zeros at the end, as a crashed machine leaves them": lambda content: (
        content[: len(content) // 2] + bytes(len(content) // 2)
    ),
    "a wrong id": lambda content: content[:-2000] + bytes([content[-2000] ^ 1]) + content[-1999:],
    "another file": lambda content: b"PAR1" * 1000,
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_chunk_that_is_not_whole_is_never_read(
    harm: str, source: Any, shared_tokenizer: Any, tmp_path: Path, undisturbed: tuple[bytes, Counts]
) -> None:
    few = source.select(range(2 * CHUNK_ROWS + 1))
    log = tmp_path / "log"
    with pytest.raises(KeyboardInterrupt):
        encode_dataset(watch(shared_tokenizer, log, (2 * CHUNK_ROWS, interrupt)), few, progress=False)
    [partial] = tmp_path.glob("cache-*.partial.arrow")
    partial.write_bytes(HARMS[harm](partial.read_bytes()))
    encoder = watch(shared_tokenizer, log)
    encoded = encode_dataset(encoder, few, progress=False)
    kept = 1 if harm in ("one byte missing", "half", "a wrong id") else 0
    if not harm.startswith("zeros"):
        assert begun(log) == [number * CHUNK_ROWS for number in range(kept, 3)]
    content = body_of(file_of(encoded).read_bytes())
    first, second = (len(body_of(partial_bytes)) for partial_bytes in chunks_of(file_of(encoded), 2))
    assert content[: first + second] == body_of(undisturbed[0])[: first + second]
    assert encoder.counts.rows == 2 * CHUNK_ROWS + 1


def chunks_of(path: Path, number: int) -> Iterator[bytes]:
    with pyarrow.memory_map(str(path)) as file:
        stream = pyarrow.ipc.open_stream(file)
        for _ in range(number):
            batch = stream.read_next_batch()
            sink = pyarrow.BufferOutputStream()
            with pyarrow.ipc.new_stream(sink, batch.schema) as out:
                out.write_batch(batch)
            yield sink.getvalue().to_pybytes()[:-8]


def test_a_finished_file_that_was_cut_is_written_again(
    source: Any, encoder: ChatEncoder, undisturbed: tuple[bytes, Counts]
) -> None:
    path = file_of(encode_dataset(encoder, source, progress=False))
    for content in (undisturbed[0][:-9], undisturbed[0][:2000] + undisturbed[0][-8:], b""):
        path.write_bytes(content)
        assert file_of(encode_dataset(encoder, source, progress=False)).read_bytes() == undisturbed[0]


def test_after_a_bad_row_nothing_is_encoded_twice_and_mended_rows_are_encoded_anew(
    shared_tokenizer: Any, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    rows = [*ROWS[: 2 * CHUNK_ROWS + 5], UNREADABLE]
    Dataset.from_list(rows).save_to_disk(tmp_path / "bad")
    for expected in ([0, CHUNK_ROWS, 2 * CHUNK_ROWS], [2 * CHUNK_ROWS]):
        encoder = watch(shared_tokenizer, log)
        with pytest.raises(PadfixError, match=r"^row 2005: .*content"):
            encode_dataset(encoder, load_from_disk(tmp_path / "bad"), progress=False)
        assert begun(log) == expected and encoder.counts.rows == 2 * CHUNK_ROWS
    rows[-1] = ROWS[0]
    Dataset.from_list(rows).save_to_disk(tmp_path / "mended")
    encoded = encode_dataset(watch(shared_tokenizer, log), load_from_disk(tmp_path / "mended"), progress=False)
    assert begun(log) == [0, CHUNK_ROWS, 2 * CHUNK_ROWS] and encoded[2005] == encoded[0]


def encode_on_a_small_disk(encoder: ChatEncoder, source: Any, most: int, said: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    try:
        encode_dataset(encoder, source, progress=False)
    except PadfixError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        said.write_text(str(error))


@forking
def test_a_full_disk_is_said_and_the_next_call_goes_on(
    source: Any, shared_tokenizer: Any, tmp_path: Path, undisturbed: tuple[bytes, Counts]
) -> None:
    assert errno.EFBIG  # what the system says at the limit of a file's size, in place of ENOSPC
    log, most = tmp_path / "log", len(undisturbed[0]) * 2 // 3
    assert run_forked(encode_on_a_small_disk, watch(shared_tokenizer, log), source, most, tmp_path / "said") == 0
    assert "is full after 2000 of 3400 rows. Make room" in (tmp_path / "said").read_text()
    encoder = watch(shared_tokenizer, log)
    assert file_of(encode_dataset(encoder, source, progress=False)).read_bytes() == undisturbed[0]
    assert begun(log) == [2 * CHUNK_ROWS, 3 * CHUNK_ROWS]


SOURCES: dict[str, Callable[[Any], Any]] = {
    "in files": lambda source: source,
    "in memory": lambda source: Dataset.from_list(ROWS),
    "list": lambda source: list(ROWS),
    "list that Arrow cannot hold": lambda source: [*ROWS[:-1], {**ROWS[-1], "other": 1}],
    "transform": lambda source: source.with_transform(lambda batch: {"messages": batch["messages"]}),
}


@forking
@pytest.mark.parametrize("kind", SOURCES)
def test_several_processes_write_the_bytes_of_one(
    kind: str, source: Any, shared_tokenizer: Any, tmp_path: Path, undisturbed: tuple[bytes, Counts]
) -> None:
    for rows, processes in ((SOURCES[kind](source), n) for n in ((2, 3) if kind == "in files" else (2,))):
        encoder, one = ChatEncoder(shared_tokenizer), ChatEncoder(shared_tokenizer)
        to = tmp_path / str(processes)
        encoded = encode_dataset(encoder, rows, progress=False, num_proc=processes, cache_dir=to)
        if kind == "list that Arrow cannot hold":  # its counts name one more column
            alone = encode_dataset(one, rows, progress=False, cache_dir=tmp_path)
            undisturbed = file_of(alone).read_bytes(), one.counts
        assert body_of(file_of(encoded).read_bytes()) == body_of(undisturbed[0])
        assert whole(encoder.counts) == whole(undisturbed[1])


@forking
def test_processes_read_shuffled_rows_in_their_order(source: Any, encoder: ChatEncoder, tmp_path: Path) -> None:
    shuffled = source.shuffle(seed=3)
    several = encode_dataset(encoder, shuffled, progress=False, num_proc=2, cache_dir=tmp_path / "2")
    one = encode_dataset(encoder, shuffled, progress=False, cache_dir=tmp_path / "1")
    assert file_of(several).read_bytes() == file_of(one).read_bytes()
    assert one[LAST] == encoder(shuffled[LAST])


def test_processes_that_are_not_forked_write_the_same(
    shared_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: tuple[bytes, Counts]
) -> None:
    monkeypatch.setattr(multiprocessing, "get_context", lambda: multiprocessing.context.SpawnContext())
    encoder = ChatEncoder(shared_tokenizer, train_on=lambda message, index: True)  # which pickle does not know
    rows = Dataset.from_list(ROWS)
    encoded = encode_dataset(encoder, rows, progress=False, num_proc=2, cache_dir=tmp_path)
    assert body_of(file_of(encoded).read_bytes()) == body_of(undisturbed[0])


@forking
def test_the_first_bad_row_is_named_whichever_process_meets_it(
    source: Any, shared_tokenizer: Any, tmp_path: Path
) -> None:
    rows = list(ROWS)
    rows[1203] = rows[2001] = UNREADABLE
    encoder = ChatEncoder(shared_tokenizer)
    with pytest.raises(PadfixError, match=r"^split 'train', row 1203: .*content"):
        encode_dataset(encoder, {"train": rows}, progress=False, num_proc=3, cache_dir=tmp_path)
    assert encoder.counts.rows == CHUNK_ROWS and written(tmp_path) == ["partial.arrow"]


@forking
def test_a_process_that_dies_is_said_and_the_next_call_goes_on(
    source: Any, shared_tokenizer: Any, tmp_path: Path, undisturbed: tuple[bytes, Counts]
) -> None:
    log = tmp_path / "log"

    def die_later() -> None:
        time.sleep(1)  # the chunks before it are done
        kill_oneself()

    dying = watch(shared_tokenizer, log, (3 * CHUNK_ROWS, die_later))
    with pytest.raises(PadfixError, match=r"One of 2 processes that encode ended without a word.*about row 3000"):
        encode_dataset(dying, source, progress=False, num_proc=2)
    encoder = watch(shared_tokenizer, log)
    encoded = encode_dataset(encoder, source, progress=False, num_proc=2)
    assert begun(log) == [3 * CHUNK_ROWS] and file_of(encoded).read_bytes() == undisturbed[0]
    assert whole(encoder.counts) == whole(undisturbed[1])


def encode_and_tell(encoder: ChatEncoder, source: Any, folder: Path) -> None:
    encoded = encode_dataset(encoder, source, progress=False, cache_dir=folder)
    counts = "\n".join([str(encoder.counts), *encoder.counts.name_rows()])
    (folder.parent / f"{os.getpid()}.told").write_text(f"{hash(str(encoded[:]))}\n{counts}")


@forking
def test_of_processes_that_encode_the_same_at_once_one_does_and_all_have_it(
    source: Any, shared_tokenizer: Any, tmp_path: Path, undisturbed: tuple[bytes, Counts]
) -> None:
    assert FORK is not None
    log, folder = tmp_path / "log", tmp_path / "cache"
    encoder = watch(shared_tokenizer, log, (0, lambda: time.sleep(1)))
    processes = [FORK.Process(target=encode_and_tell, args=(encoder, source, folder)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert begun(log) == [number * CHUNK_ROWS for number in range(4)]
    told = [path.read_text() for path in tmp_path.glob("*.told")]
    assert len(told) == 3 and len({*told}) == 1
    [path] = folder.glob("cache-*.arrow")
    assert path.read_bytes() == undisturbed[0] and told[0].endswith("\n".join(undisturbed[1].name_rows()))


@contextmanager
def started(work: Callable[..., object], *arguments: Any) -> Iterator[Any]:
    assert FORK is not None
    process = FORK.Process(target=work, args=arguments)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def encode_with_two(encoder: ChatEncoder, source: Any) -> None:
    encode_dataset(encoder, source, progress=False, num_proc=2)


@forking
def test_a_killed_parent_takes_its_processes_and_its_lock_along(
    source: Any, shared_tokenizer: Any, tmp_path: Path, undisturbed: tuple[bytes, Counts]
) -> None:
    log = tmp_path / "log"
    slow = watch(shared_tokenizer, log, (3 * CHUNK_ROWS, lambda: time.sleep(600)))
    with started(encode_with_two, slow, source) as process:
        wait_for(lambda: 3 * CHUNK_ROWS in begun(log) and partial_length(tmp_path) > len(undisturbed[0]) // 2)
        process.kill()
    # Behind a lock that outlived its owner it would wait ten minutes.
    assert run_forked(encode_dataset, ChatEncoder(shared_tokenizer), source) == 0
    encoded = encode_dataset(ChatEncoder(shared_tokenizer), source, progress=False)
    assert file_of(encoded).read_bytes() == undisturbed[0]


def partial_length(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("cache-*.partial.arrow"))


def wait_for(found: Callable[[], bool]) -> None:
    for _ in range(1200):
        if found():
            return
        time.sleep(0.1)
    raise AssertionError("it did not happen")


class Failing(ChatEncoder):
    """Has an engine that turns out wrong in its third chunk: ids before that are wrong, too; or another fast way."""

    failed = False
    of_any_engine = False

    @property
    def doubtful(self) -> bool:
        return self.failed

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "failed"}

    def encode_chunk(
        self, table: Any, first_row: int = 0, *, strict: bool = False, **options: Any
    ) -> tuple[Any, Counts]:
        encoded, counts = super().encode_chunk(table, first_row, **options)
        if not self.failed and (self.of_any_engine or self.engine != "tokenizers"):
            self.failed = first_row >= 2 * CHUNK_ROWS
            encoded = encoded.set_column(0, "input_ids", encoded.column("labels"))
        if self.failed and strict:
            raise FastPathMismatch("the third chunk")
        return encoded, counts


@forking
@pytest.mark.parametrize("of_any_engine", [False, True])
@pytest.mark.parametrize("processes", [1, 2])
def test_nothing_of_a_fast_way_that_failed_is_kept(
    processes: int, of_any_engine: bool, source: Any, shared_tokenizer: Any, undisturbed: tuple[bytes, Counts]
) -> None:
    encoder = Failing(shared_tokenizer)
    encoder.of_any_engine = of_any_engine
    encoded = encode_dataset(encoder, source, progress=False, num_proc=processes)
    assert file_of(encoded).read_bytes() == undisturbed[0]
    assert whole(encoder.counts) == whole(undisturbed[1])
    encoder.failed = True  # from now on it tells of nothing new
    again = encode_dataset(encoder, source.select(range(LAST)), progress=False, num_proc=processes)
    assert again[:] == encoded[:LAST]


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "2"])
def test_a_number_of_processes_is_one(wrong: Any, encoder: ChatEncoder) -> None:
    with pytest.raises(PadfixError, match="num_proc="):
        encode_dataset(encoder, ROWS[:2], progress=False, num_proc=wrong)


@pytest.mark.parametrize("given", [{"num_proc": 2}, {"cache_dir": "here"}])
def test_a_stream_is_neither_cached_nor_handed_out(given: dict[str, Any], encoder: ChatEncoder) -> None:
    stream = Dataset.from_list(ROWS[:2]).to_iterable_dataset()
    with pytest.raises(PadfixError, match="is a stream"):
        encode_dataset(encoder, stream, progress=False, **given)


def test_a_folder_that_cannot_be_made_is_said(encoder: ChatEncoder, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PadfixError, match="cannot be made"):
        encode_dataset(encoder, ROWS[:2], progress=False, cache_dir=tmp_path / "file" / "cache")


@pytest.mark.parametrize("mapped", [True, False])
def test_an_arrow_stream_is_encoded_as_arrow(
    mapped: bool, source: Any, encoder: ChatEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = source.select(range(1203)) if mapped else Dataset.from_list(ROWS[:1203])
    stream = rows.to_iterable_dataset().with_format("arrow")
    encoded = encode_dataset(encoder, stream, progress=False)
    monkeypatch.delattr(ChatEncoder, "encode_rows")
    found = list(encoded)
    assert isinstance(encoded, IterableDataset) and list(encoded.column_names or ()) == ["input_ids", "labels"]
    monkeypatch.undo()
    assert found[1202] == encoder(ROWS[1202]) and len(found) == 1203


def test_an_encoder_is_known_again_after_its_use_and_in_another_process(shared_tokenizer: Any, tmp_path: Path) -> None:
    encoder = ChatEncoder(shared_tokenizer, max_length=300)
    hashed = Hasher.hash(encoder)
    name = name_of(encoder, ROWS[:3], tmp_path)
    encoder(ROWS[0])
    assert Hasher.hash(encoder) == hashed
    shared_tokenizer.save_pretrained(tmp_path / "saved")
    script = (
        "import sys; from transformers import AutoTokenizer; from datasets.fingerprint import Hasher\n"
        "from llama_padfix import ChatEncoder; from llama_padfix.encoding.dataset.cache import find_cache_file\n"
        "from tests.conformance.test_streaming import ROWS\n"
        "encoders = [ChatEncoder(AutoTokenizer.from_pretrained(sys.argv[1]), max_length=300) for _ in range(2)]\n"
        "file = find_cache_file(encoders[0], ROWS[:3], sys.argv[2])\n"
        "print(len({Hasher.hash(one) for one in encoders}), file.name)\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "saved"), str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.split() == ["1", name], done.stderr


def test_arguments_of_tools_keep_their_own_keys_in_a_list(encoder: ChatEncoder) -> None:
    calls = [{"city": "Rome"}, {"day": 1}]
    rows = [
        {
            "messages": [
                {"role": "user", "content": "Go"},
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": arguments}}],
                },
            ]
        }
        for arguments in calls
    ]
    encoded = encode_dataset(encoder, rows, progress=False)
    texts = [encoder.tokenizer.decode(ids) for ids in encoded["input_ids"]]
    assert '{"city": "Rome"}' in texts[0] and '{"day": 1}' in texts[1]


def test_long_rows_are_encoded_in_parts_and_give_the_same(
    source: Any,
    shared_tokenizer: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: tuple[bytes, Counts],
) -> None:
    monkeypatch.setattr(chunks, "_PIECE_BYTES", 20_000)
    encoder = watch(shared_tokenizer, tmp_path / "log")
    assert file_of(encode_dataset(encoder, source, progress=False)).read_bytes() == undisturbed[0]
    assert len(begun(tmp_path / "log")) > 8 and whole(encoder.counts) == whole(undisturbed[1])
    [part] = cut_table(pyarrow.table({"a": ["x" * 50_000]}))
    assert part.num_rows == 1


def test_the_bar_shows_rows_and_tokens_per_second(encoder: ChatEncoder, capsys: pytest.CaptureFixture[str]) -> None:
    encode_dataset(encoder, ROWS[: CHUNK_ROWS + 1])
    shown = capsys.readouterr().err
    assert "Encoding dataset: 100%" in shown and "1001/1001" in shown
    assert "row/s" in shown and "tokens/s=" in shown and f"tokens={encoder.counts.tokens}" in shown
