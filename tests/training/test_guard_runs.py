"""Which runs a guard stops, on tiny models: no healthy one, and each other with its true cause."""

from __future__ import annotations

import logging
import math
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainerState,
)
from transformers import TrainingArguments as Arguments

from llama_padfix import GuardError, TrainingGuard, load_batch
from llama_padfix.core.compat import averages_by_tokens
from llama_padfix.demo.reference import make_tiny_llama
from llama_padfix.training.guard import passes
from llama_padfix.training.guard.loss_spikes import NEXT_LOSSES, LossHistory

pytest.importorskip("trl")
QUIET: dict[str, Any] = {"use_cpu": True, "report_to": [], "save_strategy": "no", "disable_tqdm": True, "max_steps": 4}
IDS = torch.arange(3, 51).reshape(4, 12)
ROWS = [{"input_ids": list(range(3, 15)), "labels": list(range(3, 15))}] * 16
LORA = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")


def tiny(**settings: Any) -> Any:
    return make_tiny_llama(
        vocab_size=256, hidden_size=32, num_hidden_layers=1, bos_token_id=1, eos_token_id=2, **settings
    )


def masked(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "labels": [-100] * len(row["labels"])} for row in rows]


def train(folder: Path, model: Any, rows: Any, *callbacks: Any, guard: Any = None, **more: Any) -> TrainingGuard:
    guard = guard or TrainingGuard()
    arguments = {name: more.pop(name) for name in list(more) if name not in ("compute_loss_func", "eval_dataset")}
    args = Arguments(str(folder), **{**QUIET, **arguments})
    Trainer(model, args, train_dataset=rows, callbacks=[*callbacks, guard], **more).train()
    return guard  # type: ignore[no-any-return]


def stopped_at(error: Any) -> tuple[int, str, str]:
    incident = error.value.incident
    return incident.step, incident.kind, incident.cause.code


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.WARNING, logger="llama_padfix")
    return lambda: [record.getMessage() for record in caplog.records if record.name.startswith("llama_padfix")]


def numbers_tokenizer() -> Any:
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, **{str(number): number + 4 for number in range(99)}}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **marks)


def test_rewards_that_are_all_equal_stop_no_grpo_run(tmp_path: Path, logged: Any) -> None:
    from trl import GRPOConfig, GRPOTrainer

    guard = TrainingGuard(look_first=False)
    args = GRPOConfig(str(tmp_path), num_generations=2, max_completion_length=3, bf16=False, **QUIET)
    GRPOTrainer(
        tiny(),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=args,
        processing_class=numbers_tokenizer(),
        train_dataset=Dataset.from_list([{"prompt": str(number)} for number in range(32)]),
        callbacks=[guard],
    ).train()
    assert guard.incidents == []
    assert [line for line in logged() if "so is that of the logits" in line] == logged() != []  # once


def test_margins_that_are_all_reached_stop_no_dpo_run(tmp_path: Path) -> None:
    from trl import DPOConfig, DPOTrainer

    guard = TrainingGuard(look_first=False)
    settings: dict[str, Any] = {
        "loss_type": "hinge",
        "beta": 1.0,
        "learning_rate": 1e-1,
        "lr_scheduler_type": "constant",
    }
    rows = [{"prompt": str(number), "chosen": " 5 6", "rejected": " 7 8"} for number in range(64)]
    args = DPOConfig(str(tmp_path), bf16=False, logging_steps=1, **settings, **{**QUIET, "max_steps": 9})
    trainer = DPOTrainer(
        tiny(),
        ref_model=tiny(),
        args=args,
        processing_class=numbers_tokenizer(),
        train_dataset=Dataset.from_list(rows),
        callbacks=[guard],
    )
    trainer.train()
    norms = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
    assert norms[-3:] == [0.0] * 3 and guard.incidents == []


def test_an_adapter_of_zeros_stops_where_the_loss_is_computed_outside_of_the_model(tmp_path: Path) -> None:
    def own_loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        return torch.nn.functional.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())

    model = get_peft_model(tiny(), LORA)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data.zero_()
    with pytest.raises(GuardError, match="GRD004") as stopped:
        train(tmp_path, model, ROWS, compute_loss_func=own_loss)
    assert stopped_at(stopped) == (3, "zero-gradient", "GRD004")


@pytest.mark.skipif(not averages_by_tokens(), reason="each micro-batch had a mean of its own, nan without a token")
def test_a_masked_micro_batch_among_others_adds_nothing_and_stops_nothing(tmp_path: Path) -> None:
    rows = [*ROWS[:1], *masked(ROWS[:1])] * 8
    guard = train(tmp_path, tiny(), rows, per_device_train_batch_size=1, gradient_accumulation_steps=8)
    assert guard.incidents == []


def test_a_regression_and_a_sum_are_no_mean_cross_entropy(tmp_path: Path) -> None:
    config = tiny().config
    config.num_labels, config.problem_type, config.pad_token_id = 1, "regression", 0
    rows = [{"input_ids": row["input_ids"], "labels": 60.0 + number} for number, row in enumerate(ROWS)]
    assert train(tmp_path, LlamaForSequenceClassification(config), rows).incidents == []

    model = tiny()
    mean = model.loss_function
    model.loss_function = lambda *args, **kwargs: mean(*args, **kwargs) * 44  # over 4 rows of 11 targets
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    with TrainingGuard(tmp_path).attach(model, optimizer) as guard:
        for _ in range(12):
            optimizer.zero_grad()
            loss = model(input_ids=IDS, labels=IDS).loss
            loss.backward()
            optimizer.step()
    assert float(loss) > 2 * math.log(256) and guard.incidents == []


def test_a_mean_cross_entropy_beyond_a_uniform_guess_needs_no_history(tmp_path: Path) -> None:
    model, batch = tiny(), {"input_ids": IDS, "labels": IDS}
    assert TrainingGuard(tmp_path).watch(24.0, 1.0, model=model)  # without a batch it may be a sum
    model.lm_head.weight.data *= 1e4
    guard = TrainingGuard(tmp_path, look_first=False)
    with pytest.raises(GuardError, match=r"guessing among all tokens alike gives 5\.545") as stopped:
        for _ in range(12):
            guard.watch(24.0, 1.0, model=model, batch=batch)
    assert stopped_at(stopped)[0] == 1 + NEXT_LOSSES


def of_two_kinds(share: float, batch: int, steps: int, seed: int) -> list[float]:
    """The losses of a run in which the frequent kind of rows is learned, and the rare kind cannot be."""
    source = random.Random(seed)

    def row(step: int) -> float:
        rare = source.random() < share
        return source.gauss(6, 0.3) if rare else 0.2 + 5 * math.exp(-step / 20) + abs(source.gauss(0, 0.01))

    return [sum(row(step) for _ in range(batch)) / batch for step in range(steps)]


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
@pytest.mark.parametrize("batch", [1, 2, 4, 8])
def test_rare_rows_are_rows_and_no_broken_run(batch: int, share: float) -> None:
    jumps = 0
    for seed in range(6):
        history = LossHistory(10.0, math.log(256))
        for loss in of_two_kinds(share, batch, 400, seed):
            jumps += bool(history.add(loss))
            assert not history.lasts
    assert jumps or batch == 8  # there are some to wait for


def test_a_loss_that_stays_up_stops_the_run(tmp_path: Path, logged: Any) -> None:
    guard = TrainingGuard(tmp_path)
    good = of_two_kinds(0.0, 1, 170, 0)
    losses = [*good[:160], 6.0, *good[160:], *[6.1] * 40]
    with pytest.raises(GuardError, match=f"as in the {NEXT_LOSSES} updates before") as stopped:
        for loss in losses:
            guard.watch(loss, 1.0)
    assert stopped_at(stopped) == (172 + NEXT_LOSSES, "loss-spike", "GRD006")
    assert [line for line in logged() if "Step 161: a loss of 6 " in line] == logged()[:1] != []


def test_a_loss_scaler_that_leaves_out_every_update_of_nan(tmp_path: Path) -> None:
    model = tiny()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)  # not fused: the scaler does not call its step
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    with (
        pytest.raises(GuardError, match="no update followed") as stopped,
        TrainingGuard(tmp_path).attach(model, optimizer),
    ):
        for step in range(9):
            if step == 5:
                model.model.norm.weight.data[0] = math.nan
            scaler.scale(model(input_ids=IDS, labels=IDS).loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    assert stopped_at(stopped)[:2] == (6, "loss-not-finite")


def test_a_loss_scaler_and_a_loss_outside_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "OVERFLOWS_IN_A_ROW", 4)
    model = tiny()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    with pytest.raises(GuardError, match="4 times") as stopped, TrainingGuard(tmp_path).attach(model, optimizer):
        for step in range(12):
            factor = math.inf if step in (1, 2) or step >= 5 else 1.0  # two overflows are a scaler's search
            scaler.scale(model(input_ids=IDS).logits.square().mean() * factor).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    assert stopped_at(stopped) == (4, "gradient-not-finite", "GRD000")  # the third update was the last one


@pytest.mark.parametrize("with_evaluation", [False, True])
def test_many_passes_without_an_update_do_not_switch_it_off(
    with_evaluation: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: Any
) -> None:
    monkeypatch.setattr(passes, "_MOST_KEPT", 4)
    model = tiny()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with pytest.raises(GuardError, match="LBL001") as stopped, TrainingGuard(tmp_path).attach(model, optimizer):
        for step in range(3):
            for micro in range(11):
                labels = torch.full_like(IDS, -100) if (step, micro) == (1, 3) else IDS
                model.train()
                (model(input_ids=IDS, labels=labels).loss / 11).backward()
                for _ in range(5 if with_evaluation and not micro else 0):  # with gradients, as some loops have it
                    model.eval()
                    model(input_ids=IDS, labels=torch.full_like(IDS, -100))
            optimizer.step()
            optimizer.zero_grad()
    assert stopped_at(stopped) == (2, "loss-not-finite", "LBL001")
    assert len([line for line in logged() if "forward passes" in line]) == 1


def test_labels_that_the_trainer_keeps_to_itself_are_part_of_the_evidence(tmp_path: Path) -> None:
    model = tiny()
    model.model.embed_tokens.weight.data[7] = math.nan
    with pytest.raises(GuardError, match="GRD001") as stopped:
        train(tmp_path, model, ROWS, label_smoothing_factor=0.1)
    folder = Path(str(stopped.value.incident.folder))
    assert math.isnan(float(model(**load_batch(folder)).loss.detach()))
    assert (folder / "batch.txt").read_text().startswith("row 0: 12 positions, 12 trained")

    with pytest.raises(GuardError) as stopped:
        train(tmp_path, tiny(), masked(ROWS), label_smoothing_factor=0.1)
    assert stopped_at(stopped) == (1, "zero-gradient", "LBL001")


def test_labels_are_found_under_another_name_and_in_the_batch_that_a_loop_keeps(tmp_path: Path) -> None:
    model = tiny()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step_of_target(target: Any) -> None:
        logits: Any = model(input_ids=IDS).logits
        loss: Any = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())
        loss.backward()
        optimizer.step()

    def step_of_batch(batch: Any) -> None:
        logits: Any = model(input_ids=batch["input_ids"]).logits
        loss: Any = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
        loss.backward()
        optimizer.step()

    none = torch.full_like(IDS, -100)
    for step, given in ((step_of_target, none), (step_of_batch, {"input_ids": IDS, "labels": none})):
        with pytest.raises(GuardError) as stopped, TrainingGuard(tmp_path).attach(model, optimizer):
            step(given)
        assert stopped_at(stopped) == (1, "zero-gradient", "LBL001")


def test_an_adapter_that_was_loaded_to_be_used_is_named(tmp_path: Path) -> None:
    get_peft_model(tiny(), LORA).save_pretrained(tmp_path)
    model = PeftModel.from_pretrained(tiny(), str(tmp_path))  # is_trainable is False by default
    model.enable_input_require_grads()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    fix = r"frozen, 2 of an adapter among them[\s\S]*from_pretrained\(model, folder, is_trainable=True\)"
    with pytest.raises(GuardError, match=fix) as stopped, TrainingGuard(tmp_path).attach(model, optimizer):
        for _ in range(4):
            model(input_ids=IDS, labels=IDS).loss.backward()
            optimizer.step()
    assert stopped_at(stopped) == (3, "zero-gradient", "GRD004")


def test_an_optimizer_that_was_made_before_the_adapter_is_named(tmp_path: Path) -> None:
    base = tiny()
    optimizer = torch.optim.AdamW(base.parameters(), lr=1e-3)
    model = get_peft_model(base, LORA)
    guard = TrainingGuard(tmp_path).attach(model, optimizer)
    with pytest.raises(GuardError, match="are not in the optimizer") as stopped, guard:
        for _ in range(4):
            model(input_ids=IDS, labels=IDS).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    assert "1 trainable parameters have a gradient, such as" in str(stopped.value)  # that of A is 0 where B is
    assert stopped_at(stopped) == (3, "zero-gradient", "GRD004")


class BreakState(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    def on_step_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        if state.global_step == 2:
            next(iter(optimizer.optimizer.state.values()))["exp_avg"].fill_(math.nan)


@pytest.mark.parametrize("read_before", [True, False])
def test_a_broken_state_of_the_optimizer_is_named(
    read_before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not read_before:  # as for states of too many elements, which are not read before each update
        monkeypatch.setattr("llama_padfix.training.guard.guard._MOST_STATES", 0)
    model = tiny()
    with pytest.raises(
        GuardError, match=r"GRD007 optimizer-state-broken.*exp_avg of model\.embed_tokens\.weight"
    ) as stopped:
        train(tmp_path, model, ROWS, BreakState())
    finite = all(bool(weight.isfinite().all()) for weight in model.parameters())
    assert finite is read_before
    assert ("do not save these" in str(stopped.value)) is not finite
    assert stopped.value.incident.step == (3 if read_before else 4)


def test_an_evaluation_whose_labels_are_all_masked_is_named(tmp_path: Path) -> None:
    with pytest.raises(GuardError) as stopped:
        train(tmp_path, tiny(), ROWS, eval_dataset=masked(ROWS[:2]), eval_strategy="steps", eval_steps=1)
    assert stopped_at(stopped) == (1, "eval-loss-not-finite", "LBL001")
    with pytest.raises(GuardError, match="look for rows without an answer in eval_dataset") as stopped:
        TrainingGuard(tmp_path).on_evaluate(
            None, SimpleNamespace(global_step=3), None, metrics={"eval_loss": math.nan}
        )
    assert "trained tokens" not in str(stopped.value)


def test_adapters_cast_to_bfloat16_in_a_float32_run_are_named(tmp_path: Path, logged: Any) -> None:
    model = get_peft_model(tiny(), LORA)
    model.is_loaded_in_4bit = True
    args = SimpleNamespace(bf16=False, gradient_accumulation_steps=1, output_dir=str(tmp_path), deepspeed=None)
    TrainingGuard().on_train_begin(args, TrainerState(), None, model)
    assert logged() == []
    for weight in model.parameters():
        weight.data = weight.data.bfloat16()
    TrainingGuard().on_train_begin(args, TrainerState(), None, model)
    assert [line for line in logged() if "keep_trainable_float32(trainer.model" in line] == logged() != []
