"""Two real processes under torchrun train with everything on, and the loss is that of one with the same batch."""

from __future__ import annotations

import json
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.saved import save, small_model, small_tokenizer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shared")
    tokenizer = small_tokenizer()
    return save(path, tokenizer, small_model(tokenizer, hidden_size=64, intermediate_size=128, initializer_range=0.1))


SCRIPT = str(Path(__file__).with_name("two_processes.py"))


def run_twice(folder: Path, out: Path, rows: int) -> list[dict[str, Any]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port)]
    quiet = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "ACCELERATE_"))}
    done = subprocess.run(
        [sys.executable, *torchrun, SCRIPT, str(folder), str(out), str(rows)],
        cwd=ROOT,
        env={**quiet, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # Each choice is printed once, by the first process.
    assert done.stdout.count("llama_padfix: quantization: nf4") == 1
    return read(out)


def read(out: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("seen-*.json"))]


@pytest.mark.slow
def test_two_processes_give_the_loss_of_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    two = run_twice(folder, tmp_path / "two", rows=2)
    monkeypatch.setattr(sys, "argv", [SCRIPT, str(folder), str(tmp_path / "one"), "4"])
    runpy.run_path(SCRIPT)  # in this process, which has imported all that it needs
    assert capsys.readouterr().out.count("llama_padfix: quantization: nf4") == 1
    [one] = read(tmp_path / "one")

    assert [each["rank"] for each in two] == [0, 1]
    for each in two:
        assert (each["world_size"], each["wrapper"]) == (2, "DistributedDataParallel")
        assert each["backend"] == "gloo"
        assert "Linear4bit" in each["linear"]
    assert one["world_size"] == 1 and one["wrapper"] != "DistributedDataParallel"
    assert len(one["losses"]) == 3
    assert two[0]["losses"] == pytest.approx(one["losses"], rel=1e-3)
    assert one["losses"][2] < one["losses"][0]
    assert two[0]["sum"] == two[1]["sum"]  # both processes hold the same adapters
