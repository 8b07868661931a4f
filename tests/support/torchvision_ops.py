"""A plugin of pytest: torchvision for CUDA is imported beside a torch without it, and its operators are declared."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

_NAMES = ("nms", "qnms")  # those that it registers when it is imported; none of them is called

spec = importlib.util.find_spec("torchvision")
for library in sorted(Path(spec.origin).parent.glob("_C*.so")) if spec is not None and spec.origin else ():
    try:
        torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
    except OSError:  # it looks for the libraries of CUDA
        for name in _NAMES:
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
