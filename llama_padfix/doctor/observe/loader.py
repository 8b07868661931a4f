"""A `DataLoader` of torch, accelerate or torchdata, read without a trace in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def is_loader(value: object) -> bool:
    """Return True for a `torch.utils.data.DataLoader`, and for what accelerate makes of one."""
    kinds = type(_base_of(value)).__mro__
    return any(kind.__name__ == "DataLoader" and kind.__module__.startswith("torch.") for kind in kinds)


def parts_of(loader: object) -> dict[str, object]:
    """Return what a loader reads with: its dataset, collator and samplers, by attribute."""
    names = ("dataset", "collate_fn", "sampler", "batch_sampler", "generator")
    held = vars(_base_of(loader))
    return {name: held[name] for name in names if held.get(name) is not None}


def find_owners(rows: object) -> dict[str, object]:
    """Return what may hold a tokenizer beside rows, by name: a loader's collator and dataset, or the rows themselves.

    Lists and mappings of rows hold none.
    """
    if is_loader(rows):
        parts = parts_of(rows)
        return {f"dataloader.{name}": parts[name] for name in ("collate_fn", "dataset") if name in parts}
    return {} if isinstance(rows, (list, tuple, Mapping, str)) else {"dataset": rows}


def read_loader(loader: object) -> Iterator[object]:
    """Yield the batches of a loader, drawn in this process by a copy of it.

    Workers that run keep what they hold, accelerate's record of loaders and its collective calls are left out, and
    batches stay where the collator makes them. What samplers, datasets and collators keep is put back by
    `preserve_state`.
    """
    import torch

    base = _base_of(loader)
    copy: Any = object.__new__(type(base))
    vars(copy).update(vars(base))
    vars(copy).update(num_workers=0, timeout=0, persistent_workers=False, pin_memory=False, _iterator=None)
    if type(copy).__module__.startswith("accelerate."):  # before 0.33 its loaders are no adapters
        yield from torch.utils.data.DataLoader.__iter__(copy)
    else:
        yield from copy


def replace_collator(loader: object, collator: object) -> None:
    """Let a loader collate with another function."""
    vars(_base_of(loader))["collate_fn"] = collator


def _base_of(loader: object) -> object:
    """Return the loader that accelerate's adapter wraps, or the value itself."""
    return getattr(loader, "__dict__", {}).get("base_dataloader", loader)
