"""Everything that can be diagnosed: loaders, loops, models, splits, streams, checkpoints, adapters, every trainer."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset, DatasetDict, IterableDataset
from peft import LoraConfig, get_peft_model
from torch.utils.data import DataLoader
from transformers import (
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainingArguments,
)

from llama_padfix import PadCollator, PadfixError, cli, diagnose, heal_folder, prepare
from tests.support.runs import QUICK
from tests.support.saved import save, small_model, small_tokenizer


def say(who: str, what: str) -> dict[str, str]:
    return {"role": who, "content": what}


CHATS = [{"messages": [say("user", "1?"), say("assistant", "2" * n)]} for n in range(1, 7)]


@pytest.fixture(scope="module")
def parts() -> tuple[Any, Any, Any]:
    """A patched tokenizer, its model, and encoded rows; nobody may change them."""
    tokenizer = small_tokenizer()
    model = small_model(tokenizer)
    return tokenizer, model, prepare(tokenizer, model, device="cpu").encode(Dataset.from_list(CHATS), progress=False)


def codes(report: Any) -> set[str]:
    return {finding.code for finding in report.findings if finding.severity != "note"}


def seen(report: Any) -> dict[str, tuple[int, int | None]]:
    return {sample.source: (sample.seen, sample.total) for sample in report.samples}


def unmasked(rows: Any) -> Any:
    return Dataset.from_list([{**row, "labels": [-100] * len(row["labels"])} for row in rows])


# ---- loaders and loops


class Counting(torch.utils.data.IterableDataset[Any]):
    def __init__(self, rows: Any) -> None:
        self.rows, self.place, self.noise = [dict(row) for row in rows], 0, random.Random(3)

    def __iter__(self) -> Iterator[Any]:
        while True:
            self.place = (self.place + self.noise.randrange(5)) % len(self.rows)
            yield self.rows[self.place]


def loaders(tokenizer: Any, rows: Any) -> dict[str, Any]:
    collate = PadCollator(tokenizer.pad_token_id)
    generator = torch.Generator().manual_seed(4)
    plain = DataLoader(rows, batch_size=2, shuffle=True, collate_fn=collate)
    return {
        "plain": plain,
        "generator": DataLoader(rows, batch_size=2, shuffle=True, generator=generator, collate_fn=collate),
        "stream": DataLoader(Counting(rows), batch_size=2, collate_fn=collate),
        "workers": DataLoader(rows, batch_size=2, shuffle=True, collate_fn=collate, num_workers=2, timeout=9),
        "accelerate": Accelerator(cpu=True).prepare(DataLoader(rows, batch_size=2, shuffle=True, collate_fn=collate)),
        "seedable": Accelerator(cpu=True).prepare(plain),
    }


@pytest.mark.parametrize("kind", ["plain", "generator", "stream", "workers", "accelerate", "seedable"])
def test_a_loader_is_looked_at_and_draws_afterwards_as_if_it_had_not_been(kind: str, parts: Any) -> None:
    tokenizer, _, rows = parts

    def draw(look: bool) -> tuple[Any, ...]:
        torch.manual_seed(7)
        loader = loaders(tokenizer, rows)[kind]
        before = dict(vars(loader))
        if look:
            report = diagnose(loader, tokenizer=tokenizer)
            assert seen(report)["dataloader batch"][0] >= 6 and {"LBL001", "LBL002"} <= set(report.passed)
            assert {name: id(value) for name, value in vars(loader).items()} == {
                name: id(value) for name, value in before.items()
            }
        if kind == "workers":
            vars(loader).update(num_workers=0, timeout=0)
        some = [batch["input_ids"].tolist() for batch, _ in zip(loader, range(3), strict=False)]
        return some, float(torch.rand(1)), random.random() if look is None else None

    assert draw(False) == draw(True)


def test_what_a_loaders_labels_hide_is_found(parts: Any) -> None:
    tokenizer, model, _ = parts
    bare = Dataset.from_list([dict(tokenizer("words " * n)) for n in range(1, 5)])
    loader = DataLoader(bare, batch_size=2, collate_fn=DataCollatorForLanguageModeling(tokenizer, mlm=False))
    for report in (
        diagnose(loader),
        diagnose((tokenizer, model), dataset=loader),
        diagnose(tokenizer, dataset=loader),
    ):
        assert seen(report) == {"dataloader batch": (4, 4)}
        assert "LBL001" in report.passed
    assert "The tokenizer is dataloader.collate_fn.tokenizer." in diagnose(loader).notes
    hidden = DataLoader(unmasked(parts[2]), batch_size=3, collate_fn=PadCollator(tokenizer.pad_token_id))
    [finding] = [each for each in diagnose(hidden).findings if each.code == "LBL001"]
    assert (finding.where, finding.rows, finding.seen) == ("dataloader batch", 6, 6)


def test_a_loader_that_raises_or_can_be_read_once_is_said(parts: Any) -> None:
    tokenizer, _, rows = parts
    broken = diagnose(DataLoader(rows, batch_size=2), tokenizer=tokenizer)  # rows of different lengths
    assert "LOD004" in codes(broken) and "no rows" in broken.skipped["LBL001"]

    class Once(torch.utils.data.IterableDataset[Any]):
        def __init__(self) -> None:
            self.rows = (dict(row) for row in rows)

        def __iter__(self) -> Any:
            yield from self.rows

    once = Once()
    report = diagnose(DataLoader(once, collate_fn=PadCollator(0)))
    assert "can be read only once" in report.skipped["LBL001"] and len(list(once.rows)) == 6
    pairs: Any = DataLoader([(torch.ones(3), 1)] * 2)  # type: ignore[arg-type]  # a list is a dataset
    assert "its batches hold no input_ids" in diagnose(pairs).skipped["LBL001"]


def test_a_loop_of_accelerate_with_its_model_and_optimizer(parts: Any) -> None:
    tokenizer, model, rows = parts
    loader = DataLoader(rows, batch_size=2, collate_fn=PadCollator(tokenizer.pad_token_id))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    early = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 0.1)
    wrapped = Accelerator(cpu=True).prepare(model, optimizer, loader)
    right = diagnose(wrapped[2], model=wrapped[0], optimizer=wrapped[1], tokenizer=tokenizer)
    assert not codes(right) and "TRN004" in right.passed, right
    wrong = diagnose(loader, model=torch.nn.DataParallel(model), optimizer=early, tokenizer=tokenizer)
    assert codes(wrong) == {"TRN004"}
    with pytest.raises(PadfixError, match="without its model"):
        diagnose(loader, optimizer=optimizer)
    with pytest.raises(PadfixError, match="no param_groups"):
        diagnose(loader, model=model, optimizer=model)


# ---- a model, splits, streams, batches


def test_a_model_alone_and_a_pair_in_either_order(parts: Any) -> None:
    tokenizer, model, rows = parts
    report = diagnose(model)
    assert "tokenizer" not in report.looked_at and "model" in report.looked_at
    assert any("No tokenizer was given" in note for note in report.notes)
    for whole in (diagnose((model, tokenizer)), diagnose(model, tokenizer=tokenizer), diagnose((tokenizer, model))):
        assert {"PAD004", "GEN002", "EMB001"} <= set(whole.passed)
    assert "EMB002" in diagnose(model, dataset=rows).passed
    for both in ((tokenizer, tokenizer), (model, model)):
        with pytest.raises(PadfixError, match="Got two of a kind"):
            diagnose(both)


def test_each_split_is_looked_at_and_named(parts: Any) -> None:
    tokenizer, _, rows = parts
    faulty = {"train": rows, "test": unmasked(rows).select(range(2))}
    for target in (DatasetDict(faulty), faulty, {name: list(part) for name, part in faulty.items()}):
        for report in (diagnose(target, tokenizer=tokenizer), diagnose(tokenizer, dataset=target), diagnose(target)):
            assert seen(report) == {"dataset (train)": (6, 6), "dataset (test)": (2, 2)}
            assert [(each.where, each.rows) for each in report.findings if each.code == "LBL001"] == [
                ("dataset (test)", 2)
            ]
    loader = DataLoader(faulty["test"], collate_fn=PadCollator(tokenizer.pad_token_id))
    report = diagnose({"train": rows, "test": loader}, tokenizer=tokenizer)
    assert [each.where for each in report.findings if each.code == "LBL001"] == ["dataloader batch (test)"]


def test_each_split_of_raw_rows_is_read(parts: Any) -> None:
    tokenizer = parts[0]
    odd = [{"messages": [say("narrator", "Once")]}]
    good = Dataset.from_list(CHATS)
    for splits in ({"a": good, "b": Dataset.from_list(odd * 2)}, {"b": Dataset.from_list(odd * 2), "a": good}):
        report = diagnose(tokenizer, dataset=splits)
        assert [(each.where, each.rows) for each in report.findings if each.code == "DAT001"] == [("dataset (b)", 2)]
    with pytest.raises(PadfixError, match="not encoded"):
        diagnose({"a": good})
    mixed = diagnose(tokenizer, dataset={"raw": good, "encoded": parts[2], "none": Dataset.from_list([])})
    assert seen(mixed)["dataset (encoded)"] == (6, 6) and "DAT001" in mixed.passed
    assert any("holds no rows" in (sample.not_drawn or "") for sample in mixed.samples)


def test_a_stream_that_does_not_tell_its_columns(parts: Any) -> None:
    tokenizer, _, rows = parts
    raw = IterableDataset.from_generator(lambda: iter(CHATS))
    assert raw.column_names is None
    report = diagnose(tokenizer, dataset=raw)
    assert "DAT001" in report.passed and "raw rows" in report.looked_at
    encoded = IterableDataset.from_generator(lambda: iter([dict(row) for row in rows]))
    assert seen(diagnose(tokenizer, dataset=encoded))["dataset"][0] == 6
    empty = diagnose(tokenizer, dataset=IterableDataset.from_generator(lambda: iter(())))
    assert empty.samples[0].not_drawn == "it holds no rows"


def test_batches_in_a_list(parts: Any) -> None:
    tokenizer, _, rows = parts
    collate = PadCollator(tokenizer.pad_token_id)
    batches = [collate([rows[0], rows[1]]), collate([rows[2], rows[3], rows[4]])]
    for report in (diagnose(batches), diagnose(tokenizer, dataset=batches)):
        assert seen(report) == {"batch": (5, 5)} and "LBL001" in report.passed


# ---- folders


def test_a_folder_with_checkpoints_alone(parts: Any, tmp_path: Path, capsys: Any) -> None:
    tokenizer, model, _ = parts
    out = tmp_path / "out"
    out.mkdir()
    for step, held in ((9, model), (100, model)):
        save(out / f"checkpoint-{step}", tokenizer, held)
    (out / "checkpoint-9" / "tokenizer_config.json").write_text("{broken")
    report = diagnose(out)
    assert any("checkpoints alone: looked at the newest of 2, checkpoint-100" in note for note in report.notes)
    assert not codes(report) and {"GEN002", "SAV007"} <= set(report.passed)
    assert cli.main(["doctor", str(out)]) == 0
    assert "checkpoint-100" in capsys.readouterr().out
    assert "config.json" in heal_folder(out, tmp_path / "fixed").files
    save(out, tokenizer)
    assert any("at none of its 2 checkpoints (last checkpoint-100)" in note for note in diagnose(out).notes)


def test_an_adapter_and_the_model_that_it_is_merged_into(parts: Any, tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM

    tokenizer = parts[0]
    base = small_model(tokenizer, eos_token_id=tokenizer.convert_tokens_to_ids("<|end_of_text|>"))
    base.generation_config.eos_token_id = base.config.eos_token_id
    base.save_pretrained(tmp_path / "base")
    base = type(base).from_pretrained(tmp_path / "base")
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    save(tmp_path / "adapter", tokenizer, adapted)
    report = diagnose(tmp_path / "adapter")
    assert "SAV009" in codes(report)  # its base stops elsewhere
    assert any("Of its base model" in note and "SAV008, SAV009" in note for note in report.notes)
    merged = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").merge_and_unload()
    assert "GEN002" in codes(diagnose(save(tmp_path / "merged", tokenizer, merged)))
    (tmp_path / "base").rename(tmp_path / "moved")
    report = diagnose(tmp_path / "adapter")  # what was not looked at has not passed
    assert report.skipped["SAV008"] == report.skipped["SAV009"] == "no base of the adapter to look at"
    assert any("was not looked at" in note for note in report.notes)


# ---- trainers


class OwnLoss(Trainer):  # type: ignore[misc]  # which is untyped
    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **more: Any) -> Any:
        return model(**inputs).loss


def plain(kind: Any, parts: Any, out: Path, arguments: Any = TrainingArguments, **given: Any) -> Any:
    collator = DataCollatorForSeq2Seq(parts[0])
    return kind(small_model(parts[0]), arguments(str(out), **QUICK), collator, parts[2], **given)


def test_a_loss_of_ones_own_is_named_and_not_judged(parts: Any, tmp_path: Path) -> None:
    report = diagnose(plain(OwnLoss, parts, tmp_path))
    assert any(note.startswith("The loss is that of OwnLoss.compute_loss") for note in report.notes)
    assert "The tokenizer is trainer.data_collator.tokenizer." in report.notes
    both = diagnose(plain(Seq2SeqTrainer, parts, tmp_path, Seq2SeqTrainingArguments))
    assert both.notes == ("The tokenizer is trainer.data_collator.tokenizer.",) and seen(both)["train batch"] == (6, 6)
    given = diagnose(plain(Trainer, parts, tmp_path, compute_loss_func=lambda outputs, labels, **more: outputs.loss))
    assert any("The loss is that of test_a_loss" in note for note in given.notes)
    for name, value in (("dataset", parts[2]), ("model", parts[1])):
        with pytest.raises(PadfixError, match=f"brings its own {name}"):
            diagnose(plain(Trainer, parts, tmp_path), **{name: value})


def trl_trainer(kind: str, parts: Any, out: Path) -> Any:
    from importlib import import_module

    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    home = import_module("trl.experimental.orpo" if kind == "ORPO" else "trl")
    prompt, chosen, rejected = [say("user", "1?")], [say("assistant", "2")], [say("assistant", "I do not know")]
    pair = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    shapes: dict[str, dict[str, Any]] = {
        "DPO": pair,
        "ORPO": pair,
        "KTO": {"prompt": prompt, "completion": chosen, "label": True},
        "Reward": {"chosen": prompt + chosen, "rejected": prompt + rejected},
        "GRPO": {"prompt": prompt},
    }
    row = shapes[kind]
    rows = [{**row, "label": bool(n % 2)} if "label" in row else row for n in range(4)]
    small_model(parts[0]).save_pretrained(out / "base")  # DPO and KTO load it again
    model = AutoModelForCausalLM.from_pretrained(out / "base")
    if kind == "Reward":
        model = AutoModelForSequenceClassification.from_pretrained(out / "base", num_labels=1)
    settings, extra = dict(QUICK), dict[str, Any]()
    if kind == "GRPO":
        settings |= {"num_generations": 2}
        extra |= {"reward_funcs": lambda completions, **_: [0.0] * len(completions)}
    arguments = getattr(home, f"{kind}Config")(str(out), **settings)
    data = {"train_dataset": Dataset.from_list(rows), "processing_class": parts[0]}
    return getattr(home, f"{kind}Trainer")(model=model, args=arguments, **data, **extra)


@pytest.mark.parametrize("kind", ["DPO", "KTO", "ORPO", "Reward", "GRPO"])
def test_every_trainer_of_trl_is_a_target(kind: str, parts: Any, tmp_path: Path) -> None:
    report = diagnose(trl_trainer(kind, parts, tmp_path))
    assert "The tokenizer is trainer.processing_class." in report.notes
    assert not [why for why in report.skipped.values() if "raised" in why]
    assert "TOK001" in report.passed and report.samples
    for sample in report.samples:
        assert sample.seen or sample.not_drawn, sample


# ---- what cannot be read


@pytest.mark.parametrize("target", [5, None, object(), b"x", iter([1])])
def test_an_unreadable_target_names_what_can_be_passed(target: Any) -> None:
    with pytest.raises(PadfixError, match=r"Got a \w+ where .*a trainer, a DataLoader.*a folder or a \.gguf file"):
        diagnose(target)


def test_a_file_of_rows_is_pointed_beside_a_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}")
    with pytest.raises(PadfixError, match=r"is not a folder.*diagnose\(tokenizer, dataset='.*rows.jsonl'\)"):
        diagnose(tmp_path / "rows.jsonl")
    with pytest.raises(PadfixError, match="model= has no meaning beside what was saved"):
        diagnose(tmp_path, model=small_model(small_tokenizer()))


class LossOfNextIds(Trainer):  # type: ignore[misc]  # which is untyped
    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **more: Any) -> Any:
        logits = model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), inputs["labels"].flatten())


def test_labels_that_are_the_next_ids_are_right_for_a_loss_that_does_not_shift(parts: Any, tmp_path: Path) -> None:
    def shift(row: Any) -> Any:
        return {"labels": [*row["labels"][1:], -100]}

    def look(kind: Any, rows: Any) -> Any:
        report = diagnose(plain(kind, (*parts[:2], rows), tmp_path))
        return {finding.code: finding for finding in report.findings}

    shifted = parts[2].map(shift)
    assert set(look(LossOfNextIds, parts[2])) - set(look(LossOfNextIds, shifted)) == {"LBL012"}
    before, found = look(Trainer, parts[2]), look(Trainer, shifted)
    assert set(found) == set(before) | {"LBL007"}, "what the labels stand for is the same"
    assert found["LBL007"].severity == "error" and "shifted by one" in found["LBL007"].evidence[0].remark
