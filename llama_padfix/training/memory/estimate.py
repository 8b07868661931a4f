"""How much memory a training step will need, before anything is loaded, and the largest batch that fits."""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from llama_padfix.core.errors import PadfixError, describe
from llama_padfix.core.hf_objects import dtype_name, text_config
from llama_padfix.core.html import html_bar, html_block, html_lines, html_table
from llama_padfix.core.records import record_html, short_repr
from llama_padfix.training.memory.fake_model import build_model
from llama_padfix.training.memory.step import trace_step
from llama_padfix.training.memory.step_plan import StepPlan, StepShape, plan_step
from llama_padfix.training.memory.tracker import CATEGORIES

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

    from llama_padfix.core.types import Lora, Quantization
    from llama_padfix.hardware.precision import Precision
    from llama_padfix.training.memory.step_plan import ModelSource

_GIB = 2**30
_LETTERS = dict(zip(CATEGORIES, "WQAGOXLD", strict=True))
_MEANING = {
    "weights": "weights",
    "quantization_state": "quantization state",
    "adapter": "adapter",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "activations": "activations",
    "logits": "logits and their gradients",
    "workspace": "weights written out again",
}
_WIDTH = 64  # columns of the bar
_CONTEXT_GIB = 0.5  # taken by the CUDA context outside of torch; 0.3 to 0.6 on common cards
_FRAGMENTED = 0.05  # the share that the caching allocator cannot use; an allowance, not a measurement
_LEAST_LENGTH = 64
ALLOCATOR = "PYTORCH_ALLOC_CONF=expandable_segments:True (PYTORCH_CUDA_ALLOC_CONF where torch does not know that)"
"""The allocator setting that keeps rows of changing length from fragmenting the memory."""


@dataclass(frozen=True)
class MemoryAdvice:
    """The largest batch that fits, with the same number of rows an update."""

    batch: int
    """Rows of a micro-batch."""
    gradient_accumulation_steps: int
    """Micro-batches of an update."""
    length: int
    """Tokens a row: the requested length, or the longest that fits with one row where that one does not."""
    longest: int
    """The longest row that fits with this batch, found to about 3 percent."""
    peak_gib: float
    """The peak of a step with this batch and length, in GiB."""
    gpu_gib: float
    """The memory of the GPU, in GiB."""
    hints: tuple[str, ...]
    """What else saves memory."""

    __repr__ = short_repr
    _repr_html_ = record_html

    def __str__(self) -> str:
        fits = (
            f"{self.gpu_gib:g} GiB hold batch {self.batch} x {self.gradient_accumulation_steps} accumulated, "
            f"{self.length} tokens a row ({self.peak_gib:.2f} GiB at the peak); rows up to {self.longest} tokens"
        )
        return "\n- ".join([fits, *self.hints])


@dataclass(frozen=True)
class MemoryEstimate:
    """The bytes that live at the peak of a step, by category; the first eight add up to `peak_bytes`."""

    weights: int
    """All weights that are not an adapter's."""
    quantization_state: int
    """Scales and tables of quantized weights."""
    adapter: int
    """The weights of the adapter."""
    gradients: int
    """Gradients of trained weights."""
    optimizer: int
    """The optimizer's state, and its temporaries."""
    activations: int
    """What the forward pass keeps, and temporaries."""
    logits: int
    """Logits and their gradients."""
    workspace: int
    """Weights that exist once more, dequantized or cast."""
    paged: int
    """Optimizer state in memory that the GPU shares with the CPU, outside of the peak."""
    phase: str
    """Where the peak falls: forward, backward or optimizer."""
    assumed: tuple[str, ...]
    """What the estimate assumes."""
    plan: StepPlan = field(repr=False)
    """The step that was measured."""

    __repr__ = short_repr

    @property
    def peak_bytes(self) -> int:
        """The bytes of all tensors that live at the peak; `torch.cuda.max_memory_allocated()` counts the same."""
        return sum(int(getattr(self, category)) for category in CATEGORIES)

    @property
    def peak_gib(self) -> float:
        """`peak_bytes` in GiB (2**30 bytes), without the CUDA context and what fragmentation loses."""
        return self.peak_bytes / _GIB

    def to_dict(self) -> dict[str, int | str | list[str]]:
        """Return the bytes by category, `peak_bytes`, `paged`, `phase` and `assumed`, ready for JSON."""
        names = (*CATEGORIES, "peak_bytes", "paged", "phase")
        return {name: getattr(self, name) for name in names} | {"assumed": list(self.assumed)}

    def advise(self, gpu_gib: float, *, reserve_gib: float | None = None) -> MemoryAdvice:
        """Return the largest batch, and the longest rows, that fit into a GPU.

        The rows an update (batch times accumulation) stay the same, so only their divisors are tried, each by
        following a step.

        Args:
            gpu_gib: The memory of the GPU in GiB.
            reserve_gib: GiB kept free for the CUDA context and fragmentation; None means 0.5 GiB and 5 percent.

        Raises:
            PadfixError: Not even one row of 64 tokens fits, or `gpu_gib` is not a size.
        """
        if not 0 < gpu_gib < math.inf:
            raise PadfixError(f"gpu_gib={describe(gpu_gib)} is not a size. Pass the GPU's memory in GiB: advise(24)")
        room = gpu_gib - (_CONTEXT_GIB + _FRAGMENTED * gpu_gib if reserve_gib is None else reserve_gib)
        rows = self.plan.batch * self.plan.gradient_accumulation_steps
        model, mode = build_model(self.plan)

        @functools.cache
        def measure(batch: int, length: int) -> float:
            plan = replace(self.plan, batch=batch, length=length, gradient_accumulation_steps=rows // batch)
            return trace_step(model, mode, plan).peak / _GIB

        divisors = [size for size in range(1, rows + 1) if rows % size == 0]
        fitting = bisect.bisect_left(divisors, True, key=lambda size: measure(size, self.plan.length) > room)
        batch, length = divisors[max(fitting - 1, 0)], self.plan.length
        longest = _find_longest(measure, batch, length, room, self.plan.config)
        if longest < _LEAST_LENGTH:
            raise PadfixError(
                f"{gpu_gib:g} GiB do not hold one row of {_LEAST_LENGTH} tokens: "
                f"{measure(1, _LEAST_LENGTH):.2f} GiB are needed and {room:.2f} are left after the reserve. "
                f"{' '.join(_name_savings(self)) or 'Take a smaller model, or more than one GPU.'}"
            )
        length = min(length, longest)
        return MemoryAdvice(
            batch=batch,
            gradient_accumulation_steps=rows // batch,
            length=length,
            longest=longest,
            peak_gib=measure(batch, length),
            gpu_gib=gpu_gib,
            hints=(*_name_savings(self), f"Set {ALLOCATOR} before the run."),
        )

    def __str__(self) -> str:
        return "\n".join(_draw(self))

    def _repr_html_(self) -> str:
        return _draw_html(self)


def estimate_memory(
    model: ModelSource,
    *,
    batch: int = 1,
    length: int = 2048,
    gradient_accumulation_steps: int = 1,
    quantization: Quantization = None,
    lora: Lora = None,
    precision: Precision | str | None = None,
    gradient_checkpointing: bool = True,
    optimizer: str = "adamw_torch_fused",
    attention: str = "sdpa",
    dtype: torch.dtype | None = None,
    device: str = "cuda",
) -> MemoryEstimate:
    """Return the memory that one training step of a causal language model needs at its peak.

    Nothing is computed and no weight is read: the model is built without numbers, and every tensor of a forward pass,
    a backward pass and an update is followed while it lives. A model of 8 billion parameters takes about ten seconds.
    Only the layers and optimizers of bitsandbytes are imitated.

    Args:
        model: A name on the hub or a folder (only config.json is read), a configuration, or a model. The types,
            adapter and quantization of a model count where the keywords leave them open.
        batch: Rows that go through the model at once.
        length: Tokens of a row.
        gradient_accumulation_steps: Micro-batches of an update.
        quantization: As in `load`.
        lora: As in `load`.
        precision: As in `load`, or "bf16", "fp16" or "fp32". None calls `choose_precision` where there is a CUDA
            device, and means bf16 elsewhere.
        gradient_checkpointing: Activations are computed again in the backward pass.
        optimizer: A name in `OPTIMIZERS`, as in `TrainingArguments(optim=...)`.
        attention: The attention implementation, by its name in transformers.
        dtype: The type of the weights; None means the type that `load` takes.
        device: "cuda", or "cpu" for what the kernels of a CPU allocate.

    Returns:
        The bytes at the peak by category, and `advise` for the batch that fits.

    Raises:
        PadfixError: An argument is unknown, the configuration cannot be read or built, or the operations of the model
            depend on the data.
    """
    shape = StepShape(batch, length, gradient_accumulation_steps, gradient_checkpointing, optimizer, attention, device)
    plan, assumed = plan_step(model, shape, quantization, lora, precision, dtype)
    twin, mode = build_model(plan)
    tally = trace_step(twin, mode, plan)
    sizes = {category: int(tally.at_peak[category]) for category in CATEGORIES}
    return MemoryEstimate(**sizes, paged=tally.paged, phase=tally.peak_phase, assumed=assumed, plan=plan)


def _find_longest(
    measure: Callable[[int, int], float], batch: int, length: int, room: float, config: PretrainedConfig
) -> int:
    """Return the longest row that fits, in steps of about 3 percent; 0 when there is none.

    The peak grows with the length and bends upwards, so a line through two lengths soon leads to the limit.
    """
    text = text_config(config)
    limit = int(getattr(text, "max_position_embeddings", 0) or 131_072)
    if measure(batch, _LEAST_LENGTH) > room:
        return 0
    low, high = _LEAST_LENGTH, None
    guess = max(length, _LEAST_LENGTH)
    while True:
        if measure(batch, guess) <= room:
            low = max(low, guess)
        else:
            high = guess if high is None else min(high, guess)
        step = max(_LEAST_LENGTH, low // 32)
        if low >= limit or (high is not None and high - low <= step):
            return min(low, limit)
        other = high if high is not None else _LEAST_LENGTH
        slope = (measure(batch, low) - measure(batch, other)) / (low - other) if low != other else 0.0
        aim = low + (room - measure(batch, low)) / slope if slope > 0 else low * 2
        guess = min(int(aim) // _LEAST_LENGTH * _LEAST_LENGTH, limit)
        if high is not None and guess >= high:
            guess = high - _LEAST_LENGTH
        if guess <= low:
            # By the line the limit is reached: one step further decides.
            guess = min(low + step, limit, *([high - 1] if high is not None else []))


def _name_savings(estimate: MemoryEstimate) -> tuple[str, ...]:
    plan, hints = estimate.plan, []
    if not plan.gradient_checkpointing and estimate.activations > estimate.peak_bytes / 4:
        hints.append("gradient_checkpointing=True computes the activations twice and does not keep them.")
    if plan.quantization is None and estimate.weights > estimate.peak_bytes / 4:
        hints.append('quantization="nf4" with lora=True holds the weights in 4 bits.')
    if estimate.optimizer > estimate.peak_bytes / 4:
        hints.append("optim='adamw_8bit' holds the optimizer's state in a quarter.")
    if estimate.logits > estimate.peak_bytes / 5:
        hints.append(
            f"The logits take {estimate.logits / _GIB:.2f} GiB: fewer tokens at once, or a loss that never writes "
            "them out (use_liger_kernel=True), save most of it."
        )
    return tuple(hints)


def _draw(estimate: MemoryEstimate) -> Iterator[str]:
    peak, shares = max(estimate.peak_bytes, 1), _list_shares(estimate)
    yield _head(estimate)
    for size, category in shares:
        share = f"{size / _GIB:>8.2f} GiB {100 * size / peak:>4.0f} %"
        yield f"  {_LETTERS[category]}  {_MEANING[category]:<27}{share}"
    yield f"  |{_fill([(size, _LETTERS[category]) for size, category in shares], peak)}|"
    yield from (f"  {line}" for line in _remarks(estimate))


def _draw_html(estimate: MemoryEstimate) -> str:
    peak = max(estimate.peak_bytes, 1)
    rows = [
        (_MEANING[category], f"{size / _GIB:.2f} GiB", f"{100 * size / peak:.0f} %", html_bar(size / peak))
        for size, category in _list_shares(estimate)
    ]
    table = html_table(("at the peak", "GiB", "share", ""), rows, _head(estimate))
    return html_block(table + html_lines(_remarks(estimate)))


def _head(estimate: MemoryEstimate) -> str:
    plan = estimate.plan
    traits = [plan.quantization or dtype_name(plan.dtype)]
    traits += ["LoRA"] * (plan.lora is not None) + ["checkpointing"] * plan.gradient_checkpointing
    return (
        f"{getattr(plan.config, 'model_type', 'model')}, {' + '.join(traits)}, {plan.optimizer}, "
        f"batch {plan.batch} x {plan.length} tokens: {estimate.peak_gib:.2f} GiB at the peak ({estimate.phase})"
    )


def _list_shares(estimate: MemoryEstimate) -> list[tuple[int, str]]:
    """Return the categories that take something, the largest first."""
    return sorted(((size, name) for name in CATEGORIES if (size := getattr(estimate, name))), reverse=True)


def _remarks(estimate: MemoryEstimate) -> Iterator[str]:
    if estimate.paged:
        yield f"and {estimate.paged / _GIB:.2f} GiB of optimizer state in paged memory"
    yield f"assumed: {'; '.join(estimate.assumed)}"


def _fill(shares: list[tuple[int, str]], peak: int) -> str:
    """Return a bar of `_WIDTH` letters, each share as wide as it is large."""
    bar, reached = "", 0
    for size, letter in shares:
        reached += size
        bar += letter * (round(_WIDTH * reached / peak) - len(bar))
    return bar
