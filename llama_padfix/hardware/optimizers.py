"""Which optimizer the platform really has: 8-bit and paged ones by bitsandbytes, else plain AdamW."""

from __future__ import annotations

import difflib
import importlib.util
import re
import warnings

from llama_padfix.core.choices import Choice
from llama_padfix.core.errors import PadfixError, describe
from llama_padfix.hardware.devices import training_device

_PLAIN = "adamw_torch"  # torch's own, in every version of transformers
_OF_BITSANDBYTES = re.compile(r"(paged_)?(adamw|lion|ademamix|rmsprop)(?:_bnb)?_(8|32)bit")
_CLASSES = {"adamw": "AdamW", "lion": "Lion", "ademamix": "AdEMAMix", "rmsprop": "RMSprop"}
_SIDE = 64  # bitsandbytes keeps the state of a tensor with fewer than 4,096 elements in 32 bits


def choose_optimizer(wish: str = "adamw_8bit", device: object = None, *, strict: bool = False) -> Choice:
    """Return the name for `TrainingArguments(optim=...)`, as the choice's `taken`, and the reason.

    An optimizer of bitsandbytes is tried by taking one step with it, on a 64 x 64 matrix.

    Args:
        wish: A name that transformers knows. One of bitsandbytes that cannot run becomes plain AdamW, "adamw_torch",
            and a paged one the same without pages where memory is not paged (on a CPU), with one warning.
        device: A string or a `torch.device`, where the step is taken; None means the one that this process trains on.
        strict: Raise for an optimizer that cannot run, rather than fall back.

    Raises:
        PadfixError: transformers does not know the name, or, with `strict`, the optimizer cannot run here.
    """
    from transformers.training_args import OptimizerNames

    known = {member.value for member in OptimizerNames}
    if wish not in known:
        close = difflib.get_close_matches(str(wish), known, n=3)
        hint = f"Did you mean {' or '.join(close)}?" if close else f"Known are {', '.join(sorted(known))}."
        raise PadfixError(f"The installed transformers has no optimizer {describe(wish)}. {hint}")
    parts = _OF_BITSANDBYTES.fullmatch(wish)
    if parts is None:
        return Choice("optimizer", wish, "as asked")
    place = str(device) if device is not None else training_device()[0]
    obstacle, unpaged = _try_step(parts, place)
    taken = _PLAIN if obstacle else wish.removeprefix("paged_") if unpaged else wish
    if obstacle or (unpaged and taken not in known):
        taken, why = _PLAIN, obstacle or f"{place} has no paged memory"
    elif unpaged:
        why = f"{wish} was asked for, and {place} has no paged memory"
    else:
        small = "; tensors of fewer than 4,096 elements keep theirs in 32 bits" if parts[3] == "8" else ""
        return Choice("optimizer", wish, f"as asked: bitsandbytes took a step with it on {place}{small}")
    if strict:
        raise PadfixError(f"optim={wish!r} cannot run here: {why}. What can: optim={taken!r}")
    return Choice("optimizer", taken, why, "warning")


def _try_step(parts: re.Match[str], place: str) -> tuple[str | None, bool]:
    """Take one step; return what keeps the optimizer from running, and True if it gave up its pages."""
    if importlib.util.find_spec("bitsandbytes") is None:
        return "bitsandbytes is not installed (pip install bitsandbytes)", False
    import torch

    paged, family, bits = parts.groups()
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            from bitsandbytes import optim

            weight = torch.nn.Parameter(torch.zeros(_SIDE, _SIDE, device=place))
            weight.grad = torch.ones_like(weight)
            make = getattr(optim, _CLASSES[family])
            pages = {"is_paged": True} if paged else {}  # not every class has the parameter
            # The third group: an earlier Trainer of this process set the first parameters of its two groups (its
            # embeddings) to keep their state in 32 bits, for the whole process (`GlobalOptimManager`).
            others = [{"params": [torch.nn.Parameter(torch.zeros(1, device=place))]} for _ in range(2)]
            stepper = make([*others, {"params": [weight]}], lr=1e-3, optim_bits=int(bits), **pages)
            stepper.step()
    except Exception as error:  # a platform without it lacks a class, a symbol or a kernel
        return f"bitsandbytes cannot take a step with it on {place} ({type(error).__name__}: {error})", False
    if bits == "8" and stepper.state[weight]["state1"].dtype != torch.uint8:
        return f"bitsandbytes keeps its state in 32 bits on {place}", False
    return None, bool(paged) and any("not supported" in str(warning.message) for warning in warned)
