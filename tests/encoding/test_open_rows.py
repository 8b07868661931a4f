"""Paths, frames, Arrow tables and generators as rows: the same ids as the list, nothing changed, bad rows named."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest
from pyarrow import parquet

from llama_padfix import ChatEncoder, PadfixError, diagnose, encode_dataset, view_mask
from llama_padfix.encoding.dataset.files import open_rows
from llama_padfix.encoding.dataset.open_rows import as_rows
from tests.support.small_llama import shared_small

TOKENIZER = shared_small()  # what is read does not depend on the vocabulary
PAIRS = [{"prompt": f"Is {n} even?", "completion": ["Yes", "No"][n % 2]} for n in range(7)]
CHATS = [
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": f"Hello {n}"}]} for n in range(5)
]
TOOLS = [
    {
        "messages": [
            {"role": "user", "content": "Look"},
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]},
            {"role": "tool", "content": "2024-01-01"},
            {"role": "assistant", "content": "2024-01-01"},
        ]
    }
    for arguments in ({"a": 1}, {"b": "x", "c": [1.5]}, {"a": "text"})
]


def lines(rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def write_csv(path: Path, rows: Any, **form: Any) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), **form)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_parquet(path: Path, rows: Any) -> Path:
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=2)
    return path


def written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def encode(rows: Any, **settings: Any) -> Any:
    encoder = ChatEncoder(TOKENIZER, **settings)
    return encode_dataset(encoder, rows, progress=False).to_dict(), encoder.counts


KINDS: dict[str, Callable[[Path, Any], Any]] = {
    "jsonl": lambda folder, rows: str(written(folder / "train.jsonl", lines(rows))),
    "ndjson": lambda folder, rows: written(folder / "train.NDJSON", lines(rows)),
    "json": lambda folder, rows: written(folder / "train.json", json.dumps(rows).encode()),
    "json lines": lambda folder, rows: written(folder / "train.json", lines(rows)),
    "byte order mark": lambda folder, rows: written(folder / "train.jsonl", b"\xef\xbb\xbf" + lines(rows)),
    "gz": lambda folder, rows: written(folder / "train.jsonl.gz", gzip.compress(lines(rows))),
    "json.gz": lambda folder, rows: written(folder / "train.json.gz", gzip.compress(json.dumps(rows).encode())),
    "bz2": lambda folder, rows: written(folder / "train.jsonl.bz2", bz2.compress(lines(rows))),
    "xz": lambda folder, rows: written(folder / "train.jsonl.xz", lzma.compress(lines(rows))),
    "parquet": lambda folder, rows: write_parquet(folder / "train.parquet", rows),
    "folder": lambda folder, rows: (
        written(folder / "data" / "a.jsonl", lines(rows[:2]))
        and written(folder / "data" / "deep" / "b.json.gz", gzip.compress(json.dumps(rows[2:3]).encode()))
        and written(folder / "data" / "README.md", b"# Rows")
        and written(folder / "data" / "_SUCCESS", b"")
        and write_parquet(folder / "data" / "deep" / "c.parquet", rows[3:])
        and folder / "data"
    ),
    "folder of parquet": lambda folder, rows: (
        write_parquet(folder / "1.parquet", rows[:3]) and write_parquet(folder / "2.parquet", rows[3:]) and folder
    ),
    "save_to_disk": lambda folder, rows: (
        datasets.Dataset.from_list(rows).save_to_disk(str(folder / "d")) or folder / "d"
    ),
    "table": lambda _, rows: pyarrow.Table.from_pylist(rows),
    "record batch": lambda _, rows: pyarrow.RecordBatch.from_pylist(rows),
    "reader": lambda _, rows: pyarrow.Table.from_pylist(rows).to_reader(max_chunksize=2),
    "generator": lambda _, rows: iter(rows),
    "map": lambda _, rows: map(dict, rows),
    "torch": lambda _, rows: Indexed(rows),
    "pandas": lambda _, rows: pytest.importorskip("pandas").DataFrame(rows),
    "pandas of parquet": lambda folder, rows: pytest.importorskip("pandas").read_parquet(
        write_parquet(folder / "train.parquet", rows)
    ),
    "polars": lambda _, rows: pytest.importorskip("polars").DataFrame(rows),
}


class Indexed:
    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> Any:
        return self.rows[place]  # and no slice


@pytest.mark.parametrize("rows", [PAIRS, CHATS], ids=["pairs", "chats"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_ids_of_the_list(kind: str, rows: Any, tmp_path: Path) -> None:
    assert encode(KINDS[kind](tmp_path, rows)) == encode(rows)


@pytest.mark.parametrize("kind", ["jsonl", "gz", "folder", "generator", "pandas"])
def test_values_stay_what_they_are_in_json_and_frames(kind: str, tmp_path: Path) -> None:
    assert encode(KINDS[kind](tmp_path, TOOLS)) == encode(TOOLS)


HARD = [
    {"prompt": "007", "completion": "1e3"},
    {"prompt": "2024-01-01", "completion": "true"},
    {"prompt": 'He said: "a, b"', "completion": " two\nlines\r\n"},
    {"prompt": "你好 🙂", "completion": "x" * 200_000},
]


@pytest.mark.parametrize(
    ("name", "form"), [("a.csv", {}), ("a.tsv", {"delimiter": "\t"}), ("a.csv", {"quoting": csv.QUOTE_ALL})]
)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_csv_file_holds_texts(name: str, form: Any, mark: bytes, tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    path = write_csv(tmp_path / name, HARD, **form)
    path.write_bytes(mark + path.read_bytes())
    packed = written(tmp_path / f"{name}.gz", gzip.compress(path.read_bytes()))
    assert list(open_rows(path)) == list(open_rows(packed)) == HARD
    assert csv.field_size_limit() == limit
    assert encode(path) == encode(HARD)


def test_an_empty_field_of_a_csv_file_is_null(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", b"instruction,input,output\nSay,,yes\n\nSay,,\n")
    assert list(open_rows(path)) == [
        {"instruction": "Say", "input": None, "output": "yes"},
        {"instruction": "Say", "input": None, "output": None},
    ]
    with pytest.raises(PadfixError, match=r"row 1: the columns are instruction, input \(null\), output \(null\)"):
        encode(path)


BAD_LINES = (
    lines(CHATS[:1]) + b"\n{not json}\n" + lines(CHATS[1:2]) + b'{"messages": "\xff"}\n[3]\n' + lines(CHATS[2:])
)


@pytest.mark.parametrize("packed", [False, True])
def test_a_line_that_is_no_json_is_a_bad_row_with_its_line(packed: bool, tmp_path: Path) -> None:
    name, content = ("a.jsonl.gz", gzip.compress(BAD_LINES)) if packed else ("a.jsonl", BAD_LINES)
    path = written(tmp_path / name, content)
    with pytest.raises(PadfixError, match=rf"row 1: line 3 of {name} is not valid JSON \(.*not json"):
        encode(path)
    made, counts = encode(path, on_error="drop")
    assert made == encode(CHATS)[0] and (counts.rows, counts.kept, counts.dropped_invalid) == (8, 5, 3)
    assert [line for line in counts.name_rows() if "row 1 (row 1: " in line or "row 1 (line 3 of" in line]


@pytest.mark.slow
def test_processes_and_a_cache_give_the_same(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", BAD_LINES + lines(PAIRS * 400))
    encoder = ChatEncoder(TOKENIZER, on_error="drop")
    alone = encode_dataset(encoder, path, progress=False)
    for _ in range(2):
        other = ChatEncoder(TOKENIZER, on_error="drop")
        cached = encode_dataset(other, str(path), progress=False, num_proc=2, cache_dir=tmp_path / "cache")
        assert cached.to_dict() == alone.to_dict() and other.counts == encoder.counts
    assert len([*(tmp_path / "cache").glob("*.arrow")]) == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"prompt,completion\na,b\nc\n", r"row 1: line 3 of a.csv has 1 fields, and the header 2"),
        (b"prompt,completion\na,\xff\n", r"row 0: line 2 of a.csv is not UTF-8"),
        (b'prompt,completion\na,b\nc,"d\ne,f\n', r"line 3 of a.csv begins a record that does not end well"),
        (b"a,a\n1,2\n", r"names a column twice: a, a"),
        (b"prompt;completion\na;b\n", r"the columns are prompt;completion"),
    ],
)
def test_a_csv_file_that_is_broken_is_named_by_its_line(content: bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(PadfixError, match=said):
        encode(written(tmp_path / "a.csv", content))


def test_missing_values_of_a_frame_are_null_and_numbers_are_no_text() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"prompt": ["a", None, "c"], "completion": ["b", float("nan"), "d"], "n": [1, None, 3]})
    made, counts = encode(frame, on_error="drop")
    assert len(made["input_ids"]) == 2 and counts.dropped_invalid == 1
    assert list(as_rows(frame))[1] == {"prompt": None, "completion": None, "n": None}
    with pytest.raises(PadfixError, match="row 0: text is int 1"):
        encode(pandas.DataFrame({"text": [1, 2]}, index=[5, 5]))


def hundred() -> Iterator[Any]:
    yield from PAIRS


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("nothing.jsonl", "There is no file or folder 'nothing.jsonl'"),
        ("user/name", r"There is no file.*on the Hub: datasets.load_dataset\('user/name'"),
        ("https://x.y/a.csv.gz", r"nothing is downloaded.*load_dataset\('csv', data_files='https://x.y/a.csv.gz'"),
        (hundred, r"hundred is a function.*hundred\(\)"),
        (7, "A int is not a dataset. Pass a path"),
        (None, "A NoneType is not a dataset"),
        (iter(()), "holds no rows"),
    ],
)
def test_what_is_not_read_is_refused_with_what_reads_it(value: Any, said: str) -> None:
    with pytest.raises(PadfixError, match=said):
        encode(value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.txt", r"load_dataset\('text', data_files="),
        ("a.xlsx", "pandas.read_excel"),
        ("a.arrow", "Dataset.from_file"),
        ("a.jsonl.zst", r"load_dataset\('json'"),
        ("a", "ends in .jsonl"),
        ("a.parquet.gz", "ends in .jsonl"),
    ],
)
def test_a_file_of_another_kind_is_refused_with_what_reads_it(name: str, said: str, tmp_path: Path) -> None:
    written(tmp_path / name, b"x")
    for path in (tmp_path / name, tmp_path):  # a folder that holds one loses none of it in silence
        with pytest.raises(PadfixError, match=rf"{name}' is of no kind that is read here.*{said}"):
            encode(path)


def test_a_folder_of_splits_or_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PadfixError, match="holds no file of rows"):
        encode(tmp_path)
    written(tmp_path / "data" / "train-00.jsonl", lines(CHATS))
    assert encode(tmp_path) == encode(CHATS)
    written(tmp_path / "data" / "test-00.jsonl", lines(CHATS))
    with pytest.raises(PadfixError, match=r"several splits \(test, train\).*load_dataset"):
        encode(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl.gz", gzip.compress(lines(CHATS), mtime=0)[:-9]), ("a.json.gz", b"no gzip")],
    ids=["cut off", "no archive"],
)
def test_a_broken_archive_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    with pytest.raises(PadfixError, match="cannot be read"):
        encode(written(tmp_path / name, content))


def test_splits_may_be_paths_and_a_lazy_frame_says_how_it_is_read(tmp_path: Path) -> None:
    encoder = ChatEncoder(TOKENIZER)
    path = written(tmp_path / "a.jsonl", lines(CHATS))
    made = encode_dataset(encoder, {"train": str(path), "test": iter(PAIRS)}, progress=False)
    assert [len(made["train"]), len(made["test"])] == [5, 7]
    polars = pytest.importorskip("polars")
    with pytest.raises(PadfixError, match=r"frame\.collect\(\)"):
        encode(polars.DataFrame(PAIRS).lazy())


@pytest.mark.parametrize("kind", ["jsonl", "gz", "folder", "table", "pandas", "polars"])
def test_the_doctor_and_the_view_read_the_same_kinds(kind: str, tmp_path: Path) -> None:
    tokenizer, rows = TOKENIZER, KINDS[kind](tmp_path, PAIRS)
    assert diagnose(tokenizer, dataset=rows) == diagnose(tokenizer, dataset=PAIRS)
    assert (
        view_mask(rows, tokenizer, row_numbers=[6]).to_text() == view_mask(PAIRS, tokenizer, row_numbers=[6]).to_text()
    )


def test_many_files_of_a_folder_are_not_open_at_once(tmp_path: Path) -> None:
    for number in range(60):
        written(tmp_path / f"{number:03}.jsonl", lines(PAIRS[:1]))
    opened = Path("/proc/self/fd")
    if not opened.exists():
        pytest.skip("open files are not listed here")
    before = len([*opened.iterdir()])
    rows: Any = open_rows(tmp_path)
    assert len(rows) == 60 and list(rows) == PAIRS[:1] * 60
    assert len([*opened.iterdir()]) <= before + 1
