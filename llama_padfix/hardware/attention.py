"""Which attention the model computes with: FlashAttention where it can run, else sdpa, else eager."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from llama_padfix.core.choices import Choice
from llama_padfix.core.errors import PadfixError
from llama_padfix.core.hf_objects import dtype_name, text_config
from llama_padfix.hardware.devices import training_device

if TYPE_CHECKING:
    import torch

# Package, lowest and highest NVIDIA compute capability. FlashAttention 2: "Ampere, Ada, or Hopper GPUs" and newer;
# FlashAttention 3: "H100 / H800 GPU" (both from the README of Dao-AILab/flash-attention).
_FLASH = {
    "flash_attention_3": ("flash_attn_interface", (9, 0), (9, 9)),
    "flash_attention_2": ("flash_attn", (8, 0), (99, 0)),
}
_KERNELS = (*_FLASH, "sdpa", "eager")  # the fastest first; a kernel falls back to those behind it
_INSTALL = {"flash_attention_3": "build hopper/ of flash-attention", "flash_attention_2": "pip install flash-attn"}
_LARGEST_HEAD = 256  # the README of flash-attention: "all head dimensions up to 256"


def choose_attention(
    wish: str, dtype: torch.dtype, *, model_class: type | None = None, config: object = None, strict: bool = False
) -> Choice:
    """Return the `attn_implementation` to load with, as the choice's `taken`, and the reason.

    Args:
        wish: "auto" (the first that can run of FlashAttention 3, 2, sdpa and eager), one of those names, or another
            name that transformers registers or a kernel's repository ("kernels-community/..."), which is passed on.
        dtype: The type that attention computes in.
        model_class: The class of the model; None means any.
        config: The model's config, for the size of its heads.
        strict: Raise for a kernel that cannot run, rather than fall back to the next that can, with one warning.

    Raises:
        PadfixError: The name is unknown, or, with `strict`, the kernel cannot run here.
    """
    if wish not in ("auto", *_KERNELS):
        _require_known(wish)
        return Choice("attention", wish, "as asked")
    obstacles: dict[str, str] = {}
    taken = "eager"
    for name in _KERNELS if wish == "auto" else _KERNELS[_KERNELS.index(wish) :]:
        obstacle = _find_obstacle(name, dtype, model_class, config)
        if obstacle is None:
            taken = name
            break
        obstacles[name] = obstacle
    if wish == "auto":
        refused = "; ".join(f"no {name}: {obstacle}" for name, obstacle in obstacles.items())
        return Choice("attention", taken, refused or "the fastest that this GPU runs")
    if taken == wish:
        return Choice("attention", wish, "as asked, and it can run here")
    if strict:
        raise PadfixError(f"attention={wish!r} cannot run here: {obstacles[wish]}. What can: attention={taken!r}")
    return Choice("attention", taken, f"{wish} was asked for and cannot run here: {obstacles[wish]}", "warning")


def _find_obstacle(name: str, dtype: torch.dtype, model_class: type | None, config: object) -> str | None:
    """Return why this attention cannot run here; None when it can."""
    if name == "eager":
        return None
    # Code from the hub that could not be built without weights has no class here; loading checks it.
    if model_class is not None and not is_supported(name, model_class):
        return f"{model_class.__name__} does not know it"
    if name == "sdpa":
        return None
    import torch

    package, lowest, highest = _FLASH[name]
    kind, indices = training_device()
    rocm = bool(getattr(torch.version, "hip", None))
    if kind != "cuda" or (rocm and name == "flash_attention_3"):
        return f"it needs an NVIDIA GPU, and this is {'ROCm' if rocm else kind}"
    if not rocm:
        capability = min(torch.cuda.get_device_capability(index) for index in indices)
        if not lowest <= capability <= highest:
            needed = f"{lowest[0]}.x" if name == "flash_attention_3" else f"{lowest[0]}.{lowest[1]}"
            seen = f"{capability[0]}.{capability[1]}"
            return f"it needs compute capability {needed}, and {torch.cuda.get_device_name(indices[0])} has {seen}"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"it computes in float16 and bfloat16, and this run computes in {dtype_name(dtype)}"
    head = _head_size(config)
    if head is not None and head > _LARGEST_HEAD:
        return f"its heads have at most {_LARGEST_HEAD} dimensions, and this model's have {head}"
    if not _is_installed(name, package):
        return f"its package {package} is not installed ({_INSTALL[name]})"
    return None


def is_supported(name: str, model_class: type) -> bool:
    """Return whether a class of models knows an attention by its name; "eager" is known to all."""
    if name == "eager":
        return True
    if name == "sdpa":
        return bool(getattr(model_class, "_supports_sdpa", True))
    # One attribute for every FlashAttention since transformers 4.54, one for each before.
    names = ("_supports_flash_attn", f"_supports_{name.replace('ention', 'n')}")
    held = [getattr(model_class, attribute) for attribute in names if hasattr(model_class, attribute)]
    return any(held) if held else True


def _is_installed(name: str, package: str) -> bool:
    # transformers checks version and distribution as well: flash_attn may be another package's (FlashAttention 4).
    from transformers import utils

    check = getattr(utils, f"is_{name.replace('flash_attention', 'flash_attn')}_available", None)
    return importlib.util.find_spec(package) is not None and check is not None and bool(check())


def _head_size(config: object) -> int | None:
    if config is None:
        return None
    text = text_config(config)
    head = getattr(text, "head_dim", None)
    if head is None and getattr(text, "num_attention_heads", None):
        head = getattr(text, "hidden_size", 0) // text.num_attention_heads
    return head if isinstance(head, int) else None


def _require_known(wish: str) -> None:
    known = {"auto", *_KERNELS}
    try:
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        known |= set(ALL_ATTENTION_FUNCTIONS.keys())
    except (ImportError, AttributeError):  # transformers before 4.48 has no registry
        pass
    # A kernel's repository, possibly behind "paged|".
    if not isinstance(wish, str) or (wish.split("|")[-1] not in known and "/" not in wish):
        raise PadfixError(
            f"attention={wish!r} is not known. Known are {', '.join(sorted(known))}. "
            'Let the library choose: attention="auto"'
        )
