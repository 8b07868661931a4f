"""What is read off a Hugging Face model or config in more than one room."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["read_layer", "read_quantization_config", "text_config"]


def text_config(model: Any) -> Any:
    """Return the config that holds the special ids: that of the text part, where a model has several parts."""
    return model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config


def read_layer(model: Any, getter: str) -> Any:
    """Return what the method `getter` of a model returns; None where the model has no such layer."""
    try:
        return getattr(model, getter)()
    except (AttributeError, NotImplementedError):  # a model without that layer
        return None


def read_quantization_config(config: object) -> dict[str, Any]:
    """Return the entries of a config's `quantization_config`, `quant_method` as text; {} where it has none."""
    held = getattr(config, "quantization_config", None)
    if not held:
        return {}
    entries = dict(held) if isinstance(held, Mapping) else held.to_dict()
    method = entries.get("quant_method")
    return {**entries, "quant_method": getattr(method, "value", method)}
