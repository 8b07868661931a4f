"""The records of a guard: a forward pass, the state of health, an incident with its cause; and the error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from llama_padfix.core.errors import PadfixError
from llama_padfix.core.records import record_html, short_repr

if TYPE_CHECKING:
    import torch

Kind = Literal[
    "loss-not-finite",
    "zero-loss",
    "gradient-not-finite",
    "state-not-finite",
    "loss-spike",
    "zero-gradient",
    "eval-loss-not-finite",
]
"""The faults that a guard stops at, in the order of its checks."""

PLAIN_TYPES = (bool, int, float, str, type(None))
"""Types of values that are kept as they are, beside tensors."""


@dataclass(frozen=True)
class Cause:
    """The most likely cause: a code of the catalog of checks or of the guard (GRD...), and the fix.

    The field names are keys of `incident.json`, hence `mend`.
    """

    code: str
    name: str
    message: str
    mend: str

    def __str__(self) -> str:
        return f"{self.code} {self.name}: {self.message} {self.mend}"


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass of a training step."""

    batch: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """The tensors among the keywords of the model, and labels that its caller kept for a loss of its own."""
    arguments: Mapping[str, object] = field(default_factory=dict)
    """Its other keywords, of `PLAIN_TYPES`."""
    loss: torch.Tensor | None = None
    """A detached scalar in nats; None where the model returned none."""
    autocast: torch.dtype | None = None
    """The dtype of the innermost `torch.autocast`; None where there is none."""
    backward: list[bool] = field(default_factory=list, repr=False)
    """Not empty once a backward pass has gone through `loss`; a trainer with a loss of its own leaves it out."""


@dataclass(frozen=True)
class BrokenWeight:
    """A parameter that holds nan or inf: how many of its rows, and the first few of them."""

    name: str
    rows: int
    first_rows: tuple[int, ...]


@dataclass(frozen=True)
class Overflow:
    """The first module whose output was not finite when the batch went through the model once more."""

    module: str
    dtype: str
    largest: float
    """The largest magnitude among its finite inputs."""
    finite_input: bool
    """True if all of its inputs were finite."""


@dataclass(frozen=True)
class Health:
    """The state of weights, gradients and optimizer at an incident, in plain values."""

    optimizer: str = ""
    """The class of the optimizer."""
    groups: tuple[Mapping[str, Any], ...] = ()  # `Any` as torch types them
    """The settings of each parameter group."""
    dtypes: Mapping[str, int] = field(default_factory=dict)
    """The number of trainable parameters by dtype."""
    parameters: int = 0
    """The number of trainable parameters (tensors)."""
    without_gradient: int = 0
    """How many of them have no gradient."""
    frozen: int = 0
    """The number of parameters that are not trainable."""
    frozen_adapter: int = 0
    """How many of those belong to an adapter."""
    outside_optimizer: tuple[str, ...] = ()
    """The names of trainable parameters that have a gradient other than 0 and are in no group of the optimizer."""
    broken_gradients: tuple[str, ...] = ()
    """The names of parameters whose gradient holds nan or inf."""
    largest_gradients: Mapping[str, float] = field(default_factory=dict)
    """The largest finite gradient norms by parameter."""
    norm_before: float | None = None
    """The norm of the trainable weights 16 to 32 updates earlier, or when the guard was attached."""
    norm_now: float | None = None
    """That norm at the incident."""
    finite_before: bool = True
    """True if every weight was finite when the guard was attached."""
    broken_weights: tuple[BrokenWeight, ...] = ()
    """The parameters that hold nan or inf."""
    broken_states: tuple[str, ...] = ()
    """The optimizer states that hold nan or inf."""
    largest_states: Mapping[str, float] = field(default_factory=dict)
    """The largest finite magnitude by kind of state."""
    loss_scale: float | None = None
    """The scale of a loss scaler; None without one."""
    overflow: Overflow | None = None
    """Where the batch stops being finite, if it went through the model once more."""

    @property
    def growth(self) -> float:
        """The norm of the trainable weights as a multiple of that at most 32 updates earlier; 1.0 if unknown."""
        if not self.norm_before or self.norm_now is None:
            return 1.0
        return self.norm_now / self.norm_before


@dataclass(frozen=True)
class Incident:
    """One update that a guard stopped at."""

    kind: Kind
    """What the guard stopped at."""
    step: int
    """The number of the update, from 1."""
    seen: str
    """What was measured, in words."""
    cause: Cause
    """The most likely cause, with its code and the fix."""
    losses: tuple[float | None, ...] = ()
    """The loss of each micro-batch in nats; None for one that the model did not return."""
    grad_norm: float | None = None
    """The Euclidean norm of all gradients; None where it was not measured."""
    micro_batch: int = 0
    """The number of the micro-batch with the fault, from 0."""
    folder: str | None = None
    """The folder of the evidence; None where nothing was written."""
    remark: str = ""
    """Why there is no evidence."""

    __repr__ = short_repr
    _repr_html_ = record_html

    def __str__(self) -> str:
        kept = f"The evidence is in {self.folder}" if self.folder else self.remark
        return f"Step {self.step}: {self.seen}.\n{self.cause}\n{kept}".rstrip()


class GuardError(PadfixError):
    """A guard stopped the run before a bad update was made.

    Args:
        incident: What was measured, the most likely cause, and the folder of the evidence; kept as an attribute.
    """

    def __init__(self, incident: Incident) -> None:
        super().__init__(str(incident))
        self.incident = incident

    def __reduce__(self) -> tuple[type[GuardError], tuple[Incident]]:
        return GuardError, (self.incident,)  # an error is pickled by its message otherwise
