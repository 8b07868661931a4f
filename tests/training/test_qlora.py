"""4-bit weights on this CPU for real: loaded as such, trained through adapters, the loss falls by half."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainingArguments

from llama_padfix import PadfixError, build_trainer, choose_precision, load, prepare
from llama_padfix.demo.reference import make_tiny_llama
from llama_padfix.demo.run import load_rows
from llama_padfix.hardware.optimizers import choose_optimizer
from llama_padfix.training.adapters.lora import keep_trainable_float32
from llama_padfix.training.loading.plan import plan_load
from tests.conftest import fresh_tokenizer

ROWS = load_rows(["chats.jsonl"])
SHORT = sorted(ROWS, key=lambda row: len(str(row)))[:2]
QUIET: dict[str, Any] = {
    "use_cpu": True,
    "report_to": [],
    "save_strategy": "no",
    "disable_tqdm": True,
    "logging_steps": 1,
    "dataloader_pin_memory": False,
    "seed": 0,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model on Llama 3.1's vocabulary. Its embedding is five times as wide as usual, 0.1 and not 0.02.

    The rows are frozen in a QLoRA run, so they must be far enough apart for the layers to point at one of them.
    """
    path = tmp_path_factory.mktemp("qlora")
    make_tiny_llama(hidden_size=128, num_hidden_layers=1, initializer_range=0.1).save_pretrained(path)
    fresh_tokenizer("3.1-instruct").save_pretrained(path)
    return path


@pytest.fixture(autouse=True)
def forget_earlier_trainers() -> None:
    """bitsandbytes keeps, for the whole process, which places of an optimizer hold 32-bit state."""
    from bitsandbytes.optim import GlobalOptimManager

    GlobalOptimManager.get_instance().index2config.clear()


def linear_types(model: Any) -> set[str]:
    return {type(module).__name__ for name, module in model.named_modules() if name.endswith("_proj")}


def to_bytes(weight: Any) -> torch.Tensor:
    # Packed 4-bit weights are no numbers as float32, and some of them are nan.
    packed: torch.Tensor = weight.detach().clone().view(torch.uint8)
    return packed


@pytest.mark.slow
def test_a_qlora_run_halves_the_loss_on_the_demos_data(folder: Path, tmp_path: Path) -> None:
    model, tokenizer = load(folder, quantization="nf4", lora=True, max_length=64)
    base = {name: to_bytes(p) for name, p in model.named_parameters() if not p.requires_grad}
    packed = model.base_model.model.model.layers[0].self_attn.q_proj.base_layer
    assert type(packed).__name__ == "Linear4bit"
    assert packed.weight.quant_state.quant_type == "nf4" and packed.weight.quant_state.nested
    assert packed.weight.dtype == torch.float32 and packed.weight.numel() == 128 * 128 // 2 // 4
    assert packed.compute_dtype == torch.float32
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}

    prepared = prepare(tokenizer, model, max_length=64)
    rows = sorted(prepared.encode(ROWS, progress=False), key=lambda row: len(row["input_ids"]))[:8]
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=20,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        optim=choose_optimizer("paged_adamw_8bit").taken,
        **QUIET,
        **prepared.trainer_args,
    )
    trainer = Trainer(model, arguments, train_dataset=rows, data_collator=prepared.collator)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 20
    assert sum(losses[-5:]) / 5 < losses[0] / 2
    for name, before in base.items():
        assert torch.equal(to_bytes(model.get_parameter(name)), before), name
    # bitsandbytes keeps the state of a tensor of fewer than 4,096 elements in 32 bits.
    states = trainer.optimizer.state.items()
    kinds = {(parameter.numel() >= 4096, state["state1"].dtype) for parameter, state in states}
    assert kinds == {(False, torch.float32), (True, torch.uint8)}


@pytest.mark.slow
def test_int8_weights_train_their_adapters(folder: Path) -> None:
    model, _ = load(folder, quantization="int8", lora=True, verbose=False)
    assert linear_types(model.base_model.model) >= {"Linear8bitLt"}
    ids = torch.tensor([[128000, 1, 2, 3]])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(3):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[2] < losses[0]


@pytest.mark.slow
def test_a_quantised_checkpoint_is_loaded_as_it_is_and_not_quantised_again(folder: Path, tmp_path: Path) -> None:
    model, tokenizer = load(folder, quantization="nf4", verbose=False)
    assert not any(p.requires_grad for p in model.parameters())
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(PadfixError, match=r"quantized already \(bitsandbytes, 4 bits\).*quantization=None"):
        load(tmp_path, quantization="nf4")
    again, _ = load(tmp_path, lora=True, verbose=False)
    assert plan_load(tmp_path).quantized
    assert "Linear4bit" in {type(m).__name__ for m in again.modules()}
    assert {p.dtype for p in again.parameters() if p.requires_grad} == {torch.float32}


@pytest.mark.slow
def test_trl_casts_the_adapters_and_they_can_be_kept(folder: Path, tmp_path: Path) -> None:
    model, tokenizer = load(folder, quantization="nf4", lora=True, verbose=False)
    trainer = build_trainer(model, tokenizer, SHORT, output_dir=str(tmp_path), max_steps=1, **QUIET)
    keep_trainable_float32(trainer.model, choose_precision())
    assert {p.dtype for p in trainer.model.parameters() if p.requires_grad} == {torch.float32}
    trainer.train()
    assert torch.isfinite(torch.tensor(trainer.state.log_history[0]["loss"]))
