"""How the frozen weights are stored: as they are, in 4 bits (nf4) or in 8."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from llama_padfix.core.choices import Choice
from llama_padfix.core.errors import PadfixError, describe
from llama_padfix.core.hf_objects import dtype_name, read_quantization_config, text_config
from llama_padfix.hardware.precision import Precision
from llama_padfix.training.adapters.lora import find_experts

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig

    from llama_padfix.core.types import ModelLike, Quantization

_KINDS = ("nf4", "int8")


def choose_quantization(
    requested: Quantization, precision: Precision, config: object = None, *, weights: torch.dtype | None = None
) -> tuple[Any, Choice]:  # a `BitsAndBytesConfig`; None only where none was asked for
    """Return the `BitsAndBytesConfig` to load with (None for none), and the reason.

    Args:
        requested: None, "nf4", "int8" or a `BitsAndBytesConfig`, which is used as it is. nf4 is that of QLoRA: 4-bit
            NormalFloat with double quantization.
        precision: Names the type that nf4 computes in.
        config: The config of the checkpoint.
        weights: The type of all other weights, in which packed ones are stored: FSDP flattens and shards only floating
            point tensors of one type, and the default, uint8, is none. None means the computing type.

    Raises:
        PadfixError: The name is unknown, the checkpoint is quantized already, or bitsandbytes, accelerate or PEFT is
            missing.
    """
    held = read_quantization(config)
    if requested is None:
        if held is not None:
            return None, Choice("quantization", held, "the checkpoint was saved so")
        return None, Choice("quantization", "none", 'not asked for; quantization="nf4" needs a quarter of the memory')
    if not isinstance(requested, str) and type(requested).__name__ != "BitsAndBytesConfig":
        raise PadfixError(
            f"quantization={describe(requested)} is no quantization: pass {' or '.join(map(repr, _KINDS))}, a "
            'BitsAndBytesConfig, or None. For QLoRA: quantization="nf4"'
        )
    if isinstance(requested, str) and requested not in _KINDS:
        close = "int8" if "8" in requested else "nf4"
        raise PadfixError(
            f"quantization={requested!r} is not known, only {' and '.join(map(repr, _KINDS))} and a "
            f"BitsAndBytesConfig of your own. Probably: quantization={close!r}"
        )
    if held is not None:
        raise PadfixError(
            f"The checkpoint is quantized already ({held}), and cannot be quantized again. Load it as it is: "
            "quantization=None"
        )
    _require_packages()
    from transformers import BitsAndBytesConfig

    if not isinstance(requested, str):
        return requested, Choice("quantization", "a BitsAndBytesConfig", "as asked")
    if requested == "int8":
        reason = "as asked: 8-bit weights (LLM.int8), outliers in 16 bits"
        return BitsAndBytesConfig(load_in_8bit=True), Choice("quantization", "int8", reason)
    return _make_nf4(precision.dtype, precision.dtype if weights is None else weights)


def describe_experts(shape: ModelLike | None, weights: torch.dtype | str) -> Choice | None:
    """Return what becomes of the fused experts of a mixture, which bitsandbytes does not quantize; None without."""
    experts = list(find_experts(shape)) if shape is not None else []
    if not experts:
        return None
    kinds = dict.fromkeys(name.split(".layers.")[-1].partition(".")[2] or name for name, _ in experts)
    numbers = sum(parameter.numel() for _, parameter in experts)
    reason = (
        f"bitsandbytes quantizes linear layers, and the {len(experts)} fused weights of the experts "
        f"({', '.join(list(kinds)[:4])}; {numbers / 1e9:.3g} billion numbers) are none: they stay as they are, frozen"
    )
    return Choice("experts", dtype_name(weights), reason, "warning")


def _make_nf4(dtype: torch.dtype, storage: torch.dtype) -> tuple[BitsAndBytesConfig, Choice]:
    from transformers import BitsAndBytesConfig

    made = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=storage,
    )
    reason = (
        f"as asked: 4-bit NormalFloat, double quantization, computes in {dtype_name(dtype)}, stored as "
        f"{dtype_name(storage)}, which FSDP can shard"
    )
    return made, Choice("quantization", "nf4", reason)


def read_quantization(config: object) -> str | None:
    """Return how the weights of a checkpoint are quantized, by its config; None when they are not."""
    if config is None:
        return None
    entries = read_quantization_config(config) or read_quantization_config(text_config(config))
    if not entries:
        return None
    bits = 4 if entries.get("load_in_4bit") else 8 if entries.get("load_in_8bit") else entries.get("bits")
    return f"{entries['quant_method'] or 'bitsandbytes'}{f', {bits} bits' if bits else ''}"


def _require_packages() -> None:
    for package, what in (
        ("bitsandbytes", "stores weights in 4 and 8 bits"),
        ("accelerate", "places quantized weights"),
        ("peft", "trains quantized weights through adapters"),
    ):
        if importlib.util.find_spec(package) is None:
            raise PadfixError(f"The package {package} {what}, and is not installed. Run: pip install {package}")
