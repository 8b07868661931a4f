"""The model's side: special ids, the rows of its embedding, which of them are trained, and how it attends."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from llama_padfix.core.errors import PadfixError
from llama_padfix.core.hf_objects import dtype_name, read_layer, text_config
from llama_padfix.doctor.facts import ModelFacts, RowStatistics

__all__ = ["blank_rows", "observe_model"]

_ORDINARY_ROWS = 512  # rows that tell what an ordinary row looks like, spread over the embedding
_MOST_ROWS = 2048  # control rows looked at
_CHUNK = 8192  # rows measured at a time
# As in EMB004: of an ordinary row's length, and of its distance to the mean.
_NOTHING = 1e-4
_TWIN = 0.001
_MEAN_LIKE = 0.05
# What brings each kernel; `kernels` downloads them all.
_ATTENTION_PACKAGES = {
    "flash_attention_2": ("flash_attn", "kernels"),
    "flash_attention_3": ("flash_attn_interface", "flash_attn_3", "kernels"),
}


class ModelSettings(Protocol):
    """What observing a model needs at least: a model has it, and so has the stand-in for a saved one."""

    config: Any  # a transformers config, whose fields differ by model type
    generation_config: Any  # transformers.GenerationConfig, or None


def observe_model(model: ModelSettings, token_ids: Iterable[int] = ()) -> ModelFacts:
    """Return the model's side of the special tokens; lists of ids are tuples, in the order in which they are held.

    `token_ids` are the tokens whose rows of the embedding are looked at, the control tokens.
    """
    if not hasattr(model, "config"):
        raise PadfixError(
            f"Got a {type(model).__name__} where a model is needed. "
            "Load one: model = transformers.AutoModelForCausalLM.from_pretrained(name)"
        )
    config = text_config(model.config)
    generation = getattr(model, "generation_config", None)
    embedding, head = read_layer(model, "get_input_embeddings"), read_layer(model, "get_output_embeddings")
    weight = getattr(embedding, "weight", None)
    attention = getattr(config, "_attn_implementation", None)
    return ModelFacts(
        embedding_rows=_count_rows(weight) if weight is not None else None,
        config_pad_token_id=getattr(config, "pad_token_id", None),
        config_eos_token_id=_freeze(getattr(config, "eos_token_id", None)),
        has_generation_config=generation is not None,
        generation_pad_token_id=getattr(generation, "pad_token_id", None),
        generation_eos_token_id=_freeze(getattr(generation, "eos_token_id", None)),
        generation_error=_try_to_save(generation),
        original_rows=_read_original_rows(model),
        rows=_look_at_rows(weight, token_ids),
        trained_rows=_find_trained_rows(embedding),
        trained_output_rows=_find_trained_rows(head),
        says_tied=bool(getattr(config, "tie_word_embeddings", False)),
        is_tied=head is not None and getattr(head, "weight", None) is weight,
        is_peft=hasattr(model, "peft_config"),
        attention=attention,
        attention_installed=_is_installed(attention),
        floating_dtypes=tuple(sorted(_dtypes(model))),
    )


def _count_rows(weight: Any) -> int:
    shape = getattr(weight, "ds_shape", weight.shape)  # DeepSpeed ZeRO-3 empties the weight, and notes its shape
    return int(shape[0])


def _freeze(value: Any) -> int | tuple[int, ...] | None:
    if isinstance(value, (list, tuple, set)):
        return tuple(int(token_id) for token_id in value)
    return None if value is None else int(value)


def _dtypes(model: Any) -> set[str]:
    if not hasattr(model, "parameters"):
        return set()
    return {dtype_name(p.dtype) for p in model.parameters() if p.dtype.is_floating_point}


def _is_installed(attention: str | None) -> bool | None:
    packages = _ATTENTION_PACKAGES.get(attention or "")
    return any(find_spec(name) is not None for name in packages) if packages else None


def _try_to_save(generation: Any) -> str | None:
    """Return what stops the generation config from being saved, found by the validation that saving runs."""
    if not hasattr(generation, "validate"):
        return None
    import logging
    import warnings

    logger = logging.getLogger("transformers.generation.configuration_utils")
    was_off = logger.disabled
    logger.disabled = True  # what it would print is in the answer
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


def _read_original_rows(model: Any) -> int | None:
    """Return the vocabulary size of the checkpoint that the model was loaded from, as its own config.json says.

    Looks into a folder or the local cache, never into the network.
    """
    name = getattr(model.config, "_name_or_path", None)
    if not isinstance(name, str) or not name:
        return None
    path: Any = Path(name, "config.json")
    try:
        if not path.is_file():
            from transformers.utils import cached_file

            path = cached_file(
                name,
                "config.json",
                local_files_only=True,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
                _raise_exceptions_for_gated_repo=False,
            )
        saved = json.loads(Path(path).read_text(encoding="utf-8")) if path is not None else {}
    except Exception:  # not in the cache, not a name, not JSON: then it is not known
        return None
    size = saved.get("vocab_size", saved.get("text_config", {}).get("vocab_size"))
    return size if isinstance(size, int) else None


def _find_trained_rows(layer: Any) -> tuple[int, ...] | None:
    """Return which rows of an embedding or of a head get gradients: None for all, else their ids."""
    if layer is None or not hasattr(layer, "named_parameters"):
        return ()
    ids: set[int] = set()
    for name, parameter in layer.named_parameters():
        if parameter.requires_grad and "trainable_tokens_delta" not in name:
            return None
    for module in layer.modules():
        for adapter_ids in dict(getattr(module, "token_indices", None) or {}).values():
            ids.update(int(i) for i in adapter_ids)
    return tuple(sorted(ids))


def _look_at_rows(weight: Any, token_ids: Iterable[int]) -> dict[int, RowStatistics]:
    """Return how the rows of some tokens compare with ordinary rows; empty where the weights cannot be read."""
    import torch

    if not isinstance(weight, torch.Tensor) or weight.ndim != 2 or weight.is_meta or not weight.is_floating_point():
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


def blank_rows(weight: Any, token_ids: Iterable[int], control_ids: Iterable[int]) -> dict[int, str]:
    """Return which rows of a matrix hold nothing, and why: "zero", or "the same as another" of the control tokens.

    `weight` has a row a token and any floating dtype. Ids without a row are left out. A row near the mean is no twin:
    somebody set it there.
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
            blank |= {i: "zero" for i, length in zip(some, lengths, strict=True) if length < _NOTHING * usual}
    wanted = set(ids) - set(blank)
    for i, row in _look_at_rows(weight, control_ids).items() if wanted else ():
        if i in wanted and row.to_twin < _TWIN and row.to_mean > _MEAN_LIKE:
            blank[i] = "the same as another"
    return blank
