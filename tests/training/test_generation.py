"""Generation after `prepare`: batched on the left it equals one by one, and it stops at every stop token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from llama_padfix import PadfixError, diagnose, load, padding_side, patch_tokenizer, prepare
from tests.conftest import fresh_tokenizer

PROMPTS = ["Hi", "Tell me a long story about a llama and its pad token.", "Why?", "Count to three:\n1\n2"]
NEW = 12


def generate(model: Any, batch: Any) -> Any:
    return model.generate(
        **batch, max_new_tokens=NEW, do_sample=False, return_dict_in_generate=True, output_logits=True
    )


def test_left_padded_batch_generates_what_each_prompt_generates_alone(make_model: Any) -> None:
    tokenizer = fresh_tokenizer("3.1-instruct")
    # Large weights: the greedy path wanders, and no two logits are near enough for rounding to decide.
    model = make_model(hidden_size=32, initializer_range=0.5, tie_word_embeddings=False).eval()
    prepare(tokenizer, model, device="cpu")
    assert tokenizer.pad_token == "<|end_of_text|>"
    rendered = [
        tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
        for text in PROMPTS
    ]

    alone = []
    for text in rendered:
        out = generate(model, tokenizer(text, return_tensors="pt"))
        new = out.sequences.shape[1] - NEW
        alone.append(out.sequences[0, new:].tolist())
        top = torch.stack(out.logits)[:, 0].topk(2, dim=-1).values
        assert float((top[:, 0] - top[:, 1]).min()) > 1e-3
    assert len({tuple(ids) for ids in alone}) == len(PROMPTS) and min(len(set(ids)) for ids in alone) > 3

    def together() -> list[list[int]]:
        batch = tokenizer(rendered, return_tensors="pt", padding=True)
        out = generate(model, batch).sequences
        found: list[list[int]] = out[:, batch["input_ids"].shape[1] :].tolist()
        return found

    with padding_side(tokenizer, "left"):
        assert together() == alone
    assert tokenizer.padding_side == "right"
    assert together() != alone  # what the side is for


def test_padding_side_comes_back_after_an_error_and_nests(tokenizer: Any) -> None:
    with pytest.raises(RuntimeError, match="out of memory"), padding_side(tokenizer, "left") as inside:
        assert inside is tokenizer and tokenizer.padding_side == "left"
        with padding_side(tokenizer, "right"):
            assert tokenizer.padding_side == "right"
        assert tokenizer.padding_side == "left"
        raise RuntimeError("out of memory")
    assert tokenizer.padding_side == "right"


def test_padding_side_refuses_an_unknown_side_before_it_changes_anything(tokenizer: Any) -> None:
    with pytest.raises(PadfixError, match="'middle'"), padding_side(tokenizer, "middle"):
        raise AssertionError("the block must not run")
    assert tokenizer.padding_side == "right"


def always_say(model: Any, token_id: int) -> None:
    """Make a token the argmax everywhere: the hidden state is all ones and only this token's row answers to it."""
    with torch.no_grad():
        model.model.embed_tokens.weight.fill_(1.0)
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.lm_head.weight.zero_()
        model.lm_head.weight[token_id] = 1.0


def count_new_tokens(model: Any, tokenizer: Any, token_id: int) -> int:
    always_say(model, token_id)
    batch = tokenizer("Hi", return_tensors="pt")
    out = model.generate(**batch, max_new_tokens=4, do_sample=False)[0, batch["input_ids"].shape[1] :].tolist()
    assert out == [token_id] * len(out)
    return len(out)


@pytest.mark.parametrize(
    ("release", "stops"),
    [("3-instruct-early", [128001, 128009]), ("3.1-instruct", [128001, 128008, 128009])],
)
@pytest.mark.slow
def test_reloaded_checkpoint_stops_at_every_stop_token_and_at_no_other(
    release: str, stops: list[int], make_model: Any, tmp_path: Path
) -> None:
    tokenizer = fresh_tokenizer(release)
    model = make_model(release, num_hidden_layers=1, tie_word_embeddings=False)
    if release == "3-instruct-early":  # the trap: it talks on after <|eot_id|>
        assert count_new_tokens(model, tokenizer, 128009) == 4
    prepare(tokenizer, model, device="cpu")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)

    again, reloaded = load(tmp_path)
    assert again.generation_config.eos_token_id == stops
    for token_id in stops:
        assert count_new_tokens(again, reloaded, token_id) == 1
    for token_id in (15339, 128006):
        assert count_new_tokens(again, reloaded, token_id) == 4


@pytest.mark.slow
def test_generation_stops_where_its_own_config_says_and_not_where_the_models_does(
    make_model: Any, tmp_path: Path
) -> None:
    """What GEN002 rests on: one stop in config.json does no harm beside a whole list in generation_config.json."""
    tokenizer = fresh_tokenizer("3.1-instruct")
    model = make_model("3.1-instruct", num_hidden_layers=1, tie_word_embeddings=False)
    patch_tokenizer(tokenizer, model)
    stops = [128001, 128008, 128009]
    for in_config, in_generation in ((128009, stops), (stops, 128009)):
        model.config.eos_token_id, model.generation_config.eos_token_id = in_config, in_generation
        folder = tmp_path / str(type(in_config).__name__)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        again = AutoModelForCausalLM.from_pretrained(folder)
        assert (again.config.eos_token_id, again.generation_config.eos_token_id) == (in_config, in_generation)
        counts = [count_new_tokens(again, tokenizer, token_id) for token_id in stops]
        assert counts == ([1, 1, 1] if in_generation == stops else [4, 4, 1])
        found = [finding for finding in diagnose(folder).findings if finding.code == "GEN002"]
        assert len(found) == (in_generation != stops)
