"""What is right in its trainer is a note at most there; what is wrong is found, with its true cause."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import Trainer, TrainingArguments
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

from llama_padfix import PadCollator, PadfixError, diagnose, prepare
from llama_padfix.doctor.findings import Finding
from tests.support.runs import QUICK
from tests.support.small_llama import BOS, TURN_END, read_template, small_model, small_tokenizer

USUAL: dict[str, Any] = {**QUICK, "logging_nan_inf_filter": False, "per_device_train_batch_size": 4}
ASK = [{"role": "user", "content": "1 + 1?"}]
YES, NO = [{"role": "assistant", "content": "It is two."}], [{"role": "assistant", "content": "No."}]
PAIRS = [{"prompt": ASK, "chosen": YES, "rejected": NO}] * 8


@pytest.fixture
def tokenizer() -> Any:
    return small_tokenizer()


def found(target: Any, code: str, **given: Any) -> list[Finding]:
    return list(diagnose(target, select=[code], **given).findings)


def severities(target: Any, code: str) -> list[str]:
    return [finding.severity for finding in found(target, code)]


def sft(folder: Path, tokenizer: Any, rows: list[dict[str, Any]], **given: Any) -> Any:
    args = SFTConfig(str(folder), **{**USUAL, **given})
    rows_given = {"train_dataset": Dataset.from_list(rows), "processing_class": tokenizer}
    return SFTTrainer(small_model(tokenizer), args, **rows_given)


def dpo(folder: Path, tokenizer: Any, rows: list[dict[str, Any]], **given: Any) -> Any:
    model = small_model(tokenizer)
    args = DPOConfig(str(folder), **{**USUAL, **given})
    parts = {"ref_model": copy.deepcopy(model), "train_dataset": Dataset.from_list(rows)}
    return DPOTrainer(model, args=args, processing_class=tokenizer, **parts)


def grpo(folder: Path, tokenizer: Any, model: Any, prompts: list[Any], **given: Any) -> Any:
    args = GRPOConfig(str(folder), num_generations=4, max_completion_length=4, beta=0.0, **USUAL)
    rows = Dataset.from_list([{"prompt": prompt} for prompt in prompts])
    return GRPOTrainer(model, _reward, args, train_dataset=rows, processing_class=tokenizer, **given)


def _reward(completions: Any, **_: Any) -> list[float]:
    return [0.0] * len(completions)


# ---- BOS


def test_a_second_bos_is_an_error_where_rows_have_it(tokenizer: Any, tmp_path: Path) -> None:
    assert severities(tokenizer, "BOS001") == ["error"]
    assert severities(dpo(tmp_path, tokenizer, PAIRS), "BOS001") == ["note"]
    rendered = tokenizer.apply_chat_template(ASK, tokenize=False, add_generation_prompt=True)
    texts = {"prompt": rendered, "chosen": f"Two.{TURN_END}", "rejected": f"No.{TURN_END}"}
    trainer = dpo(tmp_path, tokenizer, [texts] * 4)
    assert severities(trainer, "BOS001") == ["error"]
    assert [(finding.where, finding.rows) for finding in found(trainer, "BOS003")] == [
        ("train batch, chosen", 4),
        ("train batch, rejected", 4),
    ]


def test_missing_bos_after_prepare_names_the_cause(tokenizer: Any) -> None:
    stock = copy.deepcopy(tokenizer)
    prepare(tokenizer)
    row = tokenizer("Once upon a time")
    [finding] = found(tokenizer, "BOS004", dataset=[dict(row)])
    assert "prepare switches the automatic one off" in finding.evidence[0].remark
    [finding] = found(stock, "BOS004", dataset=[dict(row)])
    assert finding.evidence[0].remark == ""


# ---- padding


@pytest.mark.parametrize("pad_token", [TURN_END, "<|end_of_text|>"])
def test_padding_without_a_mask_is_trained_and_is_no_prompt(tokenizer: Any, pad_token: str, tmp_path: Path) -> None:
    tokenizer.pad_token = pad_token
    padded = tokenizer.apply_chat_template(ASK + YES, return_dict=True, padding="max_length", max_length=300)
    ids, real = list(padded["input_ids"]), sum(padded["attention_mask"])
    rows = [{"input_ids": ids, "labels": ids}] * 4
    args = TrainingArguments(str(tmp_path), **USUAL)
    model = small_model(tokenizer)
    trainer = Trainer(
        model, args, PadCollator(tokenizer.pad_token_id), Dataset.from_list(rows), processing_class=tokenizer
    )
    assert real < 290
    targets: list[tuple[Any, dict[str, Any]]] = [(trainer, {}), (tokenizer, {"dataset": rows})]
    for target, given in targets:
        [finding] = found(target, "LBL005", **given)
        assert (finding.rows, finding.count) == (4, 4 * (300 - real))
        [finding] = found(target, "LBL004", **given)
        assert finding.count == 4 * (real - len("It is two.") - 1)
        assert diagnose(target, select=["LBL002", "GEN003", "TRN001", "PAD008"], **given).findings == ()


def test_rows_that_end_as_they_should_are_not_padded(tokenizer: Any) -> None:
    tokenizer.pad_token = TURN_END
    ids = tokenizer.apply_chat_template(ASK + YES)["input_ids"]
    for row in (ids, [*ids, ids[-1]]):
        assert found(tokenizer, "LBL005", dataset=[{"input_ids": row, "labels": row}]) == []


def test_the_pad_token_that_ends_a_turn_is_a_note_where_it_is_trained(tokenizer: Any, tmp_path: Path) -> None:
    trainer = sft(tmp_path, tokenizer, [{"prompt": ASK, "completion": YES}] * 4)
    assert tokenizer.pad_token == TURN_END, "as TRL sets it"
    [finding] = found(trainer, "PAD002")
    assert finding.severity == "note" and "the rows that were drawn train it" in finding.message
    assert found(trainer, "PAD004") == []
    assert severities(tokenizer, "PAD002") == ["error"]
    trainer.model.config.pad_token_id = None
    [finding] = found(trainer, "PAD004")
    pad_id = tokenizer.pad_token_id
    assert finding.message.startswith(f"The tokenizer's pad id is {pad_id} (") and "is None" in finding.message
    assert f"is {pad_id}," not in finding.message


def test_on_a_base_model_the_pad_token_ends_a_document(tmp_path: Path) -> None:
    tokenizer = small_tokenizer(base=True)
    trainer = sft(tmp_path, tokenizer, [{"text": "There were llamas."}] * 4)
    assert tokenizer.pad_token == "<|end_of_text|>", "as TRL sets it"
    [finding] = found(trainer, "PAD002")
    assert finding.severity == "note" and "also ends a document" in finding.message and "turn" not in finding.message


def test_the_reason_of_a_reward_model_is_the_token_that_is_scored(tokenizer: Any, tmp_path: Path) -> None:
    rows = [{name: ASK + row[name] for name in ("chosen", "rejected")} for row in PAIRS]
    args, model = RewardConfig(str(tmp_path), **USUAL), small_model(tokenizer, scores=True)
    trainer = RewardTrainer(model, args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    report = diagnose(trainer)
    [finding] = [finding for finding in report.findings if finding.code == "PAD002"]
    assert finding.severity == "warning"
    assert "reads its score at the last token that is not the pad token" in finding.message
    assert "loss" not in finding.message
    assert [(sample.source, sample.seen) for sample in report.samples] == [
        ("train batch, chosen", 8),
        ("train batch, rejected", 8),
    ]


# ---- stops


def test_a_base_model_without_a_template_stops_rightly_at_its_eos() -> None:
    tokenizer = small_tokenizer(base=True)
    model = small_model(tokenizer, base=True)
    assert severities((tokenizer, model), "GEN002") == ["note"]
    tokenizer.chat_template = read_template()
    assert severities((tokenizer, model), "GEN002") == ["error"]
    tokenizer.chat_template, model.generation_config.eos_token_id = None, 5
    assert severities((tokenizer, model), "GEN002") == ["error"]


def test_the_stops_of_rollouts_are_those_of_the_trainer(tmp_path: Path) -> None:
    tokenizer = small_tokenizer(base=True, template=read_template())
    model = small_model(tokenizer, base=True)
    trainer = grpo(tmp_path, copy.deepcopy(tokenizer), copy.deepcopy(model), [ASK] * 8)
    turn_end = tokenizer.convert_tokens_to_ids(TURN_END)
    prepare(trainer.processing_class, trainer.model)  # too late: the trainer has its copies
    [finding] = found(trainer, "GEN002")
    assert f"A turn ends with {turn_end}, and GRPOTrainer does not end its rollouts there" in finding.message
    assert "trainer.eos_token_ids is" in finding.message and turn_end not in trainer.eos_token_ids
    diagnose(trainer).fix()
    assert found(trainer, "GEN002") == [] and turn_end in trainer.eos_token_ids
    prepare(tokenizer, model)
    assert found(grpo(tmp_path, tokenizer, model, [ASK] * 8), "GEN002") == []


# ---- rollouts and preferences


def test_a_bos_in_prompts_of_rollouts_is_seen(tokenizer: Any, tmp_path: Path) -> None:
    rendered = tokenizer.apply_chat_template(ASK, tokenize=False, add_generation_prompt=True)
    trainer = grpo(tmp_path, tokenizer, small_model(tokenizer), [rendered] * 8)
    [finding] = found(trainer, "BOS003")
    assert (finding.where, finding.rows) == ("train batch, prompt", 8)


def test_rollouts_that_were_not_looked_at_can_be_refused(tokenizer: Any, tmp_path: Path) -> None:
    prepare(tokenizer, model := small_model(tokenizer))
    report = diagnose(grpo(tmp_path, tokenizer, model, [ASK] * 8))
    report.raise_for_errors()
    assert "looked at 0 of a stream of rows (train batch, rollout): completions are sampled while" in str(report)
    with pytest.raises(PadfixError, match=r"not looked at: rows of the train batch, rollout: completions"):
        report.raise_for_errors(require=("rows",))
    rows = diagnose(dpo(tmp_path, tokenizer, PAIRS))
    rows.raise_for_errors(require=("rows", "LBL002", "TRN001"))


def test_completions_that_are_cut_are_seen_in_pairs(tokenizer: Any, tmp_path: Path) -> None:
    prepare(tokenizer)
    width = len(tokenizer.apply_chat_template(ASK + YES)["input_ids"])
    trainer = dpo(tmp_path, tokenizer, PAIRS, max_length=width - 4)
    [finding] = found(trainer, "TRN001")
    assert (finding.where, finding.rows, finding.seen) == ("train batch, chosen", 8, 8)


# ---- packing


def test_a_bos_that_a_message_spells_begins_no_document(tokenizer: Any, tmp_path: Path) -> None:
    spelled = [{"role": "user", "content": f"What is {BOS} for?"}]
    trainer = sft(tmp_path, tokenizer, [{"prompt": spelled, "completion": YES}] * 4)
    batch = next(iter(trainer.get_train_dataloader()))
    assert int((batch["input_ids"] == tokenizer.bos_token_id).sum()) == 8
    assert found(trainer, "PCK001") == []
    ids = tokenizer.apply_chat_template(ASK + YES)["input_ids"]
    [finding] = found(tokenizer, "PCK001", dataset=[{"input_ids": ids + ids, "labels": ids + ids}])
    assert finding.count == 1


def test_a_pair_that_a_reward_trainer_drops_is_counted(tokenizer: Any, tmp_path: Path) -> None:
    short = {name: ASK + PAIRS[0][name] for name in ("chosen", "rejected")}
    long = {**short, "rejected": [*ASK, {"role": "assistant", "content": "yes " * 200}]}
    args, model = RewardConfig(str(tmp_path), **{**USUAL, "max_length": 400}), small_model(tokenizer, scores=True)
    rows = Dataset.from_list([short, long, short])
    trainer = RewardTrainer(model, args, train_dataset=rows, processing_class=tokenizer)
    assert len(trainer.train_dataset) == 2
    [finding] = found(trainer, "TRN005")
    assert "Of 3 rows of the train set the trainer kept 2; it dropped 1, which are longer than" in finding.message
