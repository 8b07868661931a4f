"""Fields of a config for which no model can be built, or for which another one would be: named with their values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_padfix.core.errors import PadfixError, describe
from llama_padfix.core.hf_objects import read_quantization_config, text_config

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_SIZES = ("num_hidden_layers", "hidden_size", "vocab_size")
_WRAPPERS = ("FSDP", "Peft")  # what libraries write in front of the class that they wrapped


def require_fields(config: PretrainedConfig, path: str, *, runs_code: bool) -> None:
    """Raise `PadfixError` for sizes below 1, a class and a quantization that transformers does not have.

    transformers builds a model without layers, takes the class of `model_type`, and leaves the weights as they are.

    Args:
        config: The config that was read.
        path: The folder, or the name on the hub.
        runs_code: Whether code of the checkpoint is run, which may bring its own class.
    """
    where = f"config.json of {path!r}"
    text = text_config(config)
    for name in _SIZES:
        size = getattr(text, name, None)
        if isinstance(size, int) and size < 1:
            written = (getattr(text, "attribute_map", None) or {}).get(name, name)
            raise PadfixError(
                f"{where} has {written}={size}: no model has such a size. Write the true one, or copy the config.json "
                "again that was saved with the weights."
            )
    if not runs_code:
        _require_class(getattr(config, "architectures", None), str(getattr(config, "model_type", "")), where)
    if getattr(config, "quantization_config", None) is not None:
        _require_quantization(config, where)


def _require_class(held: object, model_type: str, where: str) -> None:
    import transformers

    names = [held] if isinstance(held, str) else held if isinstance(held, list) else []
    known = {name.lower() for name in dir(transformers)}
    plain = [str(name) for name in names]
    for prefix in _WRAPPERS:
        plain = [name.removeprefix(prefix) for name in plain]
    if plain and not any(name.lower() in known for name in plain):
        raise PadfixError(
            f"{where} has architectures={describe(held)}, and transformers {transformers.__version__} has no such "
            f"class: it would load the one of model_type {model_type!r}, and lose what differs. Upgrade transformers, "
            "pass trust_remote_code=True if the code lies beside the weights, or take the field out if the class of "
            "model_type is right."
        )


def _require_quantization(config: PretrainedConfig, where: str) -> None:
    from transformers.quantizers import auto

    known = getattr(auto, "AUTO_QUANTIZATION_CONFIG_MAPPING", {})
    entries = read_quantization_config(config)
    method = entries.get("quant_method")
    if method in (None, "bitsandbytes") and (entries.get("load_in_4bit") or entries.get("load_in_8bit")):
        return  # transformers names its methods by the bits, and configs of old have no name
    if known and method not in known:
        raise PadfixError(
            f"{where} has a quantization_config with quant_method={method!r}, which transformers does not know (it "
            f"knows: {', '.join(sorted(map(str, known)))}): it would load the weights as if they were not quantized. "
            "Write the method that they were saved with, or take quantization_config out if they are not quantized."
        )
