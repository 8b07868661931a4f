"""The main job, both ways, by running: the usual script must really fail and the prepared one really pass."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

from llama_padfix.core.errors import IGNORE_INDEX
from llama_padfix.demo import run as demo
from llama_padfix.encoding.masking.turns_in_ids import TurnMarkers

ENOUGH = 50
"""Steps after which the prepared model has learned to stop; the usual one has not after twice as many."""


@pytest.fixture(scope="module")
def measured() -> tuple[demo.Measures, demo.Measures]:
    rows, held_back = demo.load_rows(demo._TRAIN_FILES), demo.load_rows(["held_back.jsonl"])
    return demo.run_usual(rows, held_back, ENOUGH), demo.run_prepared(rows, held_back, demo.STEPS)


@pytest.mark.slow
def test_the_usual_script_fails_in_every_way(measured: tuple[demo.Measures, demo.Measures]) -> None:
    usual, _ = measured
    assert usual.doubled_bos == usual.rows > 300
    assert usual.trained_ends == 0 < usual.turns
    assert usual.trained_outside > usual.trained_tokens / 2
    assert usual.stopped == 0 < usual.prompts


@pytest.mark.slow
def test_the_prepared_script_passes_in_every_way(measured: tuple[demo.Measures, demo.Measures]) -> None:
    _, prepared = measured
    assert prepared.doubled_bos == 0 < prepared.rows
    assert prepared.trained_ends == prepared.turns > 400
    assert prepared.trained_outside == 0 == prepared.trained_padding
    # A random model of two layers trained for a minute: most, not all, must have learned to stop.
    assert prepared.stopped >= 0.75 * prepared.prompts
    assert prepared.final_loss < 8  # it begins at ln(128256) = 11.76


def test_measuring_counts_each_fault_that_is_put_into_a_batch() -> None:
    markers = TurnMarkers(header_ids=(7, 8), stop_ids=(9,), turn_start_ids=(7,))
    ids = torch.tensor([[1, 1, 5, 7, 8, 6, 9, 0], [1, 5, 7, 8, 6, 6, 9, 5]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 1, 1, 0], [1] * 8])
    labels = torch.full_like(ids, IGNORE_INDEX)
    labels[0, 5] = 6  # trained as it should be; the stop token behind it is not
    labels[0, 7] = 0  # padding
    labels[1, 1] = 5  # the prompt
    labels[1, 4:7] = ids[1, 4:7]
    counted = demo.measure_batches([{"input_ids": ids, "attention_mask": mask, "labels": labels}], markers, 1)
    expected = demo.Measures(
        rows=2, doubled_bos=1, turns=2, trained_ends=1, trained_tokens=6, trained_outside=1, trained_padding=1
    )
    assert counted == expected


def test_every_example_row_is_used() -> None:
    assert len(demo.load_rows(["chats.jsonl", "sharegpt.jsonl", "alpaca.jsonl", "prompt_completion.jsonl"])) == 380
    assert len(demo.load_rows(["held_back.jsonl"])) == 24


@pytest.mark.slow
def test_the_quickstart_runs_the_same_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = Path(__file__).parents[2] / "examples" / "quickstart.py"
    short = source.read_text(encoding="utf-8").replace("STEPS = 110", "STEPS = 2")
    assert "STEPS = 2" in short and f"STEPS = {demo.STEPS}" in source.read_text(encoding="utf-8")
    (tmp_path / "quickstart.py").write_text(short, encoding="utf-8")
    runpy.run_path(str(tmp_path / "quickstart.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "usual:    380 of 380 rows with a doubled BOS" in printed
    assert "prepared: 0 of 378 rows with a doubled BOS" in printed
