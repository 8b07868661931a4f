"""On which device each process holds the model."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama_padfix.core.choices import Choice
from llama_padfix.core.errors import PadfixError, describe
from llama_padfix.hardware.precision import resolve_device

if TYPE_CHECKING:
    from llama_padfix.core.types import DeviceMap

_SPREAD = ("auto", "balanced", "balanced_low_0", "sequential")  # what accelerate's `infer_auto_device_map` knows


@dataclass(frozen=True)
class Launch:
    """How this process was started."""

    local_rank: int
    """Its number among the processes of this machine."""
    world_size: int
    """How many processes there are on all machines."""
    sharded_by: str | None
    """What shards the weights over them: "FSDP", "DeepSpeed" or None."""

    @property
    def is_distributed(self) -> bool:
        """True if there is more than one process."""
        return self.world_size > 1


def read_launch() -> Launch:
    """Return what torchrun or `accelerate launch` wrote into the environment of this process.

    Both set `LOCAL_RANK` and `WORLD_SIZE`; `accelerate launch` sets `ACCELERATE_USE_FSDP` and
    `ACCELERATE_USE_DEEPSPEED` as well. Raises `PadfixError` for a value that is not a number.
    """
    on = ("1", "true", "yes", "on")
    engines = (("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed"))
    sharded_by = next((engine for name, engine in engines if os.environ.get(name, "").lower() in on), None)
    return Launch(_read_number("LOCAL_RANK", 0), _read_number("WORLD_SIZE", 1), sharded_by)


def _read_number(name: str, least: int) -> int:
    text = os.environ.get(name, str(least))
    try:
        return max(int(text), least)
    except ValueError as error:
        raise PadfixError(f"{name}={text!r} is no number. Start with torchrun, or: unset {name}") from error


def training_device() -> tuple[str, tuple[int, ...]]:
    """Return the backend that this process will train on ("cuda", "cpu", ...) and the indices that it can see."""
    kind, indices = resolve_device(None)
    return kind, tuple(indices)


def choose_device_map(requested: object, launch: Launch, *, quantized: bool = False) -> tuple[DeviceMap, Choice]:
    """Return the `device_map` for `from_pretrained`, and the reason.

    Args:
        requested: "auto" and the other names of accelerate spread one model over all devices, which several processes
            must not do: each of them gets the whole model on its own device, `{"": local_rank}`. Where the launcher
            shards the weights (FSDP, DeepSpeed) the map is None, since that places them itself. A dict or None is
            passed on as it is, and a device is one for the whole model.
        launch: How this process was started.
        quantized: The weights are quantized, and need a place on a CPU too.

    Raises:
        PadfixError: accelerate does not know the name, or the local rank has no device.
    """
    if requested is None or isinstance(requested, dict):
        return requested, Choice("device_map", str(requested), "as asked")
    if not isinstance(requested, str) or requested not in _SPREAD:
        return _on_one(_as_index(requested), "as asked")
    if launch.sharded_by:
        return None, Choice("device_map", "None", f"{launch.sharded_by} places the weights itself")
    kind, indices = training_device()
    if kind == "cpu":
        return {"": "cpu"} if quantized else None, Choice("device_map", "cpu", "this process trains on the CPU")
    if launch.is_distributed:
        reason = f"process {launch.local_rank} of {launch.world_size} trains on its own device, so not {requested!r}"
        return _on_one(_own_device(kind, indices, launch), reason)
    if kind == "cuda" and len(indices) > 1:
        reason = (
            f"one process sees {len(indices)} GPUs, and the layers are spread over them; to train with all of them at "
            f"once, start with: torchrun --nproc_per_node {len(indices)}"
        )
        return requested, Choice("device_map", requested, reason)
    # Not "auto": on one device that would move layers to the CPU when they do not fit, where they cannot train.
    return _on_one(0 if kind == "cuda" else kind, f"{kind} is the only device")


def _on_one(device: str | int, reason: str) -> tuple[DeviceMap, Choice]:
    return {"": device}, Choice("device_map", str({"": device}), reason)


def _own_device(kind: str, indices: tuple[int, ...], launch: Launch) -> str | int:
    if len(indices) <= 1:  # the launcher shows each process a device of its own, or the backend counts none
        return indices[0] if indices and kind == "cuda" else kind if not indices else f"{kind}:{indices[0]}"
    if launch.local_rank not in indices:
        raise PadfixError(
            f"LOCAL_RANK is {launch.local_rank} and torch sees {len(indices)} {kind} devices, so this process has "
            f"none. Start as many as there are: torchrun --nproc_per_node {len(indices)}"
        )
    return launch.local_rank if kind == "cuda" else f"{kind}:{launch.local_rank}"


def _as_index(requested: object) -> str | int:
    import torch

    try:
        if not isinstance(requested, bool) and isinstance(requested, (str, int, torch.device)):
            return requested if isinstance(requested, int) else str(torch.device(requested))
    except RuntimeError:
        pass
    raise PadfixError(
        f"device_map={describe(requested)} is no device and none of {', '.join(_SPREAD)}. Let it be found: "
        'device_map="auto"'
    )
