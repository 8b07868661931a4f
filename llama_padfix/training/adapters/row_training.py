"""The PEFT configuration that trains a few rows of the embedding and of the head, and what that costs."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llama_padfix.core.compat import ties_saved_copies, trains_rows_of_heads, trains_single_rows
from llama_padfix.core.errors import PadfixError, describe
from llama_padfix.core.hf_objects import dtype_name, read_layer, text_config
from llama_padfix.core.kinds import find_kind, refuse, require_model
from llama_padfix.core.version import import_package
from llama_padfix.training.adapters.lora import choose_lora

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig

    from llama_padfix.core.types import Lora, ModelLike

_MIB = 2**20
_CHUNK = 8192  # rows that are read as float32 at a time
_NOTHING = 1e-4  # of an ordinary row's length


@dataclass(frozen=True)
class Matrices:
    """The embedding and the head of a model, each with the shortest name that only it has.

    `head` is None in a model without one, and `head_name` None where the head is the same matrix (`tied`).
    """

    embedding: torch.nn.Embedding
    embedding_name: str
    head: torch.nn.Linear | None
    head_name: str | None
    tied: bool

    @property
    def layers(self) -> dict[str, torch.nn.Embedding | torch.nn.Linear]:
        """The layers by name, a tied pair once."""
        pairs = ((self.embedding_name, self.embedding), (self.head_name, self.head))
        return {name: layer for name, layer in pairs if name is not None and layer is not None}


@dataclass(frozen=True)
class RowTraining:
    """How some rows of the embedding and of the head are trained, and what that costs."""

    lora: Any  # not `PeftConfig | None`: the caller knows whether it passed `lora=False`
    """The `PeftConfig`; None where the whole model is trained."""
    token_ids: tuple[int, ...]
    """The rows, in ascending order."""
    by_rows: tuple[str, ...]
    """The matrices of which just these rows are trained (`trainable_token_indices`)."""
    whole: tuple[str, ...]
    """The matrices that are trained whole (`modules_to_save`)."""
    shape: tuple[int, int]
    """Rows and columns of a matrix."""
    dtype: str
    """The type of its numbers."""
    rows_kept: int
    """Bytes held during the whole training, trained by rows: weights, gradients and AdamW's two states."""
    rows_passing: int
    """Bytes held during a step: PEFT writes the trained rows into a copy of the matrix, which gets a gradient."""
    whole_kept: int
    """Bytes held during the whole training, trained whole."""

    def __str__(self) -> str:
        rows, width = self.shape
        used = f"{len(self.token_ids)} rows of {', '.join(self.by_rows)}" if self.by_rows else "no single rows"
        used += f"; {', '.join(self.whole)} whole" if self.whole else ""
        return "\n".join(
            [
                f"Trained: {used}." if self.lora is not None else "Trained: the whole model.",
                f"Memory for these rows ({rows} x {width} numbers a matrix, {self.dtype}):",
                f"  trainable_token_indices: {_mib(self.rows_kept)} kept, {_mib(self.rows_passing)} passing in a step",
                f"  modules_to_save:         {_mib(self.whole_kept)} kept",
            ]
        )


class TrainsRows:
    """The part that records of changed rows share: `training`, and what is read off it."""

    training: RowTraining

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The ids whose rows changed, in ascending order, as for `trainable_token_indices`."""
        return self.training.token_ids

    @property
    def lora(self) -> Any:  # as that of `RowTraining`
        """The PEFT configuration that trains these rows, for `peft_config=`; None with `lora=False`."""
        return self.training.lora


def find_matrices(model: ModelLike) -> Matrices:
    """Return the embedding and the head of a model without an adapter.

    Raises:
        PadfixError: The model is wrapped for PEFT or for several devices, or the weights are quantized, offloaded or
            split, so that their rows can be neither read nor written.
    """
    wrapped = next((name for name in ("module", "_orig_mod") if hasattr(model, name)), None)
    if wrapped is not None:
        raise PadfixError(
            f"Got a {type(model).__name__} around a model: its rows cannot be changed under it. Do it first, and wrap "
            f"the model then: model = model.{wrapped}"
        )
    if not hasattr(model, "get_input_embeddings") or not hasattr(model, "config"):
        raise refuse(model, "model")
    embedding, head = model.get_input_embeddings(), read_layer(model, "get_output_embeddings")
    if hasattr(model, "peft_config") or any(hasattr(layer, "base_layer") for layer in (embedding, head)):
        raise PadfixError(
            "The model carries a PEFT adapter already, whose layers hold rows of their own. Do it first, and "
            "get_peft_model after it; from a model with an adapter: model = model.merge_and_unload()"
        )
    for place, layer in (("embedding", embedding), ("output head", head)):
        _require_weights(place, layer)
    config_tied = bool(getattr(text_config(model.config), "tie_word_embeddings", False))
    tied = head is not None and head.weight is embedding.weight
    if head is not None and config_tied != tied:
        seen = "are two matrices, and the config says that they are one" if config_tied else "are one, config says two"
        line = "model.tie_weights()" if config_tied else "model.config.tie_word_embeddings = True"
        raise PadfixError(f"Embedding and head {seen}: one of them would be lost when saved. Run: {line}")
    return Matrices(
        embedding=embedding,
        embedding_name=_name_layer(model, embedding),
        head=head,
        head_name=_name_layer(model, head) if head is not None and not tied else None,
        tied=tied,
    )


def _require_weights(place: str, layer: torch.nn.Module | None) -> None:
    if layer is None and place == "output head":
        return
    weight = getattr(layer, "weight", None)
    if weight is None or weight.ndim != 2 or weight.is_meta or hasattr(weight, "ds_shape"):
        raise PadfixError(
            f"The {place} has no weights here: they are offloaded, or split between devices. Load the model whole: "
            "AutoModelForCausalLM.from_pretrained(name), without device_map and DeepSpeed"
        )
    if not weight.is_floating_point():
        raise PadfixError(
            f"The weights of the {place} are quantized ({dtype_name(weight.dtype)}), so no row of it "
            "can be set or trained. Keep it out of the quantization: BitsAndBytesConfig(..., "
            "llm_int8_skip_modules=['lm_head', 'embed_tokens'])"
        )


def _name_layer(model: ModelLike, layer: torch.nn.Module) -> str:
    """Return the shortest end of a layer's name that no other layer's name ends in: PEFT matches ends."""
    names = [name for name, _ in model.named_modules(remove_duplicate=False)]
    full = next(name for name, module in model.named_modules() if module is layer)
    parts = full.split(".")
    ends = (".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1))
    return next((end for end in ends if sum(name.endswith(end) for name in names) == 1), full)


def make_lora(lora: Lora = None, model: ModelLike | None = None) -> PeftConfig | None:
    """Return a new PEFT configuration: the default, one from a dict, or a copy of the one given.

    Args:
        lora: As for `train_rows`; the default is that of `load(lora=True)`: r 16, alpha 16, no dropout.
        model: Where missing targets are found (`find_lora_targets`).

    Returns:
        None for `lora=False`: the whole model is trained.

    Raises:
        PadfixError: PEFT is missing, or its `LoraConfig` lacks a field.
    """
    if lora is False:
        return None
    missing = (
        "The configuration that trains new rows is PEFT's, which is not installed. Run: pip install peft. "
        "To train the whole model instead: lora=False"
    )
    peft = import_package("peft", missing)
    if lora is None or lora is True or isinstance(lora, Mapping):
        return choose_lora(True if lora is None else lora, model)[0]
    if not isinstance(lora, peft.PeftConfig) or not hasattr(lora, "modules_to_save"):
        raise PadfixError(
            f"lora={describe(lora)} is no configuration that could train rows. Pass a peft.LoraConfig, a dict of its "
            "arguments, None for the default, or False to train the whole model."
        )
    return copy.deepcopy(lora)


def train_rows(model: ModelLike, token_ids: Iterable[int], lora: Lora = None) -> RowTraining:
    """Return the PEFT configuration that trains the rows of some tokens, and what it costs; the model stays as it is.

    Just the rows are trained (`trainable_token_indices`, PEFT 0.15 and newer) in the embedding and, unless both are
    one matrix, in the head. A matrix is trained whole (`modules_to_save`) where the configuration has it among them or
    lacks that field, where the head has a bias, which PEFT would drop, and, before PEFT 0.18, where it is a head of
    its own.

    Args:
        model: A model without an adapter, with its weights.
        token_ids: The ids of the tokens, in any order.
        lora: A `LoraConfig` (a copy of it is extended), a dict of its arguments, None for the default, or False for
            training the whole model.

    Raises:
        PadfixError: An id has no row, or a matrix is a LoRA target too.
    """
    matrices = find_matrices(model)
    count, width = (int(size) for size in matrices.embedding.weight.shape)
    if find_kind(token_ids) is not None:
        raise PadfixError(
            f"Got a {type(token_ids).__name__} where ids of tokens are needed. "
            "Pass them: train_rows(model, tokenizer.convert_tokens_to_ids(tokens))"
        )
    ids = sorted({int(token_id) for token_id in token_ids})
    beyond = [token_id for token_id in ids if not 0 <= token_id < count]
    if beyond:
        raise PadfixError(
            f"The embedding has {count} rows, and none for id {beyond[0]}. Add the tokens: "
            "add_tokens(model, tokenizer, tokens)"
        )
    config = make_lora(lora, model)
    by_rows: list[str] = []
    whole: list[str] = []
    if config is not None and ids:
        by_rows, whole = _split_matrices(model, matrices, config)
        _write_rows(matrices, config, by_rows, ids)
        _write_whole(matrices, config, whole)
    size = matrices.embedding.weight.element_size()
    # A trained row: itself, the row that it replaces, its gradient and two states of AdamW, all float32.
    rows_kept = len(ids) * width * 5 * 4 * len(matrices.layers)
    return RowTraining(
        lora=config,
        token_ids=tuple(ids),
        by_rows=tuple(by_rows),
        whole=tuple(whole),
        shape=(count, width),
        dtype=dtype_name(matrices.embedding.weight.dtype),
        rows_kept=rows_kept,
        rows_passing=2 * count * width * size,  # the head's copy waits for the backward pass, which adds its gradient
        whole_kept=len(matrices.layers) * count * width * size * 4,  # a copy, its gradient, two states of AdamW
    )


def _split_matrices(model: ModelLike, matrices: Matrices, config: PeftConfig) -> tuple[list[str], list[str]]:
    """Return the names of the matrices of which single rows are trained, and of those that are trained whole."""
    by_rows: list[str] = []
    whole: list[str] = []
    has_bias = getattr(matrices.head, "bias", None) is not None
    for name, layer in matrices.layers.items():
        full = next(path for path, module in model.named_modules() if module is layer)
        if _is_named(full, config.modules_to_save):
            whole.append(name)
            continue
        if _is_named(full, getattr(config, "target_modules", None)):
            raise PadfixError(
                f"{name} is among target_modules, and a matrix cannot have LoRA and single rows trained. Take it out "
                f"of target_modules, or train it whole: modules_to_save=[{name!r}]"
            )
        biased = has_bias and (layer is matrices.head or matrices.tied)
        able = trains_single_rows(config) and (name != matrices.head_name or trains_rows_of_heads())
        (by_rows if able and not biased else whole).append(name)
    return by_rows, whole


def _is_named(full: str, names: str | Iterable[str] | None) -> bool:
    if isinstance(names, str) or names is None:
        return False  # "all-linear" leaves the head out, and a pattern is the caller's own
    return any(full == name or full.endswith(f".{name}") for name in names)


def _write_rows(matrices: Matrices, config: PeftConfig, by_rows: list[str], ids: list[int]) -> None:
    """Add the rows to those that the configuration trains already; under one name where both are one matrix."""
    if not by_rows:
        return
    held = config.trainable_token_indices or {}
    held = {name: list(rows) for name, rows in held.items()} if isinstance(held, Mapping) else {"": list(held)}
    merged: dict[str, list[int]] = {}
    for name, rows in held.items():
        own = next((known for known in matrices.layers if name and (known.endswith(name) or name.endswith(known))), "")
        key = matrices.embedding_name if matrices.tied or not name else own or name
        merged[key] = sorted({*merged.get(key, ()), *rows})
    for name in by_rows:
        merged[name] = sorted({*merged.get(name, ()), *ids})
    config.trainable_token_indices = merged


def _write_whole(matrices: Matrices, config: PeftConfig, whole: list[str]) -> None:
    if not whole:
        return
    config.modules_to_save = list(dict.fromkeys([*(config.modules_to_save or ()), *whole]))
    if matrices.tied:
        if not ties_saved_copies(config):
            raise PadfixError(
                f"The {type(config).__name__} of the installed PEFT trains a copy of the embedding, and the head, the "
                "same matrix, would stay behind. Use LoRA with a newer PEFT: pip install -U peft"
            )
        config.ensure_weight_tying = True


def complete_head(model: ModelLike) -> bool:
    """Give a head of which PEFT trains single rows the `bias` that TRL reads: None, as in the head itself.

    TRL 1.16 computes every loss from `lm_head.weight` and `lm_head.bias`, and PEFT's layer (0.21.2) has no `bias`
    while its adapter is active: AttributeError in the first step.

    Args:
        model: The model with its adapter: `complete_head(trainer.model)`. Any other head stays as it is.

    Returns:
        True if the bias was missing.
    """
    require_model(model)
    head = read_layer(model, "get_output_embeddings")
    original = getattr(head, "original_module", None)
    if original is None or hasattr(head, "bias") or getattr(original, "bias", None) is not None:
        return False
    head.bias = None
    return True


def average_row(weight: torch.Tensor, count: int) -> torch.Tensor:
    """Return the mean of the first `count` rows that are finite and not zero, as float32 on the weight's device."""
    import torch

    with torch.no_grad():
        lengths = torch.cat([part.float().norm(dim=1) for part in torch.split(weight[:count], _CHUNK)])
        finite = lengths.isfinite()
        held = finite & (lengths > _NOTHING * lengths[finite].median()) if bool(finite.any()) else finite
        if not bool(held.any()):
            raise PadfixError(
                "All rows of the embedding are zero, nan or inf, so there is no mean. Load the weights of the model."
            )
        total = torch.zeros(weight.shape[1], dtype=torch.float64, device=weight.device)
        for start in range(0, count, _CHUNK):
            part = weight[start : min(start + _CHUNK, count)].double()
            total += part[held[start : start + len(part)]].sum(0)
        return (total / held.sum()).float()


def _mib(size: int) -> str:
    return f"{size / _MIB:.1f} MiB"
