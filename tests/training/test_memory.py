"""The estimate against what torch's own allocator reports of a real run, and against the sizes that are known."""

from __future__ import annotations

import copy
import json
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Gemma2Config, MixtralConfig

from llama_padfix.cli import main
from llama_padfix.core.errors import PadfixError
from llama_padfix.training.memory.estimate import estimate_memory
from llama_padfix.training.memory.tracker import CATEGORIES, Tally
from tests.support.measured import make_config, measure_run

BOUND = 0.01  # promised are 10 percent; this tight, a part that is forgotten shows
MIB = 2**20

# Without the wide vocabulary the logits do not hide the rest.
DEEP = {"vocab_size": 512, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4}
WIDE = {"vocab_size": 512, "hidden_size": 384, "intermediate_size": 768, "tie_word_embeddings": False}

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "full": ({}, {"batch": 2, "length": 32}),
    "full-one-long-row": ({}, {"batch": 1, "length": 128}),
    "full-bf16": ({}, {"batch": 2, "length": 32, "precision": "bf16"}),
    "lora": ({}, {"batch": 2, "length": 32, "lora": True}),
    "nf4-checkpointed": (
        {},
        {
            "batch": 2,
            "length": 32,
            "lora": True,
            "quantization": "nf4",
            "precision": "bf16",
            "gradient_checkpointing": True,
        },
    ),
    "deep": (DEEP, {"batch": 2, "length": 128}),
    "deep-one-row": (DEEP, {"batch": 1, "length": 256}),
    "deep-checkpointed-accumulated": (
        DEEP,
        {"batch": 4, "length": 128, "gradient_checkpointing": True, "gradient_accumulation_steps": 2},
    ),
    "deep-eager": (DEEP, {"batch": 2, "length": 128, "attention": "eager"}),
    "deep-bf16": (DEEP, {"batch": 2, "length": 128, "precision": "bf16"}),
    "deep-lora-bf16": (DEEP, {"batch": 2, "length": 128, "lora": {"r": 64}, "precision": "bf16"}),
    "deep-nf4": (DEEP, {"batch": 2, "length": 128, "lora": True, "quantization": "nf4"}),
    "deep-int8-checkpointed": (
        DEEP,
        {"batch": 2, "length": 128, "lora": True, "quantization": "int8", "gradient_checkpointing": True},
    ),
    "wide-nf4": (WIDE, {"batch": 1, "length": 8, "lora": {"r": 2}, "quantization": "nf4"}),
    "wide-adamw": (WIDE, {"batch": 1, "length": 8}),
    "wide-fused": (WIDE, {"batch": 1, "length": 8, "optimizer": "adamw_torch_fused"}),
    "wide-8bit": (WIDE, {"batch": 1, "length": 8, "optimizer": "adamw_8bit"}),
    "wide-adafactor": (WIDE, {"batch": 1, "length": 8, "optimizer": "adafactor"}),
    "wide-sgd": (WIDE, {"batch": 1, "length": 8, "optimizer": "sgd"}),
}


def estimate(config: Any, **settings: Any) -> Any:
    defaults = {
        "device": "cpu",
        "precision": "fp32",
        "gradient_checkpointing": False,
        "optimizer": "adamw_torch",
    }
    return estimate_memory(config, **{**defaults, **settings})


@pytest.mark.parametrize("case", CASES)
@pytest.mark.slow
def test_estimate_is_what_a_real_run_allocates(case: str) -> None:
    shape, settings = CASES[case]
    real = measure_run(make_config(**shape), **settings)
    found = estimate(make_config(**shape), **settings)
    assert abs(found.peak_bytes - real) <= BOUND * real, (found.peak_bytes / MIB, real / MIB, str(found))


MIXTURE = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2} | {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "use_cache": False,
}
QLORA = {"lora": True, "quantization": "nf4", "precision": "bf16"}


@pytest.mark.parametrize("settings", [{}, QLORA], ids=["float32", "nf4"])
@pytest.mark.slow
def test_a_mixture_of_experts_is_followed(settings: dict[str, Any]) -> None:
    config = MixtralConfig(num_local_experts=4, **MIXTURE)
    real = measure_run(config, batch=2, length=32, **settings)
    assert abs(estimate(config, batch=2, length=32, **settings).peak_bytes - real) <= BOUND * real


def test_a_mixture_of_experts_leaves_no_traceback_in_the_log(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    found = estimate(MixtralConfig(num_local_experts=4, **MIXTURE), batch=1, length=8, **QLORA)
    layers = 2 * (3 * 4 * 64 * 128 * 2 + (2 * 64 * 64 + 2 * 32 * 64) // 2)  # experts in bfloat16, the rest in 4 bits
    whole = 4 * (2 * 512 * 64 + 5 * 64 + 2 * 4 * 64)  # embedding, head, norms and routers in float32
    assert layers + whole <= found.weights < layers + whole + 200  # and the buffers of frequencies
    assert "Traceback" not in caplog.text + "".join(capfd.readouterr())


def test_a_model_without_sdpa_is_followed_with_what_load_takes() -> None:
    config = Gemma2Config(head_dim=16, **MIXTURE)
    found = estimate(config, batch=1, length=64)
    assert "attention is eager, as Gemma2ForCausalLM knows no sdpa" in found.assumed
    assert found.peak_bytes == estimate(config, batch=1, length=64, attention="eager").peak_bytes


def test_the_parts_are_what_they_are_called() -> None:
    config = make_config()
    layers = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128)  # two layers' linear weights
    norms = 5 * 64
    full = estimate(config, batch=1, length=16)
    assert full.weights == 4 * (128_256 * 64 + layers + norms) + 2 * 4 * 8  # and two buffers of 8 frequencies
    assert full.adapter == full.quantization_state == full.paged == 0
    assert full.peak_bytes == sum(getattr(full, category) for category in CATEGORIES)
    assert full.peak_gib == full.peak_bytes / 2**30
    small = estimate(config, batch=1, length=16, lora={"r": 8, "target_modules": ["q_proj"]}, quantization="nf4")
    assert small.adapter == 2 * 4 * (64 * 8 + 8 * 64)
    assert small.weights == layers // 2 + 4 * (128_256 * 64 + norms) + 2 * 4 * 8
    scales = layers // 64
    assert scales < small.quantization_state < 2 * scales + 14 * 4 * (16 + 256 + 2)


def test_the_logits_are_the_largest_part_of_a_small_model() -> None:
    rows, length = 2, 64
    found = estimate(make_config(), batch=rows, length=length)
    one = 4 * rows * length * 128_256
    assert found.logits == 3 * one  # the log-softmax, its gradient, and the gradient of the logits
    assert found.logits > found.peak_bytes / 2
    assert found.phase == "backward"


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({"gradient_checkpointing": True}, {"gradient_checkpointing": False}),
        ({"attention": "sdpa"}, {"attention": "eager"}),
        ({"length": 128}, {"length": 256}),
        ({"batch": 1}, {"batch": 2}),
        ({"precision": "bf16"}, {"precision": "fp32"}),
    ],
    ids=lambda settings: next(f"{name}-{value}" for name, value in settings.items()),
)
@pytest.mark.slow
def test_what_saves_activations_is_seen_to(less: dict[str, Any], more: dict[str, Any]) -> None:
    basis = {"batch": 2, "length": 256, "device": "cuda", "lora": True}
    small = estimate(make_config(**DEEP), **{**basis, **less})
    large = estimate(make_config(**DEEP), **{**basis, **more})
    assert small.activations < 0.8 * large.activations


def test_optimizers_hold_what_they_should_on_a_gpu() -> None:
    sizes = {
        name: estimate(make_config(**WIDE), batch=1, length=8, device="cuda", optimizer=name)
        for name in ("adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit", "sgd")
    }
    parameters = sizes["sgd"].weights / 4
    assert sizes["adamw_torch_fused"].optimizer == pytest.approx(8 * parameters, rel=0.01)
    embedding = 512 * 384  # the Trainer leaves its state in 32 bits
    expected = 8 * embedding + (2 + 8 / 256) * (parameters - embedding)
    assert sizes["adamw_8bit"].optimizer == pytest.approx(expected, rel=0.01)
    # Only tensors of 100,000 elements or more: not the key and value projections, nor the norms.
    paged = 2 * (2 * 384 * 384 + 3 * 384 * 768) + 2 * embedding
    assert sizes["paged_adamw_32bit"].paged == 8 * paged
    assert sizes["paged_adamw_32bit"].optimizer == pytest.approx(8 * (parameters - paged), rel=0.01)
    assert sizes["paged_adamw_8bit"].paged == 8 * embedding + 2 * (paged - embedding)
    assert sizes["sgd"].optimizer < 0.01 * parameters
    assert sizes["sgd"].phase == "backward"
    assert sizes["sgd"].gradients == pytest.approx(4 * parameters, rel=0.1)  # all but what is still to come


@pytest.mark.slow
def test_llama_8b_needs_no_weights_and_little_memory() -> None:
    config = make_llama_8b()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = estimate_memory(config, batch=1, length=2048, quantization="nf4", lora=True, precision="bf16")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 600 * 1024  # kilobytes; the weights alone would be 16 GB
    linear = 32 * (2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * 14336 * 4096)
    assert found.weights == pytest.approx(linear / 2 + 2 * 4 * 128_256 * 4096, rel=0.001)
    assert found.quantization_state == pytest.approx(linear / 64 * (1 + 4 / 256), rel=0.01)
    # r = 16 on seven projections is 41,943,040 parameters, in float32 with two moments.
    assert found.adapter == 4 * 41_943_040
    assert found.optimizer == pytest.approx(8 * 41_943_040, rel=0.001)
    assert found.logits == pytest.approx(3 * 4 * 2048 * 128_256, rel=0.01)
    assert 11 < found.peak_gib < 14
    drawn = str(found)
    assert "llama, nf4 + LoRA + checkpointing, adamw_torch_fused, batch 1 x 2048 tokens" in drawn
    bar = next(line for line in drawn.splitlines() if "|" in line).strip().strip("|")
    assert len(bar) == 64
    assert bar.count("W") == round(64 * found.weights / found.peak_bytes)
    assert bar.count("L") == pytest.approx(64 * found.logits / found.peak_bytes, abs=1)


def make_llama_8b() -> Any:
    """Llama 3.1 8B, from its published numbers."""
    return make_config(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=131_072,
        tie_word_embeddings=False,
        rope_theta=500_000.0,
        rope_scaling={
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    )


@pytest.mark.slow
def test_advice_fits_and_the_next_size_does_not() -> None:
    found = estimate(make_config(), batch=8, length=64, gradient_accumulation_steps=2, device="cuda")
    room = estimate(make_config(), batch=4, length=64, gradient_accumulation_steps=4, device="cuda").peak_gib
    advice = found.advise(room * 1.01, reserve_gib=0)
    assert (advice.batch, advice.gradient_accumulation_steps, advice.length) == (4, 4, 64)
    assert advice.peak_gib == room
    assert advice.longest == 64
    assert any("expandable_segments:True" in hint for hint in advice.hints)
    assert any("The logits take" in hint for hint in advice.hints)
    assert str(advice).startswith(f"{room * 1.01:g} GiB hold batch 4 x 4 accumulated, 64 tokens a row")
    # The reserve is kept free.
    assert found.advise(room * 1.01, reserve_gib=room * 0.3).batch < 4


@pytest.mark.slow
def test_advice_finds_the_longest_row() -> None:
    config = make_config()
    room = estimate(config, batch=1, length=700, device="cuda").peak_gib
    advice = estimate(config, batch=1, length=2048, device="cuda").advise(room, reserve_gib=0)
    assert (advice.batch, advice.gradient_accumulation_steps) == (1, 1)
    assert advice.length == advice.longest
    assert 700 * 0.9 < advice.length <= 700
    longer = estimate(config, batch=1, length=64, device="cuda").advise(room, reserve_gib=0)
    assert longer.length == 64
    assert 700 * 0.9 < longer.longest <= 700
    endless = estimate(make_config(max_position_embeddings=256), batch=1, length=64, device="cuda").advise(80)
    assert endless.longest == 256


def test_advice_that_cannot_be_given_says_what_is_missing() -> None:
    found = estimate(make_config(), batch=1, length=64, device="cuda")
    with pytest.raises(PadfixError, match=r"0.1 GiB do not hold one row of 64 tokens.*adamw_8bit"):
        found.advise(0.1, reserve_gib=0)
    with pytest.raises(PadfixError, match="gpu_gib=0 is not a size"):
        found.advise(0)


def test_names_folders_configurations_and_models_say_the_same(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    config = make_config()
    by_config = estimate(config, batch=1, length=16).to_dict()
    config.save_pretrained(tmp_path)
    assert estimate(tmp_path, batch=1, length=16).to_dict() == by_config
    model = AutoModelForCausalLM.from_config(config)
    names = dict(model.named_parameters())
    assert estimate(model, batch=1, length=16).to_dict() == by_config
    assert all(p is names[name] and p.grad is None for name, p in model.named_parameters())
    for parameter in model.model.layers.parameters():
        parameter.requires_grad_(False)
    frozen = estimate(model, batch=1, length=16)
    assert frozen.optimizer < by_config["optimizer"]


def test_a_model_with_its_adapter_is_read_as_it_is() -> None:
    import peft
    from transformers import AutoModelForCausalLM

    config = make_config()
    lora = peft.LoraConfig(r=8, lora_alpha=8, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = peft.get_peft_model(AutoModelForCausalLM.from_config(config), lora)
    found = estimate(model, batch=1, length=16)
    assert found.to_dict() == estimate(config, batch=1, length=16, lora=lora).to_dict()
    with pytest.raises(PadfixError, match="has an adapter already"):
        estimate(model, batch=1, length=16, lora=True)


def test_what_is_passed_is_left_alone() -> None:
    config = make_config()
    before = copy.deepcopy(config.to_dict())
    lora = {"r": 4}
    estimate(config, batch=1, length=16, lora=lora, gradient_checkpointing=True)
    assert config.to_dict() == before
    assert config._attn_implementation == make_config()._attn_implementation
    assert lora == {"r": 4}
    assert not torch.is_autocast_enabled()


def test_a_checkpoint_that_is_quantised_is_read_as_such() -> None:
    config = make_config()
    saved = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    single = {**saved, "bnb_4bit_use_double_quant": False}
    plain = estimate(config, batch=1, length=16, lora=True, quantization="nf4")
    config.quantization_config = single
    found = estimate(config, batch=1, length=16, lora=True)
    assert found.weights == plain.weights
    assert found.quantization_state == 4 * 73_728 // 64 + 14 * 4 * 16  # a float32 scale a block, a table a layer
    config.quantization_config = {"quant_method": "gptq", "bits": 4}
    with pytest.raises(PadfixError, match="quantized with gptq"):
        estimate(config, batch=1, length=16, lora=True)


@pytest.mark.parametrize("family", ["gpt2", "qwen2", "gemma2"])
@pytest.mark.slow
def test_other_families_are_followed_too(family: str) -> None:
    from transformers import AutoConfig

    sizes = {"n_embd": 64, "n_layer": 2, "n_head": 4} if family == "gpt2" else {}
    if not sizes:
        sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
        sizes |= {"num_key_value_heads": 2, "head_dim": 16}
    config = AutoConfig.for_model(family, vocab_size=1000, use_cache=False, **sizes)
    attention = "eager" if family == "gemma2" else "sdpa"
    settings: dict[str, Any] = {"batch": 2, "length": 32, "attention": attention}
    real = measure_run(config, **settings)
    assert estimate(config, **settings).peak_bytes == pytest.approx(real, rel=0.1)  # GPT-2's dropout


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"optimizer": "adam"}, "optimizer='adam' is not known here"),
        ({"attention": "flash"}, "attention='flash' is not known here"),
        ({"device": "tpu"}, "device='tpu' is not known here"),
        ({"precision": "bfloat"}, "precision='bfloat' is not known here"),
        ({"quantization": "int4"}, "quantization='int4' is not known here"),
        ({"quantization": "nf4"}, "No parameter of the model is trained. Pass lora=True"),
        ({"batch": 0}, "batch=0 is not a whole number above 0"),
        ({"length": 2.5}, "length=2.5 is not a whole number above 0"),
        ({"lora": {"target_modules": ["c_attn"]}}, "has no module named 'c_attn'"),
    ],
)
def test_bad_arguments_are_told(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(PadfixError, match=says.replace("[", r"\[")):
        estimate(make_config(), **settings)


def test_what_is_no_model_is_told(tmp_path: Path) -> None:
    from transformers import AutoConfig

    with pytest.raises(PadfixError, match="No configuration could be read from"):
        estimate(tmp_path)
    with pytest.raises(PadfixError, match="is neither a name, a folder, a configuration nor a model"):
        estimate(7)
    with pytest.raises(PadfixError, match="of type 'vit' could not be built"):
        estimate(AutoConfig.for_model("vit"))


@pytest.mark.parametrize(("gpu", "status"), [("80", 0), ("0.9", 1)])
@pytest.mark.slow
def test_the_command_prints_the_estimate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], gpu: str, status: int
) -> None:
    make_config().save_pretrained(tmp_path)
    said = ["memory", str(tmp_path), "--length", "512", "--lora", "4", "--precision", "bf16", "--gpu", gpu]
    assert main(said) == status
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("llama, bfloat16 + LoRA + checkpointing, adamw_torch_fused, batch 1 x 512 tokens")
    assert any(line.startswith(f"{gpu} GiB hold batch 1 x 1 accumulated") for line in lines)
    assert main([*said[:-2], "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    expected = estimate_memory(tmp_path, length=512, lora={"r": 4, "lora_alpha": 4}, precision="bf16")
    assert told == expected.to_dict()


def test_a_tensor_counts_once_and_as_long_as_anything_holds_it() -> None:
    tally = Tally(vocab_size=7, tokens=1000, rounding=512)
    with tally:
        one = torch.zeros(1000)  # 4,000 bytes are 8 blocks
        view = one[10:]
        assert tally.peak == 4096
        del one
        again = torch.zeros(1000)
        assert tally.peak == 2 * 4096
        del view, again
        assert tally.peak == 2 * 4096
        weight = torch.ones(1000, requires_grad=True)
        loss = (weight * weight).exp().sum()  # the graph holds what exp returned
        both = torch.zeros(1000), torch.zeros(1000)
        assert tally.peak == 4 * 4096 + 512
        del loss, both
        three = [torch.zeros(1000) for _ in range(3)]
        assert tally.peak == 4 * 4096 + 512
        assert len(three) == 3
    assert tally.at_peak["activations"] == tally.peak
