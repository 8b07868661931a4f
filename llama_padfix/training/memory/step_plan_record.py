"""What a training step to be measured consists of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llama_padfix.hardware.precision import Precision

__all__ = ["StepPlan"]


@dataclass(frozen=True)
class StepPlan:
    """What decides the memory of a step.

    `lora` is what `choose_lora` takes. `dtype` is the type that the weights are held in. `parameters` are the type of
    each and whether it is trained, of a model that exists.
    """

    config: Any
    batch: int
    length: int
    gradient_accumulation_steps: int
    quantization: str | None
    double_quantization: bool
    unquantized: tuple[str, ...]
    lora: Any
    precision: Precision
    dtype: Any
    gradient_checkpointing: bool
    optimizer: str
    attention: str
    device: str
    parameters: Mapping[str, tuple[Any, bool]] | None = None

    @property
    def autocast(self) -> Any:
        """The type of the Trainer's mixed precision; None where there is none."""
        return self.precision.dtype if self.precision.bf16 or self.precision.fp16 else None
