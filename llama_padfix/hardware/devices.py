"""On which device each process holds the model."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from llama_padfix.core.choices import Choice
from llama_padfix.core.errors import PadfixError, describe
from llama_padfix.hardware.precision import resolve_device

__all__ = ["Launch", "choose_device_map", "read_launch", "training_device"]

_SPREAD = ("auto", "balanced", "balanced_low_0", "sequential")  # what accelerate's `infer_auto_device_map` knows


@dataclass(frozen=True)
class Launch:
    """How this process was started: its place among the processes, and what shards the weights over them."""

    local_rank: int
    world_size: int
    sharded_by: str | None

    @property
    def is_distributed(self) -> bool:
        """Whether there is more than one process."""
        return self.world_size > 1


def read_launch() -> Launch:
    """Return what torchrun or `accelerate launch` wrote into the environment of this process.

    Both set `LOCAL_RANK` and `WORLD_SIZE`; `accelerate launch` sets `ACCELERATE_USE_FSDP` and
    `ACCELERATE_USE_DEEPSPEED` as well. Raises `PadfixError` where a number is none.
    """
    numbers = {}
    for name, default in (("LOCAL_RANK", "0"), ("WORLD_SIZE", "1")):
        text = os.environ.get(name, default)
        try:
            numbers[name] = int(text)
        except ValueError as error:
            raise PadfixError(f"{name}={text!r} is no number. Start with torchrun, or: unset {name}") from error
    on = ("1", "true", "yes", "on")
    engines = (("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed"))
    sharded_by = next((engine for name, engine in engines if os.environ.get(name, "").lower() in on), None)
    return Launch(max(numbers["LOCAL_RANK"], 0), max(numbers["WORLD_SIZE"], 1), sharded_by)


def training_device() -> tuple[str, tuple[int, ...]]:
    """Return the backend that this process will train on ("cuda", "cpu", ...) and the indices that it can see."""
    import torch

    kind, indices = resolve_device(torch, None)
    return kind, tuple(indices)


def choose_device_map(wish: Any, launch: Launch, *, quantized: bool = False) -> tuple[Any, Choice]:
    """Return the `device_map` for `from_pretrained`, and the reason.

    "auto" and the other names of accelerate spread one model over all devices, which several processes must not
    do: each of them gets the whole model on its own device, `{"": local_rank}`. Where the launcher shards the
    weights (FSDP, DeepSpeed) it is None, since that places them itself. A dict or None is passed on as it is.
    Raises `PadfixError` for a name that accelerate does not know, and for a local rank without a device.
    """
    if wish is None or isinstance(wish, dict):
        return wish, Choice("device_map", str(wish), "as asked")
    if not isinstance(wish, str):
        device = _as_index(wish)
        return {"": device}, Choice("device_map", str({"": device}), "as asked")
    if wish not in _SPREAD:
        return {"": _as_index(wish)}, Choice("device_map", str({"": wish}), "as asked")
    if launch.sharded_by:
        return None, Choice("device_map", "None", f"{launch.sharded_by} places the weights itself")
    kind, indices = training_device()
    if kind == "cpu":
        taken = {"": "cpu"} if quantized else None
        return taken, Choice("device_map", "cpu", "this process trains on the CPU")
    if launch.is_distributed:
        device = _own_device(kind, indices, launch)
        reason = f"process {launch.local_rank} of {launch.world_size} trains on its own device, so not {wish!r}"
        return {"": device}, Choice("device_map", str({"": device}), reason)
    if kind == "cuda" and len(indices) > 1:
        reason = (
            f"one process sees {len(indices)} GPUs, and the layers are spread over them; to train with all of them at "
            f"once, start with: torchrun --nproc_per_node {len(indices)}"
        )
        return wish, Choice("device_map", wish, reason)
    # Not "auto": on one device that would move layers to the CPU when they do not fit, where they cannot train.
    only: str | int = 0 if kind == "cuda" else kind
    return {"": only}, Choice("device_map", str({"": only}), f"{kind} is the only device")


def _own_device(kind: str, indices: tuple[int, ...], launch: Launch) -> str | int:
    if len(indices) <= 1:  # the launcher shows each process a device of its own, or the backend counts none
        return indices[0] if indices and kind == "cuda" else kind if not indices else f"{kind}:{indices[0]}"
    if launch.local_rank not in indices:
        raise PadfixError(
            f"LOCAL_RANK is {launch.local_rank} and torch sees {len(indices)} {kind} devices, so this process has "
            f"none. Start as many as there are: torchrun --nproc_per_node {len(indices)}"
        )
    return launch.local_rank if kind == "cuda" else f"{kind}:{launch.local_rank}"


def _as_index(wish: Any) -> Any:
    import torch

    try:
        if not isinstance(wish, bool) and isinstance(wish, (str, int, torch.device)):
            return wish if isinstance(wish, int) else str(torch.device(wish))
    except RuntimeError:
        pass
    raise PadfixError(
        f"device_map={describe(wish)} is no device and none of {', '.join(_SPREAD)}. Let it be found: "
        'device_map="auto"'
    )
