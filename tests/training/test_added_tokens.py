"""Tokens are added whole or not at all, and training moves their rows and not one of the old ones."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, LlamaForCausalLM, PhiConfig
from transformers import PhiForCausalLM as Phi

from llama_padfix import PadfixError, add_tokens, build_trainer, diagnose, prepare, train_rows
from llama_padfix.core.compat import trains_single_rows
from llama_padfix.demo.reference import make_tiny_llama
from llama_padfix.training.adapters.row_training import complete_head
from tests.conftest import fresh_tokenizer
from tests.support.saved import small_model, small_tokenizer

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("seeded"),
    # tests/core/test_compat.py holds what is left without it.
    pytest.mark.skipif(not trains_single_rows(peft.LoraConfig()), reason="PEFT trains single rows since 0.15"),
]

TOKENS = ["<tool>", "</tool>"]
NEW = (128256, 128257)
OLD = slice(0, 128256)
PAGE = Path(__file__).parents[2] / "docs" / "embeddings.md"


@pytest.fixture
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def shared_tokenizer() -> Any:
    """For tests that leave it as it is."""
    return fresh_tokenizer("3.1-instruct")


def tiny(tied: bool = True, **overrides: Any) -> Any:
    return make_tiny_llama("3.1-instruct", hidden_size=16, tie_word_embeddings=tied, **overrides)


def pair(tied: bool = True, **overrides: Any) -> tuple[Any, Any]:
    return tiny(tied, **overrides), fresh_tokenizer("3.1-instruct")


def matrices(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Copies of the embedding and of the head, as a user of the model sees them."""
    state = model.state_dict()
    return state["model.embed_tokens.weight"].clone(), state["lm_head.weight"].clone()


def look(model: Any, tokenizer: Any) -> list[Any]:
    """Everything that a failed call must leave alone, the objects themselves included."""
    layers = [model.get_input_embeddings(), model.get_output_embeddings()]
    return [
        *(hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for tensor in matrices(model)),
        *(id(layer) for layer in layers),
        *(id(layer.weight) for layer in layers),
        layers[0].num_embeddings,
        layers[1].out_features,
        model.config.to_dict(),
        vars(model).get("vocab_size"),
        hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
        len(tokenizer),
        dict(tokenizer.added_tokens_encoder),
        tokenizer.all_special_tokens,
        tokenizer.encode("a<tool>b"),
    ]


def train(model: Any, steps: int = 3, ids: tuple[int, ...] = (128000, 128256, 15, 128257, 22, 128256)) -> float:
    rows = torch.tensor([ids])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    for _ in range(steps):
        loss = model(input_ids=rows, labels=rows).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return float(loss)


# ---- what is added


@pytest.mark.parametrize("tied", [True, False])
def test_new_rows_are_the_mean_and_old_ones_stay(tied: bool) -> None:
    model, tokenizer = pair(tied)
    before = matrices(model)
    added = add_tokens(model, tokenizer, TOKENS)
    after = matrices(model)
    assert (added.tokens, added.token_ids) == (dict(zip(TOKENS, NEW, strict=True)), NEW)
    assert (added.rows_before, added.rows_after, added.existing) == (128256, 128258, {})
    for old, new in zip(before, after, strict=True):
        assert torch.equal(new[OLD], old) and new.is_contiguous()
        assert torch.allclose(new[128256:], old.mean(0), atol=1e-4)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
    assert (
        model.config.vocab_size == model.get_input_embeddings().num_embeddings == model.lm_head.out_features == 128258
    )
    assert tokenizer.encode("a<tool>b</tool>", add_special_tokens=False) == [64, 128256, 65, 128257]
    names = {"embed_tokens": list(NEW)} if tied else {"embed_tokens": list(NEW), "lm_head": list(NEW)}
    assert added.lora.trainable_token_indices == names and added.lora.modules_to_save is None
    assert (added.lora.r, added.lora.lora_alpha, added.lora.lora_dropout) == (16, 16, 0.0)


def test_new_rows_are_never_made_of_rows_that_are_not_finite() -> None:
    tokenizer = small_tokenizer()
    model = small_model(tokenizer)  # its head is a matrix of its own
    weights = [model.model.embed_tokens.weight, model.lm_head.weight]
    weights[0].data[5], weights[1].data[7, 3] = torch.nan, torch.inf
    means = [weight[weight.isfinite().all(dim=1)].mean(0) for weight in weights]
    add_tokens(model, tokenizer, TOKENS)
    for layer, mean in zip((model.model.embed_tokens, model.lm_head), means, strict=True):
        assert torch.allclose(layer.weight[-2:], mean.expand(2, -1), atol=1e-6)

    for weight in (model.model.embed_tokens.weight, model.lm_head.weight):
        weight.data.fill_(torch.nan)
    with pytest.raises(PadfixError, match="All rows of the embedding are zero, nan or inf"):
        add_tokens(model, tokenizer, ["<more>"])


class OldTransformers(LlamaForCausalLM):  # type: ignore[misc]
    """A model whose resize draws new rows at random, as every model's did up to transformers 4.45."""

    def resize_token_embeddings(self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None) -> Any:
        return super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing=False)


@pytest.mark.parametrize("tied", [True, False])
def test_rows_are_the_mean_where_transformers_draws_them_at_random(tied: bool) -> None:
    source, tokenizer = pair(tied)
    model = OldTransformers(source.config)
    before = matrices(model)
    add_tokens(model, tokenizer, TOKENS)
    for old, new in zip(before, matrices(model), strict=True):
        assert torch.equal(new[OLD], old)
        assert torch.allclose(new[128256:], old.mean(0).expand(2, -1), atol=1e-7)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied


@pytest.mark.parametrize("tied", [True, False])
def test_spare_rows_are_used_before_any_resize(tied: bool) -> None:
    model, tokenizer = pair(tied, vocab_size=128320)
    before = matrices(model)
    with pytest.raises(PadfixError, match="among target_modules"):  # raised after the rows were written
        add_tokens(model, tokenizer, TOKENS, lora={"target_modules": ["embed_tokens"]})
    assert all(torch.equal(old, new) for old, new in zip(before, matrices(model), strict=True))
    added = add_tokens(model, tokenizer, TOKENS)
    assert (added.rows_before, added.rows_after) == (128320, 128320) and "not resized" in str(added)
    for old, new in zip(before, matrices(model), strict=True):
        assert torch.equal(new[OLD], old[OLD]) and torch.equal(new[128258:], old[128258:])
        assert torch.allclose(new[128256:128258], old[OLD].mean(0).expand(2, -1), atol=1e-6)


def test_rows_are_rounded_up_on_request() -> None:
    model, tokenizer = pair()
    assert add_tokens(model, tokenizer, TOKENS, pad_to_multiple_of=64).rows_after == 128320 == model.config.vocab_size
    added = add_tokens(model, tokenizer, ["<third>"])
    assert (added.rows_after, added.token_ids) == (128320, (128258,))


@pytest.mark.slow
def test_tokens_that_are_there_already() -> None:
    model, tokenizer = pair()
    before = look(model, tokenizer)
    added = add_tokens(model, tokenizer, ["<|eot_id|>", "hello", " world", "<|reserved_special_token_9|>"])
    reserved = tokenizer.convert_tokens_to_ids("<|reserved_special_token_9|>")
    assert added.existing == {
        "<|eot_id|>": 128009,
        "hello": 15339,
        " world": 1917,
        "<|reserved_special_token_9|>": reserved,
    }
    assert (added.tokens, added.token_ids, added.lora.trainable_token_indices) == ({}, (), None)
    assert look(model, tokenizer) == before
    assert "'hello' (15339)" in str(added) and "left alone" in str(added)
    added = add_tokens(model, tokenizer, ["<tool>", "hello", "<tool>"])
    assert (added.tokens, added.existing) == ({"<tool>": 128256}, {"hello": 15339})
    assert "256 reserved" not in str(added) and "reserved tokens" in str(added)  # is it needed at all?


def test_tokens_that_somebody_added_without_rows_get_theirs() -> None:
    model, tokenizer = pair()
    tokenizer.add_tokens(["<early>", "<late>"])
    assert any(finding.code == "EMB001" for finding in diagnose((tokenizer, model)).findings)
    added = add_tokens(model, tokenizer, ["<early>", "<tool>"])
    assert added.tokens == {"<early>": 128256, "<late>": 128257, "<tool>": 128258}
    assert "which had no rows, got theirs too: '<late>'" in str(added)
    assert added.lora.trainable_token_indices == {"embed_tokens": [128256, 128257, 128258]}
    assert "EMB001" in diagnose((tokenizer, model)).passed


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.slow
def test_control_tokens_and_tokens_of_the_text(special: bool) -> None:
    model, tokenizer = pair()
    add_tokens(model, tokenizer, TOKENS, special=special)
    assert tokenizer.added_tokens_decoder[128256].special == special
    chat = [{"role": "user", "content": "run <tool>"}, {"role": "assistant", "content": "<tool>ls</tool>"}]
    row = prepare(tokenizer, model).encoder(chat)
    assert row["input_ids"].count(128256) == (0 if special else 2)
    allowed = prepare(tokenizer, model, allowed_tokens=TOKENS).encoder(chat)
    assert allowed["input_ids"].count(128256) == (1 if special else 2)  # what a user spells stays text


# ---- what is refused

REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "one string": ("<tool>", {}, "not a list of tokens"),
    "no list": (7, {}, "not a list of tokens"),
    "a number": (["<tool>", 7], {}, "7 is no token"),
    "empty": (["<tool>", ""], {}, "everywhere or nowhere"),
    "blank": ([" \n"], {}, "everywhere or nowhere"),
    "half a surrogate pair": (["<\ud83d>"], {}, "surrogate"),
    "unnormalized": (["<cafe\u0301>"], {}, "usual form NFC"),
    "one hides the other": (["<qx", "a<qx"], {}, "takes it apart"),
    "a bad multiple": (TOKENS, {"pad_to_multiple_of": 0}, "positive int"),
    "LoRA on the same matrix": (TOKENS, {"lora": {"target_modules": ["embed_tokens"]}}, "among target_modules"),
    "an unknown keyword": (TOKENS, {"lora": {"rank": 8}}, "knows no 'rank'"),
    "another object": (TOKENS, {"lora": 16}, "no configuration that could train rows"),
    "padding alone": (["<pad>"], {}, r"'<\|finetune_right_pad_id\|>'|'<\|end_of_text\|>'"),
    "padding in capitals": (["[PAD]"], {}, "needs no new token"),
}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.slow
def test_a_refusal_leaves_everything_as_it_was(tied: bool) -> None:
    model, tokenizer = pair(tied)
    before = look(model, tokenizer)
    for case, (tokens, keywords, message) in REFUSED.items():
        with pytest.raises(PadfixError, match=message):
            add_tokens(model, tokenizer, tokens, **keywords)
        assert (len(tokenizer), model.config.vocab_size) == (128256, 128256), case
    assert look(model, tokenizer) == before
    assert add_tokens(model, tokenizer, TOKENS).rows_after == 128258


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.slow
def test_a_failure_in_the_middle_of_the_resize_leaves_everything_as_it_was(
    tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = pair(tied)
    before = look(model, tokenizer)

    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("no room for the head")

    monkeypatch.setattr(model, "_get_resized_lm_head", fail)  # the embedding is resized by then
    with pytest.raises(torch.OutOfMemoryError):
        add_tokens(model, tokenizer, TOKENS)
    monkeypatch.undo()
    assert look(model, tokenizer) == before
    assert add_tokens(model, tokenizer, TOKENS).rows_after == 128258


def test_padding_is_refused_alone_and_not_among_others() -> None:
    model, tokenizer = pair()
    with pytest.raises(PadfixError, match=r"'<\|finetune_right_pad_id\|>'|'<\|end_of_text\|>'") as raised:
        add_tokens(model, tokenizer, ["<|pad|>"])
    assert "prepare(tokenizer, model)" in str(raised.value)
    assert add_tokens(model, tokenizer, ["<|pad|>", "<ipad>"]).tokens == {"<|pad|>": 128256, "<ipad>": 128257}


def test_a_decomposed_form_is_added_when_it_is_meant() -> None:
    model, tokenizer = pair()
    token = AddedToken("<cafe\u0301>", normalized=False)
    assert add_tokens(model, tokenizer, [token]).tokens == {"<cafe\u0301>": 128256}
    assert not tokenizer.added_tokens_decoder[128256].special  # taken as it is


def wrap_in_ddp(model: Any, folder: Path) -> Any:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
    try:
        return torch.nn.parallel.DistributedDataParallel(model)
    finally:
        torch.distributed.destroy_process_group()


def offload(model: Any, folder: Path) -> Any:
    return model.to("meta")


def split_tie(model: Any, folder: Path) -> Any:
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    return model


WRAPPED: dict[str, tuple[Callable[[Any, Path], Any], str]] = {
    "ddp": (wrap_in_ddp, r"DistributedDataParallel around a model.*model = model\.module"),
    "compiled": (lambda model, _: torch.compile(model), r"model = model\._orig_mod"),
    "peft": (lambda model, _: peft.get_peft_model(model, peft.LoraConfig(target_modules="all-linear")), "adapter"),
    "inside peft": (
        lambda model, _: peft.get_peft_model(
            model, peft.LoraConfig(target_modules=["q_proj"], trainable_token_indices=[5])
        ).get_base_model(),
        "adapter",
    ),
    "offloaded": (offload, "offloaded, or split"),
    "come apart": (split_tie, r"model\.tie_weights\(\)"),
    "no model": (lambda model, _: model.config, "where a model is needed"),
}


@pytest.mark.parametrize("case", WRAPPED)
def test_models_whose_rows_cannot_be_changed(case: str, shared_tokenizer: Any, tmp_path: Path) -> None:
    wrap, message = WRAPPED[case]
    model, tokenizer = wrap(tiny(), tmp_path), shared_tokenizer
    with pytest.raises(PadfixError, match=message):
        add_tokens(model, tokenizer, TOKENS)
    assert len(tokenizer) == 128256


def test_without_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = pair()
    before = look(model, tokenizer)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(PadfixError, match=r"pip install peft.*lora=False"):
        add_tokens(model, tokenizer, TOKENS)
    assert look(model, tokenizer) == before
    added = add_tokens(model, tokenizer, TOKENS, lora=False)
    assert added.lora is None and added.token_ids == NEW and "the whole model" in str(added)


# ---- what is trained


@pytest.mark.parametrize(("tied", "dtype"), [(True, "float32"), (False, "bfloat16")])
@pytest.mark.slow
def test_training_moves_the_new_rows_and_no_other_through_save_reload_and_merge(
    tied: bool, dtype: str, tmp_path: Path
) -> None:
    tiny(tied).to(getattr(torch, dtype)).save_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=dtype)
    tokenizer = fresh_tokenizer("3.1-instruct")
    added = add_tokens(model, tokenizer, TOKENS)
    before = matrices(model)
    adapter = peft.get_peft_model(model, added.lora)
    assert {p.dtype for p in adapter.parameters() if p.requires_grad} == {torch.float32}
    train(adapter)
    adapter.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    tokenizer.save_pretrained(tmp_path / "adapter")
    merged = adapter.merge_and_unload()
    for old, new in zip(before, matrices(merged), strict=True):
        assert torch.equal(new[OLD], old[OLD])
        assert bool((new[128256:] != old[128256:]).any(1).all())
    assert (merged.lm_head.weight.data_ptr() == merged.get_input_embeddings().weight.data_ptr()) == tied

    again = AutoTokenizer.from_pretrained(tmp_path / "adapter")
    assert again.encode("<tool>", add_special_tokens=False) == [128256]
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=dtype)
    base.resize_token_embeddings(len(again))
    loaded = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").merge_and_unload()
    assert all(torch.equal(a, b) for a, b in zip(matrices(loaded), matrices(merged), strict=True))

    merged.save_pretrained(tmp_path / "merged")
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=dtype)
    assert all(torch.equal(a, b) for a, b in zip(matrices(whole), matrices(merged), strict=True))
    assert (whole.lm_head.weight is whole.get_input_embeddings().weight) == tied


def test_a_head_that_peft_wraps_can_be_read_by_trl() -> None:
    """TRL 1.16 reads `lm_head.bias`; with the head completed, its loss is the model's own."""
    from trl.trainer.utils import add_fused_lm_head

    model = tiny()
    assert not complete_head(model)
    add_fused_lm_head(model)
    adapter = peft.get_peft_model(model, train_rows(model, [7, 9], {"target_modules": ["q_proj"]}).lora)
    ids = torch.tensor([[1, 7, 5, 9]])
    names = list(adapter.state_dict())
    missing = not hasattr(adapter.get_output_embeddings(), "bias")
    assert complete_head(adapter) == missing and not complete_head(adapter)
    assert list(adapter.state_dict()) == names
    own = adapter(input_ids=ids, labels=ids).loss
    fused = adapter(input_ids=ids, labels=ids, fused_lm_head=True).loss
    assert torch.allclose(fused, own, atol=1e-5)
    fused.backward()
    [delta] = [p for name, p in adapter.named_parameters() if "trainable_tokens_delta" in name]
    assert bool((delta.grad != 0).any(1).all())


def test_an_untied_head_that_is_left_out_would_not_move() -> None:
    """Why both matrices are named: PEFT trains the embedding's rows alone unless told of the head."""
    model, tokenizer = pair(tied=False)
    added = add_tokens(model, tokenizer, TOKENS)
    before = matrices(model)
    added.lora.trainable_token_indices.pop("lm_head")
    adapter = peft.get_peft_model(model, added.lora)
    train(adapter)
    embedding, head = matrices(adapter.merge_and_unload())
    assert not torch.equal(embedding[128256:], before[0][128256:]) and torch.equal(head, before[1])


def phi() -> Any:
    return Phi(
        PhiConfig(
            vocab_size=128256,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            bos_token_id=128000,
            eos_token_id=128009,
        )
    )


def test_a_head_with_a_bias_is_trained_whole() -> None:
    """PEFT's layer for single rows computes the head without its bias (peft 0.21.2)."""
    model, tokenizer = phi(), fresh_tokenizer("3.1-instruct")
    added = add_tokens(model, tokenizer, TOKENS)
    assert added.lora.trainable_token_indices == {"embed_tokens": list(NEW)}
    assert added.lora.modules_to_save == ["lm_head"] and added.training.whole == ("lm_head",)
    embedding = model.get_input_embeddings().weight.detach().clone()
    bias = model.lm_head.bias.detach().clone()
    adapter = peft.get_peft_model(model, added.lora)
    train(adapter)
    merged = adapter.merge_and_unload()
    now = merged.get_input_embeddings().weight
    assert torch.equal(now[OLD], embedding[OLD]) and not torch.equal(now[128256:], embedding[128256:])
    assert not torch.equal(merged.lm_head.bias, bias)


def test_a_configuration_that_knows_no_single_rows() -> None:
    model, tokenizer = pair(tied=False)
    config = peft.LoHaConfig(target_modules=["q_proj"])
    assert not hasattr(config, "trainable_token_indices")
    added = add_tokens(model, tokenizer, TOKENS, lora=config)
    assert added.lora.modules_to_save == ["embed_tokens", "lm_head"] and config.modules_to_save is None
    before = matrices(model)
    adapter = peft.get_peft_model(model, added.lora)
    train(adapter)
    assert all(not torch.equal(a, b) for a, b in zip(before, matrices(adapter.merge_and_unload()), strict=True))


@pytest.mark.slow
def test_a_tied_pair_is_trained_whole_only_where_it_stays_tied() -> None:
    model, tokenizer = pair()
    before = look(model, tokenizer)
    config = peft.LoHaConfig(target_modules=["q_proj"])
    if not hasattr(config, "ensure_weight_tying"):
        with pytest.raises(PadfixError, match="would stay behind"):
            add_tokens(model, tokenizer, TOKENS, lora=config)
        assert look(model, tokenizer) == before
    whole = peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    added = add_tokens(model, tokenizer, TOKENS, lora=whole)
    assert added.lora.ensure_weight_tying and added.lora.trainable_token_indices is None
    adapter = peft.get_peft_model(model, added.lora)
    train(adapter)
    embedding, head = matrices(adapter.merge_and_unload())
    assert torch.equal(embedding, head)


def test_what_the_caller_trains_already_is_kept() -> None:
    model = tiny(tied=False)
    mine = peft.LoraConfig(r=4, target_modules=["q_proj"], trainable_token_indices=[5], modules_to_save=["norm"])
    training = train_rows(model, [7, 6, 7], mine)
    assert training.lora.trainable_token_indices == {"embed_tokens": [5, 6, 7], "lm_head": [6, 7]}
    assert (training.lora.r, training.lora.modules_to_save) == (4, ["norm"])
    assert mine.trainable_token_indices == [5]
    tied = {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [5], "lm_head": [8]}}
    assert train_rows(tiny(), [6], tied).lora.trainable_token_indices == {"embed_tokens": [5, 6, 8]}
    half = train_rows(model, [6], {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]})
    assert (half.by_rows, half.whole) == (("embed_tokens",), ("lm_head",))
    with pytest.raises(PadfixError, match="none for id 128256"):
        train_rows(model, [128256])


# ---- what it costs


def test_the_memory_that_is_named_is_the_memory_that_is_kept() -> None:
    model, tokenizer = pair(tied=False)
    training = add_tokens(model.to(torch.bfloat16), tokenizer, TOKENS).training
    adapter = peft.get_peft_model(model, training.lora)
    rows = [p for name, p in adapter.named_parameters() if "trainable_tokens_delta" in name]
    held = [b for name, b in adapter.named_buffers() if "trainable_tokens_original" in name]
    optimizer = torch.optim.AdamW(rows)
    adapter(input_ids=torch.tensor([[1, 128256]]), labels=torch.tensor([[1, 128256]])).loss.backward()
    optimizer.step()
    states = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    tensors = [*rows, *(row.grad for row in rows), *held, *states]
    assert training.rows_kept == sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def peak(model: Any) -> int:
    """The most bytes that one step holds above what was there before."""
    ids = torch.tensor([[1, 128006, 7, 128007]])
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        model(input_ids=ids, labels=ids).loss.backward()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    return most


@pytest.mark.parametrize("tied", [True, False])
def test_the_memory_that_passes_is_the_memory_that_a_step_takes(tied: bool) -> None:
    def make() -> Any:
        return make_tiny_llama("3.1-instruct", hidden_size=64, tie_word_embeddings=tied, num_hidden_layers=1)

    plain = peak(peft.get_peft_model(make(), train_rows(make(), []).lora))
    training = train_rows(make(), [128006, 128007])
    rows = peak(peft.get_peft_model(make(), training.lora))
    assert training.rows_passing == 2 * 128256 * 64 * 4
    assert training.rows_passing <= rows <= training.rows_passing + plain


@pytest.mark.parametrize(
    ("width", "tied", "whole", "passing"), [(4096, False, 8016.0, 2004.0), (2048, True, 2004.0, 1002.0)]
)
def test_the_cost_at_real_sizes(width: int, tied: bool, whole: float, passing: float) -> None:
    """Llama 3.1 8B and Llama 3.2 1B; the weights are never touched, so they take no memory here."""
    shape: dict[str, Any] = {
        "hidden_size": width,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "dtype": torch.bfloat16,
    }
    with torch.device("meta"):
        model = make_tiny_llama("3.1-instruct", tie_word_embeddings=tied, **shape)
    model = model.to(torch.bfloat16).to_empty(device="cpu")
    model.tie_weights()
    training = train_rows(model, [128006, 128007, 128009])
    assert training.whole_kept / 2**20 == whole and training.rows_passing / 2**20 == passing
    assert f"modules_to_save:         {whole} MiB kept" in str(training)
    assert training.rows_kept == 3 * width * 20 * (1 if tied else 2)


# ---- real runs

CHATS = [
    {"messages": [{"role": "user", "content": f"list {n}"}, {"role": "assistant", "content": f"<tool>ls {n}</tool>"}]}
    for n in range(8)
]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.slow
def test_a_trl_run_trains_the_new_rows_and_its_adapter_loads_again(tied: bool, tmp_path: Path) -> None:
    tiny(tied).save_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    tokenizer = fresh_tokenizer("3.1-instruct")
    added = add_tokens(model, tokenizer, TOKENS, special=False)
    before = matrices(model)
    trainer = build_trainer(
        model,
        tokenizer,
        CHATS,
        peft_config=added.lora,
        output_dir=str(tmp_path / "out"),
        max_steps=4,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    assert not [finding for finding in diagnose(trainer).findings if finding.code.startswith("EMB")]
    complete_head(trainer.model)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    trainer.save_model(str(tmp_path / "out"))
    trained = trainer.model.eval()
    ids = torch.tensor([tokenizer.apply_chat_template(CHATS[0]["messages"], return_dict=False)])
    assert 128256 in ids
    logits = trained(input_ids=ids).logits.detach()

    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert again.get_vocab() == tokenizer.get_vocab() and again.pad_token == tokenizer.pad_token
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    base.resize_token_embeddings(len(again))
    loaded = peft.PeftModel.from_pretrained(base, tmp_path / "out").eval()
    assert torch.allclose(loaded(input_ids=ids).logits, logits, atol=1e-5)
    for old, new in zip(before, matrices(trained.merge_and_unload()), strict=True):
        assert torch.equal(new[OLD], old[OLD]) and bool((new[128256:] != old[128256:]).any(1).all())


def test_a_model_in_4_bits(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    tiny(False, num_hidden_layers=1).save_pretrained(tmp_path / "base")
    nf4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", quantization_config=BitsAndBytesConfig(**nf4))
    assert type(model.model.layers[0].self_attn.q_proj).__name__ == "Linear4bit"
    tokenizer = fresh_tokenizer("3.1-instruct")
    added = add_tokens(model, tokenizer, TOKENS)
    before = matrices(model)
    adapter = peft.get_peft_model(peft.prepare_model_for_kbit_training(model), added.lora)
    first = train(adapter, steps=1)
    assert train(adapter, steps=4) < first
    state = adapter.state_dict()
    for name, old in zip(("model.embed_tokens", "lm_head"), before, strict=True):
        delta = state[f"base_model.model.{name}.token_adapter.trainable_tokens_delta.default"]
        base = state[f"base_model.model.{name}.token_adapter.base_layer.weight"]
        assert torch.equal(base.to(old.dtype), old) and bool((delta != old[128256:].float()).any(1).all())

    everything = BitsAndBytesConfig(**nf4, llm_int8_skip_modules=["nothing"])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", quantization_config=everything)
    assert type(model.lm_head).__name__ == "Linear4bit"
    with pytest.raises(PadfixError, match=r"output head are quantized \(uint8\)"):
        add_tokens(model, fresh_tokenizer("3.1-instruct"), TOKENS)


# ---- the page


@pytest.mark.slow
def test_the_page_is_true() -> None:
    """Run the page's Python, block after block, and compare what it prints with the text block behind it."""
    parts = re.findall(r"```(python|text)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    printed = ""
    compared = 0
    for kind, body in parts:
        if kind == "python":
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(body, str(PAGE), "exec"), names)
            printed = out.getvalue()
        else:
            compared += 1
            assert printed.strip() == body.strip()
    assert compared >= 2
