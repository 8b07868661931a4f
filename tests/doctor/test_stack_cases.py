"""What today's stack does otherwise than one guesses, through the real trainers, each with its right verdict."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, load_dataset
from peft import get_peft_model
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from llama_padfix import ChatEncoder, PadCollator, PadfixError, build_trainer, diagnose, prepare
from tests.doctor.test_correct_runs import CHATS, PAIRS, SINGLE, USUAL, lora, masked, parts, preferences, sft, turn


def serious(target: Any, **given: Any) -> set[str]:
    return {finding.code for finding in diagnose(target, **given).findings if finding.severity != "note"}


def test_lora_with_reentrant_checkpointing_trains(tmp_path: Path) -> None:
    given: dict[str, Any] = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
    trainer = sft(tmp_path, SINGLE, peft_config=lora(), **given)
    assert serious(trainer) == set()
    trainer.train()
    grown = [p for name, p in trainer.model.named_parameters() if "lora_B" in name]
    assert grown and all(bool(p.any()) for p in grown)


def test_an_adapter_is_evaluated_by_its_labels(tmp_path: Path) -> None:
    tokenizer, model = parts(prepared=True)
    rows = Dataset.from_list([{name: row[name] for name in ("input_ids", "labels")} for row in masked(tokenizer)])
    args = TrainingArguments(str(tmp_path), **{**USUAL, "eval_strategy": "steps", "eval_steps": 1})
    given = {"train_dataset": rows, "eval_dataset": rows, "processing_class": tokenizer}
    trainer = Trainer(get_peft_model(model, lora()), args, data_collator=PadCollator(tokenizer.pad_token_id), **given)
    assert serious(trainer) == set()
    trainer.train()
    assert [entry for entry in trainer.state.log_history if "eval_loss" in entry]


def test_orpo_with_a_stock_tokenizer_is_healed_and_trains(tmp_path: Path) -> None:
    trainer = preferences(ORPOTrainer, ORPOConfig, tmp_path, PAIRS, remove_unused_columns=False)
    assert {"PAD001", "LOD004"} <= serious(trainer)
    diagnose(trainer).fix()
    assert serious(trainer) <= {"BOS003"}, "rows that were encoded before may have two BOS"
    trainer.train()
    assert trainer.state.global_step == 1


def test_rows_that_datasets_holds_as_json_train_their_text(tmp_path: Path) -> None:
    chats = [
        [turn("user", "a"), turn("assistant", "bbb")],
        [{"role": "user", "content": [{"type": "text", "text": "yo"}]}, turn("assistant", "q")],
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    rows = load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    tokenizer, model = parts(prepared=True)
    trainer = build_trainer(model, tokenizer, rows, output_dir=str(tmp_path), **USUAL)
    trained = [[label for label in row["labels"] if label != -100] for row in trainer.train_dataset]
    assert [tokenizer.decode(labels) for labels in trained] == ["bbb<|eot_id|>", "q<|eot_id|>"]
    assert serious(trainer) == set()


@pytest.mark.parametrize("value", [datetime.date(2024, 1, 2), Decimal("1.5"), b"x", {1}])
def test_values_that_json_does_not_know_are_named_before_a_run(value: Any, tmp_path: Path) -> None:
    function = {"name": "look", "arguments": {"at": value}}
    calling = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": function}]}
    rows = [{"messages": [turn("user", "a"), calling]}]
    tokenizer, model = parts(prepared=True)
    with pytest.raises(PadfixError, match=r"row 0: messages\[1\]\.tool_calls\[0\]\.function\.arguments\.at is "):
        build_trainer(model, tokenizer, rows, output_dir=str(tmp_path), **USUAL)
    assert serious(tokenizer, dataset=rows) == {"DAT001"}


def test_a_null_that_was_written_into_arguments_is_trained() -> None:
    function = {"name": "look", "arguments": {"at": None, "far": 1}}
    calling = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": function}]}
    encoder = ChatEncoder(parts(prepared=True)[0])
    row = encoder([turn("user", "a"), calling])
    assert '"at": null' in encoder.tokenizer.decode(row["input_ids"]) and encoder.counts.nulls == 0


def test_batches_without_a_label_have_a_loss_of_zero_and_are_an_error(tmp_path: Path) -> None:
    rows = [{"input_ids": [4, 5, 6], "labels": [-100] * 3}] * 4
    given: dict[str, Any] = {
        "eval_dataset": Dataset.from_list(rows[:2]),
        "dataset_kwargs": {"skip_prepare_dataset": True},
    }
    trainer = sft(tmp_path, rows, **given)
    found = [finding for finding in diagnose(trainer, select=["LBL001"]).findings if finding.severity == "error"]
    assert [(each.where, each.rows) for each in found] == [("train batch", 4), ("eval batch", 2)]
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == 0.0, "nothing in the log shows it"


def test_build_trainer_takes_rows_that_are_encoded(tmp_path: Path) -> None:
    tokenizer, model = parts(prepared=True)
    prepared = prepare(tokenizer, model, device="cpu")
    rows = prepared.encode(CHATS, progress=False)
    for given in (rows, rows.to_list()):
        trainer = build_trainer(model, tokenizer, given, eval_dataset=given, output_dir=str(tmp_path), **USUAL)
        labels = [[*row["labels"]] for row in trainer.train_dataset]
        assert labels == [[*row["labels"]] for row in rows] and len(trainer.eval_dataset) == len(rows)
        assert serious(trainer) == set()
    with pytest.raises(PadfixError, match="encoded already"):
        build_trainer(model, tokenizer, rows.remove_columns("labels"), output_dir=str(tmp_path), **USUAL)


def test_tables_of_arrow_are_collated_and_a_loader_that_cannot_be_read_is_named() -> None:
    tokenizer, model = parts(prepared=True)
    prepared = prepare(tokenizer, model, device="cpu")
    rows = prepared.encode(CHATS, progress=False)
    tables = rows.with_format("arrow")
    plain = prepared.collator([rows[0], rows[1]])
    for given in (tables[:2], [tables[0], tables[1]]):
        assert torch.equal(prepared.collator(given)["input_ids"], plain["input_ids"])
    loader: Any = DataLoader(tables, batch_size=4, collate_fn=prepared.collator)
    try:
        next(iter(loader))
    except TypeError:  # datasets itself reads a table by number there
        assert serious(loader, tokenizer=tokenizer, model=model) == {"LOD004"}
    else:
        assert serious(loader, tokenizer=tokenizer, model=model) == set()


def test_a_backend_that_fastokens_put_into_a_tokenizer_is_refused_with_the_way_out() -> None:
    tokenizer, model = parts(prepared=True)
    tokenizer._tokenizer = type("Shim", (), {"__module__": "fastokens._compat"})()
    for call in (lambda: prepare(tokenizer, model), lambda: diagnose(tokenizer), lambda: ChatEncoder(tokenizer)):
        with pytest.raises(PadfixError, match=r"Load it without: fastokens\.unpatch_transformers\(\)"):
            call()
