"""The model of a training step without its numbers: built on the meta device, then given fake tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from llama_padfix.core.compat import enable_checkpointing, name_dtype_argument
from llama_padfix.core.errors import PadfixError
from llama_padfix.core.hf_objects import base_model
from llama_padfix.training.adapters.lora import attach_lora, choose_lora, find_experts
from llama_padfix.training.memory.kernels import autocast_flag, define_4bit, define_int8, kernels_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers import PreTrainedModel

    from llama_padfix.training.memory.step_plan import StepPlan


def build_model(plan: StepPlan) -> tuple[PreTrainedModel, FakeTensorMode]:
    """Build the model of a plan without its numbers: nothing is read, and only the modules are allocated.

    Returns:
        The model in training mode, with all tensors fake and on the CPU, and the mode of these tensors.

    Raises:
        PadfixError: `AutoModelForCausalLM` does not build the configuration, or peft or bitsandbytes is missing.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    with torch.device("meta"):
        model = _build_on_meta(plan)
        if plan.quantization:
            _quantize(model, plan)
            _hold_rest_in_float32(model)
        if plan.lora is not None:
            adapter, _ = choose_lora(plan.lora, model)
            model = attach_lora(model, adapter, plan.precision, gradient_checkpointing=plan.gradient_checkpointing)
    if plan.parameters is not None:
        _copy_settings(model, plan.parameters)
    if plan.gradient_checkpointing:
        _checkpoint(model, plan)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        _give_fake_tensors(model)
    model.train()
    return model, mode


def _build_on_meta(plan: StepPlan) -> PreTrainedModel:
    import copy

    from transformers import AutoModelForCausalLM

    # A flash kernel's package is not needed to know what it allocates; see `step`.
    attention = "eager" if plan.attention == "eager" else "sdpa"
    try:
        # A copy: the model writes its attention and its cache into it.
        return AutoModelForCausalLM.from_config(
            copy.deepcopy(plan.config), attn_implementation=attention, **{name_dtype_argument(): plan.dtype}
        )
    except Exception as error:  # whatever a setting of another type makes transformers and torch raise
        raise PadfixError(
            f"A causal language model of type {getattr(plan.config, 'model_type', None)!r} could not be built from "
            f"its configuration ({type(error).__name__}: {error}). Pass the configuration of one that "
            "transformers.AutoModelForCausalLM.from_config builds."
        ) from error


def _copy_settings(model: PreTrainedModel, settings: Mapping[str, tuple[torch.dtype, bool]]) -> None:
    own = dict(model.named_parameters())
    if own.keys() != settings.keys():
        odd = sorted(own.keys() ^ settings.keys())
        raise PadfixError(
            f"The model differs from what its configuration builds ({len(odd)} parameters, such as {odd[0]}). "
            "Estimate the plain model: estimate_memory(model.config, ...)"
        )
    for name, parameter in own.items():
        dtype, trained = settings[name]
        if parameter.dtype.is_floating_point and dtype.is_floating_point:  # packed weights stay as they are
            parameter.data = parameter.data.to(dtype)
            parameter.requires_grad_(trained)


def _hold_rest_in_float32(model: PreTrainedModel) -> None:
    # As peft.prepare_model_for_kbit_training does, which would write to the packed weights here as well.
    import torch

    experts = {id(parameter) for _, parameter in find_experts(model)}  # which `load` leaves as they are
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        if parameter.dtype in (torch.float16, torch.bfloat16) and id(parameter) not in experts:
            parameter.data = parameter.data.to(torch.float32)


def _checkpoint(model: PreTrainedModel, plan: StepPlan) -> None:
    # preserve_rng_state would read the true generator, which fake tensors cannot; it holds a few kilobytes.
    settings: dict[str, object] = {
        "use_reentrant": False,
        "preserve_rng_state": False,
        "context_fn": _recompute_alike(plan),
    }
    base = base_model(model)
    try:
        enable_checkpointing(base, settings)
    except (AttributeError, ValueError) as error:
        raise PadfixError(
            f"{type(base).__name__} has no gradient checkpointing ({error}). Pass gradient_checkpointing=False"
        ) from error


def _recompute_alike(
    plan: StepPlan,
) -> Callable[[], tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]]:
    # checkpoint restores its own autocast only; torch's function modes are off in a backward pass.
    @contextlib.contextmanager
    def again() -> Iterator[None]:
        flag = autocast_flag(plan.device) if plan.autocast is not None else contextlib.nullcontext()
        with kernels_of(plan.device, plan.autocast), flag:
            yield

    return lambda: (contextlib.nullcontext(), again())


def _give_fake_tensors(model: PreTrainedModel) -> None:
    import torch

    given: dict[torch.Tensor, torch.Tensor] = {}  # tied weights stay tied
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                if tensor not in given:
                    fake = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
                    if isinstance(tensor, torch.nn.Parameter):
                        fake = torch.nn.Parameter(fake, requires_grad=tensor.requires_grad)
                    given[tensor] = fake
                tensors[name] = given[tensor]


def _quantize(model: PreTrainedModel, plan: StepPlan) -> None:
    """Replace all linear layers but the output layer by layers that allocate what bitsandbytes' do."""
    import torch

    if plan.quantization == "int8":
        make_layer = define_int8(plan.device)
    else:
        make_layer = define_4bit(str(plan.quantization), double=plan.double_quantization, autocast=plan.autocast)
    head = model.get_output_embeddings()
    for name, module in list(model.named_modules()):
        if type(module) is not torch.nn.Linear or module is head:
            continue
        if any(part in name.split(".") or part == name for part in plan.unquantized):
            continue
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, make_layer(module))
    # peft reads these to choose its 4-bit and 8-bit layers.
    model.is_loaded_in_8bit = plan.quantization == "int8"
    model.is_loaded_in_4bit = not model.is_loaded_in_8bit
