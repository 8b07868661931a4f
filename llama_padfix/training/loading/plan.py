"""What loading a checkpoint will do, and why, before any of its weights is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from llama_padfix.core.choices import Choice, choices_html
from llama_padfix.hardware.devices import choose_device_map, read_launch
from llama_padfix.hardware.precision import Precision, choose_precision, import_torch
from llama_padfix.training.adapters.lora import choose_lora
from llama_padfix.training.loading.arguments import (
    Backend,
    LoadSettings,
    choose_dtype,
    choose_kernel,
    describe_precision,
    name_arguments,
    name_path_in_errors,
    read_config,
    require_known,
    switch_cache_off,
    take_dtype,
    take_renamed,
)
from llama_padfix.training.loading.checkpoint import (
    build_shape,
    require_complete_folder,
    require_ids,
    require_length,
    require_weights,
)
from llama_padfix.training.loading.quantization import choose_quantization, describe_experts, read_quantization
from llama_padfix.training.loading.unsloth import name_unsloth_arguments, require_unsloth

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PretrainedConfig

    from llama_padfix.core.types import DeviceMap, Lora, Quantization

_OTHER_FILES = {
    "subfolder",
    "variant",
    "gguf_file",
    "state_dict",
    "key_mapping",
    "ignore_mismatched_sizes",
    "use_safetensors",
}
_SHARED = ("trust_remote_code", "revision", "token", "cache_dir", "local_files_only")  # for the tokenizer as well


@dataclass(frozen=True)
class LoadPlan:
    """What `load` will do, and why, before any weight is read."""

    path: str
    """The folder, or the name on the hub."""
    backend: Backend
    """What loads the weights."""
    precision: Precision
    """What the run computes in."""
    model_arguments: Mapping[str, Any]  # as `Keywords`, for this and the next
    """The keywords of `AutoModelForCausalLM.from_pretrained`, or of Unsloth's function."""
    tokenizer_arguments: Mapping[str, Any]
    """The keywords of `AutoTokenizer.from_pretrained`."""
    lora: LoraConfig | None
    """The adapter to attach; None for none."""
    quantized: bool
    """True for a checkpoint that was saved quantized, too."""
    sharded: bool
    """True where FSDP or DeepSpeed spreads the weights."""
    config: PretrainedConfig = field(repr=False)
    """The config of the checkpoint."""
    choices: tuple[Choice, ...] = ()
    """Each decision with its reason."""

    def __repr__(self) -> str:
        return f"LoadPlan({self.path!r}, backend={self.backend!r}, {len(self.choices)} choices)"

    def __str__(self) -> str:
        return "\n".join(str(choice) for choice in self.choices)

    def _repr_html_(self) -> str:
        return choices_html(self.choices)


def plan_load(
    name_or_path: str | Path,
    *,
    quantization: Quantization = None,
    precision: Precision | None = None,
    attention: str = "auto",
    lora: Lora = None,
    device_map: DeviceMap = "auto",
    backend: Backend = "transformers",
    max_length: int | None = None,
    gradient_checkpointing: bool = True,
    strict: bool = False,
    trust_remote_code: bool = False,
    **from_pretrained: object,
) -> LoadPlan:
    """Return what `load` would do, and why: nothing is loaded but the config, nothing is printed.

    Args:
        name_or_path: A folder, or a name on the hub.
        from_pretrained: As all other keywords, those of `load`.

    Returns:
        The plan; print it to read each decision with its reason.

    Raises:
        PadfixError: Where `load` would raise it before it reads weights.
    """
    settings = LoadSettings(
        quantization, precision, attention, lora, device_map, backend, max_length, gradient_checkpointing, strict
    )
    return plan_from_settings(name_or_path, settings, trust_remote_code=trust_remote_code, **from_pretrained)


def plan_from_settings(name: str | Path, settings: LoadSettings, /, **keywords: Any) -> LoadPlan:  # as `Keywords`
    """Return the plan for the keywords of `load`, those of `from_pretrained` among them."""
    backend, size = settings.backend, settings.max_length
    path = require_known(name, backend, settings.precision)
    quantization, attention = take_renamed(keywords, settings.quantization, settings.attention)
    torch = import_torch()
    own_dtype = take_dtype(keywords)
    require_complete_folder(Path(path))
    if backend == "unsloth":
        require_unsloth(keywords, quantization, attention)
    launch = read_launch()
    precision = settings.precision or choose_precision()
    shared = {name: keywords[name] for name in _SHARED if name in keywords}
    with name_path_in_errors(path, "Fix that in config.json, or copy the one that was saved with the weights."):
        config = read_config(path, keywords)
    require_length(size, config)
    require_ids(config, path)
    quantized = quantization is not None or read_quantization(config) is not None
    trains_all = not settings.lora and not quantized
    dtype, why_dtype = choose_dtype(own_dtype, precision, trains_all)
    number = dtype if isinstance(dtype, torch.dtype) else precision.dtype
    bits, why_bits = choose_quantization(quantization, precision, config, weights=number)
    shape = build_shape(config, keywords["trust_remote_code"])
    adapter, why_lora = choose_lora(settings.lora, shape)
    unseen = None
    if launch.sharded_by is None and not _OTHER_FILES & keywords.keys():
        unseen = require_weights(Path(path), shape, config)
    places, why_places = choose_device_map(settings.device_map, launch, quantized=quantized)
    experts = describe_experts(shape, dtype) if bits is not None else None
    choices = [describe_precision(precision), why_bits, why_dtype, why_places]
    choices += [each for each in (experts, unseen) if each is not None]

    if backend == "unsloth":
        taken = places if launch.is_distributed or settings.device_map != "auto" else None
        arguments, own = name_unsloth_arguments(settings, quantization, own_dtype, taken, trains_all)
        choices = [*own, why_bits]
    else:
        computes_in = getattr(bits, "bnb_4bit_compute_dtype", None) or number
        kernel = choose_kernel(attention, computes_in, shape, config, settings.strict)
        choices += [kernel] if kernel is not None else []
        arguments = name_arguments(dtype, bits, places, kernel)
        if settings.gradient_checkpointing:
            arguments |= switch_cache_off(keywords, config)
    if size is not None:
        shared["model_max_length"] = size
        choices.append(Choice("max_length", str(size), "as asked; it is the tokenizer's model_max_length"))
    choices += [why_lora] if why_lora is not None else []
    return LoadPlan(
        path=path,
        backend=backend,
        precision=precision,
        model_arguments=MappingProxyType({**arguments, **keywords}),
        tokenizer_arguments=MappingProxyType(shared),
        lora=adapter,
        quantized=quantized,
        sharded=launch.sharded_by is not None,
        config=config,
        choices=tuple(choices),
    )
