"""Ray Data encodes as a single process does, while a worker is killed: `make scale-out`."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet
import pytest

from llama_padfix import Counts
from tests.scale_out.conftest import Rows, RunExample, read_rows

if importlib.util.find_spec("ray") is None:
    pytest.skip("Ray is not installed here: make scale-out", allow_module_level=True)


@pytest.fixture
def short_folder() -> Iterator[str]:
    """A folder whose name leaves room for Ray's sockets in it, which may have 107 characters."""
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    yield folder
    shutil.rmtree(folder)


def test_a_killed_worker_loses_and_doubles_nothing(
    run_example: RunExample, single: tuple[Rows, Counts], short_folder: str, tmp_path: Path
) -> None:
    out, killed = tmp_path / "out", tmp_path / "killed"
    done = run_example(
        "ray_data.py",
        out,
        "--block",
        "100",
        "--shard",
        "60",
        killed=killed,
        RAY_ADDRESS="local",
        RAY_TMPDIR=short_folder,
        RAY_USAGE_STATS_ENABLED="0",
        RAY_DATA_DISABLE_PROGRESS_BARS="1",
    )
    assert done.returncode == 0, done.stderr[-5000:]
    assert killed.exists()
    files = list(out.glob("*.parquet"))
    assert len(files) > 5  # of 480 rows, in blocks of 100
    assert max(pyarrow.parquet.read_metadata(file).num_rows for file in files) <= 60
    assert read_rows(files) == single[0]
