"""`report.fix()` on a trainer: its copies follow, a second look is taken, and what no setting fixes is named."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import (
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    LlamaConfig,
    LlamaForSequenceClassification,
    Trainer,
    TrainingArguments,
)
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, RewardConfig, RewardTrainer

from llama_padfix import PadCollator, PadfixError, diagnose
from llama_padfix.doctor import checks
from llama_padfix.doctor.runner import load_checks
from llama_padfix.tokens.calls import copy_tokenizer
from tests.support.saved import small_model, small_tokenizer

QUICK: dict[str, Any] = {"report_to": [], "use_cpu": True, "save_strategy": "no", "max_steps": 1, "disable_tqdm": True}
STOPS = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")
USER = {"role": "user", "content": "1+1?"}


def say(text: str) -> list[dict[str, str]]:
    return [USER, {"role": "assistant", "content": text}]


@pytest.fixture
def tokenizer() -> Any:
    return small_tokenizer()


def plain_trainer(tokenizer: Any, folder: Path, collator: Any, model: Any = None, count: int = 8) -> Any:
    made = [
        tokenizer.apply_chat_template(say("two " * n), tokenize=True, return_dict=True) for n in range(1, count + 1)
    ]
    rows = [{"input_ids": row["input_ids"], "labels": list(row["input_ids"])} for row in made]
    args = TrainingArguments(str(folder), per_device_train_batch_size=4, logging_nan_inf_filter=False, **QUICK)
    given = {"train_dataset": Dataset.from_list(rows), "data_collator": collator, "processing_class": tokenizer}
    return Trainer(model or small_model(tokenizer), args, **given)


def codes(target: Any) -> set[str]:
    return {finding.code for finding in diagnose(target).findings}


def settings_of(trainer: Any) -> tuple[Any, ...]:
    tokenizer, config = trainer.processing_class, trainer.model.config
    generation = trainer.model.generation_config
    held = (generation.eos_token_id, generation.pad_token_id, config.eos_token_id, config.pad_token_id)
    return (
        *copy.deepcopy(held),
        tokenizer.pad_token,
        tokenizer.eos_token,
        tokenizer.padding_side,
        tokenizer("Hello")["input_ids"],
        getattr(trainer.data_collator, "pad_token_id", None),
    )


# ---- copies


def test_the_collator_of_a_reward_trainer_pads_as_its_model_reads(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.pad_token = "<|eot_id|>"
    config = LlamaConfig(**{**small_model(tokenizer).config.to_dict(), "num_labels": 1})
    pairs = [{"chosen": say("two"), "rejected": say("I really do not know that")}] * 4
    args = RewardConfig(str(tmp_path), bf16=False, per_device_train_batch_size=2, **QUICK)
    model = LlamaForSequenceClassification(config)
    trainer = RewardTrainer(model, args, train_dataset=Dataset.from_list(pairs), processing_class=tokenizer)
    plan = diagnose(trainer).fix()
    assert "trainer.data_collator.pad_token_id" in {change.target for change in plan}
    assert not plan.taken_back
    batch = next(iter(trainer.get_train_dataloader()))
    real = batch["input_ids"] != trainer.model.config.pad_token_id
    scored = (torch.arange(real.shape[1]) * real).argmax(-1)
    assert bool(batch["attention_mask"].gather(1, scored[:, None]).all()), "no row is scored at padding"
    assert not {"PAD002", "PAD004"} & codes(trainer)
    trainer.train()
    assert trainer.state.global_step == 1
    trainer.data_collator.pad_token_id = tokenizer.eos_token_id
    report = diagnose(trainer, select=["PAD009"])
    assert [finding.severity for finding in report.findings] == ["error"]
    report.fix()
    assert trainer.data_collator.pad_token_id == trainer.model.config.pad_token_id


def test_the_rollouts_of_grpo_stop_where_a_turn_ends(tmp_path: Path) -> None:
    tokenizer = small_tokenizer(chat=False)
    tokenizer.chat_template = small_tokenizer().chat_template
    end = tokenizer.convert_tokens_to_ids("<|end_of_text|>")
    model = small_model(tokenizer, eos_token_id=end)
    model.generation_config.eos_token_id = end
    args = GRPOConfig(
        str(tmp_path),
        num_generations=2,
        max_completion_length=4,
        beta=0.0,
        bf16=False,
        per_device_train_batch_size=2,
        logging_steps=1,
        **QUICK,
    )
    rows = Dataset.from_list([{"prompt": [USER]}] * 4)
    reward: Callable[..., list[float]] = lambda completions, **_: [float(n % 2) for n, _ in enumerate(completions)]  # noqa: E731
    trainer = GRPOTrainer(model, reward, args, train_dataset=rows, processing_class=tokenizer)
    assert trainer.eos_token_ids == [end]
    plan = diagnose(trainer).fix()
    stops = set(tokenizer.convert_tokens_to_ids([*STOPS]))
    for held in (trainer.eos_token_ids, trainer.generation_config.eos_token_id, model.generation_config.eos_token_id):
        assert set(held) == stops
    assert set(trainer.generation_kwargs["eos_token_id"]) == stops
    assert trainer.generation_config.pad_token_id == tokenizer.pad_token_id
    assert {"trainer.eos_token_ids", "trainer.generation_config.eos_token_id"} <= {change.target for change in plan}
    assert not {"GEN001", "GEN002"} & codes(trainer)
    turn_end = tokenizer.convert_tokens_to_ids("<|eot_id|>")
    trainer.generation_config.suppress_tokens = [i for i in range(len(tokenizer)) if i != turn_end]
    trainer.train()
    [logged] = [entry for entry in trainer.state.log_history if "completions/mean_length" in entry]
    assert (logged["completions/mean_length"], logged["completions/clipped_ratio"]) == (1.0, 0.0)


def pad_and_mask(features: list[Any], tokenizer: Any) -> Any:
    batch = tokenizer.pad(features, return_tensors="pt")
    batch["labels"] = batch["input_ids"].masked_fill(batch["input_ids"] == tokenizer.pad_token_id, -100)
    return batch


HOLDERS: dict[str, Callable[[Any], Any]] = {
    "attribute": lambda tokenizer: DataCollatorForLanguageModeling(tokenizer, mlm=False),
    "partial": lambda tokenizer: partial(pad_and_mask, tokenizer=tokenizer),
    "closure": lambda tokenizer: lambda features: pad_and_mask(features, tokenizer),
}


@pytest.mark.parametrize("hold", HOLDERS.values(), ids=HOLDERS)
def test_a_tokenizer_of_the_collators_own_is_mended_too(
    hold: Callable[[Any], Any], tokenizer: Any, tmp_path: Path
) -> None:
    tokenizer.pad_token = "<|eot_id|>"
    other = copy_tokenizer(tokenizer)
    trainer = plain_trainer(tokenizer, tmp_path, hold(other))
    trainer.train_dataset = trainer.train_dataset.remove_columns("labels")
    assert {"PAD002", "PAD008"} <= codes(trainer)
    diagnose(trainer).fix()
    assert other.pad_token == tokenizer.pad_token == "<|end_of_text|>"
    assert not {"PAD002", "PAD008"} & codes(trainer)
    trainer.train()


def test_a_frozen_collator_is_replaced(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.pad_token = "<|eot_id|>"
    given = PadCollator(tokenizer.pad_token_id, pad_to_multiple_of=8)
    trainer = plain_trainer(tokenizer, tmp_path, given)
    diagnose(trainer).fix()
    assert trainer.data_collator == PadCollator(tokenizer.pad_token_id, pad_to_multiple_of=8)
    assert given.pad_token_id != tokenizer.pad_token_id, "the object that was passed stays as it is"


def test_a_pad_id_of_the_collators_own_stays(tokenizer: Any, tmp_path: Path) -> None:
    own = PadCollator(tokenizer.convert_tokens_to_ids("<|finetune_right_pad_id|>"))
    trainer = plain_trainer(tokenizer, tmp_path, own)
    diagnose(trainer).fix()
    assert trainer.data_collator is own and tokenizer.pad_token == "<|end_of_text|>"


# ---- collate functions of one's own


def pad_rows(rows: Any, pad_id: int) -> dict[str, torch.Tensor]:
    """As in many scripts: the pad id is hidden from the loss wherever it stands."""
    width = max(len(row["input_ids"]) for row in rows)
    ids = torch.tensor([row["input_ids"] + [pad_id] * (width - len(row["input_ids"])) for row in rows])
    return {"input_ids": ids, "labels": ids.masked_fill(ids == pad_id, -100)}


class Collate:
    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, rows: Any) -> Any:
        return pad_rows(rows, self.pad_id)

    def collate(self, rows: Any) -> Any:
        return self(rows)


def in_a_closure(pad_token_id: int) -> Callable[[Any], Any]:
    return lambda rows: pad_rows(rows, pad_token_id)


def in_a_default(number: int) -> Callable[[Any], Any]:
    def collate(rows: Any, pad: int = number, *, width: int = 8) -> Any:
        return pad_rows(rows, pad)

    return collate


def by_position(number: int) -> Callable[[Any], Any]:
    def collate(pad_id: int, rows: Any) -> Any:
        return pad_rows(rows, pad_id)

    return partial(collate, number)


HELD: dict[str, Callable[[int], Any]] = {
    "dataloader.collate_fn (pad_id)": lambda number: partial(pad_rows, pad_id=number),
    "dataloader.collate_fn (argument: pad_id)": by_position,
    "dataloader.collate_fn (closure: pad_token_id)": in_a_closure,
    "dataloader.collate_fn (default: pad)": in_a_default,
    "dataloader.collate_fn.pad_id": Collate,
    "dataloader.collate_fn.func.pad_id": lambda number: partial(Collate(number).collate),
    "dataloader.collate_fn.pad_token_id": PadCollator,
}


def loop(tokenizer: Any, collate: Any) -> tuple[Any, dict[str, Any]]:
    """What a loop of accelerate has."""
    from accelerate import Accelerator

    rows: Any = [{"input_ids": tokenizer.apply_chat_template(say("two " * n))["input_ids"]} for n in range(1, 5)]
    rows = [{**row, "labels": row["input_ids"]} for row in rows]
    model = small_model(tokenizer)
    loader, optimizer = Accelerator(cpu=True).prepare(
        torch.utils.data.DataLoader(rows, batch_size=4, collate_fn=collate), torch.optim.SGD(model.parameters())
    )
    return loader, {"tokenizer": tokenizer, "model": model, "optimizer": optimizer}


@pytest.mark.parametrize("where", HELD)
def test_the_pad_id_of_a_collate_function_follows(where: str, tokenizer: Any) -> None:
    tokenizer.pad_token = "<|eot_id|>"
    old = tokenizer.pad_token_id
    loader, given = loop(tokenizer, HELD[where](old))
    plan = diagnose(loader, **given).fix()
    assert where in {change.target for change in plan} and not plan.taken_back
    [batch] = loader
    assert tokenizer.pad_token == "<|end_of_text|>" and int(batch["input_ids"][0, -1]) == tokenizer.pad_token_id != old
    assert int((batch["labels"] == old).sum()) == int((batch["input_ids"] == old).sum()) > 4, "each end is trained"
    assert not {"PAD002", "PAD008"} & {finding.code for finding in diagnose(loader, **given).findings}


PAD_ID = 0


def of_a_global(rows: Any) -> Any:
    return pad_rows(rows, PAD_ID)


def test_a_pad_id_in_a_line_of_code_is_named(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer.pad_token = "<|eot_id|>"
    monkeypatch.setitem(globals(), "PAD_ID", tokenizer.pad_token_id)
    made: dict[str, Any] = {}
    exec(
        f"def written(rows):\n    return pad(rows, {tokenizer.pad_token_id})",
        {"pad": pad_rows, "__name__": "script"},
        made,
    )
    end = tokenizer.convert_tokens_to_ids("<|end_of_text|>")
    for collate, said in (
        (of_a_global, "(global PAD_ID of "),
        (made["written"], "(in the code of written, <string>:1)"),
    ):
        loader, given = loop(tokenizer, collate)
        plan = diagnose(loader, **given).fix()
        assert tokenizer.pad_token == "<|eot_id|>" and plan.taken_back, "alone, it makes padding look like text"
        [line] = [line for line in plan.left if said in line]
        assert line.endswith(f"is the pad id there. Write {end} for it ('<|end_of_text|>'), and fix again.")


def test_a_pad_id_of_its_own_is_left_in_a_collate_function(tokenizer: Any) -> None:
    tokenizer.pad_token = "<|eot_id|>"
    own = partial(pad_rows, pad_id=tokenizer.convert_tokens_to_ids("<|finetune_right_pad_id|>"))
    loader, given = loop(tokenizer, own)
    plan = diagnose(loader, **given).fix()
    assert own.keywords["pad_id"] != tokenizer.pad_token_id and not any("collate_fn" in each.target for each in plan)


def test_a_collate_function_of_a_trainer_is_mended_and_put_back(
    tokenizer: Any, tmp_path: Path, with_worse: ModuleType
) -> None:
    tokenizer.pad_token = "<|eot_id|>"
    own = partial(pad_rows, pad_id=tokenizer.pad_token_id)
    trainer = plain_trainer(tokenizer, tmp_path, own)
    plan = diagnose(trainer, ignore=["ZZZ"]).fix()
    assert "tokenizer.pad_token" in {change.target for change in plan.taken_back}
    assert own.keywords["pad_id"] == tokenizer.pad_token_id == tokenizer.eos_token_id


# ---- what no setting fixes


def test_rows_that_are_encoded_already_are_named_with_the_call(tokenizer: Any, tmp_path: Path) -> None:
    prompt = tokenizer.apply_chat_template([USER], tokenize=False, add_generation_prompt=True)
    rows = Dataset.from_list([{"prompt": prompt, "chosen": "two<|eot_id|>", "rejected": "three<|eot_id|>"}] * 4)

    def make(model: Any) -> Any:
        args = DPOConfig(str(tmp_path), bf16=False, per_device_train_batch_size=2, **QUICK)
        parts = {"ref_model": copy.deepcopy(model), "train_dataset": rows, "processing_class": tokenizer}
        return DPOTrainer(model, args=args, **parts)

    trainer = make(small_model(tokenizer))
    assert "BOS003" in codes(trainer)
    plan = diagnose(trainer).fix()
    assert any(
        "BOS003" in line and "trainer = DPOTrainer(model=trainer.model, ref_model=" in line for line in plan.left
    )
    assert "left: BOS003" in str(plan) and "left: BOS003" in plan._repr_html_()
    assert "BOS003" not in codes(make(trainer.model)), "made anew, as the line says"


def test_rows_of_a_plain_trainer_are_encoded_by_prepare(tokenizer: Any, tmp_path: Path) -> None:
    trainer = plain_trainer(tokenizer, tmp_path, DataCollatorForSeq2Seq(tokenizer))
    trainer.train_dataset = trainer.train_dataset.map(lambda row: {"labels": [-100] * len(row["input_ids"])})
    [line] = [line for line in diagnose(trainer).fix().left if "LBL001" in line]
    assert "trainer.train_dataset = prepare(tokenizer, model).encode(dataset)" in line


# ---- never worse, never half

WORSE = """
from llama_padfix.doctor.findings import Check
def _find(facts):
    if facts.pad_token == "<|end_of_text|>":
        yield CHECK.found("pads with the end of text")
CHECK = Check("ZZZ001", "a-fix-breaks-it", "error", ("tokenizer",), "Why.", "bad", "good", _find)
"""


@pytest.fixture
def with_worse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    import sys

    (tmp_path / "zzz001_a_fix_breaks_it.py").write_text(WORSE)
    monkeypatch.setattr(checks, "__path__", [*checks.__path__, str(tmp_path)])
    load_checks.cache_clear()
    yield checks
    load_checks.cache_clear()
    sys.modules.pop("llama_padfix.doctor.checks.zzz001_a_fix_breaks_it", None)


def test_a_fix_that_lets_another_check_fail_is_taken_back(
    tokenizer: Any, tmp_path: Path, with_worse: ModuleType
) -> None:
    tokenizer.pad_token, tokenizer.padding_side = "<|eot_id|>", "left"
    trainer = plain_trainer(tokenizer, tmp_path, DataCollatorForSeq2Seq(tokenizer))
    plan = diagnose(trainer, ignore=["ZZZ"]).fix()
    assert tokenizer.pad_token == "<|eot_id|>" and tokenizer.padding_side == "right"
    assert "tokenizer.padding_side" in {change.target for change in plan}
    assert next(change.target for change in plan.taken_back) == "tokenizer.pad_token"
    assert "error ZZZ001 a-fix-breaks-it: pads with the end of text" in plan.taken_back[0].why
    assert "taken back: tokenizer.pad_token" in str(plan)


def test_an_error_leaves_every_object_as_it_was(tokenizer: Any, tmp_path: Path) -> None:
    class Stubborn(DataCollatorForSeq2Seq):  # type: ignore[misc] # untyped upstream
        @property
        def pad_token_id(self) -> Any:
            return tokenizer.convert_tokens_to_ids("<|eot_id|>")

    tokenizer.pad_token, tokenizer.padding_side = "<|eot_id|>", "left"
    trainer = plain_trainer(tokenizer, tmp_path, Stubborn(tokenizer))
    before = settings_of(trainer)
    with pytest.raises(AttributeError):
        diagnose(trainer).fix()
    assert settings_of(trainer) == before


# ---- each fixable code


def _stops_alone(tokenizer: Any, model: Any) -> None:
    model.generation_config.eos_token_id = model.config.eos_token_id = tokenizer.eos_token_id


def _set(**settings: Any) -> Callable[[Any, Any], None]:
    def change(tokenizer: Any, model: Any) -> None:
        for name, value in settings.items():
            setattr(tokenizer, name, value)

    return change


FAULTS: dict[str, Callable[[Any, Any], None]] = {
    "BOS001": _set(),
    "GEN001": _set(eos_token="<|end_of_text|>"),
    "GEN002": _stops_alone,
    "PAD001": _set(),
    "PAD002": _set(pad_token="<|eot_id|>"),
    "PAD003": _set(pad_token="<|no_such_token|>"),
    "PAD004": lambda tokenizer, model: setattr(model.config, "pad_token_id", 3),
    "PAD005": _set(padding_side="left"),
    "PAD006": _set(pad_token="a"),
    "TPL008": _set(split_special_tokens=True),
}


@pytest.mark.parametrize("code", FAULTS)
def test_a_step_after_each_fix_is_without_the_fault(code: str, tokenizer: Any, tmp_path: Path) -> None:
    model = small_model(tokenizer)
    FAULTS[code](tokenizer, model)
    trainer = plain_trainer(tokenizer, tmp_path, DataCollatorForSeq2Seq(tokenizer), model, count=1)
    assert code in codes(trainer)
    plan = diagnose(trainer).fix()
    assert code in {change.code for change in plan} and not plan.taken_back
    assert code not in codes(trainer)
    trainer.train()
    assert code not in codes(trainer)


def test_fix_says_what_is_left_without_a_change_to_make(tokenizer: Any, tmp_path: Path) -> None:
    trainer = plain_trainer(tokenizer, tmp_path, DataCollatorForSeq2Seq(tokenizer))
    diagnose(trainer).fix()
    before = settings_of(trainer)
    plan = diagnose(trainer).fix()
    assert not plan and any("LBL004" in line for line in plan.left) and settings_of(trainer) == before


def test_what_is_no_setting_is_refused(tokenizer: Any) -> None:
    with pytest.raises(PadfixError, match="never run"):
        diagnose(tokenizer).fix("manual")
