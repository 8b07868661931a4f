"""Low-rank adapters: which modules get one, and a model that is ready to train them."""

from __future__ import annotations

import copy
import importlib.util
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from llama_padfix.core.choices import Choice
from llama_padfix.core.compat import enable_checkpointing
from llama_padfix.core.errors import PadfixError, describe
from llama_padfix.core.hf_objects import read_layer, text_config
from llama_padfix.core.kinds import require_model
from llama_padfix.hardware.precision import Precision

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig, PeftModel

    from llama_padfix.core.types import ModelLike

_DEFAULTS = {"r": 16, "lora_alpha": 16, "lora_dropout": 0.0, "bias": "none", "task_type": "CAUSAL_LM"}
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_IN_A_LAYER = re.compile(r"\.\d+\.")
_ROUTER = re.compile(r"gate|router")


def find_lora_targets(model: ModelLike) -> list[str] | str:
    """Return what `LoraConfig(target_modules=...)` needs to adapt every linear projection of the text layers.

    The output layer, embeddings, vision and audio towers, their connectors and the routers of a mixture of experts
    are left out.

    Args:
        model: A model of any family; one on the meta device will do.

    Returns:
        The names as the model has them, for Llama the seven of its projections (q, k, v, o, gate, up, down); one
        regular expression where a module outside of the text layers has such a name too.

    Raises:
        PadfixError: The model has no linear projection in its layers.
    """
    require_model(model)
    inside, others = [], set()
    stack = _text_stack(model)
    head = read_layer(model, "get_output_embeddings")
    routers = _router_sizes(model)
    for path, module in _linear_modules(model):
        in_layer = path.startswith(stack) and _IN_A_LAYER.search(f".{path.removeprefix(stack)}")
        if in_layer and module is not head and not _is_router(path, module, routers):
            inside.append(path)
        else:
            others.add(_last(path))
    if not inside:
        raise PadfixError(
            f"{type(model).__name__} has no linear projections in its layers to adapt. Name the modules yourself: "
            "lora=LoraConfig(target_modules=[...])"
        )
    names = list(dict.fromkeys(map(_last, inside)))
    if not others & set(names):
        return names
    # PEFT matches a string against the whole path, and a name in a list against its end.
    return "|".join(dict.fromkeys(map(_as_pattern, inside)))


# `Any`: a `LoraConfig`, and None only for a caller that asked for none.
def choose_lora(requested: object, model: ModelLike | None = None) -> tuple[Any, Choice | None]:
    """Return the `peft.LoraConfig` to attach (None for none), and the reason.

    Args:
        requested: None or False, True (r 16, alpha 16, dropout 0, every projection that `find_lora_targets` finds), a
            mapping of fields that replace those, or a `LoraConfig`, of which only missing targets are filled in.
        model: The model, or its shape on the meta device, to find and to verify the targets.

    Raises:
        PadfixError: A target is not in the model, a field is unknown, or PEFT is missing.
    """
    if requested is None or requested is False:
        return None, None
    if importlib.util.find_spec("peft") is None:
        raise PadfixError("lora= needs PEFT, and it is not installed. Run: pip install peft")
    import peft

    if isinstance(requested, peft.LoraConfig):
        config = copy.deepcopy(requested)
    elif requested is True or isinstance(requested, Mapping):
        config = _build_config({} if requested is True else requested)
    else:
        raise PadfixError(
            f"lora={describe(requested)} is neither True nor a LoraConfig nor its fields. The usual one: lora=True"
        )
    if config.target_modules is None and not getattr(config, "target_parameters", None) and model is not None:
        found = find_lora_targets(model)
        config.target_modules = found if isinstance(found, str) else set(found)  # as PEFT holds it
    elif model is not None:
        _require_targets(config, model)
    reason = _describe_targets(config)
    if model is not None and any(find_experts(model)):
        reason += "; the experts' fused weights stay frozen (LoraConfig(target_parameters=...) adapts those)"
    return config, Choice("lora", f"r={config.r}, alpha={config.lora_alpha}", reason)


def prepare_for_training(
    model: ModelLike, *, quantized: bool, gradient_checkpointing: bool = True, sharded: bool = False
) -> Choice:
    """Freeze and upcast quantized weights as PEFT does, and switch gradient checkpointing on; return what was done.

    Checkpointing is the non-reentrant kind, which works with frozen inputs, DDP and FSDP. With `sharded` quantized
    weights are frozen only: FSDP flattens tensors of one type, and the upcast would give it two. The fused experts of
    a mixture, which bitsandbytes does not quantize, keep their type: float32 would be twice the memory.
    """
    can = bool(getattr(model, "supports_gradient_checkpointing", False))
    on = gradient_checkpointing and can
    if quantized and not sharded and importlib.util.find_spec("peft") is not None:
        _freeze_and_upcast(model)
    elif quantized:
        model.requires_grad_(False)
    if not on:
        reason = "as asked" if can else f"{type(model).__name__} does not support it"
        return Choice("gradient checkpointing", "off", reason)
    enable_checkpointing(model, {"use_reentrant": False})
    reason = "activations are computed again in the backward pass: less memory, about a third more time"
    return Choice("gradient checkpointing", "on, use_reentrant=False", reason)


def _freeze_and_upcast(model: ModelLike) -> None:
    from peft import prepare_model_for_kbit_training

    experts = [(parameter, parameter.data) for _, parameter in find_experts(model)]
    for parameter, data in experts:
        parameter.data = data.new_empty(0)  # all that PEFT casts while they are away is nothing
    try:
        prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    finally:
        for parameter, data in experts:
            parameter.data = data


def find_experts(model: ModelLike) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Yield the fused weights of a mixture's experts, by name: parameters of three dimensions in no convolution."""
    for path, module in model.named_modules():
        if not hasattr(module, "kernel_size"):
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.dim() == 3:
                    yield f"{path}.{name}", parameter


def attach_lora(
    model: ModelLike, config: LoraConfig, precision: Precision, *, gradient_checkpointing: bool = True, seed: int = 0
) -> PeftModel:
    """Return the `PeftModel` of `model` with fresh adapters, the same for the same seed in every process.

    Trainable weights are float32 unless the run computes in bfloat16, where PEFT's own choice stays: the scaler of
    an fp16 run refuses float16 gradients. Raises `PadfixError` where PEFT cannot adapt a module.
    """
    import peft
    import torch

    if gradient_checkpointing:
        # So that adapters train behind frozen embeddings, whatever kind of checkpointing a trainer sets later.
        model.enable_input_require_grads()
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        try:
            adapted = peft.get_peft_model(model, config)
        except (ValueError, TypeError) as error:
            raise PadfixError(
                f"PEFT cannot attach these adapters: {error} Let the modules be found: lora=True"
            ) from error
    keep_trainable_float32(adapted, precision)
    return adapted


def keep_trainable_float32(model: ModelLike, precision: Precision) -> tuple[str, ...]:
    """Cast trainable weights of 16 bits to float32 where the run does not compute in bfloat16, in place.

    Call it again once a trainer is built and before it trains: TRL casts the adapters of a quantized model to
    bfloat16 in every run, also in fp16 and float32 ones.

    Args:
        model: A model with its adapter.
        precision: What the run computes in; with bfloat16 nothing is cast.

    Returns:
        The names of the parameters that were cast.
    """
    import torch

    require_model(model)
    if precision.bf16:
        return ()
    cast = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.dtype in (torch.float16, torch.bfloat16):
            parameter.data = parameter.data.float()
            cast.append(name)
    return tuple(cast)


def _build_config(fields: Mapping[str, object]) -> LoraConfig:
    import peft

    known = inspect.signature(peft.LoraConfig.__init__).parameters
    unknown = [name for name in fields if name not in known]
    try:
        return peft.LoraConfig(**{**_DEFAULTS, **fields})
    except TypeError as error:
        seen = f"LoraConfig knows no {', '.join(map(repr, unknown))}"
        raise PadfixError(
            f"{seen if unknown else f'lora={describe(dict(fields))} is not understood: {error}'}. Pass fields of "
            "peft.LoraConfig, such as lora={'r': 32, 'lora_alpha': 32}"
        ) from error


def _describe_targets(config: LoraConfig) -> str:
    targets = config.target_modules
    if targets is None:
        return "the modules are those of PEFT's own table, or the parameters that were named"
    named = targets if isinstance(targets, str) else ", ".join(sorted(targets))
    return f"on {named if len(named) < 200 else named[:200] + '...'}; dropout {config.lora_dropout}"


def _require_targets(config: LoraConfig, model: ModelLike) -> None:
    targets = config.target_modules
    if targets is None or targets == "all-linear":
        return
    paths = [path for path, _ in model.named_modules() if path]
    if isinstance(targets, str):
        absent = [] if any(re.fullmatch(targets, path) for path in paths) else [targets]
    else:
        absent = [name for name in sorted(targets) if not any(_names(path, name) for path in paths)]
    if absent:
        try:
            found = find_lora_targets(model)
        except PadfixError:
            found = "none"
        raise PadfixError(
            f"{type(model).__name__} has no module named {', '.join(map(repr, absent))}. Its linear projections: "
            f"{found if isinstance(found, str) else ', '.join(found)}. Let them be found: lora=True"
        )


def _names(path: str, target: str) -> bool:
    return path == target or path.endswith(f".{target}")


def _linear_modules(model: ModelLike) -> Iterator[tuple[str, torch.nn.Module]]:
    import torch

    for path, module in model.named_modules():
        # The layers of bitsandbytes are subclasses of Linear; GPT-2's Conv1D is a linear layer, transposed.
        if isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D":
            yield path, module


def _text_stack(model: ModelLike) -> str:
    """Return the path of the module that holds the input embedding, with its dot: other parts lie outside of it."""
    embedding = read_layer(model, "get_input_embeddings")
    for path, module in model.named_modules():
        if module is embedding and embedding is not None:
            parent = path.rpartition(".")[0]
            while parent and not _holds_layers(model, parent):  # BERT and GPT keep it in a block of its own
                parent = parent.rpartition(".")[0]
            return f"{parent}." if parent else ""
    return ""


def _holds_layers(model: ModelLike, path: str) -> bool:
    return any(_IN_A_LAYER.search(f".{inner}.") for inner, _ in model.get_submodule(path).named_modules())


def _router_sizes(model: ModelLike) -> frozenset[int]:
    text = text_config(getattr(model, "config", None))
    sizes = {getattr(text, name, None) for name in _EXPERTS}
    # A projection to one number weighs a shared expert.
    return frozenset({size for size in sizes if isinstance(size, int)} | {1}) if sizes - {None} else frozenset()


def _is_router(path: str, module: torch.nn.Module, sizes: frozenset[int]) -> bool:
    return getattr(module, "out_features", None) in sizes and _ROUTER.search(_last(path)) is not None


def _last(path: str) -> str:
    return path.rpartition(".")[2]


def _as_pattern(path: str) -> str:
    return r"\.".join(r"\d+" if part.isdigit() else re.escape(part) for part in path.split("."))
