"""Hooks on a model and an optimizer, and what they record of each forward pass."""

from __future__ import annotations

import inspect
import math
import weakref
from collections import UserDict
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from llama_padfix.core.hf_objects import read_layer, text_config
from llama_padfix.training.guard.health import take_norm
from llama_padfix.training.guard.incident import PLAIN_TYPES, MicroBatch

if TYPE_CHECKING:
    import torch
    from torch.utils.hooks import RemovableHandle


_LABEL_NAMES = ("labels", "label_ids", "label", "targets", "target")
_MOST_FRAMES = 40  # between a model and the function that computes a loss of its own; wrappers lie in between


def hook_forward(model: torch.nn.Module, on_forward: Callable[[MicroBatch, object], None]) -> RemovableHandle:
    """Hook onto a model's forward pass and return the handle; `on_forward` gets each pass and what it returned.

    Those without gradients and without labels are left out. `on_forward` is a bound method, and held weakly: a hook
    that outlives its guard does nothing.
    """
    import torch

    weak = weakref.WeakMethod(on_forward)
    names = [name for name in inspect.signature(model.forward).parameters if name not in ("args", "kwargs")]

    def hook(module: object, args: tuple[object, ...], kwargs: dict[str, object], output: object) -> None:
        method = weak()
        keywords = {**dict(zip(names, args, strict=False)), **kwargs}
        # Of passes without gradients only those of an evaluation are of interest, not each token that is generated.
        if method is None or not (torch.is_grad_enabled() or keywords.get("labels") is not None):
            return
        loss = _read_loss(output) if torch.is_grad_enabled() else None
        if loss is None and keywords.get("labels") is None and not torch.compiler.is_compiling():
            keywords.update(_find_labels(keywords.get("input_ids")))
        micro = make_micro_batch(keywords, loss, _read_autocast(keywords))
        if loss is not None:
            _call_in_backward(loss, lambda gradient: micro.backward.append(True))
        method(micro, output)

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
    keywords: Mapping[str, object],
    loss: torch.Tensor | float | None = None,
    autocast: torch.dtype | None = None,
    *,
    trained: bool = False,
) -> MicroBatch:
    """Return the keywords of a forward pass as a `MicroBatch`; what is neither a tensor nor plain is left out.

    `trained` is True for a loss that is known to be the one that is trained on.
    """
    import torch

    if loss is not None:
        loss = loss.detach().mean() if isinstance(loss, torch.Tensor) else torch.tensor(float(loss))
    return MicroBatch(
        {name: value for name, value in keywords.items() if isinstance(value, torch.Tensor)},
        {name: value for name, value in keywords.items() if isinstance(value, PLAIN_TYPES)},
        loss,
        autocast,
        [True] if trained else [],
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


def _find_labels(ids: object) -> dict[str, object]:
    """Return the labels of these ids that a caller took out of the batch, for a loss of its own; {} where none did.

    Label smoothing and `compute_loss_func` of a Trainer do so, and so do many loops, which name them otherwise or keep
    them in the batch.
    """
    import torch

    if not isinstance(ids, torch.Tensor) or ids.ndim != 2:
        return {}
    frame = inspect.currentframe()
    for _ in range(_MOST_FRAMES):
        frame = frame.f_back if frame is not None else None
        held = frame.f_locals if frame is not None else {}
        batches = [value for value in held.values() if isinstance(value, (dict, UserDict))]
        for labels in (*map(held.get, _LABEL_NAMES), *(batch.get("labels") for batch in batches)):
            if (
                isinstance(labels, torch.Tensor)
                and labels.shape == ids.shape
                and labels.dtype in (torch.int64, torch.int32)
            ):
                return {"labels": labels}
    return {}


def watch_slope(output: object, slopes: list[torch.Tensor | None]) -> None:
    """Add the norms of the gradients at a model's outputs to `slopes`, once its backward pass has reached them."""
    import torch

    values = output.values() if isinstance(output, Mapping) else output
    for value in values if isinstance(values, Iterable) and not isinstance(values, torch.Tensor) else [values]:
        if isinstance(value, torch.Tensor) and value.requires_grad and value.numel() > 1:
            _call_in_backward(value, lambda gradient: slopes.append(take_norm([gradient])))


def _call_in_backward(tensor: torch.Tensor, function: Callable[[torch.Tensor], None]) -> None:
    tensor.register_hook(function)  # type: ignore[no-untyped-call]  # torch does not annotate it


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
    """Return the loss of a uniform guess over the model's vocabulary, in nats; None where it guesses no tokens."""
    size = getattr(text_config(getattr(model, "config", None)), "vocab_size", None)
    guesses = read_layer(model, "get_output_embeddings") is not None
    return math.log(size) if guesses and isinstance(size, int) and size > 1 else None
