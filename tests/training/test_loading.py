"""`load`: a patched pair from a folder, every choice with its reason, and a line that fixes it when there is none."""

from __future__ import annotations

import json
import logging
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, BitsAndBytesConfig

from llama_padfix import PadfixError, Precision, load, plan_patch
from llama_padfix.core.compat import name_dtype_argument
from llama_padfix.demo.reference import make_tiny_llama
from llama_padfix.training.loading.plan import plan_load
from tests.conftest import fresh_tokenizer
from tests.hardware.test_precision import A100, T4, Machine
from tests.support.saved import save, small_model, small_tokenizer

BF16 = Precision(torch.bfloat16, bf16=True, fp16=False, max_grad_norm=1.0, reason="a test")
FP16 = Precision(torch.float16, bf16=False, fp16=True, max_grad_norm=0.3, reason="a test")
needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as the early Llama 3 Instruct release was: nothing is right in it. Read only."""
    path = tmp_path_factory.mktemp("checkpoint")
    make_tiny_llama("3-instruct-early", hidden_size=16, num_hidden_layers=1).save_pretrained(path)
    fresh_tokenizer("3-instruct-early").save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint over 268 tokens, wide enough for 4 bits. Read only."""
    tokenizer = small_tokenizer()
    return save(tmp_path_factory.mktemp("small"), tokenizer, small_model(tokenizer, hidden_size=64))


def without(folder: Path, target: Path, *names: str) -> Path:
    target.mkdir()
    for item in folder.iterdir():
        if not item.name.startswith(names):
            shutil.copy(item, target / item.name)
    return target


def is_checkpointing(model: Any) -> bool:
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


@pytest.mark.slow
def test_loaded_pair_is_patched_and_needs_nothing_more(folder: Path) -> None:
    model, tokenizer = load(folder)
    assert model.generation_config.eos_token_id == [128001, 128009]
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|end_of_text|>", "<|eot_id|>")
    assert model.config.pad_token_id == model.generation_config.pad_token_id == tokenizer.pad_token_id == 128001
    assert not plan_patch(tokenizer, model)


def test_a_pad_token_can_be_asked_for(small: Path) -> None:
    _, tokenizer = load(small, pad_token="<|python_tag|>", verbose=False)
    assert tokenizer.pad_token == "<|python_tag|>"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"precision": FP16}, torch.float32),  # all weights are trained
        ({"precision": FP16, "lora": True}, torch.float16),  # the frozen ones
        pytest.param({"precision": FP16, "quantization": "nf4"}, torch.float16, marks=needs_bitsandbytes),
        ({"precision": BF16}, torch.bfloat16),
        ({"precision": BF16, "dtype": torch.float16}, torch.float16),
        ({"precision": BF16, "torch_dtype": "float16"}, torch.float16),
        ({"precision": BF16, "dtype": None, "torch_dtype": "float64"}, torch.float64),
        ({"dtype": "bfloat16", "torch_dtype": "bfloat16"}, torch.bfloat16),
        ({"precision": BF16, "dtype": "auto"}, "auto"),
        ({}, torch.float32),
    ],
)
def test_weights_have_the_dtype_asked_for_or_that_of_the_precision(
    small: Path, arguments: dict[str, Any], expected: Any
) -> None:
    plan = plan_load(small, **arguments)
    assert plan.model_arguments[name_dtype_argument()] == expected
    assert f"weights: {str(expected).removeprefix('torch.')} (" in str(plan)
    if "quantization" not in arguments:
        model, _ = load(small, verbose=False, **arguments)
        frozen = next(model.parameters())
        assert frozen.dtype == (torch.float32 if expected == "auto" else expected)


def test_an_unknown_dtype_is_refused_before_anything_is_read(folder: Path) -> None:
    with pytest.raises(PadfixError, match=r"dtype='bf16'.*'bfloat16'"):
        load(folder, dtype="bf16")


@needs_bitsandbytes
def test_every_choice_is_printed_with_its_reason(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load(small, quantization="nf4", lora=True, max_length=128)
    printed = capsys.readouterr().out.splitlines()
    for said in (
        "precision: float32 (cpu: float32 is exact",
        "quantization: nf4 (as asked: 4-bit NormalFloat, double quantization",
        "weights: float32 (",
        "device_map: cpu (",
        "attention: sdpa (no flash_attention_3: it needs an NVIDIA GPU, and this is cpu",
        "max_length: 128 (",
        "lora: r=16, alpha=16 (on down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj",
        "gradient checkpointing: on, use_reentrant=False (",
        "tokenizer.pad_token: '<|end_of_text|>' (",
    ):
        assert any(line.startswith(f"llama_padfix: {said}") for line in printed), said


def test_what_is_printed_can_be_switched_off_and_comes_from_the_first_process_only(
    small: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.INFO, "llama_padfix"):
        load(small, verbose=False)
    assert capsys.readouterr().out == ""
    assert any("precision: float32" in message for message in caplog.messages)
    monkeypatch.setenv("RANK", "1")
    load(small)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("verbose", [True, False])
def test_a_wish_for_flash_attention_falls_back_with_exactly_one_warning(
    small: Path, caplog: pytest.LogCaptureFixture, verbose: bool
) -> None:
    model, _ = load(small, attention="flash_attention_2", verbose=verbose)
    assert model.config._attn_implementation == "sdpa"
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING and "padfix" in record.name]
    assert len(warnings) == 1
    assert "flash_attention_2 was asked for and cannot run here" in warnings[0].getMessage()
    with pytest.raises(PadfixError, match="flash_attention_2"):
        load(small, attn_implementation="flash_attention_2", strict=True)


@needs_bitsandbytes
def test_attention_can_be_named_in_transformers_words(small: Path) -> None:
    assert load(small, attn_implementation="eager", verbose=False)[0].config._attn_implementation == "eager"
    with pytest.raises(PadfixError, match="ask for the same thing"):
        load(small, attn_implementation="eager", attention="sdpa")
    with pytest.raises(PadfixError, match="ask for the same thing"):
        load(small, quantization_config=BitsAndBytesConfig(load_in_4bit=True), quantization="nf4")
    own = BitsAndBytesConfig(load_in_4bit=True)
    assert plan_load(small, quantization_config=own).model_arguments["quantization_config"] is own
    with pytest.raises(PadfixError, match=r"load_in_4bit=True is gone.*quantization='nf4'"):
        load(small, load_in_4bit=True)


@needs_bitsandbytes
def test_on_a_t4_and_on_an_a100_the_same_call_becomes_another(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    machine.nvidia(T4)
    seen = plan_load(small, quantization="nf4", lora=True)
    assert seen.precision.fp16 and seen.model_arguments["device_map"] == {"": 0}
    assert seen.model_arguments["quantization_config"].bnb_4bit_compute_dtype == torch.float16
    assert seen.model_arguments["quantization_config"].bnb_4bit_quant_storage == torch.float16
    machine.nvidia(A100)
    monkeypatch.setattr(
        "llama_padfix.hardware.attention._is_installed", lambda name, package: name == "flash_attention_2"
    )
    seen = plan_load(small, quantization="nf4", lora=True)
    assert seen.precision.bf16 and seen.model_arguments["attn_implementation"] == "flash_attention_2"
    assert seen.model_arguments["quantization_config"].bnb_4bit_quant_storage == torch.bfloat16
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    seen = plan_load(small, quantization="nf4", lora=True)
    assert seen.sharded and "device_map" not in seen.model_arguments


def test_the_cache_is_off_while_checkpointing_and_generation_keeps_its_own(small: Path) -> None:
    model, tokenizer = load(small, verbose=False)
    assert is_checkpointing(model) and model.config.use_cache is False
    plain, _ = load(small, gradient_checkpointing=False, verbose=False)
    assert not is_checkpointing(plain) and plain.config.use_cache is not False
    ids = tokenizer("Hello", return_tensors="pt")
    both = [each.eval().generate(**ids, max_new_tokens=4, do_sample=False).tolist() for each in (model, plain)]
    assert both[0] == both[1]


def test_max_length_is_the_tokenizers_and_is_within_the_models_positions(small: Path) -> None:
    _, tokenizer = load(small, max_length=64, verbose=False)
    assert tokenizer.model_max_length == 64
    assert len(tokenizer("a " * 200, truncation=True)["input_ids"]) == 64
    assert load(small, verbose=False)[1].model_max_length > 64
    with pytest.raises(PadfixError, match=r"max_length=4096 is beyond the 2048 positions"):
        load(small, max_length=4096)
    config = AutoConfig.from_pretrained(small)
    config.max_position_embeddings = 8192
    model, tokenizer = load(small, max_length=4096, config=config, verbose=False)
    assert tokenizer.model_max_length == 4096 and model.config.use_cache is False
    assert config.use_cache is not False  # the caller's own
    assert load(small, max_length=4096, max_position_embeddings=8192, verbose=False)[0].config.vocab_size == 268


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"quantization": "nf5"}, "quantization='nf5' is not known.*quantization='nf4'"),
        ({"lora": {"target_modules": ["q_proj", "c_attn"]}}, "no module named 'c_attn'.*q_proj, k_proj.*lora=True"),
        ({"lora": "yes"}, "lora='yes' is neither"),
        ({"attention": "flash"}, "attention='flash' is not known"),
        ({"device_map": "gpu"}, "device_map='gpu' is no device"),
        ({"backend": "jax"}, "backend='jax' is neither 'transformers' nor 'unsloth'"),
        ({"precision": "bf16"}, r"precision='bf16' is no Precision. Pass choose_precision\(\)"),
        ({"max_length": 0}, "max_length=0: a row needs at least 2 tokens"),
    ],
)
def test_what_cannot_be_done_is_refused_before_a_weight_is_read(
    small: Path, arguments: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a weight would have been read")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", refuse)
    with pytest.raises(PadfixError, match=f"(?s){said}"):
        load(small, **arguments)


def test_a_folder_without_tokenizer_config_or_weights_names_what_is_missing(small: Path, tmp_path: Path) -> None:
    with pytest.raises(PadfixError, match=r"no tokenizer.*tokenizer\.save_pretrained\("):
        load(without(small, tmp_path / "a", "tokenizer", "special_tokens"))
    with pytest.raises(PadfixError, match=r"no config\.json \(it has: .*tokenizer\.json.*model\.save_pretrained\("):
        load(without(small, tmp_path / "b", "config"))
    with pytest.raises(PadfixError, match=r"(?s)could not be loaded: .*model\.safetensors.*save_pretrained\(folder\)"):
        load(without(small, tmp_path / "c", "model"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(PadfixError, match="it has: nothing"):
        load(tmp_path / "empty")
    with pytest.raises(PadfixError, match="is a file"):
        load(small / "config.json")


def test_an_adapter_folder_tells_how_to_load_it_onto_its_base(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(PadfixError, match=r"is an adapter.*PeftModel\.from_pretrained\(model, '.*'\)"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("meta-llama/not-here", "HF_HUB_OFFLINE=1 keeps the hub switched off.*hf download meta-llama/not-here"),
        ("./not/here", "There is no such folder"),
        ("/not/here", "There is no such folder"),
        ("runs/out/checkpoint-5", "There is no such folder"),
    ],
)
def test_a_path_that_does_not_exist_gives_the_line_that_mends_it(name: str, said: str) -> None:
    with pytest.raises(PadfixError, match=f"(?s){said}"):
        load(name)


def test_with_the_hub_reachable_a_wrong_name_points_to_the_name_and_the_login(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError("You are trying to access a gated repo.")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", refuse)
    with pytest.raises(PadfixError, match=r"gated repo.*hf auth login"):
        load("meta-llama/Llama-3.1-8B")


def test_what_the_download_needs_reaches_tokenizer_and_model(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []

    class StopError(BaseException):  # no fault of the folder
        pass

    real = small_tokenizer()

    def note(path: str, **keywords: Any) -> Any:
        seen.append(keywords)
        if len(seen) == 2:
            raise StopError
        return real

    shared: dict[str, Any] = {"revision": "v1", "token": "secret", "cache_dir": "c", "local_files_only": True}
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", note)
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", note)
    with pytest.raises(StopError):
        load(small, precision=FP16, trust_remote_code=True, attn_implementation="eager", max_length=9, **shared)
    assert seen[0] == {**shared, "trust_remote_code": True, "model_max_length": 9}
    rest = {
        "output_loading_info": True,
        "attn_implementation": "eager",
        name_dtype_argument(): torch.float32,
        "use_cache": False,
    }
    assert seen[1] == {**shared, "trust_remote_code": True, **rest}
