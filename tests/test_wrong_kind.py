"""An argument of another kind, or in another's place, gets the line that helps, from every public function."""

from __future__ import annotations

import functools
from collections.abc import Callable
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
