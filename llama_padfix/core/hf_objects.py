"""What is read off a Hugging Face model or config in more than one room."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def text_config(config: object) -> Any:  # `Any`: the fields of a config differ by model type
    """Return the config of the text part, where a model has several parts; else the config itself.

    It holds the special ids and the sizes of the vocabulary and of the layers.
    """
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def read_layer(model: object, getter: str) -> Any:  # `Any`: a module whose attributes differ by model type
    """Return the layer that the method `getter` of a model returns; None if the model has no such layer.

    Args:
        model: A model, or a stand-in for one.
        getter: `"get_input_embeddings"` or `"get_output_embeddings"`.
    """
    try:
        return getattr(model, getter)()
    except (AttributeError, NotImplementedError):  # what models without that layer raise
        return None


def base_model(model: Any) -> Any:  # `Any`: a model of any class, of transformers or PEFT
    """Return the model under an adapter; a model without one as it is."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def read_quantization_config(config: object) -> dict[str, Any]:  # `Any`: the values of config.json
    """Return the entries of a config's `quantization_config`, `quant_method` as text; {} where it has none."""
    held = getattr(config, "quantization_config", None)
    if not held:
        return {}
    if isinstance(held, Mapping):
        entries = dict(held)
    else:  # a config of transformers, or what a damaged config.json holds
        entries = held.to_dict() if hasattr(held, "to_dict") else {"quant_method": held}
    method = entries.get("quant_method")
    return {**entries, "quant_method": getattr(method, "value", method)}


def dtype_name(dtype: torch.dtype | str) -> str:
    """Return the name of a torch dtype as configs and messages write it, such as "bfloat16"."""
    return str(dtype).removeprefix("torch.")
