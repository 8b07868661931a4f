"""What a user says of a training step, read and checked: names, folders, models, precisions and quantisations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llama_padfix.core.errors import PadfixError, describe
from llama_padfix.hardware.precision import Precision, choose_precision
from llama_padfix.training.memory.step import OPTIMIZERS
from llama_padfix.training.memory.step_plan_record import StepPlan

__all__ = ["plan_step"]

_ATTENTIONS = ("sdpa", "eager", "flash_attention_2", "flash_attention_3")


def plan_step(
    model: Any,
    *,
    batch: int,
    length: int,
    gradient_accumulation_steps: int,
    quantization: Any,
    lora: Any,
    precision: Any,
    gradient_checkpointing: bool,
    optimizer: str,
    attention: str,
    dtype: Any,
    device: str,
) -> tuple[StepPlan, tuple[str, ...]]:
    """Return the plan of a step and what it assumes; see `estimate_memory` for the arguments and errors."""
    _require_torch()
    _check(batch=batch, length=length, gradient_accumulation_steps=gradient_accumulation_steps)
    for name, value, known in (
        ("optimizer", optimizer, OPTIMIZERS),
        ("attention", attention, _ATTENTIONS),
        ("device", device, ("cuda", "cpu")),
    ):
        if value not in known:
            raise PadfixError(f"{name}={describe(value)} is not known here. Known are: {', '.join(known)}.")
    config, found = _read_model(model)
    as_found = quantization is None and lora is None and dtype is None
    lora = found.get("lora") if lora is None else lora
    if lora is not None and lora is not False and "lora" in found and lora is not found["lora"]:
        raise PadfixError("The model has an adapter already. Leave lora= out, or pass model.config.")
    quantized, double, unquantized = _read_quantization(
        found.get("quantization") if quantization is None else quantization
    )
    chosen, why = _read_precision(precision, device)
    trains_all = not lora and quantized is None
    plan = StepPlan(
        config=config,
        batch=batch,
        length=length,
        gradient_accumulation_steps=gradient_accumulation_steps,
        quantization=quantized,
        double_quantization=double,
        unquantized=unquantized,
        lora=lora or None,
        precision=chosen,
        dtype=dtype or found.get("dtype") or _hold_weights(chosen, trains_all),
        gradient_checkpointing=gradient_checkpointing,
        optimizer=optimizer,
        attention=attention,
        device=device,
        parameters=found.get("parameters") if as_found else None,
    )
    return plan, (*why, *_name_assumptions(plan))


def _read_model(model: Any) -> tuple[Any, dict[str, Any]]:
    """The configuration, and what a live model says of itself."""
    from transformers import AutoConfig, PretrainedConfig

    if isinstance(model, PretrainedConfig):
        return model, _read_saved_quantization(model)
    if isinstance(model, (str, Path)):
        try:
            config = AutoConfig.from_pretrained(str(model))
            return config, _read_saved_quantization(config)
        except (OSError, ValueError) as error:
            raise PadfixError(
                f"No configuration could be read from {str(model)!r}: {error} Pass a folder that holds config.json, a "
                "name on the hub, or a configuration: transformers.LlamaConfig(...)"
            ) from error
    if not hasattr(model, "named_parameters") or not isinstance(getattr(model, "config", None), PretrainedConfig):
        raise PadfixError(
            f"{describe(model)} is neither a name, a folder, a configuration nor a model of transformers. "
            "Pass model.config, or the name that it is loaded by."
        )
    adapters = getattr(model, "peft_config", None)
    named = {name: (p.dtype, p.requires_grad) for name, p in model.named_parameters()}
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    found: dict[str, Any] = {"dtype": base.dtype, "parameters": named}
    if isinstance(adapters, Mapping) and adapters:
        found["lora"] = next(iter(adapters.values()))
    return base.config, found | _read_saved_quantization(base.config)


def _read_saved_quantization(config: Any) -> dict[str, Any]:
    saved = getattr(config, "quantization_config", None)
    if saved is None:
        return {}
    from transformers import BitsAndBytesConfig

    method = saved.get("quant_method") if isinstance(saved, Mapping) else getattr(saved, "quant_method", None)
    method = getattr(method, "value", method)
    if method != "bitsandbytes":
        raise PadfixError(
            f"The weights are quantised with {method}, whose layers are not known here. Measure it instead: "
            "torch.cuda.max_memory_allocated() after one step."
        )
    return {"quantization": BitsAndBytesConfig.from_dict(dict(saved)) if isinstance(saved, Mapping) else saved}


def _read_quantization(asked: Any) -> tuple[str | None, bool, tuple[str, ...]]:
    if asked is None or asked in ("nf4", "int8"):
        return asked, True, ()
    if isinstance(asked, str) or not hasattr(asked, "load_in_4bit"):
        raise PadfixError(
            f"quantization={describe(asked)} is not known here. Known are: None, 'nf4', 'int8' and a "
            "BitsAndBytesConfig."
        )
    kept = tuple(asked.llm_int8_skip_modules or ())
    if asked.load_in_4bit:
        return str(asked.bnb_4bit_quant_type), bool(asked.bnb_4bit_use_double_quant), kept
    return ("int8" if asked.load_in_8bit else None), True, kept


def _read_precision(asked: Any, device: str) -> tuple[Precision, tuple[str, ...]]:
    import torch

    if isinstance(asked, Precision):
        return asked, ()
    names = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    if asked is None and device == "cpu":
        return choose_precision("cpu"), ()
    if asked is None and torch.cuda.is_available():
        return choose_precision(), ()
    if asked is not None and asked not in names:
        raise PadfixError(f"precision={describe(asked)} is not known here. Known are: {', '.join(names)}.")
    taken = asked or "bf16"
    reason = "as asked" if asked else "the GPU computes bfloat16 (compute capability 8.0 or newer)"
    chosen = Precision(names[taken], bf16=taken == "bf16", fp16=taken == "fp16", max_grad_norm=1.0, reason=reason)
    return chosen, () if asked else (reason,)


def _hold_weights(precision: Precision, trains_all: bool) -> Any:
    import torch

    return torch.float32 if precision.fp16 and trains_all else precision.dtype  # as load does


def _name_assumptions(plan: StepPlan) -> Iterator[str]:
    padded = plan.batch > 1 and not plan.attention.startswith("flash")
    yield "rows are full" + (", and shorter ones are padded, so the attention gets a mask" if padded else "")
    yield "the loss is transformers' own, in float32 over all tokens"
    if plan.attention != "eager":
        yield "attention runs in a fused kernel, which keeps no length x length scores"
    if plan.quantization == "int8":
        yield "no column of the activations is an outlier"


def _check(**numbers: Any) -> None:
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise PadfixError(f"{name}={describe(value)} is not a whole number above 0. For one: {name}=1")


def _require_torch() -> None:
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise PadfixError("The estimate needs torch. Run: pip install torch") from error
