"""Every tensor of a training step counted while it lives: the peak, what it consists of, and where it falls."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

_STATE = ("weights", "quantization_state", "adapter", "gradients", "optimizer")
CATEGORIES = (*_STATE, "activations", "logits", "workspace")
"""What a byte is for; `workspace` is weights written out once more: dequantized, or cast by autocast."""

_in_workspace: ContextVar[bool] = ContextVar("in_workspace", default=False)


@contextlib.contextmanager
def as_workspace() -> Iterator[None]:
    """Count what is allocated inside as `workspace`."""
    token = _in_workspace.set(True)
    try:
        yield
    finally:
        _in_workspace.reset(token)


class Tally:
    """A context manager that follows storages from their allocation until nothing holds them any more.

    Storages are counted, so views are free; the autograd graph holds what it saved, as in a real step. torch keeps a
    storage's Python object for as long as the storage lives, so a weak reference to it shows when it ends.

    Attributes:
        phase: What runs now: loading, forward, backward or optimizer. The caller sets it.
        peak: The most bytes that lived at once.
        at_peak: The bytes by category at that moment; they add up to `peak`.
        peak_phase: The phase at that moment.
        paged: Bytes of optimizer state outside of the device's memory. The caller sets it.
    """

    def __init__(self, *, vocab_size: int, tokens: int, rounding: int) -> None:
        """Begin with nothing counted; `rounding` is the allocator's block in bytes, `tokens` are those of a batch."""
        self.phase = self.peak_phase = "loading"
        self.peak = self.paged = 0
        self.at_peak = dict.fromkeys(CATEGORIES, 0)
        self._rounding = rounding
        self._vocab_size = vocab_size
        self._least_logits = vocab_size * tokens // 2  # older losses shift the logits and drop a position of each row
        self._live: dict[int, tuple[int, str, weakref.ref[torch.UntypedStorage]]] = {}
        self._totals = dict.fromkeys(CATEGORIES, 0)
        self._total = 0
        self._mode: TorchDispatchMode | None = None

    def __enter__(self) -> Tally:
        self._mode = _watch(self)
        self._mode.__enter__()  # type: ignore[no-untyped-call]  # torch does not annotate it
        return self

    def __exit__(self, *error: object) -> None:
        assert self._mode is not None
        self._mode.__exit__(*error)  # type: ignore[no-untyped-call]
        self._mode = None

    def claim(self, tensor: torch.Tensor, category: str) -> None:
        """Count a tensor that exists, or move it to another category."""
        key = tensor.untyped_storage()._cdata
        known = self._live.get(key)
        if known is None:
            self._count(tensor, category)
        elif known[1] != category:
            size, before, watch = known
            self._live[key] = (size, category, watch)
            self._totals[before] -= size
            self._totals[category] += size

    def count_result(self, tensor: torch.Tensor, is_cast: bool, source: object) -> None:
        """Count what an operation allocated; `source` is its first argument, and `is_cast` if it copies that."""
        if tensor.untyped_storage()._cdata not in self._live:
            self._count(tensor, self._category_of(tensor, is_cast, source))

    def _category_of(self, tensor: torch.Tensor, is_cast: bool, source: object) -> str:
        import torch

        if _in_workspace.get():
            return "workspace"
        if self.phase == "optimizer":
            return "optimizer"
        if tensor.dim() and tensor.shape[-1] == self._vocab_size and tensor.numel() >= self._least_logits:
            return "logits"
        if is_cast and isinstance(source, torch.Tensor):
            known = self._live.get(source.untyped_storage()._cdata)
            if known is not None and known[1] in ("weights", "adapter", "workspace"):
                return "workspace"
        return "activations"

    def _count(self, tensor: torch.Tensor, category: str) -> None:
        storage = tensor.untyped_storage()
        size = -(-storage.nbytes() // self._rounding) * self._rounding
        key = storage._cdata
        self._live[key] = (size, category, weakref.ref(storage, self._make_end(key)))
        self._totals[category] += size
        self._total += size
        if self._total > self.peak:
            self.peak, self.peak_phase = self._total, self.phase
            self.at_peak = dict(self._totals)

    def _make_end(self, key: int) -> Callable[[object], None]:
        def end(_: object) -> None:
            size, category, _ = self._live.pop(key)
            self._totals[category] -= size
            self._total -= size

        return end


def _watch(tally: Tally) -> TorchDispatchMode:
    """Return the dispatch mode that counts the results of all operations."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    aten = torch.ops.aten
    reads_a_value = {aten._local_scalar_dense.default, aten.is_nonzero.default, aten.equal.default}
    casts = {aten._to_copy.default, aten.copy_.default, aten.clone.default}

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch annotates no __init_subclass__
        def __torch_dispatch__(
            self,
            func: Callable[..., object],
            types: object,
            args: Sequence[Any] = (),  # of any operation
            kwargs: Mapping[str, Any] | None = None,
        ) -> object:
            if func in reads_a_value:
                return _made_up_value(func is aten._local_scalar_dense.default, args[0].dtype)
            result = func(*args, **(kwargs or {}))
            for leaf in tree_leaves(result):
                if isinstance(leaf, torch.Tensor):
                    tally.count_result(leaf, func in casts, args[0] if args else None)
            return result

    return Watch()  # type: ignore[no-untyped-call]  # torch does not annotate it


def _made_up_value(is_scalar: bool, dtype: torch.dtype) -> bool | int | float:
    """Return a stand-in for a number that does not exist: False, 1 or 1.0.

    transformers checks if a mask is all ones. False makes it build the mask, which is the case of padded rows.
    """
    if not is_scalar or str(dtype) == "torch.bool":
        return False
    return 1.0 if dtype.is_floating_point else 1
