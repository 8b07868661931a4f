"""Both trainers train on what `prepare` hands them, and the loss is the cross-entropy of the trained tokens."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainingArguments, trainer_utils
from trl import SFTConfig, SFTTrainer

from llama_padfix import IGNORE_INDEX, ChatEncoder, PadfixError, build_trainer, diagnose, load, plan_patch, prepare
from llama_padfix.core.compat import averages_by_tokens, divide_once
from tests.conftest import fresh_tokenizer
from tests.support.versions import call_tokenizer

KINDS = ("SFTTrainer", "Trainer")
# Transformers 4.56 to 5.17 compare the tokenizer's one EOS with the config's whole list.
OVERWRITES_EOS = (
    hasattr(Trainer, "_align_special_tokens") or hasattr(trainer_utils, "align_special_tokens")
) and not (hasattr(trainer_utils, "_align_special_token"))
QUICK: dict[str, Any] = {
    "use_cpu": True,
    "report_to": [],
    "save_strategy": "no",
    "disable_tqdm": True,
    "gradient_checkpointing": False,
    "logging_steps": 1,
    "lr_scheduler_type": "constant",
}
LORA: dict[str, Any] = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}


def chat(question: int, answer: int) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": "why " * question},
            {"role": "assistant", "content": "because " * answer},
        ]
    }


# Of very different length and number of trained tokens: a mean of means is far from the mean.
ROWS = [chat(1, 1), chat(20, 2), chat(2, 25), chat(8, 6)]


def make_trainer(
    kind: str, model: Any, tokenizer: Any, prepared: Any, rows: Any, folder: Path, **arguments: Any
) -> Any:
    parts = {"data_collator": prepared.collator, "train_dataset": rows}
    if "eval_dataset" in arguments:
        parts["eval_dataset"] = arguments.pop("eval_dataset")
    if kind == "SFTTrainer":
        if "peft_config" in arguments:
            parts["peft_config"] = arguments.pop("peft_config")
        sft = SFTConfig(output_dir=str(folder), **{**QUICK, **prepared.training_args, **arguments})
        return SFTTrainer(model=model, args=sft, **parts, **call_tokenizer(SFTTrainer, tokenizer))
    if "peft_config" in arguments:
        model = get_peft_model(model, arguments.pop("peft_config"))
    plain = TrainingArguments(output_dir=str(folder), **{**QUICK, **prepared.trainer_args, **arguments})
    return Trainer(model=model, args=plain, **parts, **call_tokenizer(Trainer, tokenizer))


def cross_entropy(model: Any, rows: Any) -> float:
    """The mean over all trained tokens, by hand: row by row without padding, in float64 from the model's logits."""
    total, count = 0.0, 0
    model.eval()
    for row in rows:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1].double()
        for position, label in enumerate(row["labels"][1:]):
            if label != IGNORE_INDEX:
                total -= float(torch.log_softmax(logits[position], dim=-1)[label])
                count += 1
    return total / count


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.slow
def test_logged_and_evaluated_loss_are_the_cross_entropy_of_the_trained_tokens(
    kind: str, lora: bool, tokenizer: Any, make_model: Any, tmp_path: Path
) -> None:
    model = make_model()
    prepared = prepare(tokenizer, model, device="cpu")
    rows = prepared.encode(ROWS, progress=False)
    assert 0 < prepared.counts.trained_tokens < prepared.counts.tokens / 2
    before = cross_entropy(model, rows)
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    adapter: dict[str, Any] = {"peft_config": LoraConfig(**LORA)} if lora else {}

    trainer = make_trainer(
        kind,
        model,
        tokenizer,
        prepared,
        rows,
        tmp_path,
        eval_dataset=rows,
        max_steps=2,
        learning_rate=0.05,
        per_device_train_batch_size=2 if averages_by_tokens() else 4,
        per_device_eval_batch_size=4,
        gradient_accumulation_steps=2 if averages_by_tokens() else 1,
        **adapter,
    )
    trainer.train()
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert logged[0] == pytest.approx(before, rel=1e-5)

    after = cross_entropy(trainer.model, rows)
    assert abs(after - before) > 1e-4 * before  # ten times the tolerance below: the adapter counts
    assert trainer.evaluate()["eval_loss"] == pytest.approx(after, rel=1e-5)
    if lora:
        trained = {name for name, weight in trainer.model.named_parameters() if weight.requires_grad}
        assert trained and all("lora_" in name for name in trained)
        held = trainer.model.get_base_model().model.embed_tokens.weight
        assert torch.equal(held, weights["model.embed_tokens.weight"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_four_accumulated_rows_give_the_update_of_one_batch_of_four(
    kind: str, tokenizer: Any, make_model: Any, tmp_path: Path
) -> None:
    prepared = prepare(tokenizer, device="cpu")
    rows = prepared.encode(ROWS, progress=False)
    updates = []
    for batch, accumulated in ((4, 1), (1, 4)):
        model = make_model(num_hidden_layers=1)
        before = torch.cat([weight.detach().clone().flatten() for weight in model.parameters()])
        trainer = make_trainer(
            kind,
            model,
            tokenizer,
            prepared,
            rows,
            tmp_path,
            max_steps=1,
            # The update is the gradient itself: neither Adam nor clipping may hide a wrong scale.
            optim="sgd",
            learning_rate=1.0,
            max_grad_norm=1e9,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulated,
        )
        divide_once(trainer)  # as build_trainer does; transformers 5.3.0 needs it
        assert trainer.accelerator.gradient_accumulation_steps == 1 or not averages_by_tokens()
        trainer.train()
        updates.append(torch.cat([weight.detach().flatten() for weight in model.parameters()]) - before)
    whole, parts = updates
    # The same sum in another order: float32 rounds each of some hundred terms by up to 6e-8, relative to the
    # sum. A mean of the rows' means differs by more than a tenth.
    difference = float((whole - parts).norm() / whole.norm())
    if averages_by_tokens():
        assert difference < 1e-5
    else:  # transformers up to 4.45: what build_trainer refuses for
        assert difference > 0.1
        with pytest.raises(PadfixError, match=r"gradient_accumulation_steps=4.*transformers>=4\.46"):
            build_trainer(model, tokenizer, ROWS, output_dir=str(tmp_path), **QUICK, gradient_accumulation_steps=4)
    assert float(whole.norm()) > 0.1


@pytest.mark.slow
def test_a_trainer_made_by_hand_divides_twice_where_the_doctor_says_so(
    tokenizer: Any, make_model: Any, tmp_path: Path
) -> None:
    prepared = prepare(tokenizer, device="cpu")
    rows = prepared.encode(ROWS[:1] * 4, progress=False)  # all alike: a mean of means is the mean in every version
    sizes, told = [], []
    for batch, accumulated in ((4, 1), (1, 4)):
        model = make_model(num_hidden_layers=1)
        before = torch.cat([weight.detach().clone().flatten() for weight in model.parameters()])
        arguments = {"optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 1e9, "max_steps": 1}
        arguments |= {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulated}
        trainer = make_trainer("Trainer", model, tokenizer, prepared, rows, tmp_path, **arguments)
        told.append("TRN002" in {finding.code for finding in diagnose(trainer).findings})
        trainer.train()
        update = torch.cat([weight.detach().flatten() for weight in model.parameters()]) - before
        sizes.append(float(update.norm()))
    assert not told[0]
    assert sizes[1] == pytest.approx(sizes[0] / (4 if told[1] else 1), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_longer_than_trl_s_own_limit_arrive_whole(
    kind: str, tokenizer: Any, make_model: Any, tmp_path: Path
) -> None:
    model = make_model(num_hidden_layers=1)
    prepared = prepare(tokenizer, model, device="cpu")
    rows = prepared.encode([chat(1500, 600), chat(3, 3)], progress=False)
    lengths = [len(row["input_ids"]) for row in rows]
    assert lengths[0] > 2000

    trainer = make_trainer(kind, model, tokenizer, prepared, rows, tmp_path, per_device_train_batch_size=2)
    [batch] = trainer.get_train_dataloader()
    assert sorted(batch["attention_mask"].sum(dim=1).tolist()) == sorted(lengths)
    for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
        row = rows[lengths.index(int(mask.sum()))]
        assert ids[mask == 1].tolist() == list(row["input_ids"])
        assert labels[mask == 1].tolist() == list(row["labels"])
        assert labels[mask == 0].eq(IGNORE_INDEX).all()


@pytest.mark.parametrize("truncation", ["turns", "tokens"])
def test_no_batch_without_a_trained_token_leaves_the_encoder(truncation: Any, tokenizer: Any) -> None:
    rows = [*ROWS, {"text": ""}, {"text": "Once upon a time"}, {"prompt": "Yes?", "completion": ""}]
    kept = set()
    for max_length in (2, 3, 30, 37, 38, 39, 42, 50, 80, 200):
        encoder = ChatEncoder(tokenizer, max_length, truncation=truncation, on_error="drop")
        columns, counts = encoder.encode_rows(rows)
        assert counts.kept + counts.dropped == counts.rows == len(rows)
        for labels in columns["labels"]:
            assert any(label != IGNORE_INDEX for label in labels[1:]) and len(labels) <= max_length
        kept.add(counts.kept)
    assert len(kept) > 2  # the limits really bite, each at another row


@pytest.fixture(scope="module")
def heard() -> Iterator[list[str]]:
    """What transformers logs; its loggers do not propagate to pytest's own."""
    lines: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    listener = Listener(logging.WARNING)
    logging.getLogger("transformers").addHandler(listener)
    yield lines
    logging.getLogger("transformers").removeHandler(listener)


@pytest.mark.parametrize("release", ["3-instruct-early", "3.1-base"])
@pytest.mark.slow
def test_training_and_saving_change_no_setting_that_prepare_made(
    release: str, make_model: Any, tmp_path: Path, heard: list[str]
) -> None:
    tokenizer, model = fresh_tokenizer(release), make_model(release, num_hidden_layers=1)
    prepared = prepare(tokenizer, model, device="cpu")
    rows = prepared.encode([{"text": "Once upon a time"}] if release == "3.1-base" else ROWS[:1], progress=False)
    settings = (model.config.to_dict(), model.generation_config.to_dict(), tokenizer.special_tokens_map)
    heard.clear()
    trainer = make_trainer("SFTTrainer", model, tokenizer, prepared, rows, tmp_path, max_steps=1)
    trainer.train()
    config = {**model.config.to_dict(), "use_cache": settings[0]["use_cache"]}
    generation = model.generation_config.to_dict()
    if OVERWRITES_EOS:  # the tokenizer's into the config, and once more into the stop list, which stays whole
        assert config["eos_token_id"] == tokenizer.eos_token_id
        config["eos_token_id"] = settings[0]["eos_token_id"]
        held = settings[1]["eos_token_id"]
        assert set(generation["eos_token_id"]) == set(held if isinstance(held, list) else [held])
        generation["eos_token_id"] = held
    else:
        assert not [line for line in heard if "PAD/BOS/EOS" in line]
    assert (config, generation, tokenizer.special_tokens_map) == settings

    trainer.save_model(str(tmp_path / "saved"))
    tokenizer.save_pretrained(str(tmp_path / "saved"))
    diagnose(tmp_path / "saved").raise_for_errors()
    again, reloaded = load(tmp_path / "saved")
    assert not plan_patch(reloaded, again)
    assert again.generation_config.eos_token_id == model.generation_config.eos_token_id
    assert (reloaded.pad_token_id, reloaded.eos_token_id) == (tokenizer.pad_token_id, tokenizer.eos_token_id)
    text = "Once upon a time"
    assert reloaded(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_without_prepare_the_trainer_does_change_settings_and_says_so(make_model: Any, heard: list[str]) -> None:
    try:
        from transformers.trainer_utils import align_special_tokens
    except ImportError:
        pytest.skip("a function of its own since transformers 5.3; versions before 4.56 change no settings")
    tokenizer, model = fresh_tokenizer("3-instruct-early"), make_model("3-instruct-early", num_hidden_layers=1)
    tokenizer.pad_token, tokenizer.eos_token = "<|end_of_text|>", "<|eot_id|>"
    heard.clear()
    align_special_tokens(model, tokenizer)
    assert [line for line in heard if "PAD/BOS/EOS" in line]
