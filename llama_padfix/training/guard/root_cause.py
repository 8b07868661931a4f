"""Looks into one incident: weights, gradients, a second run of the batch, and the doctor; then names the cause."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

from llama_padfix.doctor.diagnose import diagnose
from llama_padfix.doctor.findings import Report
from llama_padfix.encoding.sources import is_batch
from llama_padfix.hardware.distributed import count_processes
from llama_padfix.training.guard.causes import find_cause
from llama_padfix.training.guard.evidence import count_trained
from llama_padfix.training.guard.health import trace_overflow
from llama_padfix.training.guard.incident import Cause, Health, Kind, MicroBatch
from llama_padfix.view.mask_view import view_mask

__all__ = ["Findings", "draw", "find_root_cause", "read_batch"]

logger = logging.getLogger(__name__)

_TABLES = ("embed", "lm_head", "wte")  # parts of the names of weights whose rows are tokens


@dataclass(frozen=True)
class Findings:
    """What an investigation found: the cause, the state of health, and the doctor's report on the batch."""

    cause: Cause
    health: Health
    report: Report | None


def find_root_cause(
    kind: Kind, micro: MicroBatch, health: Health, model: Any = None, tokenizer: Any = None
) -> Findings:
    """Return the most likely cause with its evidence; runs the batch through the model once more where that tells.

    Only one process alone does that: a second forward pass by some of several would hang a sharded model.
    """
    trained = count_trained(micro.batch)
    if kind == "loss-not-finite" and trained != 0 and not health.broken_weights and model is not None:
        overflow = trace_overflow(model, micro) if count_processes() == 1 else None
        health = replace(health, overflow=overflow)
    report = read_batch(micro, tokenizer)
    findings = report.findings if report is not None else ()
    return Findings(find_cause(kind, health, trained, findings, _name_tokens(health, tokenizer)), health, report)


def read_batch(micro: MicroBatch, tokenizer: Any = None) -> Report | None:
    """Return the doctor's report on a batch; None where it has no rows of ids, and where the doctor fails."""
    if not is_batch(micro.batch):
        return None
    try:
        return diagnose(micro.batch) if tokenizer is None else diagnose(tokenizer, dataset=micro.batch)
    except Exception as error:  # the doctor must not hide what the guard saw
        logger.warning("The doctor could not read the batch: %s: %s", type(error).__name__, error)
        return None


def draw(micro: MicroBatch, tokenizer: Any = None) -> str:
    """Return the page that shows which tokens are trained; "" without tokenizer or rows, and where that fails."""
    if tokenizer is None or not is_batch(micro.batch):
        return ""
    try:
        return view_mask(micro.batch, tokenizer, title="The batch that the guard stopped at").to_html()
    except Exception as error:  # a batch that went wrong may be wrong for this too
        logger.warning("The page of the batch could not be drawn: %s: %s", type(error).__name__, error)
        return ""


def _name_tokens(health: Health, tokenizer: Any) -> str:
    """The tokens whose rows of an embedding or a head are broken."""
    broken = [weight for weight in health.broken_weights if any(part in weight.name for part in _TABLES)]
    rows = list(dict.fromkeys(row for weight in broken for row in weight.first_rows[:3]))
    if not rows or not hasattr(tokenizer, "convert_ids_to_tokens"):
        return ""
    return ", ".join(map(str, tokenizer.convert_ids_to_tokens(rows)))
