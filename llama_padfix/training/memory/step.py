"""One training step of a model of fake tensors: forward, backward, clipping and update, as the Trainer does it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llama_padfix.core.errors import PadfixError
from llama_padfix.training.memory.kernels import autocast_flag, kernels_of
from llama_padfix.training.memory.step_plan_record import StepPlan
from llama_padfix.training.memory.tracker import make_tally

__all__ = ["OPTIMIZERS", "trace_step"]

_CUDA_BLOCK = 512  # bytes; torch's CUDA caching allocator hands out multiples of it (kMinBlockSize)
_CPU_BLOCK = 1
_SMALLEST_8BIT = 4096  # elements; bitsandbytes keeps the state of smaller tensors in float32 (min_8bit_size)
_SMALLEST_PAGED = 100_000  # elements; smaller ones are not paged
_BLOCK_8BIT = 256  # elements that share a scale
_CPU_COPIES = 5

OPTIMIZERS = (
    "adamw_torch",
    "adamw_torch_fused",
    "adamw_8bit",
    "adamw_bnb_8bit",
    "paged_adamw_32bit",
    "paged_adamw_8bit",
    "adafactor",
    "sgd",
)
"""The names of `TrainingArguments.optim` whose memory is known here."""


def trace_step(model: Any, mode: Any, plan: StepPlan) -> Any:
    """Run one step of `plan` on `build_model`'s model and return the tally (see `memory_trace.make_tally`).

    The rows are full; with more than one, they are padded, so that the attention gets a mask. The optimiser has
    its state, and with accumulation the gradients of an earlier micro-batch exist. `tally.paged` is what a paged
    optimiser keeps in memory that the CPU shares. Raises `PadfixError` for a model whose operations depend on data.
    """
    from torch._subclasses import fake_tensor

    rounding = _CUDA_BLOCK if plan.device == "cuda" else _CPU_BLOCK
    tally = make_tally(
        vocab_size=model.get_output_embeddings().weight.shape[0], tokens=plan.batch * plan.length, rounding=rounding
    )
    cannot = [
        getattr(fake_tensor, name)
        for name in ("DataDependentOutputException", "DynamicOutputShapeException", "UnsupportedOperatorException")
        if hasattr(fake_tensor, name)
    ]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise PadfixError("No parameter of the model is trained. Pass lora=True, or leave the quantisation out.")
    hooks = [p.register_post_accumulate_grad_hook(lambda p: tally.claim(p.grad, "gradients")) for p in trained]
    _choose_attention(model, plan)
    try:
        with mode, kernels_of(plan), tally:
            _claim_model(model, plan, tally)
            _run(model, plan, tally, trained)
    except (*cannot, NotImplementedError, RuntimeError) as error:  # what a model may raise on fake tensors
        kind = type(model.get_base_model() if hasattr(model, "get_base_model") else model).__name__
        seen = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise PadfixError(
            f"A step of {kind} cannot be followed without data ({seen}). "
            "Measure it instead: torch.cuda.max_memory_allocated() after one step."
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
        for parameter in trained:
            parameter.grad = None
    return tally


def _choose_attention(model: Any, plan: StepPlan) -> None:
    """Let rows without padding go without a mask.

    transformers takes fake tensors for a compilation, where it always builds one. Releases without
    `AttentionMaskInterface` (before 4.53) do not look.
    """
    name = plan.attention if plan.attention == "eager" else "sdpa"
    if name == "sdpa" and not _is_padded(plan):
        try:
            from transformers import AttentionInterface
            from transformers.masking_utils import AttentionMaskInterface
        except ImportError:
            pass
        else:
            name = "sdpa_without_padding"
            AttentionInterface.register(name, AttentionInterface()["sdpa"])
            AttentionMaskInterface.register(name, lambda *args, **kwargs: None)
    for module in model.modules():
        if hasattr(getattr(module, "config", None), "_attn_implementation"):
            module.config._attn_implementation = name


def _is_padded(plan: StepPlan) -> bool:
    return plan.batch > 1 and not plan.attention.startswith("flash")


def _claim_model(model: Any, plan: StepPlan, tally: Any) -> None:
    for parameter in model.parameters():
        tally.claim(parameter, "adapter" if plan.lora is not None and parameter.requires_grad else "weights")
    state = ("absmax", "nested_absmax", "code", "nested_code", "offset", "scales")
    for name, buffer in model.named_buffers():
        quantized = plan.quantization and name.rsplit(".", 1)[-1] in state
        tally.claim(buffer, "quantization_state" if quantized else "weights")


def _run(model: Any, plan: StepPlan, tally: Any, trained: list[Any]) -> None:
    import torch

    def hold_gradients() -> None:
        for parameter in trained:
            parameter.grad = torch.empty_like(parameter)
            tally.claim(parameter.grad, "gradients")

    hold_gradients()
    update, tally.paged = _make_optimizer(model, plan, trained)
    tally.phase = "optimizer"
    update()
    for parameter in trained:
        parameter.grad = None

    if plan.gradient_accumulation_steps > 1:
        tally.phase = "backward"
        hold_gradients()
    tally.phase = "forward"
    ids = torch.zeros(plan.batch, plan.length, dtype=torch.long)
    inputs = {"input_ids": ids, "labels": torch.zeros_like(ids)}
    if _is_padded(plan):
        inputs["attention_mask"] = torch.ones_like(ids)
    loss = _forward(model, plan, inputs)
    tally.phase = "backward"
    loss.backward()
    del loss
    tally.phase = "optimizer"
    torch.nn.utils.clip_grad_norm_(trained, 1.0, foreach=plan.device == "cuda")
    update()


def _forward(model: Any, plan: StepPlan, inputs: dict[str, Any]) -> Any:
    import torch

    if plan.autocast is None:
        return model(**inputs).loss
    with autocast_flag(plan), torch.autocast("cpu", dtype=plan.autocast):
        outputs = model(**inputs)
    # accelerate's convert_outputs_to_fp32 stands around the forward of every mixed-precision run.
    loss, outputs = outputs.loss, outputs.logits.float()
    del outputs
    return loss


def _make_optimizer(model: Any, plan: StepPlan, trained: list[Any]) -> tuple[Callable[[], Any], int]:
    """Return what makes a step, and the bytes of state that lie in paged memory."""
    import torch

    if plan.optimizer.startswith("adamw_torch"):
        fused = plan.optimizer.endswith("fused")
        # Without fused, torch updates all tensors at once on CUDA and one after another on a CPU.
        how: dict[str, Any] = {"fused": True} if fused else {"foreach": plan.device == "cuda"}
        return torch.optim.AdamW(trained, lr=1e-5, **how).step, 0
    if plan.optimizer == "sgd":
        return torch.optim.SGD(trained, lr=1e-5, foreach=plan.device == "cuda").step, 0
    if plan.optimizer == "adafactor":
        from transformers.optimization import Adafactor

        return Adafactor(trained, lr=1e-5, scale_parameter=False, relative_step=False).step, 0
    return _make_bitsandbytes_optimizer(model, plan, trained)


def _make_bitsandbytes_optimizer(model: Any, plan: StepPlan, trained: list[Any]) -> tuple[Callable[[], Any], int]:
    # By formula: its kernels take pointers. Two states a parameter; no temporaries on CUDA.
    import torch

    # The Trainer keeps the state of embeddings in 32 bits.
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    held: list[Any] = []
    paged = 0
    layout: list[tuple[int, Any]] = []
    for parameter in trained:
        n = parameter.numel()
        narrow = "8bit" in plan.optimizer and n >= _SMALLEST_8BIT and id(parameter) not in embeddings
        size = 1 if narrow else 4
        if plan.optimizer.startswith("paged") and plan.device == "cuda" and n >= _SMALLEST_PAGED:
            paged += 2 * n * size
        else:
            layout += [(n, torch.uint8 if narrow else torch.float32)] * 2
        if narrow:
            layout += [(-(-n // _BLOCK_8BIT), torch.float32)] * 2

    def update() -> None:
        if not held:
            held.extend(torch.empty(n, dtype=dtype) for n, dtype in layout)
        if plan.device == "cpu":  # backends/cpu/ops.py works on float32 copies, one parameter after another
            torch.empty(_CPU_COPIES, max(parameter.numel() for parameter in trained))

    return update, paged
