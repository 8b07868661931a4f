"""What loading a checkpoint will do, and why, before any of its weights is read."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from llama_padfix.core.choices import Choice
from llama_padfix.core.compat import name_dtype_argument
from llama_padfix.core.errors import PadfixError, describe
from llama_padfix.core.hf_objects import dtype_name
from llama_padfix.hardware.attention import choose_attention
from llama_padfix.hardware.devices import choose_device_map, read_launch
from llama_padfix.hardware.precision import Precision, choose_precision, import_torch
from llama_padfix.training.adapters.lora import choose_lora
from llama_padfix.training.loading.checkpoint import build_shape, require_complete_folder, require_length
from llama_padfix.training.loading.quantization import choose_quantization, read_quantization
from llama_padfix.training.loading.unsloth import name_unsloth_arguments, require_unsloth

__all__ = ["Backend", "LoadPlan", "naming_the_path", "plan_load"]

Backend = Literal["transformers", "unsloth"]

_SHARED = ("revision", "token", "cache_dir", "local_files_only")  # what the tokenizer's download needs as well
_OLD_QUANTIZATION = {"load_in_4bit": "nf4", "load_in_8bit": "int8"}


@dataclass(frozen=True)
class LoadPlan:
    """What `load` will do, and why, before any weight is read.

    `model_arguments` are the keywords of `AutoModelForCausalLM.from_pretrained`, or of Unsloth's; `lora` is the
    `LoraConfig` to attach (None for none); `choices` say why. `quantized` is true for a checkpoint that was saved
    quantised, too; `sharded` where FSDP or DeepSpeed spreads the weights.
    """

    path: str
    backend: Backend
    precision: Precision
    model_arguments: Mapping[str, Any]
    tokenizer_arguments: Mapping[str, Any]
    lora: Any
    quantized: bool
    sharded: bool
    config: Any = field(repr=False)
    choices: tuple[Choice, ...] = ()

    def __str__(self) -> str:
        return "\n".join(str(choice) for choice in self.choices)

    def _repr_html_(self) -> str:
        return "".join(choice._repr_html_() for choice in self.choices)


def plan_load(
    name_or_path: str | Path,
    *,
    quantization: Any = None,
    precision: Precision | None = None,
    attention: str = "auto",
    lora: Any = None,
    device_map: Any = "auto",
    backend: Backend = "transformers",
    max_length: int | None = None,
    gradient_checkpointing: bool = True,
    strict: bool = False,
    trust_remote_code: bool = False,
    **from_pretrained: Any,
) -> LoadPlan:
    """Return what `load` would do, and why: nothing is loaded but the config, nothing is printed.

    The keywords are those of `load`, and so are the errors.
    """
    path, keywords = str(name_or_path), dict(from_pretrained)
    if backend not in ("transformers", "unsloth"):
        raise PadfixError(f"backend={backend!r} is neither 'transformers' nor 'unsloth'. Usually: leave it out")
    if precision is not None and not isinstance(precision, Precision):
        raise PadfixError(f"precision={describe(precision)} is no Precision. Pass choose_precision(), or None")
    quantization, attention = _take_wishes(keywords, quantization, attention)
    torch = import_torch()
    own_dtype = _take_dtype(torch, keywords)
    require_complete_folder(Path(path))
    if backend == "unsloth":
        require_unsloth(keywords, quantization, attention)
    launch = read_launch()
    precision = precision or choose_precision()
    shared = {name: keywords[name] for name in _SHARED if name in keywords}
    config = naming_the_path(path, _read_config, path, keywords, trust_remote_code)
    require_length(max_length, config)

    quantized = quantization is not None or read_quantization(config) is not None
    trains_all = not lora and not quantized
    dtype, why_dtype = _choose_dtype(torch, own_dtype, precision, trains_all)
    number = dtype if isinstance(dtype, torch.dtype) else precision.dtype
    bits, why_bits = choose_quantization(quantization, precision, config, weights=number)
    shape = build_shape(config, trust_remote_code)
    adapter, why_lora = choose_lora(lora, shape)
    places, why_places = choose_device_map(device_map, launch, quantized=quantized)
    choices = [Choice("precision", dtype_name(precision.dtype), precision.reason), why_bits, why_dtype, why_places]

    arguments: dict[str, Any]
    if backend == "unsloth":
        arguments, said = name_unsloth_arguments(
            quantization=quantization,
            dtype=own_dtype,
            device_map=places if launch.is_distributed or device_map != "auto" else None,
            max_length=max_length,
            trains_all=trains_all,
            gradient_checkpointing=gradient_checkpointing,
        )
        choices = [*said, why_bits]
    else:
        arguments = {name_dtype_argument(): dtype}
        computes_in = getattr(bits, "bnb_4bit_compute_dtype", None) or number
        kind = type(shape) if shape is not None else None
        flash = choose_attention(attention, computes_in, model_class=kind, config=config, strict=strict)
        if attention != "auto" or shape is not None:
            arguments["attn_implementation"] = flash.taken
            choices.append(flash)
        if bits is not None:
            arguments["quantization_config"] = bits
        if places is not None:
            arguments["device_map"] = places
        if gradient_checkpointing and "use_cache" not in keywords:  # it would hold what checkpointing throws away
            if "config" in keywords:
                keywords["config"] = copy.deepcopy(config)
                keywords["config"].use_cache = False
            else:
                arguments["use_cache"] = False
    lengths = {} if max_length is None else {"model_max_length": max_length}
    if max_length is not None:
        choices.append(Choice("max_length", str(max_length), "as asked; it is the tokenizer's model_max_length"))
    return LoadPlan(
        path=path,
        backend=backend,
        precision=precision,
        model_arguments=MappingProxyType({**arguments, "trust_remote_code": trust_remote_code, **keywords}),
        tokenizer_arguments=MappingProxyType({**lengths, "trust_remote_code": trust_remote_code, **shared}),
        lora=adapter,
        quantized=quantized,
        sharded=launch.sharded_by is not None,
        config=config,
        choices=(*choices, *([why_lora] if why_lora is not None else [])),
    )


def naming_the_path(path: str, read: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """Call `read`; what transformers raises becomes a `PadfixError` with the path and the line that mends it."""
    try:
        return read(*arguments, **keywords)
    except PadfixError:
        raise
    except (OSError, ValueError, ImportError) as error:
        raise PadfixError(f"{path!r} could not be loaded: {error} {_mend(path)}") from error


def _read_config(path: str, keywords: Mapping[str, Any], trust_remote_code: bool) -> Any:
    from transformers import AutoConfig

    if "config" in keywords:
        return keywords["config"]
    # Fields of the config may stand among the keywords, as in the model's own from_pretrained.
    fields = {name: value for name, value in keywords.items() if name != "quantization_config"}
    config, _ = AutoConfig.from_pretrained(
        path, trust_remote_code=trust_remote_code, return_unused_kwargs=True, **fields
    )
    return config


def _take_wishes(keywords: dict[str, Any], quantization: Any, attention: str) -> tuple[Any, str]:
    """Take the same wishes in transformers' own words out of the keywords."""
    for old, new in _OLD_QUANTIZATION.items():
        if keywords.pop(old, False):
            raise PadfixError(f"{old}=True is gone from newer versions of transformers. Pass quantization={new!r}")
    for name, mine, unset in (("quantization_config", quantization, None), ("attn_implementation", attention, "auto")):
        if keywords.get(name) is not None and mine != unset:
            said = "quantization" if name == "quantization_config" else "attention"
            raise PadfixError(f"{name}= and {said}={describe(mine)} ask for the same thing. Pass one of them")
    own = keywords.get("quantization_config")
    if type(own).__name__ == "BitsAndBytesConfig":  # another library's is passed on as it is
        quantization = keywords.pop("quantization_config")
    return quantization, keywords.pop("attn_implementation", None) or attention


def _take_dtype(torch: Any, keywords: dict[str, Any]) -> Any:
    asked = [keywords.pop(name, None) for name in ("dtype", "torch_dtype")]
    return next((_read_dtype(torch, value) for value in asked if value is not None), None)


def _read_dtype(torch: Any, value: Any) -> Any:
    if not isinstance(value, str) or value == "auto":
        return value
    read = getattr(torch, value, None)
    if not isinstance(read, torch.dtype):
        raise PadfixError(f"dtype={value!r} is not a type that torch knows. Pass one such as 'bfloat16', or 'auto'.")
    return read


def _choose_dtype(torch: Any, own: Any, precision: Precision, trains_all: bool) -> tuple[Any, Choice]:
    if own is not None:
        return own, Choice("weights", dtype_name(own), "as asked")
    if precision.fp16 and trains_all:
        return torch.float32, Choice(
            "weights", "float32", "all of them are trained, and the fp16 scaler refuses float16"
        )
    return precision.dtype, Choice("weights", dtype_name(precision.dtype), "the type that the run computes in")


def _mend(path: str) -> str:
    """Return the line that mends a failed load."""
    from huggingface_hub import constants

    if Path(path).is_dir():
        return "Save it there again: model.save_pretrained(folder); tokenizer.save_pretrained(folder)"
    if path.startswith(("/", ".", "~")) or path.count("/") > 1 or "\\" in path:
        return f"There is no such folder. Pass one that exists (from here: {Path.cwd()}), or a name on the hub."
    if constants.HF_HUB_OFFLINE:
        return (
            "It is no folder here, and HF_HUB_OFFLINE=1 keeps the hub switched off. "
            f"Download it once with a connection: HF_HUB_OFFLINE=0 hf download {path}"
        )
    return "It is no folder here. Check the name and the connection; a gated model needs: hf auth login"
