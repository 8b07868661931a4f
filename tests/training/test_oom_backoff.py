"""Memory that runs out: the batch gets smaller, and every update sees the rows that it would have seen."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from accelerate.state import AcceleratorState
from transformers import Trainer, TrainerCallback, TrainingArguments

from llama_padfix.core.errors import PadfixError
from llama_padfix.demo.reference import make_tiny_llama
from llama_padfix.training.oom_backoff import train_with_backoff

LENGTH, VOCABULARY = 6, 512
RELEASE = tuple(int(part) for part in transformers.__version__.split(".")[:2])
# Before 4.46 a loss was the mean of its micro-batch, whatever the number of its tokens.
TOLERANCE = 1e-4 if RELEASE >= (4, 46) else 1.0


@pytest.fixture(autouse=True)
def forget_precision() -> Iterator[None]:
    """Before transformers 5 a run in bf16 leaves its precision to the next."""
    yield
    os.environ.pop("ACCELERATE_MIXED_PRECISION", None)
    AcceleratorState._reset_state(reset_partial_state=True)


class Rows(torch.utils.data.Dataset):
    """Numbered rows, each with a first id of its own; every third is half as long."""

    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(1)
        self.ids = torch.randint(0, VOCABULARY, (count, LENGTH), generator=generator)
        self.ids[:, 0] = torch.randperm(VOCABULARY, generator=generator)[:count]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"number": index, "ids": self.ids[index, : LENGTH // 2 if index % 3 == 0 else LENGTH]}


class Watch(TrainerCallback):  # type: ignore[misc]
    """The numbers of the rows that each finished update was made of, and what else happened."""

    def __init__(self) -> None:
        self.fetched: list[int] = []
        self.updates: list[list[int]] = []
        self.in_update: list[int] = []
        self.begun = 0
        self.evaluated: list[int] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.begun += 1

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.in_update = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert state.global_step == len(self.updates) + 1
        self.updates.append(self.in_update)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.evaluated.append(state.global_step)


def refuse(model: Any, watch: Watch, too_much: Callable[[Any], bool], fail: Callable[[], None]) -> None:
    """Let the embedding run out of memory for some batches, and note the rows of the others."""

    def look(module: Any, args: Any) -> None:
        ids = args[0]
        if too_much(ids):
            fail()
        watch.in_update.extend(int(first) for first in ids[:, 0])

    model.get_input_embeddings().register_forward_pre_hook(look)


def run_out() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def exhaust_the_allocator() -> None:
    torch.empty(2**58)


def build(
    folder: Path,
    *,
    too_much: Callable[[Any], bool] = lambda ids: False,
    fail: Callable[[], None] = run_out,
    count: int = 12,
    lora: bool = False,
    callbacks: Sequence[Any] = (),
    model_settings: dict[str, Any] | None = None,
    **arguments: Any,
) -> tuple[Any, Watch]:
    small: dict[str, Any] = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2}
    model = make_tiny_llama(hidden_size=16, **small, **(model_settings or {}))
    if lora:
        import peft

        torch.manual_seed(3)
        settings = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        model = peft.get_peft_model(model, settings)
    watch = Watch()
    refuse(model, watch, too_much, fail)

    def collate(part: list[dict[str, Any]]) -> dict[str, Any]:
        width = max(len(row["ids"]) for row in part)
        ids = torch.zeros(len(part), width, dtype=torch.long)
        labels = torch.full_like(ids, -100)
        mask = torch.zeros_like(ids)
        for place, row in enumerate(part):
            length = len(row["ids"])
            ids[place, :length] = row["ids"]
            labels[place, 1:length] = row["ids"][1:]
            mask[place, :length] = 1
        return {"input_ids": ids, "labels": labels, "attention_mask": mask}

    settings_ = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "num_train_epochs": 1,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "linear",
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "label_names": ["labels"],
        "seed": 7,
        **arguments,
    }
    known = inspect.signature(TrainingArguments.__init__).parameters
    if "eval_strategy" in settings_ and "eval_strategy" not in known:
        settings_["evaluation_strategy"] = settings_.pop("eval_strategy")
    rows = Rows(count)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**settings_),
        train_dataset=rows,
        eval_dataset=torch.utils.data.Subset(rows, range(4)),
        data_collator=collate,
        callbacks=[watch, *callbacks],
    )
    return trainer, watch


def weights(trainer: Any) -> dict[str, Any]:
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}


def difference(one: Any, other: Any) -> float:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def drift(one: Any, other: Any, start: dict[str, Any]) -> float:
    """How far two runs are apart, as a share of the way that they went from their common start."""
    first, second = weights(one), weights(other)
    apart = sum(float((first[name] - second[name]).square().sum()) for name in start)
    went = sum(float((start[name] - second[name]).square().sum()) for name in start)
    return float((apart / went) ** 0.5)


def as_sets(updates: list[list[int]]) -> list[list[int]]:
    return [sorted(rows) for rows in updates]


@pytest.mark.parametrize("settings", [{}, {"bf16": True}, {"model_settings": {"attention_dropout": 0.2}}])
def test_out_of_memory_in_the_first_update_gives_bit_for_bit_the_run_with_the_small_batch(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    hungry, seen = build(tmp_path / "a", too_much=lambda ids: len(ids) > 2, **settings)
    output = train_with_backoff(hungry)
    small, wanted = build(tmp_path / "b", per_device_train_batch_size=2, gradient_accumulation_steps=2, **settings)
    small.train()
    assert output.global_step == 3 == hungry.state.global_step == small.state.global_step
    assert seen.updates == wanted.updates
    assert difference(hungry, small) == 0.0
    assert hungry.state.log_history[0]["loss"] == small.state.log_history[0]["loss"]
    assert (hungry.args.per_device_train_batch_size, hungry.args.gradient_accumulation_steps) == (2, 2)


def test_auto_find_batch_size_would_have_changed_the_rows_an_update(tmp_path: Path) -> None:
    theirs, seen = build(tmp_path, too_much=lambda ids: len(ids) > 2, auto_find_batch_size=True)
    with pytest.raises(PadfixError, match="auto_find_batch_size=True"):
        train_with_backoff(theirs)
    theirs.train()
    assert max(len(rows) for rows in seen.updates) <= 2
    assert len(seen.updates) > 3


@pytest.mark.parametrize(
    ("update", "settings"),
    [
        (1, {"count": 12}),
        (3, {"gradient_accumulation_steps": 2, "count": 20, "num_train_epochs": 2}),
        (4, {"num_train_epochs": 2, "count": 10}),
        (3, {"num_train_epochs": 2, "count": 12}),
        (4, {"num_train_epochs": 2, "count": 10, "lora": True}),
        (3, {"num_train_epochs": 3, "count": 8, "max_steps": 5, "optim": "adafactor"}),
    ],
    ids=["mid-epoch", "accumulated", "second-epoch", "epoch-start", "lora", "max-steps"],
)
def test_out_of_memory_later_goes_on_from_the_update_that_failed(
    tmp_path: Path, update: int, settings: dict[str, Any]
) -> None:
    if RELEASE < (4, 55) and settings.get("count", 12) % 8:
        pytest.skip("this transformers carries what is left of an epoch into the next")
    accumulated = settings.get("gradient_accumulation_steps", 1)
    small, wanted = build(
        tmp_path / "b",
        **{**settings, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2 * accumulated},
    )
    start = weights(small)
    small.train()
    # In the last micro-batch, so that there are gradients of the others.
    place = 4 * (accumulated - 1)
    hungry, seen = build(
        tmp_path / "a",
        too_much=lambda ids: len(ids) > 2 and hungry.state.global_step == update and len(seen.in_update) == place,
        **settings,
    )
    output = train_with_backoff(hungry)
    assert seen.begun == 2
    assert as_sets(seen.updates) == as_sets(wanted.updates)
    assert output.global_step == small.state.global_step == hungry.state.max_steps == small.state.max_steps
    assert drift(hungry, small, start) < TOLERANCE
    assert [e["learning_rate"] for e in hungry.state.log_history if "learning_rate" in e] == [
        e["learning_rate"] for e in small.state.log_history if "learning_rate" in e
    ]
    assert hungry.args.gradient_accumulation_steps == 2 * accumulated


def test_the_update_that_failed_draws_what_it_would_have_drawn(tmp_path: Path) -> None:
    plain, wanted = build(tmp_path / "plain", count=12, model_settings={"attention_dropout": 0.3})
    plain.train()
    first = wanted.updates[1][0]
    drawn: list[Any] = []

    def too_much(ids: Any) -> bool:
        if first not in ids[:, 0]:
            return False
        drawn.append(torch.get_rng_state())
        return len(ids) > 2

    hungry, _ = build(tmp_path / "a", too_much=too_much, count=12, model_settings={"attention_dropout": 0.3})
    train_with_backoff(hungry)
    failed, again = drawn
    assert torch.equal(failed, again)


@pytest.mark.parametrize("update", [1, 4])
def test_shuffling_by_the_global_generator_keeps_its_order(tmp_path: Path, update: int) -> None:
    settings: dict[str, Any] = {
        "num_train_epochs": 2,
        "accelerator_config": {"use_seedable_sampler": False},
        "model_settings": {"attention_dropout": 0.3},  # draws from the same generator
    }
    plain, wanted = build(tmp_path / "b", **settings)
    plain.train()

    def too_much(ids: Any) -> bool:
        return len(ids) > 2 and hungry.state.global_step == update

    hungry, seen = build(tmp_path / "a", too_much=too_much, **settings)
    train_with_backoff(hungry)
    # A smaller batch draws other dropout, and the next epoch its order from there.
    same = 3 if update == 1 else 6
    assert as_sets(seen.updates)[:same] == as_sets(wanted.updates)[:same]
    assert as_sets(wanted.updates)[:3] != as_sets(wanted.updates)[3:]


def test_evaluation_and_callbacks_go_on(tmp_path: Path) -> None:
    class Counts(TrainerCallback):  # type: ignore[misc]
        steps = 0

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.steps += 1

    counts = Counts()
    hungry, seen = build(
        tmp_path / "a",
        too_much=lambda ids: len(ids) > 2 and hungry.model.training and hungry.state.global_step == 3,
        callbacks=[counts],
        count=24,
        eval_strategy="steps",
        eval_steps=2,
        per_device_eval_batch_size=4,
    )
    handlers = list(hungry.callback_handler.callbacks)
    train_with_backoff(hungry)
    assert counts.steps == 6
    assert seen.evaluated == [2, 4, 6]
    losses = [entry["step"] for entry in hungry.state.log_history if "loss" in entry]
    assert losses == [1, 2, 3, 4, 5, 6]
    assert hungry.callback_handler.callbacks == handlers


def test_a_second_shortage_makes_it_smaller_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    small, wanted = build(tmp_path / "b", per_device_train_batch_size=1, gradient_accumulation_steps=4, count=16)
    start = weights(small)
    small.train()
    hungry, seen = build(
        tmp_path / "a", too_much=lambda ids: len(ids) > (1 if hungry.state.global_step == 2 else 2), count=16
    )
    train_with_backoff(hungry)
    assert as_sets(seen.updates) == as_sets(wanted.updates)
    assert drift(hungry, small, start) < TOLERANCE
    assert (hungry.args.per_device_train_batch_size, hungry.args.gradient_accumulation_steps) == (1, 4)
    said = [record.getMessage() for record in caplog.records if "accumulated" in record.getMessage()]
    assert len(said) == 2
    assert "batch: 2 x 2 accumulated, from update 1 on (4 rows an update as before; CUDA out of memory" in said[0]
    assert "batch: 1 x 4 accumulated, from update 3 on" in said[1]
    assert "expandable_segments:True" in said[0]
    assert list((tmp_path / "a").iterdir()) == []


def test_gradients_of_the_broken_update_are_freed_before_anything_is_saved(tmp_path: Path) -> None:
    hungry, seen = build(
        tmp_path,
        too_much=lambda ids: len(ids) > 2 and hungry.state.global_step == 1 and len(seen.in_update) == 4,
        count=16,
        gradient_accumulation_steps=2,
    )
    held: list[bool] = []
    save = hungry.save_model

    def look_and_save(*arguments: Any, **keywords: Any) -> None:
        held.append(any(parameter.grad is not None for parameter in hungry.model.parameters()))
        save(*arguments, **keywords)

    hungry.save_model = look_and_save
    train_with_backoff(hungry)
    assert held == [False]


def test_an_odd_batch_goes_to_its_next_divisor(tmp_path: Path) -> None:
    hungry, seen = build(tmp_path, too_much=lambda ids: len(ids) > 3, per_device_train_batch_size=9, count=18)
    train_with_backoff(hungry)
    assert (hungry.args.per_device_train_batch_size, hungry.args.gradient_accumulation_steps) == (3, 3)
    assert [len(rows) for rows in seen.updates] == [9, 9]


def test_the_allocator_of_the_cpu_is_understood(tmp_path: Path) -> None:
    hungry, seen = build(tmp_path, too_much=lambda ids: len(ids) > 2, fail=exhaust_the_allocator)
    train_with_backoff(hungry)
    assert [len(rows) for rows in seen.updates] == [4] * 3


def test_without_a_shortage_nothing_changes(tmp_path: Path) -> None:
    watched, seen = build(tmp_path / "a")
    output = train_with_backoff(watched)
    plain, wanted = build(tmp_path / "b")
    expected = plain.train()
    assert difference(watched, plain) == 0.0
    assert seen.updates == wanted.updates
    assert output.training_loss == expected.training_loss
    assert (watched.args.per_device_train_batch_size, watched.args.gradient_accumulation_steps) == (4, 1)


def test_one_row_too_much_says_what_else_to_do(tmp_path: Path) -> None:
    hungry, _ = build(tmp_path, too_much=lambda ids: True)
    handlers = list(hungry.callback_handler.callbacks)
    with pytest.raises(PadfixError, match=r"single row.*gradient_checkpointing=True, shorter rows.*4 bits"):
        train_with_backoff(hungry)
    assert (hungry.args.per_device_train_batch_size, hungry.args.gradient_accumulation_steps) == (4, 1)
    assert hungry.args.train_batch_size == hungry._train_batch_size == 4
    assert hungry.callback_handler.callbacks == handlers
    assert list(tmp_path.iterdir()) == []


def test_an_evaluation_out_of_memory_is_told_apart(tmp_path: Path) -> None:
    hungry, _ = build(
        tmp_path,
        too_much=lambda ids: not hungry.model.training,
        eval_strategy="steps",
        eval_steps=2,
    )
    with pytest.raises(PadfixError, match=r"in an evaluation.*per_device_eval_batch_size"):
        train_with_backoff(hungry)


@pytest.mark.parametrize("update", [0, 1])
def test_rows_that_are_too_many_to_collate_are_collated_in_smaller_batches(tmp_path: Path, update: int) -> None:
    settings: dict[str, Any] = {"attention_dropout": 0.2, "num_hidden_layers": 1}
    start: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 10, "eval_on_start": True}
    hungry, seen = build(tmp_path / "a", model_settings=settings, **start)
    collate = hungry.data_collator

    def too_many(part: list[Any]) -> Any:
        if len(part) > 2 and hungry.model.training and hungry.state.global_step == update:
            if update:
                raise MemoryError  # as numpy does
            try:
                run_out()
            except torch.OutOfMemoryError:
                raise ValueError("the rows cannot be collated")  # noqa: B904  # as scripts do: no `from`
        return collate(part)

    hungry.data_collator = too_many
    train_with_backoff(hungry)
    # The last update is followed by an evaluation, whose rows come behind its own.
    assert [len(rows) for rows in seen.updates] == [4, 4, 4 + 4]
    assert len({row for rows in seen.updates for row in rows[:4]}) == 12
    assert seen.evaluated.count(0) == 1


def test_a_full_disk_is_told_with_the_memory_that_ran_out(tmp_path: Path) -> None:
    hungry, _ = build(tmp_path, too_much=lambda ids: len(ids) > 2 and hungry.state.global_step == 1)

    def full(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    hungry._save_optimizer_and_scheduler = full
    with pytest.raises(PadfixError, match=r"Memory ran out.*RuntimeError: PytorchStreamWriter.*Make room"):
        train_with_backoff(hungry)


def test_an_update_out_of_memory_is_told_apart(tmp_path: Path) -> None:
    class Greedy(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            run_out()

    hungry, _ = build(tmp_path)
    hungry.optimizer = Greedy(hungry.model.parameters(), lr=0.1)
    with pytest.raises(PadfixError, match="in the optimizer's update, whose weights may be half changed"):
        train_with_backoff(hungry)


def test_other_errors_pass(tmp_path: Path) -> None:
    def fail() -> None:
        raise RuntimeError("shapes do not match")

    hungry, seen = build(tmp_path, too_much=lambda ids: True, fail=fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        train_with_backoff(hungry)
    assert seen.begun == 1


def test_rows_that_would_change_are_refused(tmp_path: Path) -> None:
    hungry, _ = build(tmp_path, too_much=lambda ids: len(ids) > 2, count=11, dataloader_drop_last=True)
    with pytest.raises(PadfixError, match="dataloader_drop_last=True drops other rows"):
        train_with_backoff(hungry)
    assert hungry.args.per_device_train_batch_size == 4


def test_a_dataloader_of_its_own_is_refused(tmp_path: Path) -> None:
    hungry, _ = build(tmp_path, too_much=lambda ids: len(ids) > 2)
    fixed = torch.utils.data.DataLoader(hungry.train_dataset, batch_size=4, collate_fn=hungry.data_collator)
    # A subclass with its own loader, as scripts have them.
    hungry.__class__ = type("Own", (Trainer,), {"get_train_dataloader": lambda self: fixed})
    with pytest.raises(PadfixError, match="does not take its batch from per_device_train_batch_size"):
        train_with_backoff(hungry)


def test_the_private_parts_of_the_trainer_are_as_relied_upon() -> None:
    release = f"transformers {transformers.__version__} changed what train_with_backoff relies on"
    saves = inspect.signature(Trainer._save_optimizer_and_scheduler).parameters
    assert list(saves) == ["self", "output_dir"], f"{release}: Trainer._save_optimizer_and_scheduler"
    assert "_internal_call" in inspect.signature(Trainer.save_model).parameters, f"{release}: Trainer.save_model"
    assert "self._train_batch_size = " in inspect.getsource(Trainer.__init__), f"{release}: Trainer._train_batch_size"
