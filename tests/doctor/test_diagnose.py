"""What `diagnose` takes, what it leaves as it was, and what `fix` does."""

from __future__ import annotations

import copy
import inspect
import io
import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import pytest
import torch
from datasets import Dataset, DatasetDict, IterableDataset
from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments, default_data_collator
from trl import SFTConfig, SFTTrainer

from llama_padfix import PadCollator, PadfixError, diagnose, patch_tokenizer, prepare
from llama_padfix.core.compat import find_tokenizer
from llama_padfix.demo.reference import make_tiny_llama
from llama_padfix.doctor import checks
from llama_padfix.doctor.findings import Change
from llama_padfix.doctor.observe.snapshot import find_read_once, remember_state
from llama_padfix.tokens.calls import copy_tokenizer
from tests.conftest import ALL, fresh_tokenizer
from tests.support import runs
from tests.support.versions import call_tokenizer, make_arguments

QUICK = {**runs.QUICK, "max_steps": 3}
CHATS = [
    {"messages": [{"role": "user", "content": "Why? " * n}, {"role": "assistant", "content": f"Because {n}."}]}
    for n in range(1, 9)
]


@pytest.fixture(scope="module")
def parts() -> tuple[Any, list[dict[str, Any]]]:
    """A patched tokenizer and eight encoded rows."""
    tokenizer = fresh_tokenizer("3.1-instruct")
    rows = prepare(tokenizer, tiny()).encode(Dataset.from_list(CHATS), progress=False)
    return tokenizer, [dict(row) for row in rows]


def tiny(**overrides: Any) -> Any:
    model = make_tiny_llama("3.1-instruct", hidden_size=16, num_hidden_layers=1, **overrides)
    model.config.pad_token_id = model.generation_config.pad_token_id = 128001
    return model


# ---- a run after `diagnose` is bit for bit the run without it


class Counting(torch.utils.data.IterableDataset):
    """A stream of somebody's own that keeps its place and a generator between readings."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows, self.place = rows, 0
        self.noise, self.other, self.third = random.Random(3), numpy.random.default_rng(3), torch.Generator()
        self.old = numpy.random.RandomState(3)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while True:
            jump = self.noise.randrange(8) + int(self.other.integers(8)) + int(self.old.randint(8))
            jump += int(torch.randint(8, (1,), generator=self.third)) + random.randrange(2)
            self.place = (self.place + jump) % len(self.rows)
            yield dict(self.rows[self.place])


class Noisy(torch.utils.data.Dataset):
    """Rows that all three global generators change, and a counter of readings."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows, self.seen = rows, [0]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> dict[str, Any]:
        self.seen[0] += 1
        row = dict(self.rows[place])
        cut = random.randrange(2) + int(numpy.random.randint(2)) + int(torch.randint(2, (1,))) + self.seen[0] % 2
        return {name: values[: len(values) - cut] for name, values in row.items()}


def plain(rows: list[dict[str, Any]], tokenizer: Any, out: Path, data: Any, **more: Any) -> Any:
    collator = more.pop("collator", None) or PadCollator(tokenizer.pad_token_id)
    evaluation = more.pop("evaluation", None)
    return Trainer(
        model=tiny(attention_dropout=0.1),
        args=make_arguments(TrainingArguments, str(out), **{**QUICK, **more}),
        train_dataset=data,
        eval_dataset=evaluation,
        data_collator=collator,
        **call_tokenizer(Trainer, tokenizer),
    )


def plain_map(rows: list[dict[str, Any]], tokenizer: Any, out: Path) -> Any:
    return plain(rows, tokenizer, out, Dataset.from_list(rows), evaluation={"a": Dataset.from_list(rows[:3])})


def noisy_map(rows: list[dict[str, Any]], tokenizer: Any, out: Path) -> Any:
    return plain(rows, tokenizer, out, Noisy(rows), remove_unused_columns=False)


def grouped(rows: list[dict[str, Any]], tokenizer: Any, out: Path) -> Any:
    return plain(rows, tokenizer, out, Dataset.from_list(rows), train_sampling_strategy="group_by_length")


def persistent_workers(rows: list[dict[str, Any]], tokenizer: Any, out: Path) -> Any:
    workers = {"dataloader_num_workers": 1, "dataloader_persistent_workers": True, "eval_strategy": "steps"}
    held_out = {"a": Dataset.from_list(rows[:3]), "b": Dataset.from_list(rows[3:5])}
    return plain(rows, tokenizer, out, Noisy(rows), evaluation=held_out, eval_steps=2, **workers)


def own_stream(rows: list[dict[str, Any]], tokenizer: Any, out: Path) -> Any:
    return plain(rows, tokenizer, out, Counting(rows))


def shuffled_stream(rows: list[dict[str, Any]], tokenizer: Any, out: Path) -> Any:
    stream = IterableDataset.from_generator(lambda: iter(rows)).shuffle(seed=1, buffer_size=4)
    return plain(rows, tokenizer, out, stream)


def seeded_collator(rows: list[dict[str, Any]], tokenizer: Any, out: Path) -> Any:
    if "seed" not in inspect.signature(DataCollatorForLanguageModeling).parameters:
        pytest.skip("collators have a seed since transformers 4.49")
    tokenizer = copy.copy(tokenizer)
    tokenizer.add_special_tokens({"mask_token": "<|reserved_special_token_5|>"})
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=True, seed=5)
    bare = [{"input_ids": row["input_ids"]} for row in rows]
    return plain(rows, tokenizer, out, Dataset.from_list(bare), collator=collator)


def sft(rows: list[dict[str, Any]], tokenizer: Any, out: Path) -> Any:
    return SFTTrainer(
        model=tiny(attention_dropout=0.1),
        args=SFTConfig(str(out), **QUICK),
        train_dataset=Dataset.from_list(CHATS),
        eval_dataset={"a": Dataset.from_list(CHATS[:3])},
        **call_tokenizer(SFTTrainer, copy_tokenizer(tokenizer)),
    )


RUNS = (plain_map, noisy_map, grouped, persistent_workers, own_stream, shuffled_stream, seeded_collator, sft)


def run(make: Callable[..., Any], parts: Any, out: Path, look: bool) -> tuple[Any, ...]:
    """Train, and return everything in which one run may differ from another."""
    random.seed(1)
    numpy.random.seed(1)
    torch.manual_seed(1)
    trainer = make(parts[1], parts[0], out)
    order: list[Any] = []
    collate = trainer.data_collator

    def record(rows: Any) -> Any:
        batch = collate(rows)
        order.append(batch["input_ids"].tolist())
        return batch

    if not trainer.args.dataloader_num_workers:
        trainer.data_collator = record
    if look:
        before = settings_of(trainer)
        assert any(sample.seen for sample in diagnose(trainer).samples)
        assert settings_of(trainer) == before
        assert not hasattr(trainer, "_eval_dataloaders") and not order  # what the collator wrote down is undone too
    trainer.train()
    weights = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    logs = [{k: v for k, v in log.items() if "runtime" not in k and "per_second" not in k} for log in history(trainer)]
    moments = [tensor.clone() for state in trainer.optimizer.state.values() for tensor in state.values()]
    after = (random.random(), float(numpy.random.rand()), float(torch.rand(1)))
    return weights, moments, logs, order, after


def history(trainer: Any) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = trainer.state.log_history
    return entries


def settings_of(trainer: Any) -> tuple[Any, ...]:
    state = trainer.accelerator.gradient_state
    kept = {name: id(value) for name, value in vars(trainer).items() if name != "state"}
    noted = (len(trainer.accelerator._dataloaders), list(state.dataloader_references), state.active_dataloader)
    return kept, noted, state.sync_gradients, {name: repr(value) for name, value in vars(trainer.args).items()}


@pytest.mark.parametrize("make", RUNS, ids=lambda make: str(make.__name__))
@pytest.mark.slow
def test_training_after_diagnose_is_the_training_without_it(make: Any, parts: Any, tmp_path: Path) -> None:
    weights, moments, logs, order, after = run(make, parts, tmp_path, look=False)
    weights2, moments2, logs2, order2, after2 = run(make, parts, tmp_path, look=True)
    assert all(torch.equal(weights[name], weights2[name]) for name in weights)
    assert len(moments) == len(moments2) > 0
    assert all(torch.equal(one, other) for one, other in zip(moments, moments2, strict=True))
    assert logs == logs2 and any("loss" in log for log in logs)
    assert order == order2
    assert after == after2


# ---- streams that can be read only once


class FromGenerator(torch.utils.data.IterableDataset):
    def __init__(self, rows: Iterator[Any]) -> None:
        self.inner = {"rows": rows}

    def __iter__(self) -> Iterator[Any]:
        yield from self.inner["rows"]


def test_a_stream_that_can_be_read_only_once_is_left_whole(parts: Any, tmp_path: Path) -> None:
    tokenizer, rows = parts
    stream = FromGenerator(row for row in rows)
    trainer = plain(rows, tokenizer, tmp_path, stream)
    report = diagnose(trainer)
    assert report.skipped["LBL001"] == (
        "no rows of the train batch: its dataset reads from a generator, which can be read only once"
    )
    assert [(sample.source, sample.seen) for sample in report.samples] == [("train batch", 0)]
    assert len(list(stream)) == len(rows)


def test_what_is_read_once_is_told_from_what_is_not(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n')
    once = iter([1])
    assert find_read_once(FromGenerator(iter([1]))) == "list_iterator"
    assert find_read_once(FromGenerator(map(str, [1]))) == "map"
    assert find_read_once(IterableDataset.from_generator(lambda: once)) == "list_iterator"
    with (tmp_path / "rows.jsonl").open() as file:
        assert find_read_once(FromGenerator(file)) == "TextIOWrapper"
        assert find_read_once(FromGenerator(file), seeks=True) is None
    assert find_read_once(FromGenerator(io.StringIO("a"))) == "StringIO"
    for ending in (itertools.count(), itertools.cycle([1]), itertools.repeat(1, 2)):  # their place cannot be put back
        assert find_read_once(FromGenerator(ending)) == type(ending).__name__
    again = [
        IterableDataset.from_generator(lambda: iter([1])),
        IterableDataset.from_generator(lambda: iter([{"a": 1}])).shuffle(seed=1).map(lambda row: row).take(3),
        Dataset.from_list([{"a": 1}]).to_iterable_dataset(num_shards=1),
        Counting([{"a": 1}]),
        FromGenerator(itertools.repeat(1)),
    ]
    assert [find_read_once(dataset) for dataset in again] == [None] * len(again)


def test_state_is_put_back_however_deep_it_lies() -> None:
    class Inner:
        def __init__(self) -> None:
            self.order, self.cache, self.rng = [1, 2, 3], {"a": 1}, random.Random(7)

    inner = Inner()
    outer = {"x": (inner,), "f": lambda: inner}
    wanted = copy.deepcopy(inner.rng).random()
    restore = remember_state(outer)
    inner.rng.random()
    inner.order.reverse()
    inner.cache.update(b=2)
    vars(inner).update(new=1)
    inner.cache = {}
    restore()
    assert (inner.order, inner.cache, hasattr(inner, "new")) == ([1, 2, 3], {"a": 1}, False)
    assert inner.rng.random() == wanted


# ---- what a trainer may be


def test_each_evaluation_set_is_looked_at(parts: Any, tmp_path: Path) -> None:
    tokenizer, rows = parts
    blank = [{**row, "labels": [-100] * len(row["labels"])} for row in rows]
    held_out = {"good": Dataset.from_list(rows[:3]), "bad": Dataset.from_list(blank[:2])}
    report = diagnose(plain(rows, tokenizer, tmp_path, Dataset.from_list(rows), evaluation=held_out))
    seen = {sample.source: (sample.seen, sample.total) for sample in report.samples}
    assert seen == {"train batch": (8, 8), "eval batch (good)": (3, 3), "eval batch (bad)": (2, 2)}
    [finding] = [finding for finding in report.findings if finding.code == "LBL001"]
    assert (finding.where, finding.rows, finding.seen) == ("eval batch (bad)", 2, 2)


def test_the_installed_versions_are_looked_at_with_a_trainer_too(parts: Any, tmp_path: Path) -> None:
    tokenizer, rows = parts
    for target in (plain(rows, tokenizer, tmp_path, Dataset.from_list(rows)), tokenizer, rows):
        report = diagnose(target)
        assert not any("environment" in reason for reason in report.skipped.values())
        assert "PKG001" in (*report.passed, *(finding.code for finding in report.findings))


def test_max_rows_none_reads_all_batches(parts: Any, tmp_path: Path) -> None:
    tokenizer, rows = parts
    trainer = plain(rows, tokenizer, tmp_path, Dataset.from_list(rows * 10))
    assert [sample.seen for sample in diagnose(trainer).samples] == [64]
    assert [sample.seen for sample in diagnose(trainer, max_rows=5).samples] == [5]
    assert [sample.seen for sample in diagnose(trainer, max_rows=None).samples] == [80]


def test_batches_of_another_kind_are_skipped_with_the_reason(parts: Any, tmp_path: Path) -> None:
    tokenizer, _ = parts
    vectors = [{"inputs_embeds": [[0.0] * 16], "labels": [1]} for _ in range(4)]
    trainer = plain([], tokenizer, tmp_path, vectors, collator=default_data_collator)
    report = diagnose(trainer)
    assert "its batches hold no input_ids of rows (they hold: " in report.skipped["LBL001"]
    assert "LBL001" not in report.passed and "PAD001" in report.passed


def test_without_a_training_set_or_a_tokenizer(parts: Any, tmp_path: Path) -> None:
    _, rows = parts
    trainer = Trainer(model=tiny(), args=TrainingArguments(str(tmp_path), **QUICK))
    assert diagnose(trainer).skipped["LBL001"] == "no rows to look at"
    trainer = Trainer(
        model=tiny(),
        args=TrainingArguments(str(tmp_path), **QUICK),
        eval_dataset=Dataset.from_list(rows),
        data_collator=PadCollator(128001),
    )
    report = diagnose(trainer)
    assert [sample.source for sample in report.samples] == ["eval batch"]
    assert report.skipped["PAD001"] == "no tokenizer to look at"
    with pytest.raises(PadfixError, match="no tokenizer or model here to fix"):
        report.fix()


# ---- targets


@pytest.mark.slow
def as_format(rows: list[dict[str, Any]], name: str | None) -> Any:
    return Dataset.from_list(rows).with_format(name)


def test_every_kind_of_target(parts: Any, tmp_path: Path) -> None:
    tokenizer, rows = parts
    model = tiny()
    assert "EMB001" in diagnose(tokenizer).skipped
    for report in (diagnose((tokenizer, model)), diagnose(tokenizer, model=model)):
        assert {"EMB001", "PAD004"} <= set(report.passed)
    batch = PadCollator(128001)(rows[:3])
    texts = tokenizer(["Hello.", "Hello, world."])
    targets = [
        (Dataset.from_list(rows), ("dataset", 8)),
        (rows, ("dataset", 8)),
        (tuple(rows[:2]), ("dataset", 2)),
        (batch, ("batch", 3)),
        (texts, ("dataset", 2)),
        (tokenizer("Hello."), ("dataset", 1)),
        (rows[0], ("dataset", 1)),
        *((as_format(rows, name)[0], ("dataset", 1)) for name in (None, "torch")),
        *((as_format(rows, name)[:3], ("dataset", 3)) for name in (None, "numpy", "torch")),
    ]
    for target, wanted in targets:
        [sample] = diagnose(target).samples
        assert (sample.source, sample.seen) == wanted
    tokenizer.save_pretrained(tmp_path)
    assert "PAD001" in diagnose(tmp_path).passed and "PAD001" in diagnose(str(tmp_path)).passed


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (Dataset.from_list(CHATS), "not encoded"),
        (CHATS, "not encoded"),
        ([], "dataset is empty"),
        (DatasetDict(train=Dataset.from_list(CHATS)), "not encoded"),
        ({"text": ["a"]}, "mapping of 'text'"),
        (None, "Got a NoneType where a Hugging Face tokenizer"),
        (5, "Got a int where"),
        (iter([1]), "Got a list_iterator where"),
        (Path("no/such/folder"), "is not a folder"),
        ("no/such/folder", "is not a folder"),
        ((1, 2), "Got a int where"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_diagnosed_is_refused_clearly(target: Any, said: str) -> None:
    with pytest.raises(PadfixError, match=said):
        diagnose(target)


def test_a_model_alone_is_looked_at_and_says_what_is_missing() -> None:
    report = diagnose(tiny())
    assert "GEN004" in report.passed and report.skipped["PAD004"] == "no tokenizer to look at"
    assert report.notes[0].startswith("No tokenizer was given or found")


# ---- fix, and prepare by the same catalog


@pytest.mark.parametrize("release", ALL)
@pytest.mark.slow
def test_prepare_changes_what_diagnose_would_fix(release: str) -> None:
    tokenizer, model = fresh_tokenizer(release), make_tiny_llama(release, hidden_size=16, num_hidden_layers=1)
    other, other_model = fresh_tokenizer(release), make_tiny_llama(release, hidden_size=16, num_hidden_layers=1)
    report = diagnose((tokenizer, model))
    assert {change.safety for change in report.changes("safe")} == {"safe"}
    done = report.fix("safe")
    plan = prepare(other, other_model, device="cpu").plan

    def told(changes: Any) -> set[tuple[Any, ...]]:
        return {(change.target, change.before, change.after, change.code) for change in changes}

    assert len(done) == len(plan) > 0
    assert told(done) == told(plan)
    again = diagnose((tokenizer, model))
    assert again.changes("safe") == () and not [f for f in again.findings if f.severity == "error"]
    assert again.fix("safe").changes == ()
    assert not patch_tokenizer(tokenizer, model)


def test_fix_goes_on_until_nothing_is_left() -> None:
    """On an early Instruct release a new EOS takes the pad token that was set, in the second round."""
    tokenizer = fresh_tokenizer("3.1-base")
    model = make_tiny_llama("3.1-base", hidden_size=16, num_hidden_layers=1)
    tokenizer.chat_template = fresh_tokenizer("3.1-instruct").chat_template
    report = diagnose((tokenizer, model))
    done = report.fix()
    assert len(done) >= len({change.target for change in report.changes()})
    assert diagnose((tokenizer, model)).changes() == ()


def test_fix_of_a_trainer_heals_its_tokenizer_and_model(parts: Any, tmp_path: Path) -> None:
    tokenizer, rows = copy_tokenizer(parts[0]), parts[1]
    tokenizer.pad_token, tokenizer.padding_side = "<|eot_id|>", "left"
    trainer = plain(rows, tokenizer, tmp_path, Dataset.from_list(rows), collator=PadCollator(128001))
    report = diagnose(trainer)
    assert {"PAD002", "PAD005"} <= {finding.code for finding in report.findings}
    plan = report.fix("safe")
    assert {"tokenizer.pad_token", "tokenizer.padding_side"} <= {change.target for change in plan}
    assert find_tokenizer(trainer).pad_token == "<|end_of_text|>"
    assert trainer.model.config.pad_token_id == trainer.model.generation_config.pad_token_id == 128001
    assert not [f for f in diagnose(trainer).findings if f.severity != "note"]


def test_fix_obeys_select(parts: Any) -> None:
    tokenizer, model = fresh_tokenizer("3.1-instruct"), tiny()
    plan = diagnose((tokenizer, model), select=["BOS001"]).fix()
    assert [change.target for change in plan] == ["tokenizer.adds_bos"]
    assert tokenizer.pad_token is None


def test_manual_changes_are_never_run(parts: Any) -> None:
    with pytest.raises(PadfixError, match="never run"):
        diagnose(parts[0]).fix("manual")


# ---- the catalog


NEW = """
from llama_padfix.doctor.findings import Check
def _find(facts):
    yield CHECK.found(f"{facts.vocab_size} tokens, {len(facts.samples)} samples")
CHECK = Check("ZZZ001", "brand-new", "note", ("tokenizer",), "Why.", "bad", "good", _find)
"""
BROKEN = """
from llama_padfix.doctor.findings import Check
def _inspect(row, facts):
    raise ZeroDivisionError("by nought")
CHECK = Check("ZZZ002", "of-no-use", "note", ("rows",), "Why.", "bad", "good", inspect=_inspect, message="m")
"""


@pytest.fixture
def with_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The catalog with two files more: the package's path is all that a check needs."""
    import sys

    from llama_padfix.doctor.runner import load_checks

    (tmp_path / "zzz001_brand_new.py").write_text(NEW)
    (tmp_path / "zzz002_of_no_use.py").write_text(BROKEN)
    monkeypatch.setattr(checks, "__path__", [*checks.__path__, str(tmp_path)])
    load_checks.cache_clear()
    yield checks
    load_checks.cache_clear()
    for name in ("zzz001_brand_new", "zzz002_of_no_use"):
        sys.modules.pop(f"llama_padfix.doctor.checks.{name}", None)


def test_a_new_file_is_a_new_check_and_a_broken_one_hides_nothing(
    with_more: ModuleType, parts: Any, tmp_path: Path
) -> None:
    tokenizer, rows = parts
    trainer = plain(rows, tokenizer, tmp_path / "out", Dataset.from_list(rows))
    report = diagnose(trainer, select=["ZZZ", "PAD001", "LBL001"])
    assert [str(finding) for finding in report.findings] == ["note ZZZ001 brand-new: 128256 tokens, 1 samples"]
    assert report.passed == ("LBL001", "PAD001")
    assert report.skipped == {"ZZZ002": "the check itself raised ZeroDivisionError: by nought"}
    assert diagnose(tokenizer, ignore=["ZZZ001"]).skipped["ZZZ002"] == "no rows to look at"
    with pytest.raises(PadfixError, match="No check is called 'NOPE'"):
        diagnose(tokenizer, select=["NOPE"])


def test_changes_are_all_of_this_catalogue(parts: Any) -> None:
    change = Change("tokenizer.no_such_setting", 1, 2, "why")
    with pytest.raises(PadfixError, match="No code knows how to apply"):
        apply = diagnose(parts[0]).apply
        assert apply is not None
        apply([change])


def test_a_batch_beside_its_tokenizer_is_read_in_full(tokenizer: Any) -> None:
    prepared = prepare(tokenizer)
    row = [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "Seven."}]
    batch = prepared.collator([prepared.encoder(row)])
    batch["labels"][0, -1] = -100  # the stop token is hidden
    assert {"LBL002", "TRN001"} & set(diagnose(batch).skipped)
    report = diagnose(tokenizer, dataset=batch, select=["LBL"])
    [finding] = report.findings
    assert (finding.code, finding.where, finding.rows, finding.seen) == ("LBL002", "batch", 1, 1)
    assert report.samples[0].seen == report.samples[0].total == 1


def test_the_rows_of_a_stream_are_counted_as_they_are_read(tokenizer: Any) -> None:
    rows = [{"input_ids": [128000, 5, 6], "labels": [-100, 5, 6]}] * 7
    stream = Dataset.from_list(rows).to_iterable_dataset()
    assert diagnose(tokenizer, dataset=stream, max_rows=None).samples[0].seen == 7
    assert diagnose(tokenizer, dataset=stream, max_rows=3).samples[0].seen == 3
