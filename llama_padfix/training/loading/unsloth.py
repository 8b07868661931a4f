"""The same choices, carried out by Unsloth: only keywords that its GPU and its CPU functions share."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llama_padfix.core.choices import Choice
from llama_padfix.core.errors import PadfixError, describe

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from llama_padfix.core.types import DeviceMap, Quantization
    from llama_padfix.training.loading.arguments import Keywords, LoadSettings

_SHARED = ("token", "revision")  # besides those that the choices fill in
# The fields of a LoraConfig that both functions take. Any other that differs from its default cannot be passed on.
_LORA_FIELDS = (
    "r",
    "lora_alpha",
    "lora_dropout",
    "bias",
    "layers_to_transform",
    "layers_pattern",
    "use_rslora",
    "modules_to_save",
    "init_lora_weights",
)
_MADE_BY_PEFT = ("peft_type", "auto_mapping", "base_model_name_or_path", "peft_version", "task_type", "inference_mode")


def require_unsloth(keywords: Mapping[str, object], quantization: Quantization, attention: str) -> None:
    """Raise `PadfixError` where Unsloth is missing, or does not have an argument on every device.

    Imports Unsloth, which patches transformers, TRL and PEFT as it is imported.
    """
    others = [name for name in keywords if name not in (*_SHARED, "trust_remote_code")]
    if attention != "auto":
        others.append("attention")
    if not (quantization is None or isinstance(quantization, str)):
        others.append("BitsAndBytesConfig (it builds its own)")
    if others:
        raise PadfixError(
            f"backend='unsloth' passes on {', '.join(_SHARED)} and no {', '.join(others)}: its functions for GPU and "
            "CPU do not share more. Leave it out, or load with backend='transformers'"
        )
    if importlib.util.find_spec("unsloth") is None:
        raise PadfixError(
            "backend='unsloth' needs Unsloth, which is not installed here. Give it an environment of its own "
            "(it holds transformers and trl back): pip install unsloth"
        )
    _import_unsloth()


def name_unsloth_arguments(
    settings: LoadSettings,
    quantization: Quantization,
    dtype: torch.dtype | str | None,
    device_map: DeviceMap,
    trains_all: bool,
) -> tuple[Keywords, list[Choice]]:
    """Return the keywords of `FastLanguageModel.from_pretrained`, and the reasons.

    `dtype`, `device_map` and `settings.max_length` None leave the choice to Unsloth.
    """
    from importlib.metadata import version

    arguments: Keywords = {
        "dtype": dtype,
        "load_in_4bit": quantization == "nf4",
        "load_in_8bit": quantization == "int8",
        "full_finetuning": trains_all,
        "use_gradient_checkpointing": _checkpointing(settings.gradient_checkpointing),
    }
    optional = {"max_seq_length": settings.max_length, "device_map": device_map}
    arguments |= {name: value for name, value in optional.items() if value is not None}
    choices = [
        Choice("backend", f"unsloth {version('unsloth')}", "as asked; its own chat templates are not used"),
        Choice("weights, attention", "Unsloth's own", "it picks both by the device" if dtype is None else "as asked"),
        Choice("gradient checkpointing", str(arguments["use_gradient_checkpointing"]), "as asked"),
    ]
    if settings.max_length is None:
        choices.append(Choice("max_length", "2048", "Unsloth's own, since none was given"))
    return arguments, choices


def load_with_unsloth(path: str, **arguments: object) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the `(model, tokenizer)` of `FastLanguageModel.from_pretrained`.

    Raises `PadfixError` where it falls back to 16 bits from 4 or 8, as it does on a CPU for 8 bits and for layers
    narrower than 64.
    """
    model, tokenizer = _import_unsloth().FastLanguageModel.from_pretrained(model_name=path, **arguments)
    for requested, expected in (("load_in_4bit", "Linear4bit"), ("load_in_8bit", "Linear8bitLt")):
        if arguments[requested] and not any(type(module).__name__ == expected for module in model.modules()):
            raise PadfixError(
                f"Unsloth loaded no {expected} layer, though {requested} was asked for: it does not do that for this "
                "model on this device. Load with backend='transformers', or with quantization=None"
            )
    # Its tokenizer may come inside of a processor.
    return model, getattr(tokenizer, "tokenizer", tokenizer)


def attach_unsloth_lora(
    model: PreTrainedModel, config: LoraConfig, *, gradient_checkpointing: bool, seed: int
) -> PeftModel:
    """Return the adapted model of `FastLanguageModel.get_peft_model`, from the fields of a `peft.LoraConfig`.

    Raises `PadfixError` for a field that Unsloth does not take on every device.
    """
    import peft

    default = peft.LoraConfig()
    refused = [
        name
        for name, value in vars(config).items()
        if name not in (*_LORA_FIELDS, *_MADE_BY_PEFT, "target_modules") and value != getattr(default, name, None)
    ]
    if refused:
        raise PadfixError(
            f"Unsloth takes no {', '.join(refused)} of a LoraConfig "
            f"({describe({name: getattr(config, name) for name in refused})}). Load with backend='transformers'"
        )
    targets = config.target_modules
    return _import_unsloth().FastLanguageModel.get_peft_model(
        model,
        target_modules=targets if isinstance(targets, str) else sorted(targets),
        use_gradient_checkpointing=_checkpointing(gradient_checkpointing),
        random_state=seed,
        **{name: getattr(config, name) for name in _LORA_FIELDS},
    )


def _import_unsloth() -> Any:  # a package that is not a dependency
    return importlib.import_module("unsloth")


def _checkpointing(on: bool) -> str | bool:
    return "unsloth" if on else False
