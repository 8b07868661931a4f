"""Every tensor of a training step counted while it lives: the peak, what it consists of, and where it falls."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

__all__ = ["CATEGORIES", "as_workspace", "make_tally"]

CATEGORIES = (
    "weights",
    "quantization_state",
    "adapter",
    "gradients",
    "optimizer",
    "activations",
    "logits",
    "workspace",
)
"""What a byte is for; `workspace` is weights written out once more: dequantised, or cast by autocast."""

_in_workspace: ContextVar[bool] = ContextVar("in_workspace", default=False)


@contextlib.contextmanager
def as_workspace() -> Iterator[None]:
    """Count what is allocated inside as `workspace`."""
    token = _in_workspace.set(True)
    try:
        yield
    finally:
        _in_workspace.reset(token)


def make_tally(*, vocab_size: int, tokens: int, rounding: int) -> Any:
    """Return a `TorchDispatchMode` that follows storages from their allocation until nothing holds them any more.

    `rounding` is the allocator's block in bytes. Its attributes afterwards: `peak` (bytes), `at_peak` (bytes by
    category; they add up to `peak`) and `peak_phase` (what `phase` was then). Before and between: `claim(tensor,
    category)` counts a tensor that exists, or moves it to another category.

    A storage is what is counted, so views are free; the autograd graph holds what it saved, as in a real step.
    torch keeps a storage's Python object for as long as the storage lives, so a weak reference to it tells when.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    aten = torch.ops.aten
    asks_for_a_value = {aten._local_scalar_dense.default, aten.is_nonzero.default, aten.equal.default}
    casts = {aten._to_copy.default, aten.copy_.default, aten.clone.default}
    least_logits = vocab_size * tokens // 2  # older losses shift the logits and so drop a position of each row

    class Tally(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch annotates no __init_subclass__
        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]  # torch annotates this one neither
            self.phase = "loading"
            self.peak = 0
            self.at_peak = dict.fromkeys(CATEGORIES, 0)
            self.peak_phase = self.phase
            self._live: dict[int, tuple[int, str, Any]] = {}
            self._totals = dict.fromkeys(CATEGORIES, 0)
            self._total = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func in asks_for_a_value:
                return _made_up(torch, func, args)
            result = func(*args, **(kwargs or {}))
            for leaf in tree_leaves(result):
                if isinstance(leaf, torch.Tensor) and leaf.untyped_storage()._cdata not in self._live:
                    self._count(leaf, self._judge(func, leaf, args))
            return result

        def claim(self, tensor: Any, category: str) -> None:
            known = self._live.get(tensor.untyped_storage()._cdata)
            if known is None:
                self._count(tensor, category)
            elif known[1] != category:
                size, before, watch = known
                self._live[tensor.untyped_storage()._cdata] = (size, category, watch)
                self._totals[before] -= size
                self._totals[category] += size

        def _judge(self, func: Any, tensor: Any, args: Any) -> str:
            if _in_workspace.get():
                return "workspace"
            if self.phase == "optimizer":
                return "optimizer"
            if tensor.dim() and tensor.shape[-1] == vocab_size and tensor.numel() >= least_logits:
                return "logits"
            if func in casts and args and isinstance(args[0], torch.Tensor):
                source = self._live.get(args[0].untyped_storage()._cdata)
                if source is not None and source[1] in ("weights", "adapter", "workspace"):
                    return "workspace"
            return "activations"

        def _count(self, tensor: Any, category: str) -> None:
            storage = tensor.untyped_storage()
            size = -(-storage.nbytes() // rounding) * rounding
            key = storage._cdata
            self._live[key] = (size, category, weakref.ref(storage, self._forgetting(key)))
            self._totals[category] += size
            self._total += size
            if self._total > self.peak:
                self.peak, self.peak_phase = self._total, self.phase
                self.at_peak = dict(self._totals)

        def _forgetting(self, key: int) -> Callable[[Any], None]:
            def forget(_: Any) -> None:
                size, category, _ = self._live.pop(key)
                self._totals[category] -= size
                self._total -= size

            return forget

    return Tally()


def _made_up(torch: Any, func: Any, args: Any) -> Any:
    """Answer a question about numbers that do not exist: False, 1 or 1.0.

    transformers asks whether a mask is all ones; the no makes it build the mask, which is the case of padded rows.
    """
    if func is not torch.ops.aten._local_scalar_dense.default or args[0].dtype == torch.bool:
        return False
    return 1.0 if args[0].dtype.is_floating_point else 1
