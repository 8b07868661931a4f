"""The global random states of a process: Python, NumPy, torch and its devices."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import ModuleType


def remember_random_states() -> Callable[[], None]:
    """Return a function that puts back the global random states of now; it can be called more than once.

    The states are those of Python, NumPy, torch and each device in use.
    """
    import numpy as np
    import torch

    python, of_numpy, of_torch = random.getstate(), np.random.get_state(), torch.get_rng_state()
    backends: list[ModuleType] = [getattr(torch, name) for name in ("cuda", "xpu") if hasattr(torch, name)]
    on_devices = [
        (backend, backend.get_rng_state_all())
        for backend in backends
        if backend.is_available() and backend.is_initialized()  # reading the state would start the device
    ]
    on_mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None

    def restore() -> None:
        random.setstate(python)
        np.random.set_state(of_numpy)
        torch.set_rng_state(of_torch)
        for backend, states in on_devices:
            backend.set_rng_state_all(states)
        if on_mps is not None:
            torch.mps.set_rng_state(on_mps)

    return restore
