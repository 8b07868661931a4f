"""What a guard saw of one update, what it holds to be the cause, and the error that stops the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from llama_padfix.core.errors import PadfixError

if TYPE_CHECKING:
    import torch

__all__ = ["BrokenWeight", "Cause", "GuardError", "Health", "Incident", "Kind", "MicroBatch", "Overflow"]

Kind = Literal[
    "loss-not-finite",
    "zero-loss",
    "loss-spike",
    "gradient-not-finite",
    "zero-gradient",
    "eval-loss-not-finite",
]
"""What a guard stops at, in the order in which it looks."""


@dataclass(frozen=True)
class Cause:
    """The most likely cause: a code of the catalogue of checks or of the guard (GRD...), and what mends it."""

    code: str
    name: str
    message: str
    mend: str

    def __str__(self) -> str:
        return f"{self.code} {self.name}: {self.message} {self.mend}"


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass of a training step: the keywords of the model, its loss, and the autocast around it.

    `batch` holds the tensors, `arguments` the other keywords. `loss` is a detached scalar, or None where the model
    returned none. `autocast` is the dtype of the innermost `torch.autocast`, None where there is none.
    """

    batch: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    loss: torch.Tensor | None = None
    autocast: torch.dtype | None = None


@dataclass(frozen=True)
class BrokenWeight:
    """A parameter that holds nan or inf: how many of its rows, and the first few of them."""

    name: str
    rows: int
    first_rows: tuple[int, ...]


@dataclass(frozen=True)
class Overflow:
    """The first module whose output was not finite when the batch went through the model once more.

    `largest` is the largest magnitude among its finite inputs; `finite_input` says whether all of them were finite.
    """

    module: str
    dtype: str
    largest: float
    finite_input: bool


@dataclass(frozen=True)
class Health:
    """The state of health of weights, gradients and optimizer, plain values.

    `norm_before` is that of the trainable weights 16 to 32 updates earlier (at most when the guard was attached),
    `norm_now` at the incident; `finite_before` is whether every weight was finite when the guard was attached.
    `dtypes` counts the trainable parameters by type.
    """

    optimizer: str = ""
    groups: tuple[Mapping[str, Any], ...] = ()
    dtypes: Mapping[str, int] = field(default_factory=dict)
    parameters: int = 0
    without_gradient: int = 0
    broken_gradients: tuple[str, ...] = ()
    largest_gradients: Mapping[str, float] = field(default_factory=dict)
    norm_before: float | None = None
    norm_now: float | None = None
    finite_before: bool = True
    broken_weights: tuple[BrokenWeight, ...] = ()
    broken_states: tuple[str, ...] = ()
    largest_states: Mapping[str, float] = field(default_factory=dict)
    loss_scale: float | None = None
    overflow: Overflow | None = None

    @property
    def growth(self) -> float:
        """How many times as large the trainable weights are as at most 32 updates earlier; 1.0 where unknown."""
        if not self.norm_before or self.norm_now is None:
            return 1.0
        return self.norm_now / self.norm_before


@dataclass(frozen=True)
class Incident:
    """One update that a guard stopped at: what was seen, the most likely cause, and where the evidence lies.

    `step` counts updates from 1. `losses` are those of its micro-batches, None for one whose loss was not seen;
    `micro_batch` is the number of the one to blame. `folder` is None where nothing was written, and `remark` says why.
    """

    kind: Kind
    step: int
    seen: str
    cause: Cause
    losses: tuple[float | None, ...] = ()
    grad_norm: float | None = None
    micro_batch: int = 0
    folder: str | None = None
    remark: str = ""

    def __str__(self) -> str:
        kept = f"The evidence is in {self.folder}" if self.folder else self.remark
        return f"Step {self.step}: {self.seen}.\n{self.cause}\n{kept}".rstrip()


class GuardError(PadfixError):
    """A guard stopped the run before a sick update was made; `incident` holds what it saw."""

    def __init__(self, incident: Incident) -> None:
        super().__init__(str(incident))
        self.incident = incident

    def __reduce__(self) -> tuple[type[GuardError], tuple[Incident]]:
        return GuardError, (self.incident,)  # an error is pickled by its message otherwise
