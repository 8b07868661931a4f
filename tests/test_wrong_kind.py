"""An argument of another kind, or in another's place, gets the line that helps, from every public function."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import llama_padfix as p
from llama_padfix.demo.tiny import make_tiny_chat

NAME = "meta-llama/Llama-3.1-8B-Instruct"
LOAD_TOKENIZER = r"where a Hugging Face tokenizer is needed\. .*AutoTokenizer\.from_pretrained\("
LOAD_MODEL = r"where a model is needed\. .*AutoModelForCausalLM\.from_pretrained\("


@functools.cache
def parts() -> tuple[Any, Any, Any]:
    model, tokenizer, dataset = make_tiny_chat(hidden_size=16)
    return model, tokenizer, dataset.select(range(3))


# Every function that takes a tokenizer, called with it in that place and with what else it needs.
TOKENIZER_PLACES: dict[str, Callable[[Any, Any, Any], object]] = {
    "ChatEncoder": lambda wrong, m, d: p.ChatEncoder(wrong),
    "DataCollatorForCompletionOnlyLM": lambda wrong, m, d: p.DataCollatorForCompletionOnlyLM("x", tokenizer=wrong),
    "TrainingGuard": lambda wrong, m, d: p.TrainingGuard(tokenizer=wrong),
    "add_tokens": lambda wrong, m, d: p.add_tokens(m, wrong, ["<x>"]),
    "build_trainer": lambda wrong, m, d: p.build_trainer(m, wrong, d),
    "dedupe_bos": lambda wrong, m, d: p.dedupe_bos([1, 2], wrong),
    "diagnose": lambda wrong, m, d: p.diagnose(d, tokenizer=wrong),
    "find_markers": lambda wrong, m, d: p.find_markers(wrong),
    "find_untrained": lambda wrong, m, d: p.find_untrained(m, wrong),
    "mean_init_untrained": lambda wrong, m, d: p.mean_init_untrained(m, wrong),
    "padding_side": lambda wrong, m, d: p.padding_side(wrong, "left").__enter__(),
    "patch_tokenizer": lambda wrong, m, d: p.patch_tokenizer(wrong, m),
    "plan_patch": lambda wrong, m, d: p.plan_patch(wrong, m),
    "prepare": lambda wrong, m, d: p.prepare(wrong, m),
    "view_mask": lambda wrong, m, d: p.view_mask(d, wrong),
}
MODEL_PLACES: dict[str, Callable[[Any, Any, Any], object]] = {
    "add_tokens": lambda wrong, t, d: p.add_tokens(wrong, t, ["<x>"]),
    "build_trainer": lambda wrong, t, d: p.build_trainer(wrong, t, d),
    "complete_head": lambda wrong, t, d: p.complete_head(wrong),
    "diagnose": lambda wrong, t, d: p.diagnose(t, model=wrong),
    "find_lora_targets": lambda wrong, t, d: p.find_lora_targets(wrong),
    "find_untrained": lambda wrong, t, d: p.find_untrained(wrong, t),
    "guard.attach": lambda wrong, t, d: p.TrainingGuard().attach(wrong),
    "keep_trainable_float32": lambda wrong, t, d: p.keep_trainable_float32(wrong, p.choose_precision("cpu")),
    "mean_init_untrained": lambda wrong, t, d: p.mean_init_untrained(wrong, t),
    "patch_tokenizer": lambda wrong, t, d: p.patch_tokenizer(t, wrong),
    "prepare": lambda wrong, t, d: p.prepare(t, wrong),
    "train_rows": lambda wrong, t, d: p.train_rows(wrong, [1]),
}


@pytest.mark.parametrize("place", TOKENIZER_PLACES)
def test_no_tokenizer_in_the_place_of_one(place: str) -> None:
    model, _, dataset = parts()
    call = TOKENIZER_PLACES[place]
    for wrong in (model, dataset):
        with pytest.raises(p.PadfixError, match=LOAD_TOKENIZER) as caught:
            call(wrong, model, dataset)
        assert "by name: tokenizer=tokenizer" in str(caught.value) and len(str(caught.value)) < 300
    with pytest.raises(p.PadfixError, match=rf"Load it: tokenizer = .*from_pretrained\('{NAME}'\)"):
        call(NAME, model, dataset)


@pytest.mark.parametrize("place", MODEL_PLACES)
def test_no_model_in_the_place_of_one(place: str) -> None:
    _, tokenizer, dataset = parts()
    call = MODEL_PLACES[place]
    for wrong in (tokenizer, dataset):
        with pytest.raises(p.PadfixError, match=LOAD_MODEL) as caught:
            call(wrong, tokenizer, dataset)
        assert "by name: model=model" in str(caught.value) and len(str(caught.value)) < 300
    with pytest.raises(p.PadfixError, match=rf"Load it: model = .*from_pretrained\('{NAME}'\)"):
        call(NAME, tokenizer, dataset)


def test_nothing_was_changed_by_any_of_them() -> None:
    model, tokenizer, _ = parts()
    assert tokenizer.pad_token is None and model.config.pad_token_id is None
    assert len(tokenizer) == model.get_input_embeddings().num_embeddings


ROWS = r"Pass a dataset, a list of rows or a path"
OTHERS: dict[str, tuple[Callable[[Any, Any, Any], object], str]] = {
    "mask_labels, the tokenizer": (lambda m, t, d: p.mask_labels([1, 2], t), r"find_markers\(tokenizer\)"),
    "mask_labels, turned around": (lambda m, t, d: p.mask_labels(t, d), r"find_markers\(tokenizer\)"),
    "mask_labels, a text": (lambda m, t, d: p.mask_labels("Hi", p.find_markers(t)), r"Encode it: .*tokenizer"),
    "mask_labels, a dataset": (lambda m, t, d: p.mask_labels(d, p.find_markers(t)), r"dataset\.map\("),
    "mask_labels, rows": (lambda m, t, d: p.mask_labels([d[0]], p.find_markers(t)), r'row\["input_ids"\]'),
    "encode_dataset, the tokenizer": (lambda m, t, d: p.encode_dataset(t, d), r"encode_dataset\(ChatEncoder\("),
    "encode_dataset, turned around": (lambda m, t, d: p.encode_dataset(d, m), "ChatEncoder"),
    "encode_dataset, no rows": (lambda m, t, d: p.encode_dataset(p.ChatEncoder(t), t), ROWS),
    "prepared.encode, no rows": (lambda m, t, d: p.prepare(make_tiny_chat()[1]).encode(m), ROWS),
    "diagnose, no rows": (lambda m, t, d: p.diagnose(t, dataset=m), ROWS),
    "write_encoding": (lambda m, t, d: p.write_encoding(d, t), r"encoder\.encoding"),
    "heal_folder": (lambda m, t, d: p.heal_folder(t, "x"), r"output_dir"),
    "load, a model": (lambda m, t, d: p.load(m), r"prepare\(tokenizer, model\)"),
    "plan_load, a tokenizer": (lambda m, t, d: p.plan_load(t), r"prepare\(tokenizer, model\)"),
    "TrainingGuard": (lambda m, t, d: p.TrainingGuard(t), r"TrainingGuard\(tokenizer=tokenizer\)"),
    "train_rows": (lambda m, t, d: p.train_rows(m, t), r"convert_tokens_to_ids"),
    "train_with_backoff": (lambda m, t, d: p.train_with_backoff(m), r"train_with_backoff\(trainer\)"),
    "PadCollator": (lambda m, t, d: p.PadCollator(t), r"tokenizer\.pad_token_id"),
    "padding_side": (lambda m, t, d: p.padding_side(d, t).__enter__(), r"padding_side\(tokenizer, 'left'\)"),
    "max_length": (lambda m, t, d: p.ChatEncoder(t, m), r"Pass an int, or None"),
    "choose_optimizer": (lambda m, t, d: p.choose_optimizer(m), "no optimizer"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_else_is_given_in_a_wrong_place(name: str) -> None:
    call, line = OTHERS[name]
    with pytest.raises(p.PadfixError, match=line) as caught:
        call(*parts())
    assert len(str(caught.value)) < 900, "an object is not printed whole"


def test_a_gated_model_gets_the_line_that_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    def refuse(*_: object, **__: object) -> object:
        raise OSError("You are trying to access a gated repo.\n401 Client Error. Cannot access gated repo for url ...")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", refuse)
    for call in (lambda: p.load(NAME), lambda: p.plan_load(NAME), lambda: p.estimate_memory(NAME)):
        with pytest.raises(p.PadfixError, match=r"gated[\s\S]*hf auth login"):
            call()


def saved(folder: Path, tokenizer: Any) -> Path:
    tokenizer.save_pretrained(folder)
    return folder


# `Any`: what is passed is of a wrong type.
check_serving: Any = p.check_serving
export: Any = p.export_for_serving
check_stops: Any = p.check_stops
prepare: Any = p.prepare

FOLDER = r"where a folder is needed\. Pass the folder that the run saved"
SERVING: dict[str, tuple[Callable[..., object], str]] = {
    "check_serving, the tokenizer": (lambda m, t, d, f, o: check_serving(t, d), FOLDER),
    "check_serving, the model": (lambda m, t, d, f, o: check_serving(m, d), FOLDER),
    "check_serving, turned around": (lambda m, t, d, f, o: check_serving(d, f), FOLDER),
    "check_serving, a name": (lambda m, t, d, f, o: check_serving(NAME, d), "is not a folder"),
    "check_serving, a file": (lambda m, t, d, f, o: check_serving(f / "tokenizer.json", d), "is not a folder"),
    "check_serving, no rows": (lambda m, t, d, f, o: check_serving(f, t), "where rows are needed"),
    "check_serving, a path": (lambda m, t, d, f, o: check_serving(f, "rows.jsonl"), "where rows are needed"),
    "check_serving, bytes": (lambda m, t, d, f, o: check_serving(f, b"rows"), "where rows are needed"),
    "check_serving, encoded rows": (
        lambda m, t, d, f, o: check_serving(f, p.encode_dataset(p.ChatEncoder(t), d, progress=False)),
        "encoded already",
    ),
    "check_serving, encoder": (lambda m, t, d, f, o: check_serving(f, d, encoder=t), r"encoder=prepared\.encoder"),
    "check_serving, engines": (lambda m, t, d, f, o: check_serving(f, d, engines=m), r"Choose of: transformers,"),
    "check_serving, number": (lambda m, t, d, f, o: check_serving(f, d, engines=[5]), r"Choose of: transformers,"),
    "check_serving, rows": (lambda m, t, d, f, o: check_serving(f, d, rows=d), "Pass an int above 0"),
    "check_serving, url": (lambda m, t, d, f, o: check_serving(f, d, url=5), "http://127.0.0.1:8080"),
    "check_serving, no url": (lambda m, t, d, f, o: check_serving(f, d, url="http://[::1"), "http://127.0.0.1"),
    "export, the tokenizer": (lambda m, t, d, f, o: export(t, o, d), FOLDER),
    "export, a name": (lambda m, t, d, f, o: export(NAME, o, d), "is not a folder"),
    "export, turned around": (
        lambda m, t, d, f, o: export(f, d, o),
        "a folder to write is needed",
    ),
    "export, no folder": (lambda m, t, d, f, o: export(f, None, d), "a folder to write is needed"),
    "export, in a file": (lambda m, t, d, f, o: export(f, f / "config.json" / "x", d), "in no folder"),
    "export, a zero byte": (lambda m, t, d, f, o: export(f, "a\0b", d), "in no folder"),
    "export, itself": (lambda m, t, d, f, o: export(f, f, d), "exists already"),
    "export, no rows": (lambda m, t, d, f, o: export(f, o, m), "where rows are needed"),
    "export, engines": (lambda m, t, d, f, o: export(f, o, d, engines=t), r"Choose of: transformers,"),
    "export, encoder": (lambda m, t, d, f, o: export(f, o, d, encoder=m), r"encoder=prepared\.encoder"),
    "check_stops, turned around": (lambda m, t, d, f, o: check_stops(t, m), LOAD_MODEL),
    "check_stops, a dataset": (lambda m, t, d, f, o: check_stops(d, t), LOAD_MODEL),
    "check_stops, a name": (lambda m, t, d, f, o: check_stops(NAME, t), rf"Load it: model = .*'{NAME}'"),
    "check_stops, a tokenizer's name": (lambda m, t, d, f, o: check_stops(m, NAME), r"Load it: tokenizer = "),
    "check_stops, two models": (lambda m, t, d, f, o: check_stops(m, m), LOAD_TOKENIZER),
    "check_stops, no prompts": (lambda m, t, d, f, o: check_stops(m, t, t), "where prompts are needed"),
    "check_stops, a number": (lambda m, t, d, f, o: check_stops(m, t, 5), "where prompts are needed"),
    "check_stops, splits": (lambda m, t, d, f, o: check_stops(m, t, {"test": d}), r'dataset\["test"\]'),
    "check_stops, one text": (lambda m, t, d, f, o: check_stops(m, t, "Hi"), r"tokenizer, \[prompt\]"),
    "check_stops, one chat": (lambda m, t, d, f, o: check_stops(m, t, d[0]["messages"]), r"tokenizer, \[prompt\]"),
    "check_stops, encoding": (
        lambda m, t, d, f, o: check_stops(m, t, d, encoding=p.ChatEncoder(t)),
        r"encoder\.encoding",
    ),
    "check_stops, true": (lambda m, t, d, f, o: check_stops(m, t, d, max_new_tokens=True), "Pass an int"),
    "prepare, serve_with": (lambda m, t, d, f, o: prepare(t, serve_with=m), r"Choose of: transformers,"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = saved(tmp_path_factory.mktemp("saved"), parts()[1])
    (path / "config.json").write_text("{}")
    return path


@pytest.mark.parametrize("name", SERVING)
def test_what_is_given_to_serving_in_a_wrong_place(name: str, folder: Path, tmp_path: Path) -> None:
    call, line = SERVING[name]
    with pytest.raises(p.PadfixError, match=line) as caught:
        call(*parts(), folder, tmp_path / "out")
    assert len(str(caught.value)) < 500, "an object is not printed whole"
    assert list(tmp_path.iterdir()) == [], "nothing is written"


join: Any = p.join_rollout
retokenized: Any = p.find_retokenized
pairs: Any = p.PairEncoder
collate_pairs: Any = p.PairCollator
estimate: Any = p.estimate_memory

TASKS = r"'dop' is not known\. Use one of: .*'dpo'"
TURNS = r"Pass \[\(sampled_ids, messages\), \(sampled_ids, None\)\]"
PARTS = r"neither messages nor the ids of one row"
ROLLOUT = r"where a rollout is needed\. Make one: join_rollout\("
NEWEST: dict[str, tuple[Callable[..., object], str]] = {
    "PairEncoder, a model": (lambda m, t, d: pairs(m), LOAD_TOKENIZER),
    "PairEncoder, a name": (lambda m, t, d: pairs(NAME), rf"Load it: tokenizer = .*'{NAME}'"),
    "PairEncoder, the task in the place of a length": (lambda m, t, d: pairs(t, "dpo"), "Pass an int, or None"),
    "PairEncoder, a task": (lambda m, t, d: pairs(t, task="dop"), TASKS),
    "PairEncoder, rows of answers": (
        lambda m, t, d: pairs(t)(d[0]),
        r"row 0: the columns are messages; a row of pref",
    ),
    "PairCollator, the tokenizer": (lambda m, t, d: collate_pairs(t), r"pass tokenizer\.pad_token_id"),
    "PairCollator, a name": (lambda m, t, d: collate_pairs(NAME), r"pass tokenizer\.pad_token_id"),
    "PairCollator, a task": (lambda m, t, d: collate_pairs(1, task="dop"), TASKS),
    "PairCollator, rows": (lambda m, t, d: collate_pairs(1)([d[0]]), "no input_ids_chosen. Encode the rows"),
    "join_rollout, a model": (lambda m, t, d: join(m, [1], [([1], None)]), LOAD_TOKENIZER),
    "join_rollout, a name": (lambda m, t, d: join(NAME, [1], [([1], None)]), rf"Load it: tokenizer = .*'{NAME}'"),
    "join_rollout, a text": (lambda m, t, d: join(t, "Hi", [([1], None)]), PARTS),
    "join_rollout, a turn as text": (lambda m, t, d: join(t, [1], [("Hi", None)]), PARTS),
    "join_rollout, turns as text": (lambda m, t, d: join(t, [1], "Hi"), TURNS),
    "join_rollout, turns of a model": (lambda m, t, d: join(t, [1], m), TURNS),
    "find_retokenized, a model": (lambda m, t, d: retokenized(m, None, d), LOAD_TOKENIZER),
    "find_retokenized, turned around": (lambda m, t, d: retokenized(t, d[0]["messages"], None), ROLLOUT),
    "find_retokenized, a text": (lambda m, t, d: retokenized(t, "Hi", d), ROLLOUT),
    "prepare, a task": (lambda m, t, d: prepare(t, m, task="dop"), TASKS),
    "prepare, the model as task": (lambda m, t, d: prepare(t, task=m), r"Use one of: .*'dpo'"),
    "prepare, a class that is none": (lambda m, t, d: prepare(t, m, task=dict), "task=DPOTrainer"),
    "build_trainer, a task": (lambda m, t, d: p.build_trainer(m, t, d, task="dop"), TASKS),
    "estimate_memory, a tokenizer": (lambda m, t, d: estimate(t), r"Pass model\.config, or the name"),
    "estimate_memory, rows": (lambda m, t, d: estimate(d), r"Pass model\.config, or the name"),
    "estimate_memory, a batch of text": (lambda m, t, d: estimate(m, batch="2"), "batch=1"),
    "train_with_backoff, a name": (lambda m, t, d: p.train_with_backoff(NAME), r"train_with_backoff\(trainer\)"),
    "train_with_backoff, a tokenizer": (lambda m, t, d: p.train_with_backoff(t), r"train_with_backoff\(trainer\)"),
    "load_batch, a model": (lambda m, t, d: p.load_batch(m), "the guard's message ends with"),
}


@pytest.mark.parametrize("name", NEWEST)
def test_what_is_given_in_a_wrong_place_to_what_came_last(name: str) -> None:
    call, line = NEWEST[name]
    with pytest.raises(p.PadfixError, match=line) as caught:
        call(*parts())
    assert len(str(caught.value)) < 500 and "\n" not in str(caught.value), "an object is shown in one short line"


MAX_LENGTH: dict[str, Callable[[Any, Any, Any, Any], object]] = {
    "ChatEncoder": lambda m, t, d, size: p.ChatEncoder(t, max_length=size),
    "PairCollator": lambda m, t, d, size: p.PairCollator(1, max_length=size),
    "PairEncoder": lambda m, t, d, size: p.PairEncoder(t, max_length=size),
    "build_trainer": lambda m, t, d, size: p.build_trainer(m, t, d, max_length=size),
    "load": lambda m, t, d, size: p.load(m.name_or_path, max_length=size),
    "plan_load": lambda m, t, d, size: p.plan_load(m.name_or_path, max_length=size),
    "prepare": lambda m, t, d, size: prepare(t, max_length=size),
}


@pytest.mark.parametrize("name", MAX_LENGTH)
def test_max_length_is_the_most_tokens_of_a_row_everywhere(name: str, tmp_path: Path) -> None:
    model, tokenizer, dataset = parts()
    if "load" in name:
        model.config.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        model = SimpleNamespace(name_or_path=tmp_path)
    for wrong in (1, 0, -5, True, 64.0, "64", tokenizer):
        with pytest.raises(
            p.PadfixError, match=r"max_length=.*: a row needs at least 2 tokens\. Pass an int, or None"
        ):
            MAX_LENGTH[name](model, tokenizer, dataset, wrong)


def test_no_public_function_with_max_length_is_left_out() -> None:
    listed = (Path(__file__).parent / "public_api.txt").read_text(encoding="utf-8")
    taking = re.findall(r"^(?:function|class|record) (\w+)\(.*\bmax_length\b", listed, re.MULTILINE)
    assert {*taking, "build_trainer"} - {"Encoding"} == {*MAX_LENGTH}, "build_trainer hands its keywords to prepare"
