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
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    precision = precision or choose_precision()
    asked = from_pretrained.pop("dtype", None) or from_pretrained.pop("torch_dtype", None)
    dtype = asked if asked is not None else (torch.bfloat16 if precision.bf16 else torch.float32)
    shared = {key: from_pretrained[key] for key in ("revision", "token", "cache_dir") if key in from_pretrained}
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code, **shared)
    except (OSError, ValueError) as error:
        raise PadfixError(
            f"No tokenizer could be loaded from {path!r}: {error}. "
            "Save it beside the model: tokenizer.save_pretrained(folder)"
        ) from error
    model = AutoModelForCausalLM.from_pretrained(
        path, trust_remote_code=trust_remote_code, **{name_dtype_argument(): dtype}, **from_pretrained
    )
    plan = patch_tokenizer(tokenizer, model, pad_token=pad_token)
    logger.info("llama_padfix: weights in %s (%s)", dtype, precision.reason)
    logger.info("llama_padfix: %s", plan)
    return model, tokenizer


def name_dtype_argument() -> str:
    """Return the keyword for the weights' dtype: `dtype` since transformers 4.56, `torch_dtype` before."""
    from transformers import PretrainedConfig

    return "dtype" if "dtype" in inspect.signature(PretrainedConfig.__init__).parameters else "torch_dtype"


def _require_complete_folder(folder: Path) -> None:
    if not folder.exists():
        return  # a name on the hub
    if not folder.is_dir():
        raise PadfixError(f"{str(folder)!r} is a file. Pass the folder that holds config.json and the weights.")
    held = sorted(item.name for item in folder.iterdir())
    if "config.json" not in held:
        hint = " It holds an adapter: load its base model first." if "adapter_config.json" in held else ""
        raise PadfixError(f"{str(folder)!r} holds no config.json (it has: {', '.join(held[:8]) or 'nothing'}).{hint}")
    if not {"tokenizer.json", "tokenizer_config.json", "tokenizer.model"} & set(held):
        raise PadfixError(
            f"{str(folder)!r} holds a model but no tokenizer. Save it there: tokenizer.save_pretrained(...)"
        )
