"""What is asked of bitsandbytes is known, possible and not done yet; optimizers are tried before they are named."""

from __future__ import annotations

import builtins
import importlib.util
from typing import Any

import pytest
import torch
from transformers import BitsAndBytesConfig, LlamaConfig

from llama_padfix import PadfixError, choose_precision
from llama_padfix.hardware.optimizers import choose_optimizer
from llama_padfix.training.loading.quantization import choose_quantization, read_quantization
from tests.training.test_loading import BF16, FP16


def test_nf4_is_that_of_qlora_and_its_storage_can_be_sharded() -> None:
    for precision, dtype in ((BF16, torch.bfloat16), (FP16, torch.float16), (choose_precision("cpu"), torch.float32)):
        made, choice = choose_quantization("nf4", precision)
        assert (made.load_in_4bit, made.bnb_4bit_quant_type, made.bnb_4bit_use_double_quant) == (True, "nf4", True)
        assert made.bnb_4bit_compute_dtype == dtype
        assert made.bnb_4bit_quant_storage == dtype and dtype.is_floating_point
        assert choice.taken == "nf4" and "FSDP can shard" in choice.reason
    assert choose_quantization("nf4", BF16, weights=torch.float32)[0].bnb_4bit_quant_storage == torch.float32


def test_int8_none_and_a_configuration_of_ones_own() -> None:
    assert choose_quantization("int8", BF16)[0].load_in_8bit
    assert choose_quantization(None, BF16)[0] is None
    own = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="fp4")
    assert choose_quantization(own, BF16)[0] is own


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("4bit", "quantization='4bit' is not known.*'nf4' and 'int8'.*Probably: quantization='nf4'"),
        ("fp8", "Probably: quantization='int8'"),
        (True, "quantization=True is no quantization.*'nf4'"),
        (4, "quantization=4 is no quantization"),
        ({"load_in_4bit": True}, "is no quantization"),
    ],
)
def test_an_unknown_quantisation_is_refused(asked: Any, said: str) -> None:
    with pytest.raises(PadfixError, match=f"(?s){said}"):
        choose_quantization(asked, BF16)


def test_a_checkpoint_is_not_quantised_twice() -> None:
    config = LlamaConfig(quantization_config=BitsAndBytesConfig(load_in_4bit=True).to_dict())
    assert read_quantization(config) == "bitsandbytes, 4 bits"
    with pytest.raises(PadfixError, match=r"quantized already \(bitsandbytes, 4 bits\).*quantization=None"):
        choose_quantization("nf4", BF16, config)
    assert choose_quantization(None, BF16, config)[1].taken == "bitsandbytes, 4 bits"
    assert read_quantization(LlamaConfig(quantization_config={"quant_method": "gptq", "bits": 4})) == "gptq, 4 bits"
    assert read_quantization(LlamaConfig()) is None


@pytest.mark.parametrize("package", ["bitsandbytes", "accelerate", "peft"])
def test_a_missing_package_gives_one_line(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, package)
    with pytest.raises(PadfixError, match=rf"^The package {package} .*Run: pip install {package}$"):
        choose_quantization("nf4", BF16)
    assert choose_quantization(None, BF16)[0] is None


def hide(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Let Python look for the package and not find it."""
    look, load = importlib.util.find_spec, builtins.__import__

    def find(name: str, *rest: Any) -> Any:
        return None if name.split(".")[0] == package else look(name, *rest)

    def import_it(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return load(name, *rest, **more)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    monkeypatch.setattr(builtins, "__import__", import_it)


def test_what_an_earlier_trainer_left_in_bitsandbytes_does_not_count() -> None:
    from bitsandbytes.optim import GlobalOptimManager

    left = GlobalOptimManager.get_instance().index2config
    before = dict(left)
    try:
        left.update({(0, 0): {"optim_bits": 32}, (1, 0): {"optim_bits": 32}})  # of its embeddings, by their places
        assert choose_optimizer("adamw_8bit", "cpu").taken == "adamw_8bit"
    finally:
        left.clear()
        left.update(before)


@pytest.mark.parametrize("wish", ["adamw_8bit", "adamw_bnb_8bit", "lion_8bit", "ademamix_8bit", "rmsprop_bnb_8bit"])
def test_an_8_bit_optimiser_is_named_where_it_takes_a_step(wish: str) -> None:
    choice = choose_optimizer(wish, "cpu")
    assert (choice.taken, choice.level) == (wish, "info") and "4,096 elements" in choice.reason


@pytest.mark.parametrize(
    ("wish", "taken"),
    [("paged_adamw_8bit", "adamw_8bit"), ("paged_lion_8bit", "lion_8bit"), ("paged_adamw_32bit", "adamw_torch")],
)
def test_a_cpu_has_no_pages(wish: str, taken: str) -> None:
    choice = choose_optimizer(wish, "cpu")
    assert (choice.taken, choice.level) == (taken, "warning") and "cpu has no paged memory" in choice.reason
    with pytest.raises(PadfixError, match=f"optim='{wish}' cannot run here.*optim='{taken}'"):
        choose_optimizer(wish, "cpu", strict=True)


def test_without_bitsandbytes_or_its_kernel_the_plain_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("no kernel for this device")

    with monkeypatch.context() as patch:
        patch.setattr("bitsandbytes.optim.AdamW.step", fail)
        choice = choose_optimizer("adamw_8bit", "cpu")
        assert choice.taken == "adamw_torch" and "NotImplementedError: no kernel for this device" in choice.reason
    hide(monkeypatch, "bitsandbytes")
    choice = choose_optimizer("adamw_8bit", "cpu")
    assert choice.taken == "adamw_torch" and "pip install bitsandbytes" in choice.reason


def test_other_optimisers_are_passed_on_and_unknown_ones_refused() -> None:
    assert choose_optimizer("adamw_torch").taken == "adamw_torch"
    assert choose_optimizer("adafactor").reason == "as asked"
    with pytest.raises(PadfixError, match=r"no optimizer 'adamw_8bits'. Did you mean adamw_8bit"):
        choose_optimizer("adamw_8bits")
