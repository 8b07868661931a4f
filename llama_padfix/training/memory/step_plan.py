"""The plan of a training step, made from checked arguments: names, folders, models, precisions and quantizations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llama_padfix.core.errors import PadfixError, describe
from llama_padfix.core.hf_objects import base_model, read_quantization_config
from llama_padfix.core.version import import_package
from llama_padfix.hardware.attention import is_supported
from llama_padfix.hardware.precision import Precision, choose_precision

if TYPE_CHECKING:
    from typing import TypeAlias

    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from llama_padfix.core.types import Lora, Quantization

    ModelSource: TypeAlias = str | Path | PretrainedConfig | PreTrainedModel

_ATTENTIONS = ("sdpa", "eager", "flash_attention_2", "flash_attention_3")
OPTIMIZERS = (
    "adamw_torch",
    "adamw_torch_fused",
    "adamw_8bit",
    "adamw_bnb_8bit",
    "paged_adamw_32bit",
    "paged_adamw_8bit",
    "adafactor",
    "sgd",
)
"""The names of `TrainingArguments.optim` whose memory is known here."""


@dataclass(frozen=True)
class StepShape:
    """The settings of a step that need no model. Raises `PadfixError` for one that is unknown or no number."""

    batch: int
    """Rows of a micro-batch."""
    length: int
    """Tokens of a row."""
    gradient_accumulation_steps: int
    """Micro-batches of an update."""
    gradient_checkpointing: bool
    """Activations are computed again in the backward pass."""
    optimizer: str
    """A name in `OPTIMIZERS`."""
    attention: str
    """The attention implementation, by its name in transformers."""
    device: str
    """"cuda" or "cpu"."""

    def __post_init__(self) -> None:
        for name in ("batch", "length", "gradient_accumulation_steps"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise PadfixError(f"{name}={describe(value)} is not a whole number above 0. For one: {name}=1")
        for name, known in (("optimizer", OPTIMIZERS), ("attention", _ATTENTIONS), ("device", ("cuda", "cpu"))):
            if (value := getattr(self, name)) not in known:
                raise PadfixError(f"{name}={describe(value)} is not known here. Known are: {', '.join(known)}.")

    @property
    def is_padded(self) -> bool:
        """Rows are padded, so that the attention gets a mask."""
        return self.batch > 1 and not self.attention.startswith("flash")


@dataclass(frozen=True)
class StepPlan(StepShape):
    """What decides the memory of a step."""

    config: PretrainedConfig
    """The model's configuration."""
    quantization: str | None
    """"nf4", "fp4" or "int8"; None for whole weights."""
    double_quantization: bool
    """The scales of 4-bit weights are quantized as well."""
    unquantized: tuple[str, ...]
    """The names of modules that stay whole."""
    lora: Lora
    """What `choose_lora` takes."""
    precision: Precision
    """The precision of the run."""
    dtype: torch.dtype
    """The type of the weights."""
    parameters: Mapping[str, tuple[torch.dtype, bool]] | None
    """For a model that exists: the type of each parameter, and whether it is trained."""

    @property
    def autocast(self) -> torch.dtype | None:
        """The type of the Trainer's mixed precision; None where there is none."""
        return self.precision.dtype if self.precision.bf16 or self.precision.fp16 else None


@dataclass(frozen=True)
class _Found:
    """What a configuration or a live model sets where the arguments leave it open."""

    config: PretrainedConfig
    dtype: torch.dtype | None = None
    parameters: Mapping[str, tuple[torch.dtype, bool]] | None = None
    lora: Lora = None


def plan_step(
    model: ModelSource,
    shape: StepShape,
    quantization: Quantization,
    lora: Lora,
    precision: Precision | str | None,
    dtype: torch.dtype | None,
) -> tuple[StepPlan, tuple[str, ...]]:
    """Return the plan of a step and what it assumes; see `estimate_memory` for the arguments and errors."""
    torch = import_package("torch", "The estimate needs torch. Run: pip install torch")
    found = _read_model(model)
    as_found = quantization is None and lora is None and dtype is None
    if found.lora is not None and lora is not None and lora is not False and lora is not found.lora:
        raise PadfixError("The model has an adapter already. Leave lora= out, or pass model.config.")
    lora = found.lora if lora is None else lora
    kind, double, unquantized = _read_quantization(quantization, found.config)
    chosen, why = _read_precision(precision, shape.device)
    in_float32 = chosen.fp16 and not lora and kind is None  # as load does
    shape, eager = _choose_attention(shape, found.config)
    plan = StepPlan(
        **vars(shape),
        config=found.config,
        quantization=kind,
        double_quantization=double,
        unquantized=unquantized,
        lora=lora or None,
        precision=chosen,
        dtype=dtype or found.dtype or (torch.float32 if in_float32 else chosen.dtype),
        parameters=found.parameters if as_found else None,
    )
    return plan, (*why, *eager, *_name_assumptions(plan))


def _choose_attention(shape: StepShape, config: PretrainedConfig) -> tuple[StepShape, tuple[str, ...]]:
    """Return the shape with the first attention that the model's class knows, as `load` falls back, and why."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    kind = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    names = dict.fromkeys((shape.attention, "sdpa", "eager"))
    taken = next(name for name in names if name == "eager" or kind is None or is_supported(name, kind))
    if taken == shape.attention or kind is None:
        return shape, ()
    return replace(shape, attention=taken), (f"attention is {taken}, as {kind.__name__} knows no {shape.attention}",)


def _read_model(model: ModelSource) -> _Found:
    from transformers import AutoConfig, PretrainedConfig

    if isinstance(model, PretrainedConfig):
        return _Found(model)
    if isinstance(model, (str, Path)):
        try:
            return _Found(AutoConfig.from_pretrained(str(model)))
        except Exception as error:  # whatever a broken config.json makes transformers raise
            raise PadfixError(
                f"No configuration could be read from {str(model)!r} ({type(error).__name__}: {error}). "
                "Pass a folder that holds config.json, a "
                "name on the hub (of a gated model after: hf auth login), or a configuration: "
                "transformers.LlamaConfig(...)"
            ) from error
    if not hasattr(model, "named_parameters") or not isinstance(getattr(model, "config", None), PretrainedConfig):
        raise PadfixError(
            f"{describe(model)} is neither a name, a folder, a configuration nor a model of transformers. "
            "Pass model.config, or the name that it is loaded by."
        )
    adapters = getattr(model, "peft_config", None)
    named = {name: (p.dtype, p.requires_grad) for name, p in model.named_parameters()}
    base = base_model(model)
    lora = next(iter(adapters.values())) if isinstance(adapters, Mapping) and adapters else None
    return _Found(base.config, base.dtype, named, lora)


def _read_quantization(requested: Quantization, config: PretrainedConfig) -> tuple[str | None, bool, tuple[str, ...]]:
    """Return the kind, whether the scales are quantized too, and the names of modules that stay whole."""
    entries = read_quantization_config(config)
    if entries and entries["quant_method"] != "bitsandbytes":
        raise PadfixError(
            f"The weights are quantized with {entries['quant_method']}, whose layers are not known here. Measure it "
            "instead: torch.cuda.max_memory_allocated() after one step."
        )
    if requested == "nf4" or requested == "int8":
        return requested, True, ()
    if requested is not None:
        if isinstance(requested, str) or not hasattr(requested, "load_in_4bit"):
            raise PadfixError(
                f"quantization={describe(requested)} is not known here. Known are: None, 'nf4', 'int8' and a "
                "BitsAndBytesConfig."
            )
        entries = requested.to_dict()
    whole = tuple(entries.get("llm_int8_skip_modules") or ())
    if entries.get("load_in_4bit"):  # the defaults are those of BitsAndBytesConfig
        return str(entries.get("bnb_4bit_quant_type", "fp4")), bool(entries.get("bnb_4bit_use_double_quant")), whole
    return ("int8" if entries.get("load_in_8bit") else None), True, whole


def _read_precision(requested: Precision | str | None, device: str) -> tuple[Precision, tuple[str, ...]]:
    import torch

    if isinstance(requested, Precision):
        return requested, ()
    names = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    if requested is None and device == "cpu":
        return choose_precision("cpu"), ()
    if requested is None and torch.cuda.is_available():
        return choose_precision(), ()
    if requested is not None and requested not in names:
        raise PadfixError(f"precision={describe(requested)} is not known here. Known are: {', '.join(names)}.")
    taken = requested or "bf16"
    reason = "as asked" if requested else "the GPU computes bfloat16 (compute capability 8.0 or newer)"
    chosen = Precision(names[taken], bf16=taken == "bf16", fp16=taken == "fp16", max_grad_norm=1.0, reason=reason)
    return chosen, () if requested else (reason,)


def _name_assumptions(plan: StepPlan) -> Iterator[str]:
    yield "rows are full" + (", and shorter ones are padded, so the attention gets a mask" if plan.is_padded else "")
    yield "the loss is transformers' own, in float32 over all tokens"
    if plan.attention != "eager":
        yield "attention runs in a fused kernel, which keeps no length x length scores"
    if plan.quantization == "int8":
        yield "no column of the activations is an outlier"
