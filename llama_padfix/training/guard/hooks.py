"""Hooks that hear each forward pass and each step of an optimizer, and what they read off them."""

from __future__ import annotations

import inspect
import math
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from llama_padfix.core.hf_objects import text_config
from llama_padfix.training.guard.incident import Kind, MicroBatch

__all__ = [
    "add_hooks",
    "find_innermost",
    "name_layer",
    "read_token_chances",
    "remove_all",
    "split_batch",
    "sum_losses",
]

_PLAIN = (bool, int, float, str, type(None))


def add_hooks(on_forward: Callable[[MicroBatch], None], model: Any) -> Any:
    """Hook onto a model's forward pass and return the handle; `on_forward` gets every one that is differentiated.

    `on_forward` is a bound method, and held weakly: a hook that outlives its guard does nothing.
    """
    import torch

    weak = weakref.WeakMethod(on_forward)
    names = [name for name in inspect.signature(model.forward).parameters if name not in ("args", "kwargs")]

    def hook(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        call = weak()
        if call is None or not torch.is_grad_enabled():
            return
        keywords = {**dict(zip(names, args, strict=False)), **kwargs}
        call(split_batch(keywords, _read_loss(output), _read_autocast(keywords)))

    return model.register_forward_hook(hook, with_kwargs=True)


def remove_all(handles: Iterable[Any]) -> None:
    """Take hooks off."""
    for handle in handles:
        handle.remove()


def split_batch(keywords: Mapping[str, Any], loss: Any = None, autocast: Any = None) -> MicroBatch:
    """Return the keywords of a forward pass as a `MicroBatch`; what is neither a tensor nor plain is left out."""
    import torch

    if loss is not None:
        loss = loss.detach().mean() if isinstance(loss, torch.Tensor) else torch.tensor(float(loss))
    return MicroBatch(
        {name: value for name, value in keywords.items() if isinstance(value, torch.Tensor)},
        {name: value for name, value in keywords.items() if isinstance(value, _PLAIN)},
        loss,
        autocast,
    )


def _read_loss(output: Any) -> Any:
    """The loss that a model returned, as a mapping, an attribute or the first of a tuple; None where it has none."""
    loss: Any
    if isinstance(output, Mapping):
        loss = output.get("loss")
    elif isinstance(output, (tuple, list)):
        loss = output[0] if output else None
    else:
        loss = getattr(output, "loss", None)
    one = hasattr(loss, "detach") and loss.numel() == 1 and loss.requires_grad
    return loss if one else None


def _read_autocast(keywords: Mapping[str, Any]) -> Any:
    import torch

    device = next((value.device.type for value in keywords.values() if isinstance(value, torch.Tensor)), "cpu")
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def find_innermost(optimizer: Any) -> Any:
    """Return the optimizer of torch inside wrappers such as accelerate's; hooks of a wrapper are never called."""
    while hasattr(optimizer, "optimizer") and optimizer.optimizer is not optimizer:
        optimizer = optimizer.optimizer
    return optimizer


def read_token_chances(model: Any) -> float | None:
    """Return the loss of a uniform guess over the model's vocabulary, in nats; None where its size is not known."""
    config: Any = getattr(model, "config", None)
    config = text_config(config)
    size = getattr(config, "vocab_size", None)
    return math.log(size) if isinstance(size, int) and size > 1 else None


def sum_losses(batches: Sequence[MicroBatch], losses: Sequence[float | None]) -> float | None:
    """Return the loss of one update: the sum of shares where the model divided by all its tokens, else the mean.

    Given `num_items_in_batch` (transformers 4.46 and newer) each loss is its share of the update's.
    """
    known = [value for value in losses if value is not None]
    if not known:
        return None
    shares = any("num_items_in_batch" in {**m.batch, **m.arguments} for m in batches)
    return sum(known) if shares else sum(known) / len(known)


def name_layer(kind: Kind, losses: Sequence[float | None]) -> int:
    """Return the number of the micro-batch that a fault came from: 0 where the losses do not tell."""
    known = [(place, value) for place, value in enumerate(losses) if value is not None]
    if kind == "loss-not-finite":
        return next((place for place, value in known if not math.isfinite(value)), 0)
    if kind == "zero-loss":
        return next((place for place, value in known if value == 0.0), 0)
    return max(known, key=lambda pair: pair[1], default=(0, 0.0))[0]
