"""The recipe scripts run as they stand, on a small model made on the spot, and use no keyword of one version alone."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from transformers import AutoTokenizer

from llama_padfix.demo.reference import make_tiny_llama
from tests.conftest import fresh_tokenizer

EXAMPLES = Path(__file__).parent.parent / "examples"
DRIFTING = {
    "dtype",
    "torch_dtype",
    "tokenizer",
    "processing_class",
    "max_seq_length",
    "evaluation_strategy",
    "eval_strategy",
    "gradient_checkpointing_kwargs",
    "activation_checkpointing_kwargs",
    "load_in_4bit",
    "quantization_config",
    "attn_implementation",
    "dataset_kwargs",
    "warmup_ratio",
}


def run_recipe(script: str, out: Path, steps: int = 2) -> str:
    """Run a recipe on a tiny model; return what it printed."""
    folder = out.with_name("model")
    make_tiny_llama(hidden_size=64, num_hidden_layers=1, initializer_range=0.1).save_pretrained(folder)
    fresh_tokenizer("3.1-instruct").save_pretrained(folder)
    arguments = ["--output", str(out), "--steps", str(steps), "--length", "96", "--batch", "1", "--rate", "1e-2"]
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / script), str(folder), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(EXAMPLES.parent)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    return done.stdout


def check_saved(out: Path) -> None:
    """The adapter moved, and the tokenizer was saved with its fixes."""
    assert json.loads((out / "adapter_config.json").read_text(encoding="utf-8"))["r"] == 16
    weights = load_file(out / "adapter_model.safetensors")
    moved = [name for name, weight in weights.items() if "lora_B" in name and weight.abs().sum() > 0]
    assert len(moved) == 7
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|end_of_text|>", "<|eot_id|>")


@pytest.mark.slow
def test_the_trl_recipe_trains_and_saves(tmp_path: Path) -> None:
    printed = run_recipe("qlora_trl.py", tmp_path / "out")
    assert "llama_padfix: quantization: nf4" in printed
    assert printed.count("'loss'") == 2
    check_saved(tmp_path / "out")


@pytest.mark.parametrize("script", ["qlora_trl.py", "qlora_unsloth.py"])
def test_a_recipe_is_short_and_has_no_keyword_of_one_version_alone(script: str) -> None:
    source = (EXAMPLES / script).read_text(encoding="utf-8")
    used = {
        keyword.arg for call in ast.walk(ast.parse(source)) if isinstance(call, ast.Call) for keyword in call.keywords
    }
    assert "quantization" in used and not used & DRIFTING
    assert source.count("\n") < 60
