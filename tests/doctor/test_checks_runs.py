"""The checks of what a run trains and with what: the fault through the real trainer, its message, and its end."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, IterableDataset
from peft import LoraConfig, PeftModel, get_peft_model
from torch.utils.data import DataLoader
from transformers import (
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from llama_padfix import diagnose, patch_tokenizer
from llama_padfix.doctor.findings import Finding
from tests.support.runs import QUICK
from tests.support.saved import small_model, small_tokenizer

CHATS = [
    [{"role": "user", "content": "Why? " * n}, {"role": "assistant", "content": f"Because {n}. " * n}]
    for n in range(1, 5)
]
TEXTS = [f"Question: {n}+1? " * n + f"Answer: {n + 1}" for n in range(1, 5)]


@functools.cache
def _patched(chat: bool) -> Any:
    tokenizer = small_tokenizer(chat=chat)
    patch_tokenizer(tokenizer)
    return tokenizer


def parts(*, chat: bool = True) -> tuple[Any, Any]:
    """A patched tokenizer, which nobody may change, and a patched model of one's own."""
    tokenizer = _patched(chat)
    model = small_model(tokenizer)
    patch_tokenizer(tokenizer, model)
    return tokenizer, model


def chats() -> list[dict[str, Any]]:
    return [{"input_ids": _patched(True).apply_chat_template(chat)["input_ids"]} for chat in CHATS]


def texts(*, chat: bool = False, end: str = "") -> list[dict[str, Any]]:
    return [{"input_ids": _patched(chat)(text + end)["input_ids"]} for text in TEXTS]


def plain(rows: Any, out: Path, *, chat: bool = True, kind: Any = Trainer, model: Any = None, **given: Any) -> Any:
    tokenizer, fresh = parts(chat=chat)
    passed = {
        name: given.pop(name)
        for name in ("optimizers", "eval_dataset", "compute_loss_func", "data_collator")
        if name in given
    }
    passed.setdefault("data_collator", DataCollatorForLanguageModeling(tokenizer, mlm=False))
    return kind(
        model=model if model is not None else fresh,
        args=given.pop("args", None) or TrainingArguments(str(out), **{**QUICK, **given}),
        train_dataset=Dataset.from_list(rows) if isinstance(rows, list) else rows,
        processing_class=tokenizer,
        **passed,
    )


def sft(rows: Any, out: Path, *, model: Any = None, chat: bool = True, **given: Any) -> Any:
    tokenizer, fresh = parts(chat=chat)
    passed = {
        name: given.pop(name)
        for name in ("optimizers", "eval_dataset", "peft_config", "data_collator", "compute_loss_func")
        if name in given
    }
    return SFTTrainer(
        model=model if model is not None else fresh,
        args=SFTConfig(str(out), **{**QUICK, **given}),
        train_dataset=Dataset.from_list(rows) if isinstance(rows, list) else rows,
        processing_class=tokenizer,
        **passed,
    )


def findings(target: Any, code: str, **given: Any) -> list[Finding]:
    report = diagnose(target, select=[code], **given)
    assert not [reason for reason in report.skipped.values() if "raised" in reason], report
    return list(report.findings)


def one(target: Any, code: str, **given: Any) -> Finding:
    [found] = findings(target, code, **given)
    return found


def lora(**more: Any) -> LoraConfig:
    return LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", **more)


# ---- stop tokens


def test_gen005_no_row_ends(tmp_path: Path) -> None:
    found = one(plain(texts(), tmp_path, chat=False), "GEN005")
    assert found.severity == "warning" and found.message.startswith("None of 4 rows (train batch) trains a token")
    alike = [{"input_ids": _patched(False)(f"Question: {n}+1? Answer: {n + 1}")["input_ids"]} for n in range(1, 5)]
    assert one(plain(alike, tmp_path, chat=False), "GEN005").severity == "warning", "texts of one length are no blocks"
    assert one(plain(alike[:3], tmp_path, chat=False), "GEN005").severity == "note"
    assert not findings(plain(texts(end="<|end_of_text|>"), tmp_path, chat=False), "GEN005")
    assert not findings(sft([{"text": text} for text in TEXTS], tmp_path, chat=False), "GEN005"), "TRL appends an EOS"
    assert not findings(plain(chats(), tmp_path), "GEN005")


def test_gen005_one_row_that_ends_is_enough_and_an_end_that_is_masked_is_another_fault(tmp_path: Path) -> None:
    rows = [*texts(), *texts(end="<|end_of_text|>")[:1]]
    assert not findings(plain(rows, tmp_path, chat=False), "GEN005")
    tokenizer = small_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    hidden = plain(chats(), tmp_path, data_collator=collator)
    hidden.processing_class = tokenizer
    assert {"PAD008"} <= {finding.code for finding in diagnose(hidden, select=["GEN005", "PAD008"]).findings}
    assert not findings(hidden, "GEN005")


def test_gen005_answers_that_lost_their_end(tmp_path: Path) -> None:
    rows = [{"input_ids": row["input_ids"][:-1]} for row in chats()]
    assert one(plain(rows, tmp_path), "GEN005").rows == 4, "what ends the question ends no answer"
    assert not findings(plain([*rows, *chats()[:1]], tmp_path), "GEN005")


def test_gen005_blocks_of_a_stream_of_text_are_a_note(tmp_path: Path) -> None:
    stream = [token for row in texts() for token in row["input_ids"]]
    blocks = [{"input_ids": stream[start : start + 32]} for start in range(0, len(stream) - 31, 32)]
    assert one(plain(blocks, tmp_path, chat=False), "GEN005").severity == "note"
    answers = [{**row, "labels": [-100] * 8 + row["input_ids"][8:]} for row in blocks]
    collator = DataCollatorForSeq2Seq(_patched(False))
    found = one(plain(answers, tmp_path, chat=False, data_collator=collator), "GEN005")
    assert found.severity == "warning", "with a prompt that is masked, what is trained is an answer"


@pytest.mark.parametrize("end", ["<|eot_id|>", "<|end_of_text|>"])
def test_gen006_stop_token_twice(end: str, tmp_path: Path) -> None:
    tokenizer = _patched(True)
    rendered = [tokenizer.apply_chat_template(chat, tokenize=False) for chat in CHATS]
    twice, once = ([tokenizer(text + more)["input_ids"] for text in rendered] for more in (end, ""))
    collator = DataCollatorForSeq2Seq(tokenizer)
    rows = [{"input_ids": ids, "labels": ids} for ids in twice]
    found = one(plain(rows, tmp_path, data_collator=collator), "GEN006")
    assert (found.rows, found.count) == (4, 4) and f"<|eot_id|>{end}" in found.evidence[0].text
    rows = [{"input_ids": ids, "labels": ids} for ids in once]
    assert not findings(plain(rows, tmp_path, data_collator=collator), "GEN006")


def test_gen006_padding_is_no_second_stop_token(tmp_path: Path) -> None:
    tokenizer = small_tokenizer()
    tokenizer.pad_token = "<|end_of_text|>"
    rows = [dict(tokenizer.apply_chat_template(chat, padding="max_length", max_length=150)) for chat in CHATS]
    masked = [{**row, "labels": list(row["input_ids"])} for row in rows]
    assert len(masked[0]["input_ids"]) == 150
    for each in (masked, [{k: v for k, v in row.items() if k != "attention_mask"} for row in masked]):
        report = diagnose(tokenizer, dataset=Dataset.from_list(each), select=["GEN006"])
        assert report.passed == ("GEN006",), report


# ---- the template


def test_tpl007_strings_on_an_instruct_model(tmp_path: Path) -> None:
    strings = [{"prompt": f"{n}+1?", "completion": f" {n + 1}"} for n in range(4)]
    found = one(sft(strings, tmp_path), "TPL007")
    assert found.severity == "warning" and found.message.startswith("None of 4 rows (train batch) is written with")
    assert one(plain(texts(chat=True), tmp_path), "TPL007").severity == "note", "it may be plain language modeling"
    rendered = [{"prompt": chat[:1], "completion": chat[1:]} for chat in CHATS]
    assert not findings(sft(rendered, tmp_path), "TPL007")
    assert not findings(sft(strings, tmp_path, chat=False), "TPL007"), "a base model has no template"


def test_tpl007_prompts_of_rollouts_that_are_strings(tmp_path: Path) -> None:
    tokenizer, _ = parts()
    strings = [f"{n} + 1?" for n in range(8)]
    rendered = [tokenizer.apply_chat_template(chat[:1], tokenize=False) for chat in CHATS] * 2
    found = one(rollouts(strings, tmp_path), "TPL007")
    assert (found.severity, found.rows, found.where) == ("warning", 8, "train batch, prompt")
    assert not findings(rollouts([chat[:1] for chat in CHATS] * 2, tmp_path), "TPL007")
    assert not findings(rollouts(rendered, tmp_path), "TPL007")
    assert not findings(rollouts(strings, tmp_path, chat=False), "TPL007")


def rollouts(prompts: list[Any], out: Path, *, chat: bool = True) -> Any:
    tokenizer, model = parts(chat=chat)
    args = GRPOConfig(str(out), num_generations=2, max_completion_length=4, beta=0.0, **QUICK)
    rows = Dataset.from_list([{"prompt": prompt} for prompt in prompts])
    return GRPOTrainer(model, lambda completions, **_: [0.0], args, train_dataset=rows, processing_class=tokenizer)


def test_encoded_rows_without_labels_are_read_as_collators_label_them() -> None:
    tokenizer, model = parts(chat=False)
    found = one(tokenizer, "GEN005", dataset=texts())
    assert (found.severity, found.where, found.rows) == ("warning", "dataset", 4)
    assert not findings(tokenizer, "GEN005", dataset=texts(end="<|end_of_text|>"))
    assert one(_patched(True), "TPL007", dataset=texts(chat=True)).severity == "note"
    prompts = [_patched(True).apply_chat_template(chat[:1], add_generation_prompt=True) for chat in CHATS]
    assert not findings(_patched(True), "GEN005", dataset=Dataset.from_list(list(map(dict, prompts))))
    loader: Any = DataLoader(texts(), batch_size=2, collate_fn=DataCollatorWithPadding(tokenizer))  # type: ignore[arg-type]
    assert not findings(loader, "GEN005"), "a loop that may generate from them"
    optimizer = torch.optim.SGD(model.parameters())
    assert one(loader, "GEN005", model=model, optimizer=optimizer).where == "dataloader batch"


# ---- labels and losses


def test_lbl004_is_a_note_where_sft_labels_all_of_a_conversation_by_default(tmp_path: Path) -> None:
    def severity(target: Any) -> str:
        return str(one(target, "LBL004").severity)

    messages = [{"messages": chat} for chat in CHATS]
    assert severity(sft(messages, tmp_path)) == "note"
    assert severity(sft(IterableDataset.from_generator(lambda: iter(messages)), tmp_path)) == "note"
    assert severity(sft(messages, tmp_path, packing=True, max_length=256)) == "note"
    rendered = [{"text": _patched(True).apply_chat_template(chat, tokenize=False)} for chat in CHATS]
    assert severity(sft(rendered, tmp_path)) == "note"
    assert severity(plain(chats(), tmp_path)) == "warning"
    copied = [{**row, "labels": row["input_ids"]} for row in chats()]
    assert severity(sft(copied, tmp_path)) == "warning", "somebody wrote these labels"
    assert severity(sft(copied, tmp_path, dataset_kwargs={"skip_prepare_dataset": True})) == "warning"


def test_lbl001_a_pack_that_trains_nothing(tmp_path: Path) -> None:
    rows = [{"prompt": chat[:1], "completion": chat[1:]} for chat in CHATS]
    length = len(chats()[0]["input_ids"])
    found = one(sft(rows, tmp_path, packing=True, max_length=length), "LBL001")
    assert found.severity == "error" and 0 < found.rows < found.seen == 4, found
    pieces = one(sft(rows, tmp_path, packing=True, max_length=length, packing_strategy="bfd_split"), "LBL001")
    assert pieces.severity == "note", "each piece of a long row is trained where there is something to train"


@pytest.mark.parametrize("collator", [DataCollatorForSeq2Seq, DataCollatorWithPadding])
def test_lbl010_batches_without_labels(collator: Any, tmp_path: Path) -> None:
    trainer = plain(chats(), tmp_path, data_collator=collator(_patched(True)))
    found = one(trainer, "LBL010")
    assert found.message.startswith("2 of 2 rows") or found.message.startswith(
        "4 of 4 rows (train batch) come without"
    )
    with pytest.raises(ValueError, match="did not return a loss"):
        trainer.train()
    assert not findings(plain(chats(), tmp_path), "LBL010")


def test_lbl010_a_loss_of_ones_own_may_need_none(tmp_path: Path) -> None:
    class Own(Trainer):  # type: ignore[misc]
        def compute_loss(self, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
            return model(**inputs).logits.mean()

    trainer = plain(chats(), tmp_path, kind=Own, data_collator=DataCollatorWithPadding(_patched(True)))
    assert not findings(trainer, "LBL010")


def ids_as_targets(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
    return outputs.logits.mean()


def labels_as_targets(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
    return torch.nn.functional.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


class OnIds(Trainer):  # type: ignore[misc]
    def compute_loss(self, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
        logits = model(**inputs).logits[:, :-1]
        return torch.nn.functional.cross_entropy(logits.flatten(end_dim=1), inputs["input_ids"][:, 1:].flatten())


class OnLabels(Trainer):  # type: ignore[misc]
    def compute_loss(self, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
        logits = model(input_ids=inputs["input_ids"]).logits[:, :-1]
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), inputs.pop("labels")[:, 1:].flatten())


class OfTheModel(Trainer):  # type: ignore[misc]
    def compute_loss(self, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
        assert "input_ids" in inputs
        return model(**inputs)[0] * 2


class OfTheLibrary(Trainer):  # type: ignore[misc]
    def compute_loss(self, *given: Any, **more: Any) -> Any:
        return super().compute_loss(*given, **more)


@pytest.mark.parametrize("kind", [OnIds, OnLabels, OfTheModel, OfTheLibrary, Trainer])
def test_lbl011_a_loss_that_reads_no_labels(kind: Any, tmp_path: Path) -> None:
    found = findings(plain(chats(), tmp_path, kind=kind), "LBL011")
    assert [each.message.split(" ")[0] for each in found] == ["OnIds.compute_loss"] * (kind is OnIds)


def test_lbl011_a_function_that_does_not_use_its_labels(tmp_path: Path) -> None:
    assert "ids_as_targets" in one(plain(chats(), tmp_path, compute_loss_func=ids_as_targets), "LBL011").message
    assert not findings(plain(chats(), tmp_path, compute_loss_func=labels_as_targets), "LBL011")


def unshifted(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
    return torch.nn.functional.cross_entropy(outputs.logits.flatten(0, 1), labels.flatten())


def smoothed_in_pieces(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
    """Rolls the labels, and sums over rows before it divides."""
    targets = torch.roll(labels, -1, 1)
    targets[:, -1] = -100
    losses = torch.nn.functional.cross_entropy(outputs["logits"].transpose(1, 2), targets, reduction="none")
    return losses.sum() / num_items_in_batch


class Unshifted(Trainer):  # type: ignore[misc]
    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **more: Any) -> Any:
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        self.seen = getattr(self, "seen", 0) + 1
        vocab = self.model.config.vocab_size
        loss = torch.nn.functional.cross_entropy(outputs.logits.view(-1, vocab), labels.view(-1), reduction="sum")
        return (loss, outputs) if return_outputs else loss


class Logs(Unshifted):
    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **more: Any) -> Any:
        self.log({"seen": 1.0})
        return super().compute_loss(model, inputs, return_outputs)


class Regresses(Trainer):  # type: ignore[misc]
    def compute_loss(self, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
        return model(**inputs).logits.square().mean()


def tried(made: Any) -> tuple[list[str], str]:
    """The severities of LBL012, and what is said of the loss."""
    report = diagnose(made, select=["LBL012"])
    return [each.severity for each in report.findings], " ".join(report.notes).rpartition(": ")[2]


def test_lbl012_a_loss_that_does_not_shift(tmp_path: Path) -> None:
    trainer = plain(chats(), tmp_path, kind=Unshifted)
    assert tried(trainer) == (["error"], "tried on made-up logits, it does not shift labels.")
    assert not hasattr(trainer, "seen"), "what calling it moved is put back"
    assert tried(plain(chats(), tmp_path, compute_loss_func=unshifted))[0] == ["error"]
    assert tried(sft(chats(), tmp_path, compute_loss_func=unshifted))[0] == ["error"]
    for kind in (OnLabels, OnIds, OfTheModel, OfTheLibrary):
        found, said = tried(plain(chats(), tmp_path, kind=kind))
        assert found == [] and said == "tried on made-up logits, it shifts labels.", kind
    for function in (labels_as_targets, smoothed_in_pieces):
        assert tried(plain(chats(), tmp_path, compute_loss_func=function))[1].endswith("it shifts labels.")
    for kind in (Logs, Regresses):
        assert tried(plain(chats(), tmp_path, kind=kind)) == ([], "what it makes of labels is not known."), kind
    assert tried(plain(chats(), tmp_path))[0] == []


def test_labels_that_are_the_next_ids_are_right_for_a_loss_that_does_not_shift(tmp_path: Path) -> None:
    rows = [{**row, "labels": [*row["input_ids"][1:], -100]} for row in chats()]
    given: dict[str, Any] = {"data_collator": DataCollatorForSeq2Seq(_patched(True))}
    assert not diagnose(plain(rows, tmp_path, kind=Unshifted, **given), select=["LBL007", "LBL012"]).findings
    twice = one(plain(rows, tmp_path, kind=OnLabels, **given), "LBL007")
    assert twice.severity == "error" and "OnLabels.compute_loss shifts them again" in twice.evidence[0].remark


# ---- what is trained


def test_trn003_nothing_trainable(tmp_path: Path) -> None:
    get_peft_model(parts()[1], lora()).save_pretrained(str(tmp_path / "adapter"))

    def trainer(**how: Any) -> Any:
        model = PeftModel.from_pretrained(parts()[1], str(tmp_path / "adapter"), **how)
        return sft(chats(), tmp_path, model=model, gradient_checkpointing=True)  # TRL's default

    frozen = trainer()
    assert "is_trainable=True" in one(frozen, "TRN003").message
    frozen.train()
    assert frozen.state.log_history[0]["grad_norm"] == 0
    assert not findings(trainer(is_trainable=True), "TRN003")
    model = parts()[1]
    loop: dict[str, Any] = {"model": model, "optimizer": torch.optim.AdamW(model.parameters())}
    batch = DataCollatorForLanguageModeling(parts()[0], mlm=False)(chats())
    assert not findings(batch, "TRN003", **loop)
    model.requires_grad_(False)
    assert "model.requires_grad_(True)" in one(batch, "TRN003", **loop).message
    assert "model.requires_grad_(True)" in one(plain(chats(), tmp_path, model=model), "TRN003").message
    assert list(diagnose(parts(), select=["TRN003"]).skipped) == ["TRN003"], "a model that nobody trains"


def test_trn004_trainable_and_not_in_the_optimizer(tmp_path: Path) -> None:
    base = parts()[1]
    early = torch.optim.AdamW(base.parameters())
    model = get_peft_model(base, lora())
    trainer = plain(chats(), tmp_path, model=model, optimizers=(early, None))
    found = one(trainer, "TRN004")
    assert found.severity == "error" and found.message.startswith("2 of 2 trainable tensors are not in the optimizer")
    assert one((parts()[0], model), "TRN004", optimizer=early).message == found.message, "in a loop of one's own"
    before = [p.detach().clone() for p in model.parameters() if p.requires_grad]
    trainer.train()
    assert all(
        torch.equal(a, b) for a, b in zip(before, (p for p in model.parameters() if p.requires_grad), strict=True)
    )
    late = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
    healed = plain(chats(), tmp_path, model=model, optimizers=(late, None))
    assert not findings(healed, "TRN004")
    healed.train()
    assert not findings(healed, "TRN004"), "accelerate has wrapped it"
    partly = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad][:1])
    assert one(plain(chats(), tmp_path, model=model, optimizers=(partly, None)), "TRN004").severity == "warning"
    assert not findings(plain(chats(), tmp_path), "TRN004"), "an optimizer that the trainer is yet to make"
