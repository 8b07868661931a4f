"""A guard stops a run that resumes without the weights of its checkpoint, and no other."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import Trainer, TrainingArguments

from llama_padfix import PadfixError, TrainingGuard

TEXT: dict[str, Any] = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
TEXT |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "pad_token_id": 0}
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION |= {"image_size": 28, "patch_size": 7, "vision_use_head": False}
ROWS = [{"input_ids": [1, 2, 3], "labels": [1, 2, 3], "token_type_ids": [0, 0, 0]}] * 8


def make(family: str, seed: int) -> Any:
    torch.manual_seed(seed)
    if family == "gemma3":
        config = transformers.Gemma3Config(text_config=TEXT, vision_config=VISION, mm_tokens_per_image=4)
        return transformers.Gemma3ForConditionalGeneration(config)
    if family == "mixtral":
        return transformers.MixtralForCausalLM(transformers.MixtralConfig(**TEXT, num_local_experts=2))
    tied = family == "tied"
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**TEXT, tie_word_embeddings=tied))


def train(model: Any, folder: Path, steps: int, guard: Any, resume: Any = None) -> Any:
    args = TrainingArguments(
        str(folder), max_steps=steps, save_steps=1, logging_steps=1, use_cpu=True, report_to=[], disable_tqdm=True
    )
    trainer = Trainer(model, args, train_dataset=ROWS, callbacks=[guard])
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def converts() -> bool:
    """Whether the installed Trainer leaves the weights of such families where they are."""
    return int(transformers.__version__.partition(".")[0]) >= 5


@pytest.mark.skipif(not converts(), reason="files have the names of their models")
@pytest.mark.parametrize("family", ["gemma3", "mixtral"])
def test_a_run_without_the_weights_of_its_checkpoint_stops(
    family: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(make(family, 0), tmp_path, 1, TrainingGuard())
    fresh = make(family, 1)
    start = next(fresh.parameters()).clone()
    with pytest.raises(
        PadfixError, match=r"goes on at step 1 of .*checkpoint-1' without its weights.*from_pretrained"
    ):
        train(fresh, tmp_path, 2, TrainingGuard(), True)
    assert not fresh._forward_hooks and not (tmp_path / "checkpoint-2").exists()
    with caplog.at_level(logging.WARNING):
        train(make(family, 1), tmp_path, 2, TrainingGuard(action="warn"), True)
    assert "goes on at step 1" in caplog.text
    assert family == "mixtral" or torch.equal(start, next(fresh.parameters())), "nothing was trained"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["gemma3", "mixtral"])
def test_a_model_that_was_made_from_the_checkpoint_goes_on(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    train(make(family, 0), tmp_path, 1, TrainingGuard())
    model = type(make(family, 0)).from_pretrained(tmp_path / "checkpoint-1", dtype=dtype)
    train(model, tmp_path, 2, TrainingGuard(), True)


@pytest.mark.parametrize("family", ["llama", "tied"])
def test_a_checkpoint_that_trainer_loads_goes_on(family: str, tmp_path: Path) -> None:
    train(make(family, 0), tmp_path, 1, TrainingGuard())
    train(make(family, 1), tmp_path, 2, TrainingGuard(), str(tmp_path / "checkpoint-1"))


def test_a_folder_that_is_not_that_of_the_run_proves_nothing(tmp_path: Path) -> None:
    """A run from another folder, with the weights of that one, beside an own checkpoint of the same step."""
    train(make("gemma3", 0), tmp_path / "one", 1, TrainingGuard())
    train(make("gemma3", 1), tmp_path / "two", 1, TrainingGuard())
    kind = transformers.Gemma3ForConditionalGeneration
    model = kind.from_pretrained(tmp_path / "one" / "checkpoint-1")
    train(model, tmp_path / "two", 2, TrainingGuard(), str(tmp_path / "one" / "checkpoint-1"))
    shutil.rmtree(tmp_path / "two" / "checkpoint-1")
    train(make("gemma3", 1), tmp_path / "two", 2, TrainingGuard(), str(tmp_path / "one" / "checkpoint-1"))
