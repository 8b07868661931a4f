"""A model and its tokenizer, loaded with the right keywords and patched."""

from __future__ import annotations

import inspect
import logging
from pathlib import Path
from typing import Any

from llama_padfix.precision import choose_precision
from llama_padfix.records import PadfixError, Precision
from llama_padfix.tokenizer import patch_tokenizer

__all__ = ["load"]

logger = logging.getLogger(__name__)

_SHARED = ("revision", "token", "cache_dir", "local_files_only")  # what the tokenizer's download needs as well


def load(
    name_or_path: str | Path,
    *,
    precision: Precision | None = None,
    pad_token: str = "auto",
    trust_remote_code: bool = False,
    **from_pretrained: Any,
) -> tuple[Any, Any]:
    """Load a causal language model and its tokenizer from a folder or the hub, patched: `(model, tokenizer)`.

    The weights are held in bfloat16 where the device really has it, else in float32: fp16 training needs
    float32 weights, or the gradient scaler stops with 'Attempting to unscale FP16 gradients'. A `dtype` (or
    `torch_dtype`) of your own is passed under the name that the installed transformers knows. Other keywords go
    to `AutoModelForCausalLM.from_pretrained`. Raises `PadfixError` for a folder that holds no model or no
    tokenizer, before any weight is read.
    """
    path = str(name_or_path)
    _require_complete_folder(Path(path))
    precision = precision or choose_precision()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    asked = [from_pretrained.pop(name, None) for name in ("dtype", "torch_dtype")]
    default = torch.bfloat16 if precision.bf16 else torch.float32
    dtype = next((_read_dtype(torch, value) for value in asked if value is not None), default)
    shared = {name: from_pretrained[name] for name in _SHARED if name in from_pretrained}
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code, **shared)
        model = AutoModelForCausalLM.from_pretrained(
            path, trust_remote_code=trust_remote_code, **{name_dtype_argument(): dtype}, **from_pretrained
        )
    except (OSError, ValueError) as error:
        raise PadfixError(f"{path!r} could not be loaded: {error} {_mend(path)}") from error
    plan = patch_tokenizer(tokenizer, model, pad_token=pad_token)
    logger.info("llama_padfix: weights in %s (%s)", dtype, precision.reason)
    logger.info("llama_padfix: %s", plan)
    return model, tokenizer


def name_dtype_argument() -> str:
    """Return the keyword for the weights' dtype: `dtype` since transformers 4.56, `torch_dtype` before."""
    from transformers import PretrainedConfig

    return "dtype" if "dtype" in inspect.signature(PretrainedConfig.__init__).parameters else "torch_dtype"


def _read_dtype(torch: Any, value: Any) -> Any:
    if not isinstance(value, str) or value == "auto":
        return value
    read = getattr(torch, value, None)
    if not isinstance(read, torch.dtype):
        raise PadfixError(f"dtype={value!r} is not a type that torch knows. Pass one such as 'bfloat16', or 'auto'.")
    return read


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


def _require_complete_folder(folder: Path) -> None:
    if not folder.exists():
        return  # a name on the hub
    if not folder.is_dir():
        raise PadfixError(f"{str(folder)!r} is a file. Pass the folder that holds config.json and the weights.")
    held = sorted(item.name for item in folder.iterdir())
    if "config.json" not in held:
        seen = f"{str(folder)!r} holds no config.json (it has: {', '.join(held[:8]) or 'nothing'})."
        if "adapter_config.json" in held:
            raise PadfixError(
                f"{seen} It is an adapter. Load its base model, and the adapter onto it: "
                f"model, tokenizer = load(base); model = peft.PeftModel.from_pretrained(model, {str(folder)!r})"
            )
        raise PadfixError(f"{seen} Save the model there: model.save_pretrained({str(folder)!r})")
    if not any(name.startswith(("tokenizer", "vocab", "spiece", "tekken")) for name in held):
        raise PadfixError(
            f"{str(folder)!r} holds a model but no tokenizer. Save it there: "
            f"tokenizer.save_pretrained({str(folder)!r})"
        )
