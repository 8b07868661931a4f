"""The doctor reads what it needs: a folder without torch and transformers, a trainer without most of its rows."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from transformers import AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

from llama_padfix import diagnose
from llama_padfix.doctor.observe.folder import read_folder
from llama_padfix.doctor.observe.tokenizer import observe_tokenizer
from tests.conftest import fresh_tokenizer
from tests.support.saved import read, save, small_model, small_tokenizer

IN_A_NEW_PYTHON = """
import sys
from llama_padfix import cli
status = cli.main(["doctor", sys.argv[1]])
print(status, *[name for name in ("torch", "transformers", "numpy") if name in sys.modules])
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizer = small_tokenizer()
    return save(tmp_path / "run", tokenizer, small_model(tokenizer))


def edit(path: Path, **entries: Any) -> None:
    path.write_text(json.dumps(read(path) | entries))


# ---- a tokenizer read without transformers is the one that transformers loads


def as_transformers_4_writes(folder: Path) -> None:
    """As on the hub: every added token listed with its flags, and an old map of special tokens beside it."""
    flags = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    added = read(folder / "tokenizer.json")["added_tokens"]
    listed = {str(token["id"]): {name: token[name] for name in flags} for token in added}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "added_tokens_decoder": listed}
    edit(folder / "tokenizer_config.json", **config, clean_up_tokenization_spaces=True)
    (folder / "special_tokens_map.json").write_text('{"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}')


def with_tokens_as_objects(folder: Path) -> None:
    token = {"__type": "AddedToken", "content": "<|end_of_text|>", "lstrip": False, "rstrip": False}
    token |= {"normalized": False, "single_word": False, "special": True}
    edit(folder / "tokenizer_config.json", pad_token=token, extra_special_tokens=["<|eom_id|>"], padding_side="left")


def with_the_template_in_its_config(folder: Path) -> None:
    source = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    edit(folder / "tokenizer_config.json", chat_template=source)


def of_an_adapter(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "x/y"}')


def without_a_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


ALIKE: list[Callable[[Path], object]] = [
    lambda folder: None,
    as_transformers_4_writes,
    with_tokens_as_objects,
    with_the_template_in_its_config,
    without_a_template,
    of_an_adapter,
]


def assert_alike(folder: Path) -> None:
    found, facts = read_folder(folder, exact=False)
    loaded, exact = read_folder(folder)
    assert found is not None and loaded is not None
    assert not type(found).__module__.startswith("transformers"), "read without transformers"
    assert facts == exact
    assert observe_tokenizer(found, with_markers=True) == observe_tokenizer(loaded, with_markers=True)


@pytest.mark.parametrize("change", ALIKE, ids=lambda change: change.__name__)
def test_the_facts_are_those_of_the_loaded_tokenizer(change: Callable[[Path], object], folder: Path) -> None:
    change(folder)
    assert_alike(folder)


@pytest.mark.slow
def test_the_facts_of_llama_3_are_those_of_the_loaded_tokenizer(tmp_path: Path) -> None:
    folder = save(tmp_path / "run", fresh_tokenizer("3.1-instruct"))
    (folder / "config.json").write_text('{"model_type": "llama", "vocab_size": 128256}')
    assert_alike(folder)


def padded(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = "<|end_of_text|>"
    tokenizer("a", padding="max_length", max_length=8, truncation=True)
    tokenizer.save_pretrained(folder)


def in_config(**entries: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "tokenizer_config.json", **entries)


LEFT_TO_TRANSFORMERS: dict[str, Callable[[Path], object]] = {
    "another class": in_config(tokenizer_class="LlamaTokenizerFast"),
    "no class": lambda folder: edit(folder / "tokenizer_config.json", tokenizer_class=None),
    "an ordinary token as pad": in_config(pad_token="a"),
    "a pad token of no vocabulary": in_config(pad_token="<pad>"),
    "an automatic BOS": in_config(add_bos_token=True),
    "an unknown setting": in_config(fix_mistral_regex=True),
    "added tokens that differ": in_config(added_tokens_decoder={"3": {"content": "x", "special": False}}),
    "padding": padded,
    "another model": lambda folder: edit(folder / "config.json", model_type="mistral"),
    "a model of no type": lambda folder: (folder / "config.json").write_text("{}"),
    "an old list of added tokens": lambda folder: (folder / "added_tokens.json").write_text('{"<x>": 999}'),
    "several templates": lambda folder: (folder / "additional_chat_templates").mkdir(),
    "a broken tokenizer.json": lambda folder: (folder / "tokenizer.json").write_text("{"),
}


@pytest.mark.parametrize("change", LEFT_TO_TRANSFORMERS.values(), ids=LEFT_TO_TRANSFORMERS)
def test_what_transformers_may_change_is_left_to_it(change: Callable[[Path], object], folder: Path) -> None:
    change(folder)
    found, facts = read_folder(folder, exact=False)
    assert found is None or type(found).__module__.startswith("transformers")
    assert facts == read_folder(folder)[1]


# ---- what a folder costs


def test_a_folder_is_read_without_torch_and_transformers(folder: Path) -> None:
    command = [sys.executable, "-c", IN_A_NEW_PYTHON, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "PAD001" in done.stdout
    assert done.stdout.splitlines()[-1].split() == ["1"], "neither torch nor transformers nor numpy"


def test_tokenizer_json_is_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    class Counting:
        @staticmethod
        def from_file(path: str) -> Any:
            opened.append(path)
            return real.from_file(path)

    real, read_text = tokenizers.Tokenizer, Path.read_text
    monkeypatch.setattr(tokenizers, "Tokenizer", Counting)

    def counting(path: Path, *args: Any, **kwargs: Any) -> str:
        opened.append(str(path))
        return read_text(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", counting)
    diagnose(folder)
    own = [path for path in opened if path.startswith(str(folder))]
    assert len(own) == len(set(own)) == 5, "tokenizer.json, three configs and the template, each once"


# ---- what a trainer costs


TOUCHED: list[int] = []
"""Rows that were read, in a place that `diagnose` does not put back: nothing of a trainer refers to it."""


class Counted:
    """A dataset of so many rows, which counts how many are read."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> dict[str, list[int]]:
        if place >= self.count:
            raise IndexError(place)
        sys.modules[__name__].__dict__["TOUCHED"].append(place)
        return {"input_ids": [1, 2, 3 + place % 7], "labels": [-100, 2, 3 + place % 7]}


def test_a_trainer_costs_the_same_whatever_its_rows(tmp_path: Path) -> None:
    tokenizer = small_tokenizer()
    tokenizer.pad_token = "<|end_of_text|>"
    model, read = small_model(tokenizer), []
    for count in (200, 200_000):
        args = TrainingArguments(str(tmp_path), use_cpu=True, report_to=[])
        given: dict[str, Any] = {"train_dataset": Counted(count), "processing_class": tokenizer}
        trainer = Trainer(model, args, data_collator=DataCollatorForSeq2Seq(tokenizer), **given)
        TOUCHED.clear()
        assert diagnose(trainer).samples[0].seen == 64
        read.append(len(TOUCHED))
    assert read[0] == read[1] < 200 and read[0] >= 64
