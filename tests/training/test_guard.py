"""A guard stops real runs at their first bad update, keeps what is needed to see it again, and names the cause."""

from __future__ import annotations

import gc
import inspect
import json
import logging
import math
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments
from trl import SFTConfig, SFTTrainer

from llama_padfix import IGNORE_INDEX, PadfixError, prepare
from llama_padfix.core.compat import averages_by_tokens
from llama_padfix.demo.run import load_rows
from llama_padfix.training.guard.batch_report import count_trained
from llama_padfix.training.guard.callback import TrainingGuard
from llama_padfix.training.guard.evidence import load_batch
from llama_padfix.training.guard.incident import GuardError
from llama_padfix.view.batch_text import show_batch
from tests.conftest import fresh_tokenizer
from tests.support.versions import call_tokenizer

own_loss = pytest.mark.skipif(
    "compute_loss_func" not in inspect.signature(Trainer).parameters,
    reason="a trainer takes a loss of one's own since transformers 4.46",
)
# Without a trained token the mean over them is 0/0; since transformers 4.46 the update's tokens divide.
UNTRAINED = "zero-loss" if averages_by_tokens() else "loss-not-finite"

KINDS = ("Trainer", "SFTTrainer")
QUICK: dict[str, Any] = {
    "use_cpu": True,
    "bf16": False,  # TRL's default is True
    "report_to": [],
    "save_strategy": "no",
    "disable_tqdm": True,
    "gradient_checkpointing": False,
    "logging_steps": 1,
    "lr_scheduler_type": "constant",
    "per_device_train_batch_size": 2,
}


def chat(question: int, answer: int) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": "why " * question},
            {"role": "assistant", "content": "because " * answer},
        ]
    }


class InOrder(Trainer):  # type: ignore[misc]  # transformers is untyped here
    """Rows in the order of the dataset, so that a test knows which update gets which."""

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        return SequentialSampler(self.train_dataset)


@pytest.fixture(scope="module")
def prepared() -> tuple[Any, Any, list[dict[str, Any]]]:
    """Tokenizer, what prepare made, and encoded rows."""
    tokenizer = fresh_tokenizer("3.1-instruct")
    made = prepare(tokenizer, device="cpu")
    rows = made.encode([chat(1, 1), chat(20, 2), chat(2, 25), chat(8, 6)] * 3, progress=False)
    return tokenizer, made, [{name: [*map(int, ids)] for name, ids in row.items()} for row in rows]


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Any:
    """What the guard logs."""
    caplog.set_level(logging.WARNING, logger="llama_padfix.training.guard.guard")
    return lambda: [
        record.getMessage() for record in caplog.records if record.name == "llama_padfix.training.guard.guard"
    ]


def masked(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "labels": [IGNORE_INDEX] * len(row["input_ids"])}


def make_trainer(kind: str, model: Any, rows: Any, prepared: Any, folder: Path, guard: Any, **arguments: Any) -> Any:
    tokenizer, made, _ = prepared
    parts = {
        "data_collator": made.collator,
        **call_tokenizer(Trainer, tokenizer),
        "callbacks": [] if guard is None else [guard],
        "train_dataset": Dataset.from_list(rows),
    }
    for name in ("eval_dataset", "compute_loss_func"):
        if name in arguments:
            parts[name] = arguments.pop(name)
    every = {**QUICK, "max_steps": 4, **arguments}
    if kind == "SFTTrainer":
        every.setdefault("dataset_kwargs", {"skip_prepare_dataset": True})
        return SFTTrainer(model=model, args=SFTConfig(output_dir=str(folder), **every), **parts)
    return InOrder(model=model, args=TrainingArguments(output_dir=str(folder), **every), **parts)


def take_weights(model: Any) -> dict[str, Any]:
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def are_equal(model: Any, weights: dict[str, Any]) -> bool:
    return all(
        torch.equal(weight.nan_to_num(), weights[name].nan_to_num()) for name, weight in take_weights(model).items()
    )


def count_hooks(model: Any, optimizer: Any) -> int:
    inner = getattr(optimizer, "optimizer", optimizer)
    return len(model._forward_hooks) + (0 if inner is None else len(inner._optimizer_step_pre_hooks))


def poison(model: Any) -> None:
    model.model.embed_tokens.weight.data[128009] = math.nan


def overflow(model: Any) -> None:
    # As a checkpoint trained in bfloat16: finite in float16, and its activations are not.
    model.model.layers[1].mlp.down_proj.weight.data *= 1e4
    model.model.layers[1].mlp.up_proj.weight.data *= 1e3
    model.model.layers[1].mlp.gate_proj.weight.data *= 1e3
    model.half()


def break_nothing(model: Any) -> None:
    pass


FAULTS = {
    # what is done to the model, are the rows masked, the learning rate -> step, code, kinds
    "masked": (break_nothing, True, 1e-3, 1, "LBL001", {"loss-not-finite", "zero-loss"}),
    "rate": (break_nothing, False, 1e3, 2, "GRD003", {"loss-spike", "loss-not-finite"}),
    "poisoned": (poison, False, 1e-3, 1, "GRD001", {"loss-not-finite"}),
    "float16": (overflow, False, 1e-3, 1, "GRD002", {"loss-not-finite"}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.slow
def test_a_true_fault_is_stopped_before_its_update_and_can_be_seen_again(
    fault: str, kind: str, prepared: Any, make_model: Any, tmp_path: Path
) -> None:
    spoil, mask, rate, step, code, kinds = FAULTS[fault]
    rows = prepared[2]
    model, guard = make_model(), TrainingGuard()
    spoil(model)
    start = take_weights(model)
    data = [masked(row) for row in rows] if mask else rows
    trainer = make_trainer(kind, model, data, prepared, tmp_path, guard, learning_rate=rate)
    assert trainer.args.logging_nan_inf_filter  # the default, which logs a loss of nan as 0.0
    with pytest.raises(GuardError, match=code) as stopped:
        trainer.train()

    incident = stopped.value.incident
    assert (incident.step, incident.cause.code) == (step, code) and incident.kind in kinds
    assert trainer.state.global_step == step - 1
    assert are_equal(model, start) == (step == 1)  # the update was not made
    assert count_hooks(model, trainer.optimizer) == 0 and model.training
    assert incident.folder is not None and Path(incident.folder).parent == tmp_path / "guard"
    assert guard.incidents == [incident] and str(incident.folder) in str(stopped.value)

    batch = load_batch(incident.folder)
    assert batch["input_ids"].tolist()[0][: len(data[0]["input_ids"])] in [row["input_ids"] for row in data] + [
        row["input_ids"][: len(data[0]["input_ids"])] for row in data
    ]
    again = float(model(**batch).loss.detach())
    assert again == pytest.approx(incident.losses[0], nan_ok=True)
    assert not 0 < again < 20  # the fault is there again


def test_what_the_trainer_logs_without_a_guard(prepared: Any, make_model: Any, tmp_path: Path) -> None:
    rows = [masked(row) for row in prepared[2]]
    trainer = make_trainer("Trainer", make_model(), rows, prepared, tmp_path, None, max_steps=2)
    trainer.train()
    assert [entry["loss"] for entry in trainer.state.log_history if "loss" in entry] == [0.0, 0.0]


def test_the_folder_holds_what_the_page_promises(prepared: Any, make_model: Any, tmp_path: Path) -> None:
    tokenizer, _, rows = prepared
    model = make_model()
    poison(model)
    trainer = make_trainer(
        "Trainer", model, rows, prepared, tmp_path, TrainingGuard(), gradient_accumulation_steps=2, weight_decay=0.25
    )
    with pytest.raises(GuardError) as stopped:
        trainer.train()
    folder = Path(str(stopped.value.incident.folder))
    assert folder.name == "step-000001-loss-not-finite"
    names = ["batch-0.safetensors", "batch-1.safetensors", "batch.txt", "incident.json", "mask.html"]
    assert sorted(path.name for path in folder.iterdir()) == [*names, "optimizer.json", "report.json", "report.txt"]
    page = (Path(__file__).parents[2] / "docs" / "guard.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in [*names[2:], "optimizer.json", "report.json", "report.txt"])

    incident = json.loads((folder / "incident.json").read_text(encoding="utf-8"))
    assert incident["losses"] == ["nan", "nan"] and incident["step"] == 1 and incident["micro_batch"] == 0
    assert incident["cause"]["code"] == "GRD001" and "<|eot_id|>" in incident["cause"]["message"]
    health = json.loads((folder / "optimizer.json").read_text(encoding="utf-8"))
    assert health["optimizer"] == "AdamW" and health["groups"][0]["weight_decay"] == 0.25
    assert health["finite_before"] is False and health["dtypes"] == {"float32": 20}
    [broken] = health["broken_weights"]
    assert broken == {"name": "model.embed_tokens.weight", "rows": 1, "first_rows": [128009]}
    assert json.loads((folder / "report.json").read_text(encoding="utf-8"))["samples"][0]["seen"] == 2
    assert (folder / "mask.html").read_text(encoding="utf-8").startswith("<!doctype html>")

    [first, second] = [load_batch(folder, place) for place in (0, 1)]
    width = len(rows[0]["input_ids"])
    assert first["input_ids"][0, :width].tolist() == rows[0]["input_ids"]
    assert first["labels"][0, :width].tolist() == rows[0]["labels"]
    assert second["input_ids"][0].tolist()[: len(rows[2]["input_ids"])] == rows[2]["input_ids"]
    counted = sum(label != IGNORE_INDEX for row in rows[:4] for label in row["labels"][1:])
    assert int(first.get("num_items_in_batch", counted)) == counted
    assert ("num_items_in_batch" in first) is averages_by_tokens()
    assert (folder / "batch.txt").read_text(encoding="utf-8") == show_batch(first, tokenizer)


def test_a_batch_as_text(prepared: Any) -> None:
    tokenizer, made, rows = prepared
    batch = made.collator([rows[0], rows[2]])
    lines = show_batch(batch, tokenizer).splitlines()
    trained = [sum(label != IGNORE_INDEX for label in row["labels"]) for row in (rows[0], rows[2])]
    width, short = batch["input_ids"].shape[1], len(rows[0]["input_ids"])
    assert count_trained(batch) == sum(trained)
    assert lines[0] == f"row 0: {width} positions, {trained[0]} trained, {width - short} padding"
    assert lines[1].startswith("  masked       0..") and lines[1].endswith("<|end_header_id|>\\n\\n'")
    assert lines[2].startswith("  trained ") and lines[2].endswith("'because<|eot_id|>'")
    assert lines[3] == f"  padding  {short:5}..{width - 1}"
    assert lines[4] == f"row 1: {width} positions, {trained[1]} trained, 0 padding" and len(lines) == 7
    assert lines[6].endswith(f"'{('because ' * 25).strip()}<|eot_id|>'")
    assert show_batch({"input_ids": batch["input_ids"][:1, :3]}) == (
        "row 0: 3 positions, 0 trained, 0 padding\n  masked       0..2     128000 128006 9125\n"
    )


def test_float16_autocast_in_a_loop_of_ones_own(prepared: Any, make_model: Any, tmp_path: Path) -> None:
    tokenizer, made, rows = prepared
    model = make_model()
    model.model.layers[0].mlp.down_proj.weight.data *= 1e6
    before = take_weights(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    guard = TrainingGuard(tmp_path, tokenizer=tokenizer)
    with pytest.raises(GuardError, match="GRD002 float16-overflow") as stopped, guard.attach(model, optimizer):
        assert count_hooks(model, optimizer) == 2
        with torch.autocast("cpu", dtype=torch.float16):
            loss = model(**made.collator(rows[:2])).loss
        assert not torch.isfinite(loss)
        loss.backward()
        optimizer.step()
    incident = stopped.value.incident
    assert "model.layers.0.mlp.down_proj" in incident.cause.message
    assert are_equal(model, before) and count_hooks(model, optimizer) == 0
    assert math.isfinite(float(model(**load_batch(str(incident.folder))).loss.detach()))
    assert json.loads((Path(str(incident.folder)) / "incident.json").read_text())["autocast"] == ["float16"]


def test_adam_on_float16_weights_breaks_them_in_its_first_step(prepared: Any, make_model: Any, tmp_path: Path) -> None:
    model = make_model(torch_dtype=None).half()
    trainer = make_trainer(
        "Trainer", model, prepared[2], prepared, tmp_path, TrainingGuard(), optim="adamw_torch", learning_rate=1e-4
    )
    with pytest.raises(GuardError, match="PRC006") as stopped:
        trainer.train()
    assert stopped.value.incident.step == 2


@pytest.mark.parametrize("patience", [2, 3])
def test_a_gradient_of_zero_over_some_updates(patience: int, prepared: Any, make_model: Any, tmp_path: Path) -> None:
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(make_model(), lora)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data.zero_()  # the gradient of A goes through B, and that of B through A
    guard = TrainingGuard(zero_gradient_steps=patience)
    trainer = make_trainer("Trainer", model, prepared[2], prepared, tmp_path, guard)
    with pytest.raises(GuardError, match="GRD004") as stopped:
        trainer.train()
    assert (stopped.value.incident.step, stopped.value.incident.kind) == (patience, "zero-gradient")


def test_weights_without_any_gradient(prepared: Any, make_model: Any, tmp_path: Path) -> None:
    _, made, rows = prepared
    model = make_model()
    lost = torch.nn.Parameter(torch.ones(3))  # the optimizer holds it, and the loss does not depend on it
    optimizer = torch.optim.SGD([lost], lr=1e-3)
    with pytest.raises(GuardError, match="GRD004") as stopped, TrainingGuard(tmp_path).attach(model, optimizer):
        for _ in range(5):
            model.zero_grad()
            model(**made.collator(rows[:1])).loss.backward()
            optimizer.step()
    assert stopped.value.incident.step == 3


@own_loss
def test_a_finite_loss_whose_gradient_is_not(prepared: Any, make_model: Any, tmp_path: Path) -> None:
    def roots(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        return (outputs.logits * 0).sum().sqrt() + 1.0  # the slope of a root at 0 is infinite

    model = make_model()
    before = take_weights(model)
    trainer = make_trainer("Trainer", model, prepared[2], prepared, tmp_path, TrainingGuard(), compute_loss_func=roots)
    with pytest.raises(GuardError, match="gradient norm is nan") as stopped:
        trainer.train()
    assert stopped.value.incident.kind == "gradient-not-finite"
    assert stopped.value.incident.losses == (None,)  # that loss never went through the model
    assert "20 gradients are not finite" in stopped.value.incident.cause.message
    assert are_equal(model, before)


@own_loss
def test_a_loss_that_only_the_log_shows(prepared: Any, make_model: Any, tmp_path: Path) -> None:
    calls = []

    def lost(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        calls.append(1)
        honest = torch.nn.functional.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return honest + (math.inf if len(calls) == 2 else 0.0)  # a constant: the gradient stays finite

    trainer = make_trainer(
        "Trainer",
        make_model(),
        prepared[2],
        prepared,
        tmp_path,
        TrainingGuard(),
        compute_loss_func=lost,
        logging_nan_inf_filter=False,
    )
    with pytest.raises(GuardError, match="in the log the loss is inf") as stopped:
        trainer.train()
    assert stopped.value.incident.step == 2


def test_labels_that_equal_the_ids_are_named_and_stop_nothing(
    prepared: Any, make_model: Any, tmp_path: Path, logged: Any
) -> None:
    rows = [{**row, "labels": list(row["input_ids"])} for row in prepared[2]]
    guard = TrainingGuard()
    make_trainer("Trainer", make_model(), rows, prepared, tmp_path, guard, max_steps=3).train()
    assert [line for line in logged() if "LBL004" in line] == logged() != []
    assert guard.incidents == [] and guard.first_report is not None
    assert not (tmp_path / "guard").exists()

    silent = TrainingGuard(look_first=False)
    make_trainer("Trainer", make_model(), rows, prepared, tmp_path, silent, max_steps=1).train()
    assert len(logged()) == 1 and silent.first_report is None


@pytest.mark.slow
def test_skipping_an_update_is_as_if_its_batches_had_never_come(
    prepared: Any, make_model: Any, tmp_path: Path, logged: Any
) -> None:
    rows = prepared[2]
    good = [rows[0], rows[1], rows[2], rows[3], rows[5], rows[6]]
    bad = [*good[:2], masked(rows[3]), masked(rows[2]), *good[2:]]  # the second update
    after = []
    for data, steps in ((good, 3), (bad, 4)):
        model, guard = make_model(), TrainingGuard(action="skip")
        settings = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "learning_rate": 1e-2}
        trainer = make_trainer("Trainer", model, data, prepared, tmp_path, guard, max_steps=steps, **settings)
        start = take_weights(model)
        trainer.train()
        assert not are_equal(model, start) and count_hooks(model, trainer.optimizer) == 0
        after.append(take_weights(model))
    assert all(torch.equal(after[0][name], after[1][name]) for name in after[0])
    assert guard.skipped_updates == 1 and guard.counts == {"loss-not-finite": 1}
    [incident] = guard.incidents
    assert (incident.step, incident.micro_batch, incident.cause.code) == (2, 0, "LBL001")
    assert load_batch(str(incident.folder))["input_ids"].tolist() == [rows[3]["input_ids"]]
    assert [line for line in logged() if line.startswith("Step 2")] == logged()


@pytest.mark.slow
def test_skipping_ends_where_nothing_trains_any_more(prepared: Any, make_model: Any, tmp_path: Path) -> None:
    model, guard = make_model(), TrainingGuard(action="skip", look_first=False)
    poison(model)
    trainer = make_trainer("Trainer", model, prepared[2], prepared, tmp_path, guard, max_steps=30)
    with pytest.raises(GuardError, match="10 updates before it were skipped") as stopped:
        trainer.train()
    assert (stopped.value.incident.step, guard.skipped_updates) == (11, 10)
    assert len(list((tmp_path / "guard").iterdir())) == 1  # one folder for each cause


def test_warning_goes_on_and_logs_each_cause_once(prepared: Any, make_model: Any, tmp_path: Path, logged: Any) -> None:
    guard = TrainingGuard(action="warn", look_first=False)
    rows = [masked(row) for row in prepared[2]]
    trainer = make_trainer("Trainer", make_model(), rows, prepared, tmp_path, guard, max_steps=6)
    trainer.train()
    assert trainer.state.global_step == 6 and guard.counts["loss-not-finite"] == 6 and guard.skipped_updates == 0
    assert len([line for line in logged() if "the loss is nan" in line]) == 1
    assert len(list((tmp_path / "guard").glob("*loss-not-finite"))) == 1


def test_an_evaluation_without_a_finite_loss(prepared: Any, make_model: Any, tmp_path: Path) -> None:
    rows = prepared[2]
    trainer = make_trainer(
        "Trainer",
        make_model(),
        rows,
        prepared,
        tmp_path,
        TrainingGuard(),
        eval_dataset=Dataset.from_list([masked(row) for row in rows[:2]]),
        eval_strategy="steps",
        eval_steps=2,
    )
    with pytest.raises(GuardError, match="eval_loss is nan") as stopped:
        trainer.train()
    assert (stopped.value.incident.kind, stopped.value.incident.step) == ("eval-loss-not-finite", 2)


def test_a_sudden_spike_of_one_batch(prepared: Any, make_model: Any, tmp_path: Path) -> None:
    tokenizer, made, rows = prepared
    model = make_model(num_hidden_layers=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-2)
    batch = made.collator(rows[:1])
    strange = {**batch, "labels": torch.where(batch["labels"] != IGNORE_INDEX, 77, IGNORE_INDEX)}
    guard = TrainingGuard(tmp_path, tokenizer=tokenizer)
    losses = []
    with pytest.raises(GuardError) as stopped, guard.attach(model, optimizer):
        for step in range(60):
            if step == 12:
                optimizer.param_groups[0]["lr"] = 1e-6  # the loss stands from here on
            optimizer.zero_grad()
            loss = model(**(strange if step == 40 else batch)).loss
            loss.backward()
            losses.append(float(loss.detach()))
            optimizer.step()
    incident = stopped.value.incident
    assert (incident.step, incident.kind, len(losses)) == (41, "loss-spike", 41)
    assert losses[40] > 5 > losses[39]
    assert incident.cause.code == "LBL007"  # labels that are neither -100 nor the id: the doctor's finding


@pytest.mark.slow
def test_a_run_as_it_should_be_raises_nothing(prepared: Any, make_model: Any, tmp_path: Path, logged: Any) -> None:
    every = prepared[1].encode(load_rows(["chats.jsonl", "alpaca.jsonl"])[::3], progress=False)
    rows = sorted(every, key=lambda row: len(row["input_ids"]))[:48]
    guard = TrainingGuard()
    trainer = make_trainer(
        "Trainer",
        make_model(num_hidden_layers=1),
        [dict(row) for row in rows],
        prepared,
        tmp_path,
        guard,
        max_steps=24,
        learning_rate=1e-2,
        warmup_steps=5,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=2,
        lr_scheduler_type="cosine",
        eval_dataset=Dataset.from_list([dict(rows[0])]),
        eval_strategy="steps",
        eval_steps=12,
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 24 and losses[-1] < losses[0] - 0.5
    assert guard.incidents == [] and not guard.counts and logged() == []
    assert list(guard._history.losses) == pytest.approx(losses, rel=1e-4)  # it did look
    assert not (tmp_path / "guard").exists() and count_hooks(trainer.model, trainer.optimizer) == 0


@pytest.mark.slow
def test_what_is_left_of_a_run_that_ended_in_another_error(prepared: Any, make_model: Any, tmp_path: Path) -> None:
    class Trip(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 2:
                raise KeyError("tripped")

    model, guard = make_model(num_hidden_layers=1), TrainingGuard(look_first=False)
    trainer = make_trainer("Trainer", model, prepared[2], prepared, tmp_path, guard)
    trainer.add_callback(Trip())
    with pytest.raises(KeyError, match="tripped"):
        trainer.train()
    left = trainer.optimizer
    assert count_hooks(model, left) == 2
    trainer.remove_callback(Trip)
    trainer.train()  # hooks once more, not twice
    assert count_hooks(model, left) == 0 and count_hooks(model, trainer.optimizer) == 0

    trainer.add_callback(Trip())
    with pytest.raises(KeyError, match="tripped"), guard:
        trainer.train()
    assert count_hooks(model, trainer.optimizer) == 0


def test_hooks_of_a_deleted_guard_are_removed(prepared: Any, make_model: Any) -> None:
    _, made, rows = prepared
    model = make_model(num_hidden_layers=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    guard = TrainingGuard().attach(model, optimizer)
    assert count_hooks(model, optimizer) == 2
    del guard
    gc.collect()
    assert count_hooks(model, optimizer) == 0

    guard = TrainingGuard().attach(model, optimizer)
    batch = made.collator([{"input_ids": rows[0]["input_ids"][:3], "labels": rows[0]["input_ids"][:3]}])
    with torch.no_grad():
        model(**batch)
    assert guard._passes.batches == []  # an evaluation is no part of an update
    for _ in range(65):  # forward passes that no update of this optimizer follows
        model(**batch)
    assert count_hooks(model, optimizer) == 2 and len(guard._passes.batches) == 1  # it counts anew


@pytest.mark.parametrize("fused", [False, True])
def test_a_loss_scaler_may_overflow_on_its_way_down(
    fused: bool, prepared: Any, make_model: Any, tmp_path: Path
) -> None:
    _, made, rows = prepared
    model = make_model(num_hidden_layers=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-8)  # of float32 gradients
    before, guard = take_weights(model), TrainingGuard(tmp_path, look_first=False)
    norms = []
    with guard.attach(model, optimizer):
        for _ in range(4):
            optimizer.zero_grad()
            scaler.scale(model(**made.collator(rows[:1])).loss).backward()
            norms.append(max(float(p.grad.abs().max()) for p in model.parameters()))
            scaler.step(optimizer)
            scaler.update()
    assert not math.isfinite(norms[0]) and math.isfinite(norms[-1])  # it did overflow, and found its scale
    assert guard.incidents == [] and not are_equal(model, before)


def test_a_loss_scaler_that_never_finds_a_scale(prepared: Any, make_model: Any, tmp_path: Path) -> None:
    _, made, rows = prepared
    model = make_model(num_hidden_layers=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126, backoff_factor=0.99)
    batch = made.collator([{name: values[-8:] for name, values in rows[0].items()}])
    model.model.norm.weight.data *= 1e6
    guard = TrainingGuard(tmp_path, spike=None)
    with pytest.raises(GuardError, match="GRD002") as stopped, guard.attach(model, optimizer):
        for _ in range(30):
            optimizer.zero_grad()
            scaler.scale(model(**batch).loss).backward()
            scaler.step(optimizer)
            scaler.update()
    assert (stopped.value.incident.step, stopped.value.incident.kind) == (21, "gradient-not-finite")


def test_numbers_of_a_loop_of_ones_own(prepared: Any, make_model: Any, tmp_path: Path) -> None:
    _, made, rows = prepared
    batch = made.collator(rows[:2])
    guard = TrainingGuard(tmp_path, action="skip")
    assert guard.watch(2.0, 0.5) and guard.watch(torch.tensor(1.9), torch.tensor(0.5), batch=batch)
    assert not guard.watch(math.nan, 0.5, batch=batch, step=7)
    assert not guard.watch(1.9, math.inf)
    assert guard.watch(1.8, 0.0) and guard.watch(1.8, 0.0) and not guard.watch(1.8, 0.0)
    assert not guard.watch(0.0)
    kinds = ["loss-not-finite", "gradient-not-finite", "zero-gradient", "zero-loss"]
    assert [(incident.kind, incident.step) for incident in guard.incidents] == list(
        zip(kinds, [7, 8, 11, 12], strict=True)
    )
    kept = load_batch(str(guard.incidents[0].folder))
    assert all(torch.equal(kept[name], batch[name]) for name in batch)

    model = make_model(num_hidden_layers=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    strict = TrainingGuard(tmp_path)
    loss = model(**batch).loss
    loss.backward()
    assert strict.watch(loss, optimizer=optimizer, model=model, batch=batch)
    model.lm_head.weight.grad[5, 5] = math.inf
    with pytest.raises(GuardError, match=r"gradient norm is inf[\s\S]*model.embed_tokens.weight"):
        strict.watch(loss, optimizer=optimizer, model=model, batch=batch)


def test_evidence_is_written_whole_or_not_at_all(prepared: Any, tmp_path: Path) -> None:
    _, made, rows = prepared
    batch = made.collator(rows[:2])
    unsavable = {**batch, "bias": torch.eye(3).to_sparse()}  # safetensors has no sparse tensors
    with pytest.raises(GuardError, match="the loss is nan") as stopped:
        TrainingGuard(tmp_path / "guard").watch(math.nan, batch=unsavable)
    assert stopped.value.incident.folder is None and "could not be written" in str(stopped.value)
    assert list((tmp_path / "guard").iterdir()) == []

    (tmp_path / "file").write_text("")
    with pytest.raises(GuardError, match="could not be written"):
        TrainingGuard(tmp_path / "file").watch(math.nan, batch=batch)
    folders = []
    for _ in range(2):
        with pytest.raises(GuardError) as stopped:
            TrainingGuard(tmp_path / "guard").watch(math.nan, batch=batch)
        folders.append(Path(str(stopped.value.incident.folder)).name)
    assert folders == ["step-000001-loss-not-finite", "step-000001-loss-not-finite-2"]
    with pytest.raises(PadfixError, match="holds no such batch"):
        load_batch(tmp_path / "guard")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"action": "stop"}, "action is 'stop'.*action='raise'"),
        ({"zero_gradient_steps": 0}, "zero_gradient_steps is 0"),
        ({"spike": 3.0}, "spike is 3.0.*spike=10.0"),
    ],
)
def test_settings_that_cannot_work(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(PadfixError, match=message):
        TrainingGuard(**arguments)


def test_it_is_a_callback_and_an_error_of_the_library(tmp_path: Path) -> None:
    assert issubclass(TrainingGuard, TrainerCallback) and issubclass(GuardError, PadfixError)
    with pytest.raises(GuardError) as stopped:
        TrainingGuard(tmp_path).watch(math.inf)
    again = pickle.loads(pickle.dumps(stopped.value))
    assert isinstance(again, GuardError) and str(again) == str(stopped.value)
    assert again.incident == stopped.value.incident
    import llama_padfix.training.guard.callback

    assert (
        TrainingGuard.__module__ == "llama_padfix.training.guard.callback"
        and llama_padfix.training.guard.callback.TrainingGuard is TrainingGuard
    )
    with pytest.raises(AttributeError, match="Nothing"):
        llama_padfix.training.guard.callback.Nothing  # noqa: B018


TWO = """
import json, sys
from pathlib import Path
import torch
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainingArguments
from llama_padfix import GuardError, PadCollator, TrainingGuard
from llama_padfix.demo.reference import make_tiny_llama

class InOrder(Trainer):
    def _get_train_sampler(self, *args, **kwargs):
        return SequentialSampler(self.train_dataset)

folder, rank = sys.argv[1:]
row = {"input_ids": [128000, 40, 41, 42, 128009], "labels": [-100, 40, 41, 42, 128009]}
rows = [row, row, row, {**row, "labels": [-100] * 5}, row, row]  # the fourth: second update, second process
arguments = TrainingArguments(
    folder, use_cpu=True, ddp_backend="gloo", report_to=[], disable_tqdm=True, save_strategy="no",
    per_device_train_batch_size=1, max_steps=3,
)
model = make_tiny_llama(hidden_size=16, num_hidden_layers=1)
trainer = InOrder(
    model, arguments, PadCollator(128001), rows, callbacks=[TrainingGuard()]
)
try:
    trainer.train()
except GuardError as error:
    seen = [error.incident.step, error.incident.kind, error.incident.folder, error.incident.seen]
    seen += [len(model._forward_hooks), type(trainer.model_wrapped).__name__]
    Path(folder, f"seen-{rank}.json").write_text(json.dumps(seen))
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_stop_together(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    both = []
    for rank in ("0", "1"):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        both.append(
            subprocess.Popen(
                [sys.executable, "-c", TWO, str(tmp_path), rank],
                env={**os.environ, **place, "OMP_NUM_THREADS": "1"},
                cwd=Path(__file__).parents[2],
            )
        )
    try:
        assert [process.wait(timeout=300) for process in both] == [0, 0]
    finally:
        for process in both:
            process.kill()
    first, second = (json.loads((tmp_path / f"seen-{rank}.json").read_text()) for rank in (0, 1))
    assert first[:2] == second[:2] == [2, UNTRAINED]
    assert first[4:] == second[4:] == [0, "DistributedDataParallel"]
    assert first[2] is None and "another process" in first[3]
    assert second[2].endswith(f"step-000002-{UNTRAINED}-rank1")
    assert [path.name for path in (tmp_path / "guard").iterdir()] == [f"step-000002-{UNTRAINED}-rank1"]
