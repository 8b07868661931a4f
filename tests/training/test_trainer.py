"""`build_trainer` on raw rows of every shape, and the right keyword for the installed versions."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from datasets import Dataset, DatasetDict, IterableDataset
from peft import LoraConfig
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from llama_padfix import IGNORE_INDEX, PadfixError, build_trainer, plan_patch
from llama_padfix.core.compat import find_tokenizer
from llama_padfix.demo.reference import make_tiny_llama
from llama_padfix.training.trainer import make_config
from tests.conftest import fresh_tokenizer

QUICK: dict[str, Any] = {
    "device": "cpu",
    "use_cpu": True,
    "report_to": [],
    "save_strategy": "no",
    "disable_tqdm": True,
    "gradient_checkpointing": False,
}
MESSAGES = [{"role": "user", "content": "Say hello."}, {"role": "assistant", "content": "Hello!"}]
SHAPES: dict[str, dict[str, Any]] = {
    "messages": {"messages": MESSAGES},
    "sharegpt": {"conversations": [{"from": "human", "value": "Say hello."}, {"from": "gpt", "value": "Hello!"}]},
    "alpaca": {"instruction": "Say hello.", "input": "", "output": "Hello!"},
    "prompt-completion": {"prompt": "Say hello.", "completion": "Hello!"},
    "text": {"text": "Hello!"},
}


@pytest.fixture(scope="module")
def untouched() -> Iterator[tuple[Any, Any]]:
    """A tokenizer and a model that must come out of a test as they went in."""
    tokenizer, model = fresh_tokenizer("3.1-instruct"), make_tiny_llama(hidden_size=16, num_hidden_layers=1)
    yield tokenizer, model
    assert {change.target for change in plan_patch(tokenizer, model)} == {
        "tokenizer.pad_token",
        "tokenizer.adds_bos",
        "model.config.pad_token_id",
        "model.generation_config.pad_token_id",
    }


def state(tokenizer: Any, model: Any) -> Any:
    """What `prepare` would change first; the fixture looks at everything in the end."""
    return tokenizer.pad_token, tokenizer.backend_tokenizer.post_processor.__getstate__(), model.config.pad_token_id


def trained_text(tokenizer: Any, row: Any) -> str:
    text: str = tokenizer.decode([label for label in row["labels"] if label != IGNORE_INDEX])
    return text


@pytest.mark.slow
def test_every_shape_trains_the_answer_and_its_end(make_model: Any, tmp_path: Path) -> None:
    tokenizer = fresh_tokenizer("3.1-instruct")
    for shape, row in SHAPES.items():
        model = make_model(num_hidden_layers=1)
        trainer = build_trainer(model, tokenizer, [row], output_dir=str(tmp_path), **QUICK)
        assert isinstance(trainer, SFTTrainer)
        [encoded] = trainer.train_dataset
        end = "<|end_of_text|>" if shape == "text" else "<|eot_id|>"
        assert trained_text(tokenizer, encoded) == f"Hello!{end}"
        ids = encoded["input_ids"].tolist()
        assert ids[:2] != [128000, 128000] and ids[0] == 128000
        assert not plan_patch(tokenizer, model)


@pytest.mark.slow
def test_trainer_trains_with_an_adapter_evaluates_and_calls_back(
    tokenizer: Any, make_model: Any, tmp_path: Path
) -> None:
    steps = []

    class Count(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            steps.append(state.global_step)

    trainer = build_trainer(
        make_model(num_hidden_layers=1),
        tokenizer,
        Dataset.from_dict({"messages": [MESSAGES, MESSAGES, None], "text": [None, None, "Hello! " * 100]}),
        eval_dataset={"a": [SHAPES["sharegpt"]], "b": [SHAPES["text"]]},
        peft_config=LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"),
        callbacks=[Count()],
        output_dir=str(tmp_path),
        max_length=60,
        truncation="tokens",
        pad_to_multiple_of=16,
        learning_rate=1e-3,
        max_steps=1,
        max_grad_norm=0.5,
        per_device_train_batch_size=3,
        **QUICK,
    )
    assert (trainer.args.learning_rate, trainer.args.max_grad_norm, trainer.args.bf16) == (1e-3, 0.5, False)
    assert trainer.args.logging_nan_inf_filter is False
    [batch] = trainer.get_train_dataloader()
    assert batch["input_ids"].shape == (3, 64) and max(map(len, trainer.train_dataset["input_ids"])) == 60
    assert find_tokenizer(trainer) is tokenizer
    trainer.train()
    assert steps == [1]
    results = trainer.evaluate()
    assert results["eval_a_loss"] > 0 and results["eval_b_loss"] > 0


@pytest.mark.slow
def test_a_stream_is_trained_on(tokenizer: Any, make_model: Any, tmp_path: Path) -> None:
    stream = IterableDataset.from_generator(lambda: iter([SHAPES["messages"]] * 4))
    model = make_model(num_hidden_layers=1)
    trainer = build_trainer(model, tokenizer, stream, output_dir=str(tmp_path), max_steps=1, **QUICK)
    assert trainer.train().training_loss > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"learning_rat": 1e-4}, "learning_rat= is known neither.*Did you mean learning_rate"),
        ({"train_onn": "last"}, "train_onn= is known neither.*Did you mean train_on"),
        ({"zzzzzz": 1}, r"zzzzzz= is known neither.*trl\.SFTConfig"),
        ({"args": object()}, "build_trainer does itself what args= is for.*learning_rate="),
        ({"max_seq_length": 5}, "max_seq_length=.*max_length="),
        ({"packing": True}, "packing="),
        ({"padding_free": True}, "padding_free="),
        ({"assistant_only_loss": True}, "assistant_only_loss=.*train_on"),
        ({"formatting_func": str}, "formatting_func="),
        ({"dataset_kwargs": {"skip_prepare_dataset": False}}, "dataset_kwargs="),
        ({"eos_token": "<|eot_id|>"}, "eos_token="),
        ({"processing_class": "another"}, "processing_class="),
        ({"max_length": -1}, "max_length=-1"),
    ],
)
def test_a_keyword_that_cannot_be_obeyed_is_refused_and_nothing_is_patched(
    arguments: dict[str, Any], said: str, untouched: tuple[Any, Any]
) -> None:
    tokenizer, model = untouched
    before = state(tokenizer, model)
    with pytest.raises(PadfixError, match=said):
        build_trainer(model, tokenizer, [SHAPES["messages"]], **QUICK, **arguments)
    assert state(tokenizer, model) == before


def test_switched_off_keywords_of_trl_are_accepted(tokenizer: Any, make_model: Any, tmp_path: Path) -> None:
    off: dict[str, Any] = {
        "packing": False,
        "padding_free": False,
        "formatting_func": None,
        "completion_only_loss": None,
    }
    model = make_model(num_hidden_layers=1)
    build_trainer(model, tokenizer, [SHAPES["messages"]], output_dir=str(tmp_path), **off, **QUICK)


def test_what_the_config_refuses_is_refused_before_anything_is_patched(untouched: tuple[Any, Any]) -> None:
    tokenizer, model = untouched
    before = state(tokenizer, model)
    with pytest.raises(ValueError, match="no_such_strategy"):
        build_trainer(model, tokenizer, [SHAPES["messages"]], eval_strategy="no_such_strategy", **QUICK)
    assert state(tokenizer, model) == before


def test_several_splits_are_not_one_dataset_to_train_on(untouched: tuple[Any, Any]) -> None:
    splits = DatasetDict(train=Dataset.from_list([SHAPES["text"]]), test=Dataset.from_list([SHAPES["text"]]))
    tokenizer, model = untouched
    before = state(tokenizer, model)
    with pytest.raises(PadfixError, match=r"'train', 'test'.*dataset\['train'\]"):
        build_trainer(model, tokenizer, splits, **QUICK)
    assert state(tokenizer, model) == before


def test_a_bad_row_is_named_with_the_dataset_that_holds_it(tokenizer: Any, make_model: Any, tmp_path: Path) -> None:
    model = make_model(num_hidden_layers=1)
    good, bad = [SHAPES["text"]], [SHAPES["text"], {"nothing": 1}]
    with pytest.raises(PadfixError, match=r"^row 1: the columns are nothing"):
        build_trainer(model, tokenizer, bad, output_dir=str(tmp_path), **QUICK)
    with pytest.raises(PadfixError, match=r"^eval_dataset, row 1: the columns are nothing"):
        build_trainer(model, tokenizer, good, eval_dataset=bad, output_dir=str(tmp_path), **QUICK)


def test_missing_trl_gives_the_line_that_installs_it(
    untouched: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, model = untouched
    before = state(tokenizer, model)
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(PadfixError, match=r'^This needs TRL\. Run: pip install "llama-padfix\[train\]"$'):
        build_trainer(model, tokenizer, [SHAPES["messages"]])
    assert state(tokenizer, model) == before


@pytest.mark.slow
def test_both_argument_classes_take_the_dicts_in_a_process_of_their_own(tmp_path: Path) -> None:
    code = """
from llama_padfix import choose_precision
from llama_padfix.demo.reference import make_tiny_llama
from llama_padfix.training.trainer import sft_arguments_for, trainer_arguments_for
from transformers import TrainingArguments
from trl import SFTConfig
precision = choose_precision("cpu")
plain = TrainingArguments(output_dir="out", use_cpu=True, **trainer_arguments_for(precision))
sft = SFTConfig(output_dir="out", use_cpu=True, **sft_arguments_for(precision))
for args in (plain, sft):
    print(args.bf16, args.fp16, args.max_grad_norm, args.logging_nan_inf_filter, args.label_names)
print(sft.dataset_kwargs)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    line = "False False 1.0 False ['labels']"
    assert done.stdout.splitlines() == [line, line, "{'skip_prepare_dataset': True}"], done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU that may have bfloat16")
def test_bf16_without_a_gpu_is_refused_with_the_reason_where_transformers_refuses_it(
    untouched: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")  # transformers 4.x writes into it
    tokenizer, model = untouched
    asked = {name: value for name, value in QUICK.items() if name != "use_cpu"}
    asked |= {"bf16": True, "output_dir": str(tmp_path)}
    try:
        SFTConfig(bf16=True, output_dir=str(tmp_path))
    except ValueError:
        before = state(tokenizer, model)
        with pytest.raises(PadfixError, match=r"bf16=True.*Leave bf16 out.*use_cpu=True"):
            build_trainer(model, tokenizer, [SHAPES["messages"]], **asked)
        assert state(tokenizer, model) == before
    else:
        assert tuple(int(part) for part in transformers.__version__.split(".")[:2]) < (4, 55)
    assert make_config({"output_dir": str(tmp_path), "bf16": True, "use_cpu": True}, SFTConfig).bf16 is True
    with pytest.raises(ValueError, match=r"fp16 and bf16") as told:
        make_config({"output_dir": str(tmp_path), "bf16": True, "fp16": True, "use_cpu": True}, SFTConfig)
    assert not isinstance(told.value, PadfixError)
