"""What a batch holds: how many tokens of it are trained, the doctor's findings, its rows as text and as a page."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from llama_padfix.core.errors import IGNORE_INDEX
from llama_padfix.doctor.diagnose import diagnose
from llama_padfix.doctor.observe.rows import holds_rows, rows_of_batch
from llama_padfix.training.guard.incident import MicroBatch
from llama_padfix.view.batch_text import show_batch
from llama_padfix.view.mask_view import view_mask

if TYPE_CHECKING:
    import torch

    from llama_padfix.core.types import TokenizerLike
    from llama_padfix.doctor.findings import Report

logger = logging.getLogger(__name__)


def count_trained(batch: Mapping[str, torch.Tensor]) -> int | None:
    """Return how many tokens of a batch of any loss are trained; None where there are no labels and no masks.

    Position 0 of each row does not count: the model shifts the labels by one.
    """
    labels = batch.get("labels")
    if labels is not None:
        return int((labels[:, 1:] != IGNORE_INDEX).sum()) if labels.ndim == 2 else None
    of_rows = [row.labels[1:] for row in rows_of_batch(batch, "batch") if row.labels is not None]
    return sum(int((row != IGNORE_INDEX).sum()) for row in of_rows) if of_rows else None


def check_batch(micro: MicroBatch, tokenizer: TokenizerLike | None = None) -> Report | None:
    """Return the doctor's report on a batch; None where it has no rows of ids, and where the doctor fails."""
    if not holds_rows(micro.batch):
        return None
    try:
        return diagnose(micro.batch) if tokenizer is None else diagnose(tokenizer, dataset=micro.batch)
    except Exception as error:  # the doctor must not hide what the guard found
        logger.warning("The doctor could not read the batch: %s: %s", type(error).__name__, error)
        return None


def describe_batch(micro: MicroBatch, tokenizer: TokenizerLike | None, report: Report | None) -> dict[str, str]:
    """Return the text of each file that shows a batch, by name; those that cannot be made are left out."""
    texts = {"batch.txt": show_batch(micro.batch, tokenizer)}
    if tokenizer is not None and holds_rows(micro.batch):
        try:
            view = view_mask(micro.batch, tokenizer, title="The batch that the guard stopped at")
            texts["mask.html"] = view.to_html()
        except Exception as error:  # a batch with a fault may fail here too
            logger.warning("The page of the batch could not be drawn: %s: %s", type(error).__name__, error)
    if report is not None:
        texts |= {"report.txt": str(report), "report.json": report.to_json()}
    return texts
