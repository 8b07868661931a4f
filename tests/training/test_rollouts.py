"""Rollouts in GRPO: with a smaller batch the same rows in every update, or a refusal; several turns are masked."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

pytest.importorskip("trl", minversion="0.19")  # steps_per_generation

from llama_padfix import PadfixError, Rollout, diagnose, join_rollout, prepare, train_with_backoff
from llama_padfix.demo.reference import make_tiny_llama
from tests.support.byte_tokenizer import make_byte_tokenizer
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


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.mark.filterwarnings("ignore:You are using 'rollout_func'")
def test_a_rollout_of_two_turns_trains_what_was_sampled_and_ends_at_every_stop_id(tmp_path: Path) -> None:
    from trl import GRPOConfig, GRPOTrainer

    if "rollout_func" not in inspect.signature(GRPOTrainer.__init__).parameters:
        pytest.skip("this TRL has no rollout_func")
    controls = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<pad>"]
    tokenizer = make_byte_tokenizer(controls, "<|endoftext|>", template=CHATML)
    model = make_tiny_llama(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, eos_token_id=256)
    prepared = prepare(tokenizer, model)
    rollouts: list[Rollout] = []

    def play(prompts: Any, trainer: Any) -> Rollout:
        turns: list[Any] = []
        for appended in ([{"role": "user", "content": "more"}], None):
            ids = torch.tensor([join_rollout(tokenizer, prompts, turns).ids])
            sampled = model.generate(ids, generation_config=trainer.generation_config)[0, ids.shape[1] :]
            turns.append((sampled, appended))
        return join_rollout(tokenizer, prompts, turns)

    def rollout_func(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        made = [play(prompt, trainer) for prompt in prompts]
        rollouts.extend(made)
        columns = {"prompt_ids": "prompt_ids", "completion_ids": "completion_ids", "env_mask": "mask"}
        return {"logprobs": None, **{name: [getattr(one, field) for one in made] for name, field in columns.items()}}

    settings = {**QUIET, **prepared.trainer_args, "max_steps": 1, "per_device_train_batch_size": 4}
    trainer = GRPOTrainer(
        model,
        reward_funcs=lambda completion_ids, **_: [float(len(set(ids))) for ids in completion_ids],
        args=GRPOConfig(str(tmp_path), num_generations=2, max_completion_length=4, **settings),
        processing_class=tokenizer,
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": str(n)}]} for n in range(8)]),
        rollout_func=rollout_func,
    )
    stops = {tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|endoftext|>")}
    assert set(trainer.eos_token_ids) == set(trainer.generation_config.eos_token_id) == stops
    assert diagnose(trainer).findings == ()
    batches: list[Any] = []
    compute = trainer.compute_loss

    def compute_loss(model: Any, inputs: Any, *args: Any, **more: Any) -> Any:
        batches.append(inputs)
        return compute(model, inputs, *args, **more)

    trainer.compute_loss = compute_loss
    trainer.train()
    [batch] = batches
    trained = (batch["completion_mask"] * batch["tool_mask"]).bool()
    sampled = [tuple(one.ids[start:end]) for one in rollouts for start, end in one.turns]
    found = [ids[mask].tolist() for ids, mask in zip(batch["completion_ids"], trained, strict=True)]
    assert len(rollouts) == 4 and sorted(found) == sorted(
        [*first, *second] for first, second in zip(sampled[::2], sampled[1::2], strict=True)
    )
