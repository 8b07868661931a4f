"""The checks of what a trainer makes of what it was given: packed rows, dropped rows, its other models and lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForCausalLM,
    DataCollatorForSeq2Seq,
    DataCollatorWithFlattening,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
)
from trl import DPOConfig, DPOTrainer, clone_chat_template, pack_dataset

from llama_padfix import add_tokens, choose_precision, diagnose, keep_trainable_float32, patch_tokenizer, prepare
from tests.doctor.test_checks_runs import CHATS, chats, findings, one, parts, plain, sft
from tests.support.runs import QUICK
from tests.support.saved import save, small_model, small_tokenizer

CHATML = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def labeled() -> list[dict[str, Any]]:
    return [{**row, "labels": row["input_ids"]} for row in chats()]


# ---- packing


def test_pck003_packing_without_effect(tmp_path: Path) -> None:
    asked: Any = {"packing": True, "max_length": 256}
    trainer = sft(labeled(), tmp_path, dataset_kwargs={"skip_prepare_dataset": True}, **asked)
    assert len(trainer.train_dataset) == len(CHATS), "nothing is packed"
    assert "seq_length=256" in one(trainer, "PCK003").message
    assert not findings(sft(chats(), tmp_path, **asked), "PCK003")
    packed = pack_dataset(Dataset.from_list(labeled()), seq_length=256)
    assert len(packed) < len(CHATS)
    trainer = sft(packed, tmp_path, dataset_kwargs={"skip_prepare_dataset": True}, **asked)
    assert not findings(trainer, "PCK003") and not findings(trainer, "PCK004")


def leak(model: Any, batch: Any) -> float:
    """By how much the logits of the second document differ from those of the document alone."""
    start = int((batch["position_ids"][0] == 0).nonzero()[1])
    end = start + len(chats()[1]["input_ids"])
    alone = model(input_ids=batch["input_ids"][:, start:end]).logits
    given = {name: value for name, value in batch.items() if name in ("input_ids", "position_ids", "attention_mask")}
    return float((model(**given).logits[:, start:end] - alone).abs().max())


@torch.no_grad()
def test_pck004_packed_documents_attend(tmp_path: Path) -> None:
    tokenizer, model = parts()
    batch = DataCollatorWithFlattening()(labeled())
    masked = {**batch, "attention_mask": torch.ones_like(batch["input_ids"])}
    model.config.use_cache = True
    found = one((tokenizer, model), "PCK004", dataset=batch)
    assert found.count == len(CHATS) - 1 and "use_cache is True" in found.evidence[0].remark
    assert leak(model, batch) > 1e-3
    model.config.use_cache = False
    assert not findings((tokenizer, model), "PCK004", dataset=batch)
    assert leak(model, batch) < 1e-5
    assert "attention mask" in one((tokenizer, model), "PCK004", dataset=masked).evidence[0].remark
    assert leak(model, masked) > 1e-3
    with torch.enable_grad():
        assert not findings(plain(labeled(), tmp_path, data_collator=DataCollatorWithFlattening()), "PCK004")
        trainer = plain(labeled(), tmp_path, data_collator=DataCollatorWithFlattening(), use_cache=True)
        assert one(trainer, "PCK004").rows and not findings(trainer, "PCK001")


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"return_position_ids": False, "return_flash_attn_kwargs": True},
        {"return_position_ids": False, "return_seq_idx": True},
    ],
)
def test_each_document_of_a_flattened_batch_is_a_row(given: dict[str, Any], tmp_path: Path) -> None:
    collator = DataCollatorWithFlattening(**given)
    rows = [{**row, "labels": [*row["input_ids"][:-1], -100]} for row in labeled()]
    rows[2]["labels"] = [-100] * len(rows[2]["input_ids"])
    batch = collator(rows)
    tokenizer, model = parts()
    report = diagnose((tokenizer, model), dataset=batch, select=["LBL001", "LBL002", "BOS003", "PCK001"])
    assert [(sample.seen, sample.source) for sample in report.samples] == [(4, "batch")]
    assert [(each.code, each.rows, each.seen, each.evidence[0].row) for each in report.findings] == [
        ("LBL002", 3, 4, 0),
        ("LBL001", 1, 4, 2),
    ]
    loader: Any = DataLoader(rows, batch_size=2, collate_fn=collator)  # type: ignore[arg-type]
    sample = diagnose(loader, tokenizer=tokenizer, select=["LBL"]).samples[0]
    assert (sample.seen, sample.total) == (4, 4)
    model.config.use_cache = False
    found = findings((tokenizer, model), "PCK004", dataset=batch)
    reads_borders = "return_position_ids" not in given
    assert not found if reads_borders else (found[0].rows == 3 and "position_ids" in found[0].evidence[0].remark)


def test_each_document_of_a_packed_set_is_a_row(tmp_path: Path) -> None:
    packed = pack_dataset(Dataset.from_list(labeled()), seq_length=256)
    trainer = sft(packed, tmp_path, packing=True, max_length=256, dataset_kwargs={"skip_prepare_dataset": True})
    for target, given in ((trainer, {}), (parts()[0], {"dataset": packed})):
        report = diagnose(target, select=["LBL004", "BOS003", "BOS004"], **given)
        assert [(sample.seen, sample.total) for sample in report.samples] == [(4, 4)]
        [found] = report.findings
        assert (found.rows, found.seen) == (4, 4)
    pack = next(number for number, row in enumerate(packed) if len(row["seq_lengths"]) > 1)
    inner = [each for each in found.evidence if each.row == pack][1]
    assert inner.start >= packed[pack]["seq_lengths"][0], "a place in the pack, as it lies there"


def test_what_fills_up_a_row_of_packs_is_no_row(tmp_path: Path) -> None:
    tokenizer, model = parts()
    model.config.use_cache = True
    prepared = prepare(tokenizer, model, max_length=256, packing=True, device="cpu")
    rows = prepared.encode([{"messages": chat} for chat in CHATS], progress=False)
    batch = prepared.collator([rows[n] for n in range(len(rows))])
    assert int((batch["labels"][:, -1] == -100).sum()), "a row is filled up"
    for target, given in (((tokenizer, model), {"dataset": batch}), (tokenizer, {"dataset": rows})):
        report = diagnose(target, **given)
        assert [str(each) for each in report.findings if each.severity != "note"] == []
        assert [sample.seen for sample in report.samples] == [len(CHATS)]


def test_a_padded_row_with_position_ids_is_one_row() -> None:
    ids = chats()[0]["input_ids"]
    for before, after in ((0, 3), (3, 0)):
        columns = {
            "input_ids": [128] * before + ids + [128] * after,
            "attention_mask": [0] * before + [1] * len(ids) + [0] * after,
            "position_ids": [0] * before + list(range(len(ids))) + [0] * after,
        }
        batch = {name: torch.tensor([column]) for name, column in columns.items()}
        assert diagnose(parts()[0], dataset=batch).samples[0].seen == 1


# ---- rows


def test_trn005_rows_that_the_trainer_dropped(tmp_path: Path) -> None:
    rows = [{"prompt": chat[:1], "completion": chat[1:]} for chat in CHATS]
    length = len(chats()[0]["input_ids"])  # the last prompts alone are longer
    trainer = sft(rows, tmp_path, max_length=length, eval_dataset=Dataset.from_list(rows[3:]))
    kept = len(trainer.train_dataset)
    assert 0 < kept < len(rows)
    train, evaluation = findings(trainer, "TRN005")
    assert train.message.startswith(f"Of 4 rows of the train set the trainer kept {kept}; it dropped {4 - kept}")
    assert evaluation.message.startswith("Of 1 rows of the eval set the trainer kept 0") and findings(
        trainer, "LOD010"
    )
    assert not findings(sft(rows, tmp_path, max_length=512), "TRN005")
    chosen = Dataset.from_list(labeled()).select([3, 1])
    for ready in (plain(chosen, tmp_path), sft(chosen, tmp_path, dataset_kwargs={"skip_prepare_dataset": True})):
        assert not findings(ready, "TRN005"), "rows that somebody chose were not dropped by the trainer"


def test_lod010_an_empty_evaluation_set(tmp_path: Path) -> None:
    rows = Dataset.from_list(labeled())
    trainer = plain(rows, tmp_path, eval_dataset=rows.select([]))
    assert "no eval_loss" in one(trainer, "LOD010").message
    assert "eval_loss" not in trainer.evaluate()
    assert not findings(plain(rows, tmp_path, eval_dataset=rows.select([0])), "LOD010")


class Generating(Trainer):  # type: ignore[misc]
    def prediction_step(self, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
        return None, model.generate(input_ids=inputs["input_ids"], max_new_tokens=4), inputs["labels"]


class GeneratingFromPrompts(Trainer):  # type: ignore[misc]
    def prediction_step(self, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
        return None, model.generate(input_ids=inputs["input_ids"][:, :5], max_new_tokens=4), inputs["labels"]


@pytest.mark.parametrize(("kind", "found"), [(Generating, 1), (GeneratingFromPrompts, 0), (Trainer, 0)])
def test_gen007_a_step_of_ones_own(kind: Any, found: int, tmp_path: Path) -> None:
    given = {"eval_dataset": Dataset.from_list(labeled()), "data_collator": DataCollatorForSeq2Seq(parts()[0])}
    assert len(findings(plain(labeled(), tmp_path, kind=kind, **given), "GEN007")) == found


def test_gen007_rows_with_their_answer_are_given_to_generate(tmp_path: Path) -> None:
    tokenizer, model = parts()
    args = Seq2SeqTrainingArguments(str(tmp_path), predict_with_generate=True, **QUICK)
    prompts = [
        {"input_ids": tokenizer.apply_chat_template(chat[:1], add_generation_prompt=True)["input_ids"]}
        for chat in CHATS
    ]

    def trainer(rows: Any, collator: Any) -> Any:
        given = {"eval_dataset": Dataset.from_list(rows), "data_collator": collator}
        return plain(labeled(), tmp_path, kind=Seq2SeqTrainer, args=args, model=model, **given)

    collator = DataCollatorForSeq2Seq(tokenizer)
    found = one(trainer(labeled(), collator), "GEN007")
    assert found.where == "eval batch" and found.evidence[0].remark == "the answer stands in the prompt"
    assert "padding follow the prompt" in one(trainer(prompts, collator), "GEN007").evidence[0].remark
    tokenizer = small_tokenizer()
    patch_tokenizer(tokenizer)
    tokenizer.padding_side = "left"
    assert not findings(trainer(prompts, DataCollatorForSeq2Seq(tokenizer)), "GEN007")
    given = {"eval_dataset": Dataset.from_list(labeled()), "data_collator": collator}
    assert not findings(plain(labeled(), tmp_path, **given), "GEN007")


# ---- other models


def preferences() -> Dataset:
    answers = [[{"role": "assistant", "content": text}] for text in ("Because.", "No.")]
    return Dataset.from_list([{"prompt": CHATS[0][:1], "chosen": answers[0], "rejected": answers[1]}] * 2)


def test_lod011_the_reference_is_loaded_again(tmp_path: Path) -> None:
    tokenizer = small_tokenizer()
    folder = save(tmp_path / "base", tokenizer, small_model(tokenizer))
    model = AutoModelForCausalLM.from_pretrained(str(folder))
    patch_tokenizer(tokenizer, model)
    args = DPOConfig(str(tmp_path / "out"), **QUICK)

    def trainer(**given: Any) -> Any:
        return DPOTrainer(model, args=args, train_dataset=preferences(), processing_class=tokenizer, **given)

    assert one(trainer(), "LOD011").severity == "note", "the pad id alone differs"
    add_tokens(model, tokenizer, ["<tool>"])
    found = one(trainer(), "LOD011")
    assert found.severity == "error" and f"has {len(tokenizer) - 1} rows" in found.message
    reference = AutoModelForCausalLM.from_pretrained(str(folder))
    reference.resize_token_embeddings(len(tokenizer))
    patch_tokenizer(tokenizer, reference)
    assert not findings(trainer(ref_model=reference), "LOD011")


def test_prc007_whole_modules_are_cast(tmp_path: Path) -> None:
    lora = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens"], task_type="CAUSAL_LM")
    assert not findings(sft(chats(), tmp_path, peft_config=lora), "PRC007")
    model = parts()[1]
    model.is_loaded_in_4bit = True  # by which TRL decides
    trainer = sft(chats(), tmp_path, model=model, peft_config=lora)
    count = model.get_input_embeddings().weight.numel()
    assert one(trainer, "PRC007").message.startswith(f"{count} trained elements")
    keep_trainable_float32(trainer.model, choose_precision("cpu"))
    assert not findings(trainer, "PRC007")


# ---- lists of stop tokens, and templates


def test_gen008_a_stop_list_that_was_shortened(tmp_path: Path) -> None:
    tokenizer, source = small_tokenizer(), small_tokenizer()
    source.add_special_tokens({"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>", "<|done|>"]})
    source.chat_template = CHATML
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|done|>"]})
    model = small_model(tokenizer)
    done = tokenizer.convert_tokens_to_ids("<|done|>")
    model.generation_config.eos_token_id = [*model.generation_config.eos_token_id, done]
    folder = save(tmp_path / "base", tokenizer, model)
    model = AutoModelForCausalLM.from_pretrained(str(folder))
    assert not findings((tokenizer, model), "GEN008")
    model, tokenizer, _ = clone_chat_template(model, tokenizer, str(save(tmp_path / "source", source)))
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    found = one((tokenizer, model), "GEN008")
    assert f"<|done|> ({done})" in found.message
    patch_tokenizer(tokenizer, model)
    assert {done, tokenizer.eos_token_id} < set(model.generation_config.eos_token_id)
    assert not diagnose((tokenizer, model), select=["GEN008", "GEN002"]).findings


def test_tpl009_template_tokens_missing() -> None:
    tokenizer = small_tokenizer()
    assert not findings(tokenizer, "TPL009")
    tokenizer.chat_template = CHATML
    assert "<|im_start|>, <|im_end|>, which the vocabulary lacks" in one(tokenizer, "TPL009").message
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    assert not findings(tokenizer, "TPL009")
