"""Numbers of weights, gradients and optimizer states, and the module where a batch stops being finite."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llama_padfix.core.hf_objects import dtype_name
from llama_padfix.core.kinds import require_model
from llama_padfix.training.guard.incident import PLAIN_TYPES, BrokenWeight, Health, MicroBatch, Overflow

if TYPE_CHECKING:
    import torch
    from torch.optim import Optimizer

_MOST_LISTED = 10  # names of parameters, rows and states
_ADAPTERS = ("lora_", "modules_to_save", "trainable_tokens_", "prompt_encoder", "ia3_")  # parts of names of peft


def take_norm(tensors: Iterable[torch.Tensor | None]) -> torch.Tensor | None:
    """Return the Euclidean norm over all tensors, a float32 scalar, without waiting for the device.

    Summed in float32 (a float16 sum would overflow at 65504). Shards of one tensor (DTensor) count whole. None where
    there is no floating point tensor.
    """
    import torch

    groups: dict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = {}
    for tensor in tensors:
        if tensor is None or not tensor.is_floating_point() or tensor.device.type == "meta":
            continue
        values = tensor.detach()
        values = values.coalesce().values() if values.is_sparse else values
        if values.numel():
            groups.setdefault((values.device, values.dtype), []).append(values)
    if not groups:
        return None
    home = next(iter(groups))[0]
    norms = [norm for group in groups.values() for norm in torch._foreach_norm(group, 2, dtype=torch.float32)]
    whole = [norm.full_tensor() if hasattr(norm, "full_tensor") else norm for norm in norms]
    total: torch.Tensor = torch.linalg.vector_norm(torch.stack([norm.to(home) for norm in whole]))
    return total


def take_state_norm(optimizer: Optimizer | None, most: float) -> torch.Tensor | None:
    """Return the Euclidean norm over the states of an optimizer; None where they have more than `most` elements."""
    import torch

    held = [
        value
        for state in (getattr(optimizer, "state", None) or {}).values()
        for value in (state.values() if isinstance(state, Mapping) else ())
        if isinstance(value, torch.Tensor) and value.ndim and not getattr(value, "is_paged", False)
    ]
    return take_norm(held) if sum(value.numel() for value in held) <= most else None


def read_numbers(scalars: Sequence[torch.Tensor | None]) -> list[float | None]:
    """Return the values of scalars on any devices, None for None, in one transfer for each device."""
    import torch

    numbers: list[float | None] = [None] * len(scalars)
    held: dict[torch.device, list[tuple[int, torch.Tensor]]] = {}
    for place, scalar in enumerate(scalars):
        if scalar is not None:
            held.setdefault(scalar.device, []).append((place, scalar))
    for group in held.values():
        values = torch.stack([scalar.detach().float().reshape(()) for _, scalar in group])
        for (place, _), number in zip(group, values.tolist(), strict=True):
            numbers[place] = number
    return numbers


def observe_health(
    model: torch.nn.Module | None, optimizer: Optimizer | None, norm_before: float | None, finite_before: bool
) -> Health:
    """Return the state of weights, gradients and optimizer; reads every weight once, changes nothing."""
    import torch

    named = _named_parameters(model, optimizer)
    trained = {name: p for name, p in named.items() if p.requires_grad}
    frozen = named.keys() - trained.keys()
    held = {id(parameter) for group in _groups(optimizer) for parameter in group["params"]}
    gradients = {name: p.grad for name, p in trained.items() if p.grad is not None}
    norms = dict(zip(gradients, read_numbers([take_norm([g]) for g in gradients.values()]), strict=True))
    finite = sorted((n for n in norms.items() if n[1] is not None and math.isfinite(n[1])), key=lambda n: -(n[1] or 0))
    broken_states, largest_states = observe_states(optimizer, named)
    scale = getattr(optimizer, "grad_scale", None)
    return Health(
        optimizer=type(optimizer).__name__ if optimizer is not None else "",
        groups=tuple(
            {
                name: float(value) if isinstance(value, torch.Tensor) and value.numel() == 1 else value
                for name, value in group.items()
                if name != "params" and isinstance(value, (*PLAIN_TYPES, tuple, torch.Tensor))
            }
            for group in _groups(optimizer)
        ),
        dtypes=dict(Counter(dtype_name(p.dtype) for p in trained.values())),
        parameters=len(trained),
        without_gradient=len(trained) - len(gradients),
        frozen=len(frozen),
        frozen_adapter=sum(any(part in name for part in _ADAPTERS) for name in frozen),
        outside_optimizer=tuple(name for name, norm in norms.items() if norm and id(named[name]) not in held),
        broken_gradients=tuple(name for name, norm in norms.items() if norm is not None and not math.isfinite(norm)),
        largest_gradients={name: norm for name, norm in finite[:_MOST_LISTED] if norm is not None},
        norm_before=norm_before,
        norm_now=read_numbers([take_norm(trained.values())])[0],
        finite_before=finite_before,
        broken_weights=tuple(find_broken_weights(named)),
        broken_states=broken_states,
        largest_states=largest_states,
        loss_scale=read_numbers([scale])[0] if isinstance(scale, torch.Tensor) else None,
    )


def _groups(optimizer: Optimizer | None) -> Sequence[Mapping[str, Any]]:  # `Any` as torch types them
    """Return the parameter groups; none without an optimizer, or of an engine's own kind."""
    return getattr(optimizer, "param_groups", None) or ()


def _named_parameters(model: torch.nn.Module | None, optimizer: Optimizer | None) -> dict[str, torch.Tensor]:
    if model is not None:
        return dict(model.named_parameters())
    held = [parameter for group in _groups(optimizer) for parameter in group["params"]]
    return {f"parameter {place}": parameter for place, parameter in enumerate(held)}


def has_finite_weights(model: torch.nn.Module) -> bool:
    """Return whether no weight of a model is nan or inf; reads every weight once.

    Raises:
        PadfixError: It is no model.
    """
    require_model(model)
    [norm] = read_numbers([take_norm(model.parameters())])
    finite = norm is None or math.isfinite(norm)  # a norm of finite numbers may overflow
    return finite or not any(find_broken_weights(dict(model.named_parameters())))


def find_broken_weights(named: Mapping[str, torch.Tensor]) -> Iterable[BrokenWeight]:
    """Yield the parameters that hold nan or inf, with their rows; reads every weight once."""
    import torch

    for name, parameter in named.items():
        if not parameter.is_floating_point() or parameter.device.type == "meta" or not parameter.numel():
            continue
        values = parameter.detach()
        values = values.to_local() if hasattr(values, "to_local") else values
        if bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all()):
            continue  # a sum of finite numbers may overflow
        rows = values.reshape(values.shape[0], -1) if values.ndim else values.reshape(1, 1)
        places = (~torch.isfinite(rows)).any(dim=1).nonzero().flatten()
        yield BrokenWeight(name, len(places), tuple(places[:_MOST_LISTED].tolist()))


def observe_states(
    optimizer: Optimizer | None, named: Mapping[str, torch.Tensor]
) -> tuple[tuple[str, ...], dict[str, float]]:
    """Return which optimizer states hold nan or inf, and the largest finite magnitude of each kind of state."""
    import torch

    names = {id(parameter): name for name, parameter in named.items()}
    broken: list[str] = []
    largest: dict[str, float] = {}
    for parameter, state in (getattr(optimizer, "state", None) or {}).items():
        for kind, value in state.items() if isinstance(state, Mapping) else ():
            if not isinstance(value, torch.Tensor) or not value.is_floating_point() or not value.numel():
                continue
            value = value.to_local() if hasattr(value, "to_local") else value
            top = float(value.detach().abs().max())
            if math.isfinite(top):
                largest[kind] = max(largest.get(kind, 0.0), top)
            else:
                broken.append(f"{kind} of {names.get(id(parameter), 'a parameter')}")
    return tuple(broken[:_MOST_LISTED]), largest


def trace_overflow(model: torch.nn.Module, micro: MicroBatch) -> Overflow | None:
    """Return the first module whose output is not finite, found by running the batch through the model once more.

    None where every module stays finite, and where the second run raises.
    """
    import torch

    found: list[Overflow] = []
    handles = []

    def make_hook(name: str) -> Callable[..., None]:
        def hook(module: torch.nn.Module, args: object, kwargs: object, output: object) -> None:
            if found:
                return
            bad = next((v for v in _float_tensors(output) if not bool(torch.isfinite(v).all())), None)
            if bad is None:
                return
            inputs = list(_float_tensors((args, kwargs)))
            tops = [float(v[torch.isfinite(v)].abs().max()) for v in inputs if bool(torch.isfinite(v).any())]
            finite = all(bool(torch.isfinite(v).all()) for v in inputs)
            where = f"{name} ({type(module).__name__})"
            found.append(Overflow(where, dtype_name(bad.dtype), max(tops, default=0.0), finite))

        return hook

    try:
        for name, module in model.named_modules():
            handles.append(module.register_forward_hook(make_hook(name or "the model"), with_kwargs=True))
        output = _run_again(model, micro)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found and output is not None else None


def measure_cross_entropy(model: torch.nn.Module, micro: MicroBatch) -> float | None:
    """Return the mean cross-entropy of a batch's trained tokens, by running it through the model once more.

    None where that cannot be: no labels of tokens, no logits, and where the second run raises.
    """
    import torch

    labels = micro.batch.get("labels")
    if labels is None or labels.ndim != 2 or labels.is_floating_point():
        return None
    # Without labels and options: TRL's fused head computes a loss and no logits.
    read = {name: value for name, value in micro.batch.items() if name not in ("labels", "num_items_in_batch")}
    logits = getattr(_run_again(model, MicroBatch(read, autocast=micro.autocast)), "logits", None)
    if not isinstance(logits, torch.Tensor) or logits.shape[:-1] != labels.shape:
        return None
    try:
        return float(torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten()))
    except (RuntimeError, IndexError):  # of memory, or of a label that is no id
        return None


def _run_again(model: torch.nn.Module, micro: MicroBatch) -> Any:  # whatever a model returns
    """Return what the model returns for a batch; None where it raises.

    In evaluation mode (restored afterwards), without gradients, under the autocast of the step.
    """
    import torch

    modes = [(module, module.training) for module in model.modules()]
    device = next((v.device.type for v in micro.batch.values() if hasattr(v, "device")), "cpu")
    try:
        model.eval()
        with torch.no_grad(), torch.autocast(device, dtype=micro.autocast, enabled=micro.autocast is not None):
            return model(**micro.batch, **micro.arguments)
    except Exception:  # the second run must not hide what the first one showed
        return None
    finally:
        for module, mode in modes:
            module.training = mode


def _float_tensors(value: object) -> Iterable[torch.Tensor]:
    import torch

    if isinstance(value, torch.Tensor):
        if value.is_floating_point() and value.numel():
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _float_tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _float_tensors(item)
