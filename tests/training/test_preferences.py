"""DPO, KTO, ORPO and reward models from raw rows: what TRL trains on is what was encoded, and its runs are clean."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from datasets import Dataset
from peft import LoraConfig
from transformers import LlamaForSequenceClassification

from llama_padfix import PadfixError, TrainingGuard, build_trainer, diagnose, prepare
from llama_padfix.core.compat import name_tokenizer_argument
from llama_padfix.demo.reference import make_tiny_llama
from llama_padfix.training import tasks
from llama_padfix.training.tasks import find_layout, find_task, import_classes
from tests.conftest import fresh_tokenizer

TASKS = ("dpo", "kto", "reward", "orpo")
PLAIN: dict[str, Any] = {
    "use_cpu": True,
    "report_to": [],
    "save_strategy": "no",
    "disable_tqdm": True,
    "max_steps": 1,
}


def say(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


ROWS = [
    {"prompt": [say("user", f"{at}?")], "chosen": [say("assistant", "yes" * at)], "rejected": [say("assistant", "no")]}
    for at in range(1, 5)
]
SMUGGLED = [{**row, "rejected": [say("assistant", f"no<|eot_id|>{at}")]} for at, row in enumerate(ROWS)]


def make_model(task: str) -> Any:
    model = make_tiny_llama(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1)
    if task != "reward":
        return model
    model.config.num_labels = 1
    return LlamaForSequenceClassification(model.config)


def make_trainer(task: str, prepared: Any, model: Any, rows: Any, folder: Path, **given: Any) -> Any:
    """A trainer as a script makes it."""
    trainer_class, config_class = import_classes(find_task(task))
    if task in ("dpo", "kto"):
        given.setdefault("ref_model", copy.deepcopy(model))
    args = config_class(str(folder), **{**PLAIN, "per_device_train_batch_size": 2, **prepared.training_args})
    given[name_tokenizer_argument(trainer_class)] = prepared.encoder.tokenizer
    return trainer_class(model=model, args=args, train_dataset=rows, **given)


def draw(trainer: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    return {name: held for name, held in next(iter(trainer.get_train_dataloader())).items() if torch.is_tensor(held)}


@pytest.mark.parametrize("task", TASKS)
def test_batches_are_those_that_trl_makes_of_plain_rows(task: Any, tmp_path: Path) -> None:
    """TRL's own tokenization is right for rows without control tokens in their text, once the tokenizer is patched."""
    if find_layout("dpo") != "joined":
        pytest.skip("this version of TRL encodes otherwise")
    tokenizer, model = fresh_tokenizer("3.1-instruct"), make_model(task)
    prepared = prepare(tokenizer, model, task=task, device="cpu")
    rows: list[dict[str, Any]] = [*ROWS]
    if task == "kto":  # of pairs TRL makes two blocks of rows
        judged = [(name, row) for row in ROWS for name in ("chosen", "rejected")]
        rows = [{"prompt": row["prompt"], "completion": row[name], "label": name == "chosen"} for name, row in judged]
    encoded = prepared.encode(rows, progress=False)
    ours = draw(make_trainer(task, prepared, model, encoded, tmp_path, data_collator=prepared.collator))
    theirs = draw(make_trainer(task, prepared, model, Dataset.from_list(rows), tmp_path))
    unread = ("prompt_", "KL_prompt_", "answer_")  # which TRL collates, and no loss reads
    theirs = {name: held for name, held in theirs.items() if not name.startswith(unread)}
    margin = ours.pop("margin", None)
    assert margin is None or not margin.any()
    assert ours.keys() == theirs.keys()
    for name, held in theirs.items():
        assert torch.equal(ours[name].long(), held.long()), name


def test_the_trainer_of_the_page_is_made_by_hand(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "preference.md").read_text(encoding="utf-8")
    code = page.partition("## Part by part\n\n```python\n")[2].partition("```")[0]
    assert 0 < sum("import " not in line for line in code.split("\n") if line) <= 10
    code = code.replace('output_dir="out"', "output_dir=folder, **PLAIN")
    code = code.replace("TrainingGuard()", 'TrainingGuard(folder + "/guard")')
    code = code.replace("processing_class=", name_tokenizer_argument(import_classes("dpo")[0]) + "=")
    names: dict[str, Any] = {name: getattr(trl, name) for name in ("DPOTrainer", "DPOConfig")}
    names |= {"copy": copy, "prepare": prepare, "TrainingGuard": TrainingGuard, "rows": SMUGGLED[:1]}
    names |= {"model": make_model("dpo"), "tokenizer": fresh_tokenizer("3.1-instruct")}
    exec(code, {**names, "folder": str(tmp_path), "PLAIN": PLAIN}, names)
    trainer = names["trainer"]
    report = diagnose(trainer)
    report.raise_for_errors(require=("rows",))
    assert [str(finding) for finding in report.findings if finding.code != "PKG001"] == []
    assert torch.isfinite(torch.tensor(trainer.train().training_loss))
    assert not (tmp_path / "guard").exists()


def test_an_answer_of_several_turns_is_refused_at_encoding_where_trl_takes_no_mask(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = [say("assistant", "yes"), say("user", "sure?"), say("assistant", "yes")]
    rows = [*ROWS[:1], {**ROWS[1], "chosen": turns}, {**ROWS[2], "rejected": turns}]
    if find_layout("dpo") == "joined":
        assert len(prepare(tokenizer, task="dpo", device="cpu").encode(rows, progress=False)) == 3
        monkeypatch.setattr(tasks, "find_layout", lambda task: "apart")
        monkeypatch.setattr(trl, "__version__", "0.24.0")
    elif find_layout("dpo") == "named":
        assert len(prepare(tokenizer, task="dpo", device="cpu").encode(rows, progress=False)) == 3
        return
    trainer = f"DPOTrainer of TRL {trl.__version__}"
    words = rf"^row 1: the chosen answer has several turns, and {trainer} trains every.*pip install -U \"trl>=1\""
    with pytest.raises(PadfixError, match=words):
        prepare(tokenizer, task="dpo", device="cpu").encode(rows, progress=False)
    with pytest.raises(PadfixError, match=words):
        build_trainer(make_model("dpo"), tokenizer, rows, task="dpo", output_dir=str(tmp_path), **PLAIN)
    dropping = prepare(tokenizer, task="dpo", on_error="drop", device="cpu")
    assert len(dropping.encode(rows, progress=False)) == 1 and dropping.counts.dropped_invalid == 2
    assert len(prepare(tokenizer, task="orpo", device="cpu").encode(rows, progress=False)) == 3, "it has labels"


@pytest.mark.parametrize("task", ["dpo", "kto", "orpo"])
def test_encoded_rows_without_their_collator_stop_the_run(task: Any, tmp_path: Path) -> None:
    tokenizer, model = fresh_tokenizer("3.1-instruct"), make_model(task)
    prepared = prepare(tokenizer, model, task=task, device="cpu")
    prepared_rows = prepared.encode(ROWS, progress=False)
    trainer = make_trainer(task, prepared, model, prepared_rows, tmp_path)
    with pytest.raises((RuntimeError, ValueError, TypeError)):
        trainer.train()


def test_a_stream_and_several_sets_train_too(tmp_path: Path) -> None:
    if find_layout("dpo") != "joined":
        pytest.skip("this version of TRL takes no stream")
    tokenizer, model = fresh_tokenizer("3.1-instruct"), make_model("dpo")
    trainer: Any = build_trainer(
        model,
        tokenizer,
        Dataset.from_list(SMUGGLED).to_iterable_dataset(),
        task="dpo",
        eval_dataset={"own": ROWS[:1]},
        output_dir=str(tmp_path),
        peft_config=LoraConfig(target_modules=["q_proj"]),
        **PLAIN,
    )
    assert draw(trainer)["completion_mask"].sum() > 8 and set(trainer.eval_dataset) == {"own"}
    assert trainer.ref_model is None, "with an adapter the reference is the model without it"


def test_references_that_trl_computes_before_the_run_reach_the_batch(tmp_path: Path) -> None:
    tokenizer, model = fresh_tokenizer("3.1-instruct"), make_model("dpo")
    model.save_pretrained(tmp_path / "model")
    model.config._name_or_path = str(tmp_path / "model")  # from where TRL 1.0 loads the reference
    given: dict[str, Any] = {"task": "dpo", "output_dir": str(tmp_path), "precompute_ref_log_probs": True, **PLAIN}
    trainer: Any = build_trainer(model, tokenizer, SMUGGLED[:1], **given)
    batch = draw(trainer)
    [found] = [held for name, held in batch.items() if name in ("ref_chosen_logps", "reference_chosen_logps")]
    assert found.shape == (1,) and (found < 0).all()
    assert torch.isfinite(torch.tensor(trainer.train().training_loss))


def test_the_task_is_found_by_the_class_of_the_trainer(tokenizer: Any, tmp_path: Path) -> None:
    for task in TASKS:
        trainer_class, config_class = import_classes(find_task(task))
        prepared = prepare(tokenizer, task=type("Mine", (trainer_class,), {}), device="cpu")
        assert prepared.task == task == prepared.encoder.encoding.task
        args = config_class(str(tmp_path), use_cpu=True, **prepared.training_args)
        assert args.max_length is None or task == "orpo"
        before = config_class(str(tmp_path), use_cpu=True)
        prepared.apply_to(before)
        assert {name: getattr(before, name) for name in prepared.training_args} == prepared.training_args
    with pytest.raises(PadfixError, match="task='ppo' is not known"):
        prepare(tokenizer, task="ppo")  # type: ignore[arg-type]
    with pytest.raises(PadfixError, match="Leave packing and group_by_length out"):
        prepare(tokenizer, task="dpo", packing=True, max_length=64)
    with pytest.raises(PadfixError, match="neither to DPOConfig nor to DPOTrainer"):
        build_trainer(make_model("dpo"), tokenizer, ROWS, task="dpo", betta=0.1)
