"""Runs in which nothing is wrong, through the real trainers: no check finds more than a note.

The tokenizers are stock ones unless a set-up says `prepared`: what TRL does right with them must not look wrong.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, IterableDataset
from peft import LoraConfig, get_peft_model
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    DataCollatorForTokenClassification,
    DataCollatorWithFlattening,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    default_data_collator,
)
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
    RLOOConfig,
    RLOOTrainer,
    SFTConfig,
    SFTTrainer,
)
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer
from trl.experimental.tpo import TPOConfig, TPOTrainer

from llama_padfix import PadCollator, diagnose, find_markers, mask_labels, prepare
from tests.support.correct_setups import trl_template
from tests.support.runs import QUICK
from tests.support.small_llama import TEXT_END, TURN_END, small_model, small_tokenizer

USUAL: dict[str, Any] = {**QUICK, "logging_nan_inf_filter": False, "per_device_train_batch_size": 4}


def lora(**more: Any) -> LoraConfig:
    return LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", **more)


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


ASKED = [[turn("user", f"{n} + {n}?")] for n in range(1, 9)]
SINGLE = [{"prompt": ask, "completion": [turn("assistant", f"{2 * n}. " * n)]} for n, ask in enumerate(ASKED, 1)]
PAIRS = [
    {"prompt": row["prompt"], "chosen": row["completion"], "rejected": [turn("assistant", "No.")]} for row in SINGLE
]
WHOLE = [{name: row["prompt"] + row[name] for name in ("chosen", "rejected")} for row in PAIRS]
JUDGED = [{**row, "label": bool(n % 2)} for n, row in enumerate(SINGLE)]
CHATS = [{"messages": row["prompt"] + row["completion"]} for row in SINGLE]
TEXTS = [{"text": f"There were {n} llamas. " * n} for n in range(1, 9)]
TEXT_PAIRS = [{"prompt": f"{n}:", "chosen": " yes" * n, "rejected": " no"} for n in range(1, 9)]

RUNS: dict[str, Callable[[Path], Any]] = {}


def run(make: Callable[[Path], Any]) -> Callable[[Path], Any]:
    RUNS[make.__name__] = make
    return make


@cache
def _stock(base: bool, template: str | None, prepared: bool) -> tuple[Any, Any]:
    tokenizer = small_tokenizer(base=base, template=template)
    model = small_model(tokenizer, base=base)
    if prepared:
        prepare(tokenizer, model, device="cpu")
    return tokenizer, model


def parts(*, base: bool = False, template: str | None = None, prepared: bool = False) -> tuple[Any, Any]:
    """A tokenizer and a model of the test's own; trainers change both."""
    return copy.deepcopy(_stock(base, template, prepared))


def sft(folder: Path, rows: Any, base: bool = False, template: str | None = None, **given: Any) -> Any:
    tokenizer, model = parts(base=base, template=template)
    own = {name: given.pop(name) for name in ("eval_dataset", "peft_config") if name in given}
    dataset = Dataset.from_list(rows) if isinstance(rows, list) else rows
    args = SFTConfig(str(folder), **{**USUAL, **given})
    return SFTTrainer(model, args, train_dataset=dataset, processing_class=tokenizer, **own)


def preferences(kind: Any, config: Any, folder: Path, rows: Any, base: bool = False, **given: Any) -> Any:
    tokenizer, model = parts(base=base, prepared=given.pop("prepared", False))
    own = {"peft_config": given.pop("peft_config")} if "peft_config" in given else {}
    if kind in (DPOTrainer, KTOTrainer) and not own:
        own["ref_model"] = copy.deepcopy(model)
    args = config(str(folder), **{**USUAL, **given})
    return kind(model=model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, **own)


def reward(folder: Path, rows: Any, **given: Any) -> Any:
    tokenizer, _ = parts(prepared=True)
    model = small_model(tokenizer, scores=True)
    prepare(tokenizer, model, device="cpu")
    args = RewardConfig(str(folder), **{**USUAL, **given})
    return RewardTrainer(model=model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)


def rollouts(kind: Any, config: Any, folder: Path, prompts: Any, base: bool = False) -> Any:
    tokenizer, model = parts(base=base)
    args = config(str(folder), num_generations=4, max_completion_length=4, beta=0.0, **USUAL)
    rows = Dataset.from_list([{"prompt": prompt} for prompt in prompts])
    return kind(model, _reward, args, train_dataset=rows, processing_class=tokenizer)


def _reward(completions: Any, **_: Any) -> list[float]:
    return [0.0] * len(completions)


def plain(folder: Path, tokenizer: Any, model: Any, rows: Any, collator: Any, **given: Any) -> Any:
    args = TrainingArguments(str(folder), **{**USUAL, **given})
    dataset = Dataset.from_list(rows) if isinstance(rows, list) else rows
    return Trainer(model, args, train_dataset=dataset, data_collator=collator, processing_class=tokenizer)


def masked(tokenizer: Any, **padding: Any) -> list[dict[str, Any]]:
    """Encoded chats with labels of the answers alone."""
    markers, rows = find_markers(tokenizer), []
    for row in CHATS:
        encoded = tokenizer.apply_chat_template(row["messages"], return_dict=True, **padding)
        ids, mask = list(encoded["input_ids"]), list(encoded["attention_mask"])
        labels = [label if seen else -100 for label, seen in zip(mask_labels(ids, markers), mask, strict=True)]
        rows.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return rows


# ---- supervised


@run
def sft_text(folder: Path) -> Any:
    return sft(folder, TEXTS, base=True)


@run
def sft_text_packed(folder: Path) -> Any:
    return sft(folder, TEXTS, base=True, packing=True, max_length=128)


@run
def sft_text_prompt_and_completion(folder: Path) -> Any:
    rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in TEXT_PAIRS]
    return sft(folder, rows, base=True)


@run
def sft_completion_only(folder: Path) -> Any:
    return sft(folder, SINGLE, eval_dataset=Dataset.from_list(SINGLE[:3]))


@run
def sft_assistant_only(folder: Path) -> Any:
    return sft(folder, CHATS, template=trl_template("llama3_training"), assistant_only_loss=True)


@run
def sft_assistant_only_packed(folder: Path) -> Any:
    given: dict[str, Any] = {
        "assistant_only_loss": True,
        "packing": True,
        "packing_strategy": "bfd",
        "max_length": 256,
    }
    return sft(folder, CHATS, template=trl_template("llama3_training"), **given)


@run
def sft_padding_free(folder: Path) -> Any:
    return sft(folder, SINGLE, padding_free=True, max_length=None)


@run
def sft_streaming(folder: Path) -> Any:
    return sft(folder, IterableDataset.from_generator(lambda: iter(SINGLE)))


@run
def sft_with_lora(folder: Path) -> Any:
    return sft(folder, SINGLE, peft_config=lora())


@run
def sft_with_added_tokens(folder: Path) -> Any:
    tokenizer, model = parts(prepared=True)
    tokenizer.add_tokens(["<step>", "</step>"])
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    rows = [{**row, "completion": [turn("assistant", "<step>Add.</step> Done.")]} for row in SINGLE]
    args = SFTConfig(str(folder), **USUAL)
    return SFTTrainer(model, args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)


@run
def sft_with_added_tokens_and_lora(folder: Path) -> Any:
    tokenizer, model = parts(prepared=True)
    tokenizer.add_tokens(["<step>", "</step>"])
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    new = tokenizer.convert_tokens_to_ids(["<step>", "</step>"])
    adapter = lora(trainable_token_indices={"embed_tokens": new, "lm_head": new})
    rows = [{**row, "completion": [turn("assistant", "<step>Add.</step> Done.")]} for row in SINGLE]
    args = SFTConfig(str(folder), **USUAL)
    given = {"train_dataset": Dataset.from_list(rows), "processing_class": tokenizer, "peft_config": adapter}
    return SFTTrainer(model, args, **given)


@run
def sft_prepared(folder: Path) -> Any:
    tokenizer, model = parts(prepared=True)
    prepared = prepare(tokenizer, model, device="cpu")
    args = SFTConfig(str(folder), **{**USUAL, **prepared.training_args})
    given = {"data_collator": prepared.collator, "processing_class": tokenizer}
    return SFTTrainer(model, args, train_dataset=prepared.encode(CHATS, progress=False), **given)


@run
def sft_with_qlora(folder: Path) -> Any:
    pytest.importorskip("bitsandbytes")
    tokenizer, model = parts(prepared=True)
    model.save_pretrained(folder)
    packed = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=packed, device_map={"": "cpu"})
    args = SFTConfig(str(folder), **USUAL)
    given = {"train_dataset": Dataset.from_list(SINGLE), "processing_class": tokenizer, "peft_config": lora()}
    return SFTTrainer(model, args, **given)


# ---- preferences


@run
def dpo(folder: Path) -> Any:
    return preferences(DPOTrainer, DPOConfig, folder, PAIRS)


@run
def dpo_with_lora(folder: Path) -> Any:
    return preferences(DPOTrainer, DPOConfig, folder, WHOLE, peft_config=lora())


@run
def dpo_of_texts(folder: Path) -> Any:
    return preferences(DPOTrainer, DPOConfig, folder, TEXT_PAIRS, base=True)


@run
def kto(folder: Path) -> Any:
    return preferences(KTOTrainer, KTOConfig, folder, JUDGED)


@run
def kto_without_a_batch_of_others(folder: Path) -> Any:
    return preferences(KTOTrainer, KTOConfig, folder, JUDGED, loss_type="apo_zero_unpaired")


@run
def orpo(folder: Path) -> Any:
    return preferences(ORPOTrainer, ORPOConfig, folder, PAIRS, prepared=True, remove_unused_columns=False)


@run
def reward_of_whole_chats(folder: Path) -> Any:
    return reward(folder, WHOLE)


@run
def reward_of_answers(folder: Path) -> Any:
    return reward(folder, PAIRS)


@run
def cpo(folder: Path) -> Any:
    return preferences(CPOTrainer, CPOConfig, folder, PAIRS, prepared=True, remove_unused_columns=False)


@run
def tpo_of_three_answers(folder: Path) -> Any:
    rows = [{**row, "reference": row["chosen"]} for row in PAIRS]
    return preferences(TPOTrainer, TPOConfig, folder, rows, prepared=True)


# ---- rollouts


@run
def online_dpo(folder: Path) -> Any:
    tokenizer, model = parts(prepared=True)
    rows = Dataset.from_list([{"prompt": prompt} for prompt in ASKED])
    given = {"args": OnlineDPOConfig(str(folder), **USUAL), "train_dataset": rows, "processing_class": tokenizer}
    return OnlineDPOTrainer(model=model, ref_model=copy.deepcopy(model), reward_funcs=_reward, **given)


@run
def grpo(folder: Path) -> Any:
    return rollouts(GRPOTrainer, GRPOConfig, folder, ASKED)


@run
def grpo_of_texts(folder: Path) -> Any:
    return rollouts(GRPOTrainer, GRPOConfig, folder, [f"{n}:" for n in range(8)], base=True)


@run
def rloo(folder: Path) -> Any:
    return rollouts(RLOOTrainer, RLOOConfig, folder, ASKED)


# ---- Trainer and its collators


@run
def trainer_language_modeling(folder: Path) -> Any:
    tokenizer, model = parts(base=True, prepared=True)
    rows = [dict(tokenizer(row["text"] + TEXT_END)) for row in TEXTS]
    return plain(folder, tokenizer, model, rows, DataCollatorForLanguageModeling(tokenizer, mlm=False))


@run
def trainer_seq2seq(folder: Path) -> Any:
    tokenizer, model = parts(prepared=True)
    return plain(folder, tokenizer, model, masked(tokenizer), DataCollatorForSeq2Seq(tokenizer))


@run
def trainer_token_classification(folder: Path) -> Any:
    tokenizer, model = parts(prepared=True)
    return plain(folder, tokenizer, model, masked(tokenizer), DataCollatorForTokenClassification(tokenizer))


@run
def trainer_flattening(folder: Path) -> Any:
    tokenizer, model = parts(prepared=True)
    model.config.use_cache = False
    return plain(folder, tokenizer, model, masked(tokenizer), DataCollatorWithFlattening())


@run
def trainer_default_collator(folder: Path) -> Any:
    tokenizer, model = parts(prepared=True)
    rows = masked(tokenizer, padding="max_length", max_length=512, truncation=True)
    return plain(folder, tokenizer, model, rows, default_data_collator)


@run
def trainer_pad_collator(folder: Path) -> Any:
    tokenizer, model = parts(prepared=True)
    rows = [{name: row[name] for name in ("input_ids", "labels")} for row in masked(tokenizer)]
    return plain(folder, tokenizer, model, rows, PadCollator(tokenizer.pad_token_id))


@run
def trainer_own_collator_that_masks_by_length(folder: Path) -> Any:
    """Pads with the token that ends a turn, and hides by length alone."""
    tokenizer, model = parts()
    tokenizer.pad_token = TURN_END
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        width = max(len(row["input_ids"]) for row in rows)
        fill = {"input_ids": tokenizer.pad_token_id, "attention_mask": 0, "labels": -100}
        return {
            name: torch.tensor([row[name] + [held] * (width - len(row[name])) for row in rows])
            for name, held in fill.items()
        }

    return plain(folder, tokenizer, model, masked(tokenizer), collate)


@run
def trainer_classification(folder: Path) -> Any:
    tokenizer, _ = parts(prepared=True)
    model = small_model(tokenizer, scores=True)
    model.config.num_labels = 2
    prepare(tokenizer, model, device="cpu")
    rows = [{**tokenizer(row["text"]), "label": n % 2} for n, row in enumerate(TEXTS)]
    return plain(folder, tokenizer, model, rows, DataCollatorWithPadding(tokenizer))


@run
def trainer_with_lora(folder: Path) -> Any:
    tokenizer, model = parts(prepared=True)
    rows = [{name: row[name] for name in ("input_ids", "labels")} for row in masked(tokenizer)]
    return plain(folder, tokenizer, get_peft_model(model, lora()), rows, PadCollator(tokenizer.pad_token_id))


def test_there_are_as_many_as_are_promised() -> None:
    assert len(RUNS) >= 30


@pytest.mark.parametrize("name", RUNS)
def test_nothing_above_a_note_is_found_in_a_correct_run(name: str, tmp_path: Path) -> None:
    report = diagnose(RUNS[name](tmp_path))
    assert [str(finding) for finding in report.findings if finding.severity != "note"] == []
    raised = {code: reason for code, reason in report.skipped.items() if "raised" in reason}
    assert raised == {}
    assert any(sample.seen for sample in report.samples), "rows were looked at"


def test_an_own_loop_of_accelerate_is_correct() -> None:
    from accelerate import Accelerator

    tokenizer, model = parts(prepared=True)
    rows = [{name: row[name] for name in ("input_ids", "labels")} for row in masked(tokenizer)]
    loader = DataLoader(Dataset.from_list(rows), batch_size=4, collate_fn=PadCollator(tokenizer.pad_token_id))
    model, optimizer, loader = Accelerator(cpu=True).prepare(model, torch.optim.AdamW(model.parameters()), loader)
    report = diagnose(loader, tokenizer=tokenizer, model=model, optimizer=optimizer)
    assert [str(finding) for finding in report.findings if finding.severity != "note"] == []
    assert report.samples[0].seen == 8
