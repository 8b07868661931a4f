"""The keywords of `load` and of `from_pretrained`: read, compared with each other, and named for transformers."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llama_padfix.core.choices import Choice
from llama_padfix.core.compat import name_dtype_argument
from llama_padfix.core.errors import PadfixError, describe
from llama_padfix.core.hf_objects import dtype_name
from llama_padfix.core.kinds import require_path
from llama_padfix.hardware.attention import choose_attention
from llama_padfix.hardware.precision import Precision
from llama_padfix.training.loading.config_fields import require_fields

if TYPE_CHECKING:
    from typing import TypeAlias

    import torch
    from transformers import PretrainedConfig

    from llama_padfix.core.types import DeviceMap, Lora, Quantization

    Keywords: TypeAlias = dict[str, Any]
    """Keywords of `from_pretrained`, which differ by model class."""

Backend = Literal["transformers", "unsloth"]

_OLD_QUANTIZATION = {"load_in_4bit": "nf4", "load_in_8bit": "int8"}


@dataclass(frozen=True)
class LoadSettings:
    """Keywords that `load` and `plan_load` share, in the order of their signatures; `load` describes each."""

    quantization: Quantization
    precision: Precision | None
    attention: str
    lora: Lora
    device_map: DeviceMap
    backend: Backend
    max_length: int | None
    gradient_checkpointing: bool
    strict: bool


def require_known(name_or_path: object, backend: object, precision: object) -> str:
    """Return the path; raise `PadfixError` for what is none, an unknown backend, and no `Precision`."""
    loaded = "A model that is loaded needs no second loading: prepare(tokenizer, model)"
    require_path(name_or_path, "the name of a model, or a folder,", loaded)
    if backend not in ("transformers", "unsloth"):
        raise PadfixError(f"backend={backend!r} is neither 'transformers' nor 'unsloth'. Usually: leave it out")
    if precision is not None and not isinstance(precision, Precision):
        raise PadfixError(f"precision={describe(precision)} is no Precision. Pass choose_precision(), or None")
    return str(name_or_path)


def choose_kernel(requested: str, dtype: torch.dtype, shape: object, config: object, strict: bool) -> Choice | None:
    """Return the attention kernel; None leaves it to a model whose class is not known (`shape` None)."""
    kind = type(shape) if shape is not None else None
    kernel = choose_attention(requested, dtype, model_class=kind, config=config, strict=strict)
    return kernel if requested != "auto" or shape is not None else None


def name_arguments(dtype: object, quantization: object, device_map: object, attention: Choice | None) -> Keywords:
    """Return the keywords of `AutoModelForCausalLM.from_pretrained` for these decisions; None leaves one out."""
    arguments = {
        "attn_implementation": None if attention is None else attention.taken,
        "quantization_config": quantization,
        "device_map": device_map,
    }
    return {name_dtype_argument(): dtype, **{name: value for name, value in arguments.items() if value is not None}}


def switch_cache_off(keywords: Keywords, config: PretrainedConfig) -> Keywords:
    """Return the keyword that switches the cache off, which would keep what checkpointing discards.

    A config among the keywords is replaced by a copy that has it off; `use_cache` among them is kept.
    """
    if "use_cache" in keywords:
        return {}
    if "config" not in keywords:
        return {"use_cache": False}
    keywords["config"] = copy.deepcopy(config)
    keywords["config"].use_cache = False
    return {}


@contextmanager
def name_path_in_errors(path: str, fix: str = "") -> Iterator[None]:
    """Turn what transformers raises inside into a `PadfixError` with the path and the line that fixes it.

    `fix` is that line for a folder; "" means to save it again.
    """
    try:
        yield
    except PadfixError:
        raise
    except Exception as error:  # of any class: a damaged file may make every library in between fail
        if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
            raise
        kind = "" if isinstance(error, (OSError, ValueError, ImportError)) else f"{type(error).__name__}: "
        line = fix if fix and Path(path).is_dir() else _advise(path, str(error))
        raise PadfixError(f"{path!r} could not be loaded: {kind}{error} {line}") from error


def read_config(path: str, keywords: Keywords) -> PretrainedConfig:
    """Return the config of a checkpoint, whose fields are checked, or the one among the keywords."""
    from transformers import AutoConfig

    if "config" in keywords:
        return keywords["config"]
    # Fields of the config may stand among the keywords, as in the model's own from_pretrained.
    fields = {name: value for name, value in keywords.items() if name != "quantization_config"}
    config, _ = AutoConfig.from_pretrained(path, return_unused_kwargs=True, **fields)
    require_fields(config, path, runs_code=bool(keywords.get("trust_remote_code")))
    return config


def take_renamed(keywords: Keywords, quantization: Quantization, attention: str) -> tuple[Quantization, str]:
    """Take quantization and attention out of the keywords, where they stand under their names in transformers."""
    for old, new in _OLD_QUANTIZATION.items():
        if keywords.pop(old, False):
            raise PadfixError(f"{old}=True is gone from newer versions of transformers. Pass quantization={new!r}")
    for name, ours, given, unset in (
        ("quantization_config", "quantization", quantization, None),
        ("attn_implementation", "attention", attention, "auto"),
    ):
        if keywords.get(name) is not None and given != unset:
            raise PadfixError(f"{name}= and {ours}={describe(given)} ask for the same thing. Pass one of them")
    own = keywords.get("quantization_config")
    if type(own).__name__ == "BitsAndBytesConfig":  # another library's is passed on as it is
        quantization = keywords.pop("quantization_config")
    return quantization, keywords.pop("attn_implementation", None) or attention


def take_dtype(keywords: Keywords) -> torch.dtype | str | None:
    """Take the type of the weights out of the keywords, under either of its names; None where there is none."""
    requested = [keywords.pop(name, None) for name in ("dtype", "torch_dtype")]
    return next((_read_dtype(value) for value in requested if value is not None), None)


def _read_dtype(value: torch.dtype | str) -> torch.dtype | str:
    import torch

    if not isinstance(value, str) or value == "auto":
        return value
    read = getattr(torch, value, None)
    if not isinstance(read, torch.dtype):
        raise PadfixError(f"dtype={value!r} is not a type that torch knows. Pass one such as 'bfloat16', or 'auto'.")
    return read


def choose_dtype(
    own: torch.dtype | str | None, precision: Precision, trains_all: bool
) -> tuple[torch.dtype | str, Choice]:
    """Return the type of the weights ("auto" for that of the checkpoint), and the reason."""
    import torch

    if own is not None:
        return own, Choice("weights", dtype_name(own), "as asked")
    if precision.fp16 and trains_all:
        reason = "all of them are trained, and the fp16 scaler refuses float16"
        return torch.float32, Choice("weights", "float32", reason)
    return precision.dtype, Choice("weights", dtype_name(precision.dtype), "the type that the run computes in")


def describe_precision(precision: Precision) -> Choice:
    """Return the type that the run computes in, with the reason."""
    return Choice("precision", dtype_name(precision.dtype), precision.reason)


def _advise(path: str, error: str) -> str:
    """Return the line that fixes a failed load."""
    from huggingface_hub import constants

    if Path(path).is_dir():
        return "Save it there again: model.save_pretrained(folder); tokenizer.save_pretrained(folder)"
    if path.startswith(("/", ".", "~")) or path.count("/") > 1 or "\\" in path:
        return f"There is no such folder. Pass one that exists (from here: {Path.cwd()}), or a name on the hub."
    if "gated" in error.lower():
        return f"Accept the terms on the model's page, then log in: hf auth login; hf download {path} config.json"
    if constants.HF_HUB_OFFLINE:
        return (
            "It is no folder here, and HF_HUB_OFFLINE=1 keeps the hub switched off. "
            f"Download it once with a connection: HF_HUB_OFFLINE=0 hf download {path}"
        )
    return "It is no folder here. Check the name and the connection; a gated model needs: hf auth login"
