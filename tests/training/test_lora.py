"""Adapters on every projection of any family, float32 where the scaler needs it, the same in every process."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import (
    BloomConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MixtralConfig,
    OPTConfig,
    Phi3Config,
    Qwen2Config,
    Qwen2MoeConfig,
)

from llama_padfix import PadfixError, choose_precision
from llama_padfix.demo.reference import make_tiny_llama
from llama_padfix.training.adapters.lora import (
    attach_lora,
    choose_lora,
    find_lora_targets,
    keep_trainable_float32,
    prepare_for_training,
)
from llama_padfix.training.loading.checkpoint import build_shape
from tests.training.test_loading import BF16, FP16
from tests.training.test_quantization import hide

TINY: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
GROUPED = {**TINY, "num_key_value_heads": 1}
SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
BY_FAMILY: list[tuple[Any, list[str]]] = [
    (LlamaConfig(**GROUPED), SEVEN),
    (Qwen2Config(**GROUPED), SEVEN),
    (Gemma2Config(**GROUPED), SEVEN),
    (Phi3Config(**GROUPED, pad_token_id=0), ["o_proj", "qkv_proj", "gate_up_proj", "down_proj"]),
    (GPTNeoXConfig(**TINY), ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]),
    (GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2), ["c_attn", "c_proj", "c_fc"]),
    (BloomConfig(vocab_size=64, hidden_size=16, n_layer=2, n_head=2), ["query_key_value", "dense", "dense_h_to_4h"]),
    # OPT projects its embedding (project_in, project_out) where that is narrower: those are no layers.
    (OPTConfig(**TINY, ffn_dim=32, word_embed_proj_dim=8), ["k_proj", "v_proj", "q_proj", "out_proj", "fc1", "fc2"]),
    # Experts and their routers are left out, a shared expert is not.
    (MixtralConfig(**GROUPED, num_local_experts=4), SEVEN[:4]),
    (Qwen2MoeConfig(**GROUPED, num_experts=4), SEVEN),
]
if hasattr(transformers, "DeepseekV3Config"):
    latent = ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj"]
    BY_FAMILY.append((transformers.DeepseekV3Config(num_hidden_layers=4), [*latent, "o_proj", *SEVEN[4:]]))


@pytest.mark.parametrize(("config", "names"), BY_FAMILY, ids=lambda value: getattr(value, "model_type", ""))
def test_the_targets_are_those_of_the_family(config: Any, names: list[str]) -> None:
    found = find_lora_targets(build_shape(config))
    assert isinstance(found, list)
    assert set(names) <= set(found) and len(found) == len(set(found))
    # Before transformers 5 the experts of Mixtral are linear layers of their own: w1, w2 and w3.
    assert set(found) - set(names) <= {"dense_4h_to_h", "w1", "w2", "w3"}


@pytest.mark.skipif(not hasattr(transformers, "Gemma3Config"), reason="transformers knows Gemma 3 since 4.50")
def test_a_vision_tower_with_the_same_names_is_left_out() -> None:
    config = transformers.Gemma3Config(
        text_config={**GROUPED, "head_dim": 8},
        vision_config={"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
    )
    shape = build_shape(config)
    found = find_lora_targets(shape)
    assert isinstance(found, str)
    hit = [path for path, _ in shape.named_modules() if re.fullmatch(found, path)]
    assert len(hit) == 2 * len(SEVEN) and all("language_model.layers" in path for path in hit)
    assert any("vision" in path and path.endswith("q_proj") for path, _ in shape.named_modules())


def test_peft_adapts_exactly_what_was_found() -> None:
    model = make_tiny_llama(hidden_size=16)
    config, choice = choose_lora(True, model)
    assert (config.r, config.lora_alpha, config.lora_dropout, config.bias) == (16, 16, 0.0, "none")
    assert config.target_modules == set(SEVEN) and choice is not None
    adapted = attach_lora(model, config, BF16)
    trained = {name.split(".lora_")[0] for name, p in adapted.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * len(SEVEN)
    assert not any("lm_head" in name or "embed" in name for name in trained)


def test_fields_replace_the_defaults_and_a_configuration_keeps_its_own() -> None:
    shape = build_shape(LlamaConfig(**GROUPED))
    config, _ = choose_lora({"r": 64, "lora_alpha": 128, "use_rslora": True}, shape)
    assert (config.r, config.lora_alpha, config.use_rslora, config.target_modules) == (64, 128, True, set(SEVEN))
    own = LoraConfig(r=4, target_modules=["q_proj"])
    given, _ = choose_lora(own, shape)
    assert given is not own and (given.r, given.target_modules) == (4, {"q_proj"})
    unnamed = LoraConfig(r=4)
    assert choose_lora(unnamed, shape)[0].target_modules == set(SEVEN) and unnamed.target_modules is None
    for fine in ("all-linear", r".*\.self_attn\.q_proj", ["self_attn.q_proj"], ["layers.0.mlp.up_proj"]):
        assert choose_lora(LoraConfig(target_modules=fine), shape)[0] is not None
    for off in (None, False):
        assert choose_lora(off, shape) == (None, None)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["q_proj", "query"], "LlamaForCausalLM has no module named 'query'. Its linear projections: q_proj, k_proj"),
        (["proj"], "no module named 'proj'"),  # PEFT compares whole names
        (r".*\.attention\..*", "no module named"),
    ],
)
def test_a_target_that_is_not_there_is_named(asked: Any, said: str) -> None:
    for how in (LoraConfig(target_modules=asked), {"target_modules": asked}):
        with pytest.raises(PadfixError, match=said):
            choose_lora(how, build_shape(LlamaConfig(**GROUPED)))


def test_what_is_no_lora_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PadfixError, match="neither True nor a LoraConfig"):
        choose_lora(16)
    with pytest.raises(PadfixError, match=r"rank.*Pass fields of peft\.LoraConfig"):
        choose_lora({"rank": 8})
    embedding: Any = torch.nn.Embedding(4, 4)
    with pytest.raises(PadfixError, match="no linear projections"):
        find_lora_targets(embedding)
    hide(monkeypatch, "peft")
    with pytest.raises(PadfixError, match=r"^lora= needs PEFT, and it is not installed. Run: pip install peft$"):
        choose_lora(True)


def take_scaled_step(model: Any) -> None:
    """One step as an fp16 run takes it: autocast, a scaled loss, gradients unscaled before they are clipped."""
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    ids = torch.tensor([[128000, 1, 2, 3]])
    with torch.autocast("cpu", torch.float16):
        loss = model(input_ids=ids, labels=ids).loss
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)


def test_an_fp16_run_unscales_our_adapters_and_refuses_float16_ones() -> None:
    config = LoraConfig(target_modules=["q_proj"], modules_to_save=["norm"])
    naive = get_peft_model(make_tiny_llama(hidden_size=16).half(), config, autocast_adapter_dtype=False)
    with pytest.raises(ValueError, match="Attempting to unscale FP16 gradients"):
        take_scaled_step(naive)
    # PEFT's own cast leaves the modules that are saved whole.
    half = get_peft_model(make_tiny_llama(hidden_size=16).half(), config)
    with pytest.raises(ValueError, match="Attempting to unscale FP16 gradients"):
        take_scaled_step(half)
    ours = attach_lora(make_tiny_llama(hidden_size=16).half(), config, FP16)
    assert {p.dtype for p in ours.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in ours.parameters() if not p.requires_grad} == {torch.float16}
    before = {name: p.detach().clone() for name, p in ours.named_parameters() if "lora_B" in name}
    take_scaled_step(ours)
    assert any(not torch.equal(p, before[name]) for name, p in ours.named_parameters() if name in before)


def test_float32_is_kept_unless_the_run_computes_in_bfloat16() -> None:
    model = attach_lora(make_tiny_llama(hidden_size=16), choose_lora(True, make_tiny_llama(hidden_size=16))[0], FP16)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    for p in model.parameters():  # what TRL does to the adapters of a quantized model
        if p.requires_grad:
            p.data = p.data.bfloat16()
    assert keep_trainable_float32(model, BF16) == ()
    assert keep_trainable_float32(model, choose_precision("cpu")) == tuple(trained)
    assert keep_trainable_float32(model, FP16) == ()


def test_adapters_depend_on_the_seed_alone() -> None:
    def first(seed: int, state: int) -> Any:
        torch.manual_seed(state)
        model = attach_lora(make_tiny_llama(hidden_size=16), LoraConfig(target_modules=["q_proj"]), FP16, seed=seed)
        drawn = torch.rand(1).item()
        return next(p for name, p in model.named_parameters() if "lora_A" in name).detach(), drawn

    (one, drawn_one), (same, drawn_same), (other, _) = first(0, 1), first(0, 2), first(1, 1)
    assert torch.equal(one, same) and not torch.equal(one, other)
    torch.manual_seed(1)
    assert drawn_one == torch.rand(1).item() != drawn_same  # the caller's random state is left alone


@pytest.mark.parametrize("reentrant", [False, True])
def test_adapters_train_behind_frozen_inputs_with_either_checkpointing(reentrant: bool) -> None:
    def check(function: Any, *args: Any, **kwargs: Any) -> Any:
        return torch.utils.checkpoint.checkpoint(function, *args, use_reentrant=True, **kwargs)

    model = make_tiny_llama(hidden_size=16)
    if not reentrant:
        assert prepare_for_training(model, quantized=False).taken == "on, use_reentrant=False"
    adapted = attach_lora(model, LoraConfig(target_modules=["q_proj"]), FP16).train()
    if reentrant:  # as a trainer of transformers 4 switches it on later
        model._set_gradient_checkpointing(enable=True, gradient_checkpointing_func=check)
    ids = torch.tensor([[128000, 1, 2, 3]])
    adapted(input_ids=ids, labels=ids).loss.backward()
    gradients = [p.grad for name, p in adapted.named_parameters() if "lora_B" in name]
    assert len(gradients) == 2 and all(g is not None and g.abs().sum() > 0 for g in gradients)


def test_a_model_without_checkpointing_says_so() -> None:
    model = make_tiny_llama(hidden_size=16)
    assert prepare_for_training(model, quantized=False, gradient_checkpointing=False).reason == "as asked"
    model.supports_gradient_checkpointing = False
    done = prepare_for_training(model, quantized=False)
    assert done.taken == "off" and "LlamaForCausalLM does not support it" in done.reason


def test_sharded_quantised_weights_keep_one_type() -> None:
    for sharded, expected in ((True, {torch.bfloat16}), (False, {torch.float32})):
        model = make_tiny_llama(hidden_size=16).bfloat16()
        prepare_for_training(model, quantized=True, sharded=sharded)
        assert {p.dtype for p in model.parameters()} == expected
        assert not any(p.requires_grad for p in model.parameters())


def test_what_peft_refuses_comes_with_a_line_that_mends_it() -> None:
    with pytest.raises(PadfixError, match=r"PEFT cannot attach these adapters: .*lora=True"):
        attach_lora(make_tiny_llama(hidden_size=16), LoraConfig(target_modules=["input_layernorm"]), FP16)
