"""GRPO with a smaller batch: the same generated rows in every update, or a refusal before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

pytest.importorskip("trl", minversion="0.19")  # steps_per_generation

from llama_padfix import PadfixError, train_with_backoff
from tests.training.test_guard_runs import QUIET, numbers_tokenizer, tiny


def make_trainer(folder: Path, batch: int, accumulation: int, generations: int, **more: Any) -> Any:
    from trl import GRPOConfig, GRPOTrainer

    settings = {
        **QUIET,
        "bf16": False,
        "max_steps": 3,
        "max_completion_length": 4,
        "logging_steps": 1,
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulation,
        "num_generations": generations,
        **more,
    }
    return GRPOTrainer(
        tiny(),
        reward_funcs=lambda completions, **_: [float(len(text) + place) for place, text in enumerate(completions)],
        args=GRPOConfig(str(folder), **settings),
        processing_class=numbers_tokenizer(),
        train_dataset=Dataset.from_list([{"prompt": str(number)} for number in range(64)]),
    )


def run_out(*_: Any, **__: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory.")


def weights(trainer: Any) -> list[Any]:
    return [weight.detach().clone() for weight in trainer.model.parameters()]


@pytest.mark.parametrize(
    ("accumulation", "generations", "call"),
    [(2, 2, 2), (2, 2, 4), (1, 4, 1)],
    ids=["second micro-batch", "second update", "batch of one group"],
)
@pytest.mark.slow
def test_the_rows_that_were_generated_stay_those_of_their_update(
    accumulation: int, generations: int, call: int, tmp_path: Path
) -> None:
    hungry = make_trainer(tmp_path / "a", 4, accumulation, generations)
    compute, calls, start = hungry.compute_loss, [], weights(hungry)

    def compute_loss(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(len(inputs["prompt_ids"]))
        if len(calls) >= call and calls[-1] > 2:
            run_out()
        return compute(model, inputs, *args, **kwargs)

    hungry.compute_loss = compute_loss
    train_with_backoff(hungry)
    small = make_trainer(tmp_path / "b", 2, 2 * accumulation, generations)
    small.train()
    pairs = zip(weights(hungry), weights(small), start, strict=True)
    apart = [(float((one - two).abs().max()), float((two - old).abs().max())) for one, two, old in pairs]
    first = max(one for one, _ in apart)
    assert first == 0.0 if call <= accumulation else first < 0.01 * max(went for _, went in apart)
    args = hungry.args
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (2, 2 * accumulation)
    assert args.steps_per_generation == 2 * accumulation
    rewards = [[entry["reward"] for entry in t.state.log_history if "reward" in entry] for t in (hungry, small)]
    assert rewards[0] == rewards[1] and len(rewards[0]) == 3


@pytest.mark.parametrize("settings", [{"steps_per_generation": 4}, {"num_iterations": 2}])
def test_rows_that_serve_several_updates_are_refused_beforehand(settings: dict[str, int], tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, 4, 2, 2, **settings)
    trainer.train = run_out
    with pytest.raises(PadfixError, match=r"generates rows for 4 micro-batches.*steps_per_generation=None"):
        train_with_backoff(trainer)


def test_memory_that_runs_out_while_completions_are_generated(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, 4, 2, 2)

    def generate(*args: Any, **kwargs: Any) -> None:
        run_out()

    trainer.model.generate = generate
    with pytest.raises(PadfixError, match=r"while completions were generated.*Lower max_completion_length"):
        train_with_backoff(trainer)
    assert trainer.args.steps_per_generation == 2
