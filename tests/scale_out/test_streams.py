"""A stream is encoded in a dataloader's workers: on several machines, and over a worker that was killed."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed here: make test")

from llama_padfix import Counts
from tests.scale_out.conftest import LENGTH, ROOT, Rows, RunExample, read_rows

EXAMPLE = ROOT / "examples" / "scale_out" / "streams.py"


@pytest.mark.slow
def test_a_killed_worker_loses_and_doubles_nothing(
    run_example: RunExample, single: tuple[Rows, Counts], tmp_path: Path
) -> None:
    out, killed = tmp_path / "out", tmp_path / "killed"
    first = run_example("streams.py", out, "--batch", "22", killed=killed, at=6)
    assert killed.exists() and first.returncode != 0
    assert "DataLoader worker" in first.stderr, first.stderr[-3000:]
    before = sorted(out.glob("part-*.parquet"))
    assert 0 < len(read_rows(before)) < len(single[0])

    again = run_example("streams.py", out, "--batch", "22")
    assert again.returncode == 0, again.stderr[-3000:]
    files = sorted(out.glob("part-*.parquet"))
    assert files[: len(before)] == before and not list(out.glob("partial-*"))
    assert read_rows(files) == single[0]


@pytest.mark.parametrize("machines", [2, 4])
@pytest.mark.slow
def test_each_machine_encodes_its_part(
    machines: int,
    conversations: tuple[Path, Any],
    tokenizer_folder: Path,
    single: tuple[Rows, Counts],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Six files go to two machines whole; four machines take the rows by turns."""
    out = tmp_path / "out"
    given = ["--tokenizer", str(tokenizer_folder), "--length", str(LENGTH), "--carry", "id", "--workers", "0"]
    monkeypatch.setattr("sys.argv", [str(EXAMPLE), str(conversations[0]), str(out), *given])
    monkeypatch.setenv("WORLD_SIZE", str(machines))
    for rank in range(machines):
        monkeypatch.setenv("RANK", str(rank))
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    files = sorted(out.glob("part-*.parquet"))
    parts = [read_rows([file for file in files if file.name[5:8] == f"{rank:03}"]) for rank in range(machines)]
    assert all(len(part) > len(single[0]) // (machines + 1) for part in parts)
    assert sorted(row for part in parts for row in part) == sorted(single[0])
