"""Spark encodes as a single process does, and counts as it does, while a worker is killed: `make scale-out`."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import pyarrow.parquet
import pytest

from llama_padfix import Counts
from tests.scale_out.conftest import Rows, RunExample, read_rows

if importlib.util.find_spec("pyspark") is None:
    pytest.skip("PySpark is not installed here: make scale-out", allow_module_level=True)
if shutil.which("java") is None:
    pytest.skip("Spark needs Java 17 or newer: apt-get install openjdk-17-jre-headless", allow_module_level=True)


def test_a_killed_worker_loses_and_doubles_nothing(
    run_example: RunExample, single: tuple[Rows, Counts], tmp_path: Path
) -> None:
    out, killed = tmp_path / "out", tmp_path / "killed"
    # Two tasks at a time, each tried four times; files small enough to be a task each.
    settings = "--master local[2,4] --conf spark.ui.enabled=false --conf spark.sql.files.openCostInBytes=128m"
    done = run_example(
        "spark.py",
        out,
        "--shard",
        "50",
        killed=killed,
        PYSPARK_PYTHON=sys.executable,
        PYSPARK_SUBMIT_ARGS=f"{settings} pyspark-shell",
        SPARK_LOCAL_IP="127.0.0.1",
        SPARK_LOCAL_DIRS=str(tmp_path / "spark"),
    )
    assert done.returncode == 0, done.stderr[-5000:]
    assert killed.exists() and "Lost task" in done.stderr
    rows, counts = single
    files = sorted(out.glob("part-*.parquet"))
    assert len(files) > 480 / 50
    assert max(pyarrow.parquet.read_metadata(file).num_rows for file in files) <= 50
    assert read_rows(files) == rows
    assert str(counts) in done.stdout
