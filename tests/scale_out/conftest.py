"""What the examples are given, what a single process makes of it, and a run of theirs with nothing left behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from llama_padfix import ChatEncoder, Counts, patch_tokenizer
from tests.conftest import fresh_tokenizer

ROOT = Path(__file__).parents[2]
LENGTH = 512
SIZES = (60, 100, 80, 60, 120, 60)  # rows of each file: Spark reads the largest first

Rows = list[tuple[int, list[int], list[int]]]
"""Of each row the number, input_ids and labels."""


def write_conversations(folder: Path) -> pyarrow.Table:
    """Write parquet files of conversations, no two alike, of which some are too long to train on; return all rows."""
    dice = random.Random(6)
    words = ["".join(dice.choices("abcdefghijklmnopqrstuvwxyzäß ", k=dice.randint(3, 12))) for _ in range(2000)]
    rows = []
    for number in range(sum(SIZES)):
        messages = []
        for turn in range(dice.randint(1, 3)):
            length = 700 if number % 97 == 50 else dice.randint(2, 60)
            messages.append({"role": "user", "content": f"{number}: " + " ".join(dice.choices(words, k=length))})
            answer = " ".join(dice.choices(words, k=dice.randint(2, 60)))
            messages.append({"role": "assistant", "content": f"{turn}: {answer}"})
        rows.append({"id": number, "messages": messages})
    table = pyarrow.Table.from_pylist(rows)
    start = 0
    folder.mkdir()
    for number, size in enumerate(SIZES):
        pyarrow.parquet.write_table(table.slice(start, size), folder / f"rows-{number}.parquet")
        start += size
    return table


def read_rows(files: list[Path]) -> Rows:
    """Return the rows of parquet files by their number; the encoded columns must be lists of int32."""
    rows: Rows = []
    for file in files:
        table = pyarrow.parquet.read_table(file)
        assert sorted(table.column_names) == ["id", "input_ids", "labels"]
        assert all(table.schema.field(name).type.value_type == pyarrow.int32() for name in ("input_ids", "labels"))
        rows += zip(*(table[name].to_pylist() for name in ("id", "input_ids", "labels")), strict=True)
    return sorted(rows)


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    fresh_tokenizer("3.1-instruct").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pyarrow.Table]:
    folder = tmp_path_factory.mktemp("conversations") / "rows"
    return folder, write_conversations(folder)


@pytest.fixture(scope="session")
def single(conversations: tuple[Path, pyarrow.Table]) -> tuple[Rows, Counts]:
    """The rows as one process encodes them, by their number, and their counts."""
    tokenizer = fresh_tokenizer("3.1-instruct")
    patch_tokenizer(tokenizer)
    encoded, counts = ChatEncoder(tokenizer, max_length=LENGTH).encode_chunk(conversations[1], carry=["id"])
    rows = list(zip(*(encoded[name].to_pylist() for name in ("id", "input_ids", "labels")), strict=True))
    assert len(rows) == counts.kept < counts.rows == sum(SIZES)
    return rows, counts


RunExample = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run_example(
    tokenizer_folder: Path, conversations: tuple[Path, pyarrow.Table], tmp_path: Path
) -> Iterator[RunExample]:
    """Runs `examples/scale_out/SCRIPT ROWS OUT` in an environment of its own; none of its processes may stay."""
    mark = f"SCALE_OUT_TEST={tmp_path}"

    def run(script: str, out: Path, *arguments: str, killed: Path | None = None, at: int = 2, **settings: str) -> Any:
        paths = [str(ROOT), *([str(Path(__file__).with_name("killing"))] if killed else [])]
        environment = {
            **os.environ,
            **settings,
            **({"KILLED": str(killed), "KILL_AT": str(at)} if killed else {}),
            "PYTHONPATH": os.pathsep.join(paths),
            "OMP_NUM_THREADS": "1",
            "SCALE_OUT_TEST": str(tmp_path),
            "HOME": str(tmp_path),  # Ray writes a token there
        }
        given = ["--tokenizer", str(tokenizer_folder), "--length", str(LENGTH), "--carry", "id", *arguments]
        command = [sys.executable, str(ROOT / "examples" / "scale_out" / script), str(conversations[0]), str(out)]
        return subprocess.run(
            [*command, *given], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=400
        )

    yield run
    until = time.monotonic() + 20
    while (left := find_processes(mark)) and time.monotonic() < until:
        time.sleep(0.2)
    for process in left:
        os.kill(process, signal.SIGKILL)
    assert not left, f"processes that the example left behind: {left}"


def find_processes(mark: str) -> list[int]:
    """Return the processes, by their id, whose environment holds the mark."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            held = mark.encode() in entry.read_bytes().split(b"\0")
        except OSError:  # gone meanwhile, or somebody else's
            continue
        if held:
            found.append(int(entry.parent.name))
    return found
