"""One training step of a model of fake tensors: forward, backward, clipping and update, as the Trainer does it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from llama_padfix.core.errors import PadfixError
from llama_padfix.core.hf_objects import base_model
from llama_padfix.training.memory.kernels import autocast_flag, kernels_of
from llama_padfix.training.memory.tracker import Tally

if TYPE_CHECKING:
    from typing import TypeAlias

    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.nn import Parameter
    from transformers import PreTrainedModel

    from llama_padfix.training.memory.step_plan import StepPlan

    Update: TypeAlias = Callable[[], object]

_CUDA_BLOCK = 512  # bytes; torch's CUDA caching allocator hands out multiples of it (kMinBlockSize)
_CPU_BLOCK = 1
_SMALLEST_8BIT = 4096  # elements; bitsandbytes keeps the state of smaller tensors in float32 (min_8bit_size)
_SMALLEST_PAGED = 100_000  # elements; smaller ones are not paged
_BLOCK_8BIT = 256  # elements that share a scale
_CPU_COPIES = 5  # float32 copies of a parameter


def trace_step(model: PreTrainedModel, mode: FakeTensorMode, plan: StepPlan) -> Tally:
    """Run one step of a plan on fake tensors and return the tally of what it allocates.

    The rows are full; several rows get an attention mask as padded rows would. The optimizer has its state, and with
    accumulation the gradients of an earlier micro-batch exist. `Tally.paged` is what a paged optimizer keeps in memory
    that the CPU shares.

    Args:
        model: The model of `build_model`.
        mode: The fake mode of `build_model`.
        plan: The plan of the step.

    Raises:
        PadfixError: The operations of the model depend on the data, or none of its parameters is trained.
    """
    rounding = _CUDA_BLOCK if plan.device == "cuda" else _CPU_BLOCK
    tally = Tally(
        vocab_size=model.get_output_embeddings().weight.shape[0], tokens=plan.batch * plan.length, rounding=rounding
    )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise PadfixError("No parameter of the model is trained. Pass lora=True, or leave the quantization out.")
    hooks = [p.register_post_accumulate_grad_hook(lambda p: tally.claim(p.grad, "gradients")) for p in trained]
    _choose_attention(model, plan)
    try:
        with mode, kernels_of(plan.device, plan.autocast), tally:
            _claim_model(model, plan, tally)
            _run(model, plan, tally, trained)
    except PadfixError:
        raise
    except Exception as error:  # what a model may raise on fake tensors, or with settings that it cannot compute
        kind = type(base_model(model)).__name__
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise PadfixError(
            f"A step of {kind} cannot be followed without data ({reason}). "
            "Check its config.json, or measure it instead: torch.cuda.max_memory_allocated() after one step."
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
        for parameter in trained:
            parameter.grad = None
    return tally


def _choose_attention(model: PreTrainedModel, plan: StepPlan) -> None:
    """Make the model build no mask for rows without padding.

    transformers takes fake tensors for a compilation, where it always builds a mask. Releases without
    `AttentionMaskInterface` (before 4.53) do not.
    """
    name = plan.attention if plan.attention == "eager" else "sdpa"
    if name == "sdpa" and not plan.is_padded:
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


def _claim_model(model: PreTrainedModel, plan: StepPlan, tally: Tally) -> None:
    for parameter in model.parameters():
        tally.claim(parameter, "adapter" if plan.lora is not None and parameter.requires_grad else "weights")
    state = ("absmax", "nested_absmax", "code", "nested_code", "offset", "scales")
    for name, buffer in model.named_buffers():
        quantized = plan.quantization and name.rsplit(".", 1)[-1] in state
        tally.claim(buffer, "quantization_state" if quantized else "weights")


def _run(model: PreTrainedModel, plan: StepPlan, tally: Tally, trained: list[Parameter]) -> None:
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
    if plan.is_padded:
        inputs["attention_mask"] = torch.ones_like(ids)
    loss = _forward(model, plan, inputs)
    tally.phase = "backward"
    loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
    del loss
    tally.phase = "optimizer"
    torch.nn.utils.clip_grad_norm_(trained, 1.0, foreach=plan.device == "cuda")
    update()


def _forward(model: PreTrainedModel, plan: StepPlan, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    import torch

    if plan.autocast is None:
        whole: torch.Tensor = model(**inputs).loss
        return whole
    with autocast_flag(plan.device), torch.autocast("cpu", dtype=plan.autocast):
        outputs = model(**inputs)
    # accelerate's convert_outputs_to_fp32 stands around the forward of every mixed-precision run.
    loss: torch.Tensor = outputs.loss
    outputs = outputs.logits.float()
    del outputs
    return loss


def _make_optimizer(model: PreTrainedModel, plan: StepPlan, trained: list[Parameter]) -> tuple[Update, int]:
    """Return the function that makes an update, and the bytes of state in paged memory."""
    import torch

    if plan.optimizer.startswith("adamw_torch"):
        fused = plan.optimizer.endswith("fused")
        # Without fused, torch updates all tensors at once on CUDA and one after another on a CPU.
        foreach = None if fused else plan.device == "cuda"
        return torch.optim.AdamW(trained, lr=1e-5, fused=fused or None, foreach=foreach).step, 0
    if plan.optimizer == "sgd":
        return torch.optim.SGD(trained, lr=1e-5, foreach=plan.device == "cuda").step, 0
    if plan.optimizer == "adafactor":
        from transformers.optimization import Adafactor

        return Adafactor(trained, lr=1e-5, scale_parameter=False, relative_step=False).step, 0
    return _make_bitsandbytes_optimizer(model, plan, trained)


def _make_bitsandbytes_optimizer(
    model: PreTrainedModel, plan: StepPlan, trained: list[Parameter]
) -> tuple[Update, int]:
    # By formula, because its kernels take pointers. Two states a parameter; no temporaries on CUDA.
    import torch

    # The Trainer keeps the state of embeddings in 32 bits.
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    state: list[torch.Tensor] = []
    paged = 0
    layout: list[tuple[int, torch.dtype]] = []
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
        if not state:
            state.extend(torch.empty(n, dtype=dtype) for n, dtype in layout)
        if plan.device == "cpu":  # backends/cpu/ops.py works on float32 copies, one parameter after another
            torch.empty(_CPU_COPIES, max(parameter.numel() for parameter in trained))

    return update, paged
