"""The model's side: special ids, the rows of its embedding, which of them are trained, and how it attends."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING

from llama_padfix.core.hf_objects import base_model, dtype_name, read_layer, text_config
from llama_padfix.core.kinds import refuse
from llama_padfix.doctor.model_facts import ZERO_NORM, ModelFacts, OptimizerFacts, RowStatistics
from llama_padfix.doctor.observe.adapter import read_rows_and_stops

if TYPE_CHECKING:
    import torch

    from llama_padfix.core.types import ConfiguredModel

_ORDINARY_ROWS = 512  # rows spread over the embedding, whose median is an ordinary row
_MOST_ROWS = 2048  # control rows that are measured
_MOST_ADAPTERS = 8
_CHUNK = 8192  # rows measured at a time
# The packages that hold each kernel; `kernels` downloads them.
_ATTENTION_PACKAGES = {
    "flash_attention_2": ("flash_attn", "kernels"),
    "flash_attention_3": ("flash_attn_interface", "flash_attn_3", "kernels"),
}


def observe_model(model: ConfiguredModel, token_ids: Iterable[int] = ()) -> ModelFacts:
    """Return the facts about a model; lists of ids become tuples, in the order in which they are held.

    Args:
        model: a Transformers model, or a stand-in with its `config`.
        token_ids: the control tokens, whose rows of the embedding are measured.

    Raises:
        PadfixError: `model` has no `config`.
    """
    if not hasattr(model, "config"):
        raise refuse(model, "model")
    config = text_config(model.config)
    generation = getattr(model, "generation_config", None)
    embedding, head = read_layer(model, "get_input_embeddings"), read_layer(model, "get_output_embeddings")
    weight = getattr(embedding, "weight", None)
    attention = getattr(config, "_attn_implementation", None)
    original_rows, original_stops = read_rows_and_stops(getattr(model.config, "_name_or_path", None))
    return ModelFacts(
        embedding_rows=count_rows(weight) if weight is not None else None,
        config_pad_token_id=getattr(config, "pad_token_id", None),
        config_eos_token_id=_freeze(getattr(config, "eos_token_id", None)),
        has_generation_config=generation is not None,
        generation_pad_token_id=getattr(generation, "pad_token_id", None),
        generation_eos_token_id=_freeze(getattr(generation, "eos_token_id", None)),
        generation_error=_try_to_save(generation),
        original_rows=original_rows,
        original_stops=original_stops,
        rows=_measure_rows(weight, token_ids),
        trained_rows=_find_trained_rows(embedding),
        trained_output_rows=_find_trained_rows(head),
        declared_tied=bool(getattr(config, "tie_word_embeddings", False)),
        is_tied=head is not None and getattr(head, "weight", None) is weight,
        pools_one_token=_pools_one_token(model),
        is_peft=hasattr(model, "peft_config"),
        adapters_deep=_count_adapters(model),
        is_encoder_decoder=bool(getattr(config, "is_encoder_decoder", False)),
        use_cache=bool(getattr(config, "use_cache", False)),
        attention=attention,
        attention_installed=_is_installed(attention),
        floating_dtypes=tuple(sorted(_dtypes(model))),
    )


def observe_optimizer(model: ConfiguredModel | None, optimizer: torch.optim.Optimizer | None) -> OptimizerFacts | None:
    """Return which parameters of a model an optimizer updates; None without one, or where that cannot be told.

    FSDP and DeepSpeed give the optimizer other tensors, and a layer-wise one keeps an optimizer in each parameter.
    """
    kind = type(optimizer).__name__
    names = getattr(model, "named_parameters", None)
    if optimizer is None or names is None or "Dummy" in kind or "DeepSpeed" in kind:
        return None
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    trainable = {name: id(parameter) for name, parameter in names() if parameter.requires_grad}
    missing = [name for name, key in trainable.items() if key not in held]
    return OptimizerFacts(len(trainable), len(missing), tuple(missing[:3]), len(held - set(trainable.values())))


def _pools_one_token(model: object) -> bool:
    """Return True for a model with a head for whole texts, under an adapter too."""
    return type(base_model(model)).__name__.endswith("ForSequenceClassification")


def count_rows(weight: torch.Tensor) -> int:
    """Return how many rows an embedding has, also where its numbers are in other processes."""
    shape = getattr(weight, "ds_shape", weight.shape)  # DeepSpeed ZeRO-3 empties the weight, and keeps its shape here
    return int(shape[0])


def _count_adapters(model: object) -> int:
    """Return how many PEFT models are wrapped around one another, found in the modules that they wrap."""
    count = 0
    while hasattr(type(model), "get_base_model") and count < _MOST_ADAPTERS:
        count, model = count + 1, getattr(getattr(model, "base_model", None), "model", None)
    return count


def _freeze(held: int | list[int] | tuple[int, ...] | set[int] | None) -> int | tuple[int, ...] | None:
    if isinstance(held, (list, tuple, set)):
        return tuple(int(token_id) for token_id in held)
    return None if held is None else int(held)


def _dtypes(model: object) -> set[str]:
    parameters = model.parameters() if hasattr(model, "parameters") else ()
    return {dtype_name(p.dtype) for p in parameters if p.dtype.is_floating_point}


def _is_installed(attention: str | None) -> bool | None:
    packages = _ATTENTION_PACKAGES.get(attention or "")
    return any(find_spec(name) is not None for name in packages) if packages else None


def _try_to_save(generation: object) -> str | None:
    """Return what stops the generation config from being saved, found by the validation that saving runs."""
    if not hasattr(generation, "validate"):
        return None
    import logging
    import warnings

    logger = logging.getLogger("transformers.generation.configuration_utils")
    was_off = logger.disabled
    logger.disabled = True  # the message that it would log is what is returned
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # saving in 4.x refuses whatever warns
            try:
                generation.validate(strict=True)
            except TypeError:  # 4.x up to 4.49 has no `strict`
                generation.validate()
    except (ValueError, UserWarning) as error:
        return str(error).strip()
    finally:
        logger.disabled = was_off
    return None


def _find_trained_rows(layer: object) -> tuple[int, ...] | None:
    """Return which rows of an embedding or of a head get gradients: None for all, else their ids."""
    torch = sys.modules.get("torch")  # without it there is no layer of it
    if torch is None or not isinstance(layer, torch.nn.Module):
        return ()
    if any(p.requires_grad and "trainable_tokens_delta" not in name for name, p in layer.named_parameters()):
        return None
    by_adapter = [dict(getattr(module, "token_indices", None) or {}) for module in layer.modules()]
    return tuple(sorted({int(i) for indices in by_adapter for ids in indices.values() for i in ids}))


def _measure_rows(weight: object, token_ids: Iterable[int]) -> dict[int, RowStatistics]:
    """Return how the rows of some tokens compare with ordinary rows; empty where the weights cannot be read."""
    torch = sys.modules.get("torch")
    if (
        torch is None
        or not isinstance(weight, torch.Tensor)
        or weight.ndim != 2
        or weight.is_meta
        or not weight.is_floating_point()
    ):
        return {}
    count = weight.shape[0]
    chosen = sorted(i for i in set(token_ids) if 0 <= i < count)[:_MOST_ROWS]
    step = max(1, math.ceil(count / _ORDINARY_ROWS))
    others = [i for i in range(0, count, step) if i not in set(chosen)]
    if not chosen or len(others) < 8:
        return {}
    with torch.no_grad():
        rows = weight[torch.tensor(chosen, device=weight.device)].float()
        ordinary = weight[torch.tensor(others, device=weight.device)].float()
        mean = ordinary.mean(0)
        usual_norm = float(ordinary.norm(dim=1).median())
        usual_spread = float((ordinary - mean).norm(dim=1).median())
        if not (usual_norm > 0 and usual_spread > 0):
            return {}
        twins = torch.cdist(rows, rows).fill_diagonal_(math.inf).min(dim=1).values
        lists = [(rows.norm(dim=1) / usual_norm), (rows - mean).norm(dim=1) / usual_spread, twins / usual_spread]
        norm, spread, twin = (numbers.tolist() for numbers in lists)
    return {i: RowStatistics(norm[place], spread[place], twin[place]) for place, i in enumerate(chosen)}


def blank_rows(weight: torch.Tensor, token_ids: Iterable[int], control_ids: Iterable[int]) -> dict[int, str]:
    """Return which rows of a matrix were never trained, with the reason.

    Args:
        weight: shape (tokens, width), of any floating dtype.
        token_ids: the rows to measure; ids without a row are left out.
        control_ids: the rows among which equal ones are found. Rows near the mean are left out: they were set to it.

    Returns:
        By id, "zero" or "the same as another".
    """
    import torch

    count = weight.shape[0]
    ids = sorted(i for i in set(token_ids) if 0 <= i < count)
    blank: dict[int, str] = {}
    with torch.no_grad():
        usual = float(weight[:: max(1, math.ceil(count / _ORDINARY_ROWS))].float().norm(dim=1).median())
        for start in range(0, len(ids), _CHUNK):
            some = ids[start : start + _CHUNK]
            lengths = weight[torch.tensor(some, device=weight.device)].float().norm(dim=1).tolist()
            blank |= {i: "zero" for i, length in zip(some, lengths, strict=True) if length < ZERO_NORM * usual}
    left = set(ids) - set(blank)
    measured = _measure_rows(weight, control_ids) if left else {}
    twins = {i for i, row in measured.items() if row.is_twin}
    return blank | dict.fromkeys(sorted(left & twins), "the same as another")
