"""Which floating point type to train in, and the reason: emulated bfloat16 is never counted as bfloat16."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama_padfix.core.errors import PadfixError, describe
from llama_padfix.core.hf_objects import dtype_name
from llama_padfix.core.records import record_html, short_repr

if TYPE_CHECKING:
    from types import ModuleType

    import torch

# In the order of `TrainingArguments._setup_devices` and accelerate's `PartialState.default_device`. Their
# torch modules exist only once the vendor's plugin is installed.
_PLUGINS = ("mlu", "sdaa", "musa", "npu", "hpu", "neuron")
_FIX = "Let the library find the device: choose_precision()"


def choose_precision(device: object = None) -> Precision:
    """Return the type to train in on `device`, its `TrainingArguments` switches, and why.

    - NVIDIA: bf16 from compute capability 8.0, fp16 from 5.3, else float32 (CUDA C++ Programming Guide,
      throughput of arithmetic instructions).
    - ROCm: bf16 on gfx908, gfx90a, gfx94x, gfx95x, gfx11 and newer (OpenXLA's `has_bf16_dtype_support`), else
      fp16. `torch.cuda.is_bf16_supported` is always True there, with `including_emulation=False` too (torch
      2.13's source; unslothai/unsloth#7682), so only False counts.
    - XPU: bf16 where the device has bfloat16 conversions (torch 2.13's non-emulated answer), else fp16.
    - MPS, CPU and backends that this library does not know: float32, with the reason.

    Gradients are clipped at 0.3 with fp16 (the value of QLoRA's `qlora.py`, "tuned and works well for all
    models tested") and at 1.0 (the `TrainingArguments` default) otherwise.

    Args:
        device: A string, a `torch.device` (such as a parameter's) or the int index of an accelerator; a type without
            an index means all devices of that type, of which the weakest decides. None means what the process will
            train on: the CPU when `ACCELERATE_USE_CPU` is set, else MPS, XPU, a vendor's plugin, every visible CUDA
            or ROCm device, and the CPU last (the order of transformers' `TrainingArguments._setup_devices`).

    Raises:
        PadfixError: torch is missing, or the device is unknown, absent or `meta`.
    """
    torch = import_torch()
    kind, indices = resolve_device(device)
    if kind == "cuda":
        return _rocm(indices) if getattr(torch.version, "hip", None) else _nvidia(indices)
    if kind == "xpu":
        return _xpu(indices)
    if kind in ("mps", "cpu"):
        return _mps() if kind == "mps" else _cpu()
    reason = (
        f"{kind} is not judged by this library: float32 is right everywhere. Where the vendor documents native "
        "bfloat16, choose by hand: bf16=True in the training arguments and dtype='bfloat16' when loading."
    )
    return _make("float32", reason)


def import_torch() -> ModuleType:
    """Return torch, or raise `PadfixError` with the line that installs it."""
    try:
        import torch
    except ModuleNotFoundError as error:
        raise PadfixError(
            "torch is not installed, and only torch can say what the device computes:\npip install torch"
        ) from error
    return torch


def resolve_device(device: object) -> tuple[str, list[int]]:
    """Return the backend's name and the indices that take part (empty where a backend has only one device).

    Args:
        device: As for `choose_precision`.

    Raises:
        PadfixError: The device is unknown, absent or `meta`.
    """
    import torch

    index: int | None = None
    if device is None:
        # transformers and accelerate read this switch before they look for any device.
        stay = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("y", "yes", "t", "true", "on", "1")
        kind = "cpu" if stay else _accelerator()
    elif isinstance(device, int) and not isinstance(device, bool):
        # Not `torch.device(int)`: what that means changed between releases (always CUDA, then the accelerator).
        kind, index = _accelerator(), device
        if kind == "cpu":
            raise PadfixError(f"There is no accelerator {device}: torch sees the CPU only. {_FIX}")
    elif isinstance(device, (str, torch.device)):
        try:
            parsed = torch.device(device)
        except RuntimeError as error:
            raise PadfixError(f"{describe(device)} is not a device that torch knows. {_FIX}") from error
        kind, index = parsed.type, parsed.index
    else:
        raise PadfixError(f"A device was expected, not {describe(device)}. {_FIX}")

    if kind == "meta":
        raise PadfixError(f"The meta device holds no numbers, so nothing trains there. {_FIX}")
    if kind not in ("cuda", "xpu", "mps"):
        return kind, []
    count = _count(kind)
    if count == 0:
        raise PadfixError(f"No {kind} device is visible to torch. {_FIX}")
    if index is not None and not 0 <= index < count:
        raise PadfixError(f"{kind}:{index} does not exist: torch sees {count} ({kind}:0 first). {_FIX}")
    return kind, list(range(count)) if index is None else [index]


def _accelerator() -> str:
    return next((kind for kind in ("mps", "xpu", *_PLUGINS, "cuda") if _count(kind)), "cpu")


def _count(kind: str) -> int:
    import torch

    if kind == "mps":
        return int(torch.backends.mps.is_available())
    module = getattr(torch, kind, None)
    if module is None or not module.is_available():
        return 0
    return 1 if kind in _PLUGINS else int(module.device_count())


def _nvidia(indices: list[int]) -> Precision:
    import torch

    (major, minor), weakest = min((torch.cuda.get_device_capability(index), index) for index in indices)
    seen = f"{_name('cuda', weakest, indices)} has compute capability {major}.{minor}"
    if (major, minor) < (5, 3):
        return _make("float32", f"{seen}: fp16 arithmetic needs 5.3 and bfloat16 needs 8.0.")
    if major < 8:
        return _make("float16", f"{seen}: bfloat16 needs 8.0 and would only be emulated.")
    return _bf16_unless_denied(indices, f"{seen} (bfloat16 needs 8.0)")


def _rocm(indices: list[int]) -> Precision:
    import torch

    names = {i: str(getattr(torch.cuda.get_device_properties(i), "gcnArchName", "")) for i in indices}
    weakest = min(indices, key=lambda index: _amd_has_bf16(names[index]))
    architecture = names[weakest].split(":")[0] or "of unknown architecture"
    seen = f"{_name('cuda', weakest, indices)} is {architecture} (ROCm)"
    if not _amd_has_bf16(names[weakest]):
        return _make("float16", f"{seen}: no bfloat16 of its own is known for it, so bfloat16 may be emulated.")
    return _bf16_unless_denied(indices, seen)


def _amd_has_bf16(architecture: str) -> bool:
    # gfx<major><minor><step>, the last two one hexadecimal digit each: gfx90a is 9.0.a, gfx1100 is 11.0.0.
    # gfx906 (MI50), gfx90c and gfx10 (RDNA 1 and 2) emulate it or fail in the compiler.
    found = re.match(r"gfx(\d+)([0-9a-f])([0-9a-f])(?::|$)", architecture)
    if found is None:
        return False
    major, minor, step = int(found[1]), int(found[2], 16), found[3]
    return major >= 11 or (major == 9 and (minor >= 4 or (minor == 0 and step in "8a")))


def _xpu(indices: list[int]) -> Precision:
    import torch

    # The property is per device; the call answers for the current one, and only its non-emulated form counts.
    answer = _computes_bf16(getattr(torch.xpu, "is_bf16_supported", None)) or False

    def has_bf16(index: int) -> bool:
        return bool(getattr(torch.xpu.get_device_properties(index), "has_bfloat16_conversions", answer))

    weakest = min(indices, key=has_bf16)
    seen = _name("xpu", weakest, indices)
    if has_bf16(weakest):
        return _make("bfloat16", f"{seen} has bfloat16 conversions of its own.")
    return _make("float16", f"{seen} is not known to compute bfloat16 without emulation.")


def _mps() -> Precision:
    import torch

    # transformers 5 and accelerate 1 accept bf16=True here (macOS 14, torch 2.6), but transformers'
    # `is_torch_bf16_gpu_available` notes that Metal emulates it on M1 and M2, and torch does not expose the chip.
    reason = "mps: bfloat16 needs macOS 14 (and a torch that can tell); fp16 is not tested there."
    if getattr(torch.backends.mps, "is_macos_or_newer", lambda major, minor: False)(14, 0):
        reason = (
            "mps: Metal emulates bfloat16 in float32 on M1 and M2 and torch does not say which chips do not. "
            "To save memory all the same, choose bf16=True by hand (torch 2.6 or newer)."
        )
    return _make("float32", reason)


def _cpu() -> Precision:
    other = _accelerator()
    hint = "" if other == "cpu" else f" The Trainer would move to {other} unless use_cpu=True is passed."
    return _make("float32", f"cpu: float32 is exact, and 16-bit types are slow or emulated on most CPUs.{hint}")


def _computes_bf16(check: Callable[..., bool] | None) -> bool | None:
    """Return torch's answer for the current device, emulation left out; None where it cannot be left out."""
    if check is None or "including_emulation" not in inspect.signature(check).parameters:
        return None
    return bool(check(including_emulation=False))


def _bf16_unless_denied(indices: list[int], seen: str) -> Precision:
    import torch

    # The answer holds for the current device only.
    if torch.cuda.current_device() in indices and _computes_bf16(torch.cuda.is_bf16_supported) is False:
        return _make("float16", f"{seen}, but torch says that it would emulate bfloat16.")
    return _make("bfloat16", f"{seen}: it computes bfloat16 itself.")


def _name(kind: str, index: int, indices: list[int]) -> str:
    import torch

    name = f"{getattr(torch, kind).get_device_name(index)} ({kind}:{index})"
    return name if len(indices) == 1 else f"{name}, the weakest of {len(indices)} devices,"


def _make(name: str, reason: str) -> Precision:
    import torch

    fp16 = name == "float16"
    if fp16:  # torch's GradScaler raises "Attempting to unscale FP16 gradients" for trainable weights in float16
        reason += " fp16 needs float32 trainable weights (the loss scaler refuses fp16 gradients) and tight clipping."
    return Precision(getattr(torch, name), name == "bfloat16", fp16, 0.3 if fp16 else 1.0, reason)


@dataclass(frozen=True)
class Precision:
    """The floating point type to train in, the two `TrainingArguments` switches for it, and why."""

    dtype: torch.dtype
    """`torch.bfloat16`, `torch.float16` or `torch.float32`."""
    bf16: bool
    fp16: bool
    max_grad_norm: float
    """The gradient clipping that goes with the type."""
    reason: str

    __repr__ = short_repr
    _repr_html_ = record_html

    def __str__(self) -> str:
        return f"{dtype_name(self.dtype)}: {self.reason}"
