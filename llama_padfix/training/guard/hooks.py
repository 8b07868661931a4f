"""Hooks on a model and an optimizer, and what they record of each forward pass."""

from __future__ import annotations

import inspect
import math
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from llama_padfix.core.hf_objects import text_config
from llama_padfix.training.guard.incident import PLAIN_TYPES, MicroBatch

if TYPE_CHECKING:
    import torch
    from torch.utils.hooks import RemovableHandle


def hook_forward(model: torch.nn.Module, on_forward: Callable[[MicroBatch], None]) -> RemovableHandle:
    """Hook onto a model's forward pass and return the handle; `on_forward` gets each pass that is differentiated.

    `on_forward` is a bound method, and held weakly: a hook that outlives its guard does nothing.
    """
    import torch

    weak = weakref.WeakMethod(on_forward)
    names = [name for name in inspect.signature(model.forward).parameters if name not in ("args", "kwargs")]

    def hook(module: object, args: tuple[object, ...], kwargs: dict[str, object], output: object) -> None:
        method = weak()
        if method is None or not torch.is_grad_enabled():
            return
        keywords = {**dict(zip(names, args, strict=False)), **kwargs}
        method(make_micro_batch(keywords, _read_loss(output), _read_autocast(keywords)))

    return model.register_forward_hook(hook, with_kwargs=True)


def hook_step(
    optimizer: torch.optim.Optimizer, before_step: Callable[[torch.optim.Optimizer], None]
) -> RemovableHandle:
    """Hook onto an optimizer's step and return the handle; the bound method `before_step` is held weakly."""
    weak = weakref.WeakMethod(before_step)

    def hook(optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        method = weak()
        if method is not None:
            method(optimizer)

    return optimizer.register_step_pre_hook(hook)


def remove_all(handles: Iterable[RemovableHandle]) -> None:
    """Remove hooks."""
    for handle in handles:
        handle.remove()


def make_micro_batch(
    keywords: Mapping[str, object], loss: torch.Tensor | float | None = None, autocast: torch.dtype | None = None
) -> MicroBatch:
    """Return the keywords of a forward pass as a `MicroBatch`; what is neither a tensor nor plain is left out."""
    import torch

    if loss is not None:
        loss = loss.detach().mean() if isinstance(loss, torch.Tensor) else torch.tensor(float(loss))
    return MicroBatch(
        {name: value for name, value in keywords.items() if isinstance(value, torch.Tensor)},
        {name: value for name, value in keywords.items() if isinstance(value, PLAIN_TYPES)},
        loss,
        autocast,
    )


def _read_loss(output: object) -> torch.Tensor | None:
    """Return the loss in what a model returned: of a mapping, an attribute or the first of a tuple."""
    import torch

    if isinstance(output, Mapping):
        loss = output.get("loss")
    elif isinstance(output, (tuple, list)):
        loss = output[0] if output else None
    else:
        loss = getattr(output, "loss", None)
    return loss if isinstance(loss, torch.Tensor) and loss.numel() == 1 and loss.requires_grad else None


def _read_autocast(keywords: Mapping[str, object]) -> torch.dtype | None:
    import torch

    device = next((value.device.type for value in keywords.values() if isinstance(value, torch.Tensor)), "cpu")
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def find_innermost(optimizer: torch.optim.Optimizer | None) -> torch.optim.Optimizer | None:
    """Return the optimizer of torch inside wrappers such as accelerate's; hooks of a wrapper are never called."""
    while (inner := getattr(optimizer, "optimizer", None)) is not None and inner is not optimizer:
        optimizer = inner
    return optimizer


def uniform_loss(model: object) -> float | None:
    """Return the loss of a uniform guess over the model's vocabulary, in nats; None where its size is not known."""
    size = getattr(text_config(getattr(model, "config", None)), "vocab_size", None)
    return math.log(size) if isinstance(size, int) and size > 1 else None
