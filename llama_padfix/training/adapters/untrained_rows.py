"""Rows of the embedding that were never trained, found by their weights, and set to the mean on request."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama_padfix.doctor.observe.model import blank_rows
from llama_padfix.tokens.control import special_ids
from llama_padfix.training.adapters.row_training import (
    Matrices,
    RowTraining,
    TrainsRows,
    average_row,
    find_matrices,
    train_rows,
)
from llama_padfix.training.adapters.used_ids import find_used_ids

if TYPE_CHECKING:
    from llama_padfix.core.types import Lora, ModelLike, Rows, TokenizerLike

logger = logging.getLogger(__name__)

_IN_HEAD = "zero in the head"


@dataclass(frozen=True)
class UntrainedRow:
    """A token whose row was never trained."""

    token: str
    token_id: int
    reason: str
    """"zero", "the same as another", or "zero in the head"."""
    norm: float
    """The length of its row in the embedding."""
    head_norm: float | None
    """The length of its row in the head; None where both are one matrix."""
    usual_norm: float
    """The median length of the rows of the embedding."""

    def __str__(self) -> str:
        seen = f"{self.token!r} ({self.token_id}): {self.reason}, length {self.norm:.3g}"
        head = "" if self.head_norm is None else f", {self.head_norm:.3g} in the head"
        return f"{seen}{head}; usual {self.usual_norm:.3g}"


@dataclass(frozen=True)
class MeanInit(TrainsRows):
    """Which rows were set to the mean, `before` and `after`, and how they are trained from there on."""

    before: tuple[UntrainedRow, ...]
    after: tuple[UntrainedRow, ...]
    training: RowTraining

    def __str__(self) -> str:
        if not self.before:
            return "Every row that the template and the data use was trained: nothing to set."
        lines = [
            f"  {old.token!r} ({old.token_id}): {old.reason}, length {old.norm:.3g} -> {new.norm:.3g}"
            + ("" if new.head_norm is None else f", in the head {old.head_norm:.3g} -> {new.head_norm:.3g}")
            for old, new in zip(self.before, self.after, strict=True)
        ]
        return "\n".join([f"Set to the mean of the trained rows: {len(lines)}.", *lines, str(self.training)])


def find_untrained(
    model: ModelLike, tokenizer: TokenizerLike, dataset: Rows | None = None
) -> tuple[UntrainedRow, ...]:
    """Return the tokens that the chat template, the EOS or the data use, and whose rows were never trained.

    A row is untrained when it is shorter than a ten-thousandth of the median row, or when it is the row of another
    control token. In the base models of Llama 3 such rows are 1.7e-21 long where others are 0.59 (254 of the 256
    control tokens, and some twenty ordinary ones; reports of cohere-ai/magikarp on Meta-Llama-3-8B and 3.1-8B). Their
    rows of the head are of ordinary length there: the embedding decides, since a token that was never read was never a
    target either; a head's row of zero counts as well. No token is left out for being EOS, BOS or the pad token.

    Args:
        model: A model without an adapter, with its weights; it stays as it is.
        tokenizer: The tokenizer of the model.
        dataset: Encoded rows, or raw ones in any shape that `ChatEncoder` reads; all are read. Without it, only the
            tokens of the template and the EOS are looked up.

    Raises:
        PadfixError: The weights cannot be read.
    """
    matrices = find_matrices(model)
    used = find_used_ids(tokenizer, dataset)
    controls = {*special_ids(tokenizer).values(), *map(int, tokenizer.added_tokens_decoder)}
    reasons = blank_rows(matrices.embedding.weight, used, controls)
    if matrices.head is not None and not matrices.tied:
        reasons = {**dict.fromkeys(blank_rows(matrices.head.weight, used, ()), _IN_HEAD), **reasons}
    return _measure(matrices, tokenizer, dict(sorted(reasons.items())))


def mean_init_untrained(
    model: ModelLike, tokenizer: TokenizerLike, dataset: Rows | None = None, *, lora: Lora = None
) -> MeanInit:
    """Set the rows that `find_untrained` names to the mean of the trained rows, in place, before `get_peft_model`.

    Embedding and head each get their own mean, once where both are one matrix; an embedding row stays where only the
    head's is zero.

    Args:
        model: As for `find_untrained`.
        tokenizer: As for `find_untrained`.
        dataset: As for `find_untrained`.
        lora: As for `train_rows`; pass `add_tokens(...).lora` to train both kinds of rows.

    Returns:
        The rows before and after, and the configuration that trains them.

    Raises:
        PadfixError: Something cannot be done; the model is as it was.
    """
    import torch

    before = find_untrained(model, tokenizer, dataset)
    matrices = find_matrices(model)
    ids = [row.token_id for row in before]
    training = train_rows(model, ids, lora)
    if not before:
        return MeanInit((), (), training)
    means = {name: average_row(layer.weight, len(layer.weight)) for name, layer in matrices.layers.items()}
    with torch.no_grad():
        for name, layer in matrices.layers.items():
            chosen = [row.token_id for row in before if layer is matrices.head or row.reason != _IN_HEAD]
            places = torch.tensor(chosen, dtype=torch.long, device=layer.weight.device)
            layer.weight[places] = means[name].to(layer.weight.dtype)
    result = MeanInit(before, _measure(matrices, tokenizer, dict.fromkeys(ids, "the mean")), training)
    logger.info("llama_padfix: %s", result)
    return result


def _measure(matrices: Matrices, tokenizer: TokenizerLike, reasons: dict[int, str]) -> tuple[UntrainedRow, ...]:
    import torch

    if not reasons:
        return ()
    with torch.no_grad():
        lengths = [layer.weight[list(reasons)].float().norm(dim=1).tolist() for layer in matrices.layers.values()]
        step = max(1, len(matrices.embedding.weight) // 4096)
        usual = float(matrices.embedding.weight[::step].float().norm(dim=1).median())
    heads: list[float | None] = [*lengths[1]] if len(lengths) > 1 else [None] * len(reasons)
    return tuple(
        UntrainedRow(str(tokenizer.convert_ids_to_tokens(token_id)), token_id, reason, norm, head, usual)
        for (token_id, reason), norm, head in zip(reasons.items(), lengths[0], heads, strict=True)
    )
