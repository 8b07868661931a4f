"""The tokenizer of a run is found wherever it is kept, and two that differ are a finding."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

from llama_padfix import PadfixError, diagnose
from llama_padfix.doctor.findings import Finding
from llama_padfix.doctor.observe.targets.tokenizer_search import search_tokenizers
from tests.support.runs import QUICK
from tests.support.saved import save, small_model, small_tokenizer


@pytest.fixture
def tok() -> Any:
    """Its pad token is what ends a turn, as in most scripts: no turn's end is trained."""
    tokenizer = small_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def chats(tokenizer: Any, count: int = 4) -> Any:
    say = [[{"role": "user", "content": "1"}, {"role": "assistant", "content": "2" * n}] for n in range(1, count + 1)]
    return Dataset.from_list([{"input_ids": tokenizer.apply_chat_template(chat)["input_ids"]} for chat in say])


def own(features: Any, tokenizer: Any) -> Any:
    batch = tokenizer.pad(features, return_tensors="pt")
    labels = batch["input_ids"].clone()
    labels[labels == tokenizer.pad_token_id] = -100
    batch["labels"] = labels
    return batch


class Holder:
    __slots__ = ("inner",)

    def __init__(self, tokenizer: Any) -> None:
        self.inner = {"parts": [tokenizer]}

    def __call__(self, features: Any) -> Any:
        return own(features, self.inner["parts"][0])

    def method(self, features: Any) -> Any:
        return self(features)


the_global: Any = None


def reads_a_global(features: Any) -> Any:
    return own(features, the_global)


def through_a_helper(features: Any) -> Any:
    return reads_a_global(features)


def decorated(tokenizer: Any) -> Any:
    def wrap(function: Any) -> Any:
        return lambda features: function(features)

    @wrap
    def collate(features: Any, tokenizer: Any = tokenizer) -> Any:
        return own(features, tokenizer)

    return collate


def keyword_only(tokenizer: Any) -> Any:
    def collate(features: Any, *, made_with: Any = tokenizer) -> Any:
        return own(features, made_with)

    return collate


COLLATORS: dict[str, Callable[[Any], Any]] = {
    "tokenizer": lambda tok: DataCollatorForLanguageModeling(tok, mlm=False),
    "keywords['tokenizer']": lambda tok: partial(own, tokenizer=tok),
    "args[0].keywords['tokenizer']": lambda tok: partial(lambda f, features: f(features), partial(own, tokenizer=tok)),
    "(closure: tok)": lambda tok: lambda features: own(features, tok),
    "(closure: function) (default: tokenizer)": decorated,
    "(default: made_with)": keyword_only,
    ".inner['parts'][0]": Holder,
    "inner['parts'][0]": lambda tok: Holder(tok).method,
    "(global: the_global)": lambda tok: reads_a_global,
    "(global: reads_a_global) (global: the_global)": lambda tok: through_a_helper,
}


def trainer_of(tok: Any, collator: Any, out: Path, kind: Any = Trainer, **given: Any) -> Any:
    args = TrainingArguments(str(out), **QUICK)
    return kind(model=small_model(tok), args=args, train_dataset=chats(tok), data_collator=collator, **given)


@pytest.mark.parametrize("place", COLLATORS)
def test_a_tokenizer_that_only_the_collator_has_is_found(
    place: str, tok: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.the_global", tok)
    trainer = trainer_of(tok, COLLATORS[place](tok), tmp_path)
    report = diagnose(trainer)
    assert {"PAD002", "PAD008"} <= {finding.code for finding in report.findings}
    [note] = [note for note in report.notes if "tokenizer" in note]
    assert note.startswith("The tokenizer is trainer.data_collator") and note.endswith(f"{place}.")
    with pytest.raises(PadfixError):
        report.raise_for_errors()
    report.fix()
    batch = next(iter(trainer.get_train_dataloader()))
    ended = batch["input_ids"] == tok.convert_tokens_to_ids("<|eot_id|>")
    assert ended.any() and bool((batch["labels"][ended] != -100).all())


class Keeps(Trainer):  # type: ignore[misc]  # which is untyped
    def __init__(self, *args: Any, my_words: Any, **given: Any) -> None:
        super().__init__(*args, **given)
        self.my_words = my_words


class Reads(Trainer):  # type: ignore[misc]
    def get_train_dataloader(self) -> Any:
        return DataLoader(self.train_dataset, batch_size=2, collate_fn=partial(own, tokenizer=the_global))


def test_a_subclass_of_trainer_keeps_it_under_any_name(tok: Any, tmp_path: Path, monkeypatch: Any) -> None:
    bare = lambda features: own(features, next(iter([tok])))  # noqa: E731
    kept = diagnose(trainer_of(tok, torch.utils.data.default_collate, tmp_path, Keeps, my_words=tok))
    assert "The tokenizer is trainer.my_words." in kept.notes
    monkeypatch.setattr(f"{__name__}.the_global", tok)
    read = diagnose(trainer_of(tok, torch.utils.data.default_collate, tmp_path, Reads))
    assert "The tokenizer is Reads.get_train_dataloader (global: the_global)." in read.notes
    assert diagnose(trainer_of(tok, bare, tmp_path)).notes[0].endswith("(closure: tok).")


def test_one_that_is_given_comes_first_and_none_is_said(tok: Any, tmp_path: Path) -> None:
    trainer = trainer_of(tok, lambda features: torch.utils.data.default_collate(features), tmp_path)
    report = diagnose(trainer)
    assert report.skipped["PAD001"] == "no tokenizer to look at"
    assert any(note.startswith("No tokenizer was given or found") for note in report.notes)
    assert any(note in str(report) and note in report.to_dict()["notes"] for note in report.notes)
    given = diagnose(trainer, tokenizer=tok)
    assert "PAD001" in given.passed and not given.notes


def test_nothing_that_is_searched_is_called_and_the_search_ends(tok: Any) -> None:
    class Touchy:
        def __init__(self, held: Any) -> None:
            self.itself, self.deep = self, {"a": [{"b": (held,)}]}

        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"{name} was asked for")

        @property
        def tokenizer(self) -> Any:
            raise AssertionError("a property was read")

        def __iter__(self) -> Any:
            raise AssertionError("it was read")

        def __len__(self) -> int:
            raise AssertionError("it was counted")

    class Own(dict[Any, Any]):
        def items(self) -> Any:
            raise AssertionError("its items were asked for")

    class OwnList(list[Any]):
        def __iter__(self) -> Any:
            raise AssertionError("it was read")

    [found] = search_tokenizers(("x", Own({Touchy(1): OwnList([1, tok]), "long" * 99: 2})))
    assert found.where == "x[Touchy][1]"
    endless = SimpleNamespace(next=tok)
    for _ in range(1500):
        endless = SimpleNamespace(next=endless)
    [found] = search_tokenizers(("x", Touchy(tok)))
    assert (found.where, found.tokenizer) == ("x.deep['a'][0]['b'][0]", tok)
    assert search_tokenizers(("x", [[[n] for n in range(500)] for _ in range(50)]), ("y", tok))
    assert search_tokenizers(("x", endless))[0].tokenizer is tok
    assert not search_tokenizers(("x", {"reward_processing_class": tok, "teacher": {"tokenizer": tok}}))


# ---- two that differ


def other(tok: Any, **changed: Any) -> Any:
    tokenizer = copy.deepcopy(tok)
    for name, value in changed.items():
        setattr(tokenizer, name, value)
    return tokenizer


def more_tokens(tok: Any) -> Any:
    tokenizer = copy.deepcopy(tok)
    tokenizer.add_tokens(["<new>"])
    return tokenizer


def tok001(report: Any) -> list[Finding]:
    return [finding for finding in report.findings if finding.code == "TOK001"]


@pytest.mark.parametrize(
    ("make", "severity", "said"),
    [
        (
            lambda tok: other(tok, pad_token="<|end_of_text|>"),
            "warning",
            "pad_token is <|eot_id|> and <|end_of_",
        ),
        (lambda tok: other(tok, eos_token="<|eom_id|>"), "warning", "eos_token is <|eot_id|> and <|eom_id|>"),
        (lambda tok: other(tok, chat_template=None), "warning", "chat_template is "),
        (lambda tok: other(tok, padding_side="left"), "note", "padding_side is right and left"),
        (more_tokens, "error", "vocabulary is "),
        (lambda tok: other(tok), None, ""),
    ],
)
def test_two_tokenizers_that_differ_are_a_finding(
    make: Any, severity: str | None, said: str, tok: Any, tmp_path: Path
) -> None:
    collator = DataCollatorForLanguageModeling(make(tok), mlm=False)
    found = tok001(diagnose(trainer_of(tok, collator, tmp_path, processing_class=tok)))
    assert [finding.severity for finding in found] == ([severity] if severity else [])
    for finding in found:
        assert "trainer.processing_class and trainer.data_collator.tokenizer are two" in finding.message
        assert said in finding.message


def test_the_given_one_is_compared_with_those_that_are_found(tok: Any, tmp_path: Path) -> None:
    given = other(tok, pad_token="<|end_of_text|>")
    collator = DataCollatorForLanguageModeling(tok, mlm=False)
    for target in (trainer_of(tok, collator, tmp_path), DataLoader(chats(tok), collate_fn=collator)):
        [finding] = tok001(diagnose(target, tokenizer=given))
        assert finding.message.startswith("the given tokenizer and ")
    [finding] = tok001(diagnose(tok, tokenizer=given))
    assert "tokenizer= are two tokenizers" in finding.message
    [finding] = tok001(diagnose(save(tmp_path / "run", tok), tokenizer=given))
    assert "tokenizer= are two tokenizers" in finding.message
