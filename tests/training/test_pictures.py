"""Runs on rows with images, from raw rows to a finished training, with a guard in place and a clean report."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from llama_padfix import PadfixError, TrainingGuard, build_trainer, diagnose, prepare
from tests.support.code_blocks import run_page
from tests.support.processors import WITH_PIL, WITH_TORCHVISION, make_image, make_processor, make_vision_model

FAMILIES = (*WITH_PIL, *WITH_TORCHVISION)


def make_rows() -> list[dict[str, Any]]:
    chat = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}, {"type": "image"}]},
        {"role": "assistant", "content": "Two cats."},
    ]
    hello = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    llava = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}]
    return [
        {"messages": chat, "images": [make_image(), make_image(90, 20)]},
        {"conversations": llava, "image": make_image(64, 64)},
        {"messages": hello},
    ]


def make_sounds() -> list[dict[str, Any]]:
    chat = [
        {"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": "A dog."},
    ]
    hello = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    noise = np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    return [{"messages": chat, "audio": noise}, {"messages": chat, "audio": noise[:9000]}, {"messages": hello}]


def settings(folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "report_to": [],
        "use_cpu": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
    }


@pytest.mark.parametrize("family", [*FAMILIES, "qwen2_audio"])
def test_trl_trains_on_raw_rows(family: str, tmp_path: Path) -> None:
    processor = make_processor(family)
    model = make_vision_model(family, processor)
    if family == "llama4":
        with pytest.raises(
            PadfixError, match=r"Llama4ForConditionalGeneration has no base model of its own.*transformers.Trainer"
        ):
            build_trainer(model, processor, make_rows(), **settings(tmp_path))
        return
    rows = make_sounds() if family == "qwen2_audio" else make_rows()
    trainer = build_trainer(model, processor, rows, callbacks=[TrainingGuard()], **settings(tmp_path))
    result = trainer.train()
    assert torch.isfinite(torch.tensor(result.training_loss))
    assert not [finding for finding in diagnose(trainer).findings if finding.severity != "note"]
    assert trainer.processing_class is processor


@pytest.mark.parametrize("family", [*FAMILIES, "qwen2_audio"])
def test_a_plain_trainer_trains_on_encoded_rows(family: str, tmp_path: Path) -> None:
    processor = make_processor(family)
    model = make_vision_model(family, processor)
    rows = make_sounds() if family == "qwen2_audio" else make_rows()
    prepared = prepare(processor, model)
    trainer = transformers.Trainer(
        model,
        transformers.TrainingArguments(**settings(tmp_path), **prepared.trainer_args),
        train_dataset=prepared.encode(rows, progress=False),
        data_collator=prepared.collator,
        processing_class=processor,
        callbacks=[TrainingGuard()],
    )
    towers = ("vision", "visual", "audio")
    tower = next(value for name, value in model.named_parameters() if any(part in name for part in towers))
    before = tower.detach().clone()
    assert torch.isfinite(torch.tensor(trainer.train().training_loss))
    assert not torch.equal(before, tower)  # the pictures or sounds reached the loss
    assert not [finding for finding in diagnose(trainer).findings if finding.severity != "note"]


def test_the_page_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import trl

    monkeypatch.chdir(tmp_path)
    make_image().save("cat.png")
    processor = make_processor("gemma3")
    model = make_vision_model("gemma3", processor)
    once: Any = functools.partial(trl.SFTConfig, max_steps=1, use_cpu=True, report_to=[], save_strategy="no")
    monkeypatch.setattr(trl, "SFTConfig", once)
    names = {"__name__": "__page__", "processor": processor, "model": model}
    assert run_page(Path(__file__).parents[2] / "docs" / "pictures.md", names) == 2
