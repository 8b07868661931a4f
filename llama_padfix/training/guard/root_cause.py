"""Finds the root cause of one incident: weights, gradients, a second run of the batch, and the doctor's report."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llama_padfix.hardware.distributed import count_processes
from llama_padfix.training.guard.batch_report import check_batch, count_trained
from llama_padfix.training.guard.causes import find_cause
from llama_padfix.training.guard.health import trace_overflow
from llama_padfix.training.guard.incident import Cause, Health, Kind, MicroBatch

if TYPE_CHECKING:
    import torch

    from llama_padfix.core.types import TokenizerLike
    from llama_padfix.doctor.findings import Report

_TABLES = ("embed", "lm_head", "wte")  # parts of the names of weights whose rows are tokens


@dataclass(frozen=True)
class RootCause:
    """The most likely cause, the state of health that shows it, and the doctor's report on the batch."""

    cause: Cause
    health: Health
    report: Report | None


def find_root_cause(
    kind: Kind,
    micro: MicroBatch,
    health: Health,
    model: torch.nn.Module | None = None,
    tokenizer: TokenizerLike | None = None,
) -> RootCause:
    """Return the most likely cause with its evidence; runs the batch through the model once more if that helps.

    Not with several processes: a second forward pass by some of them would hang a sharded model.
    """
    trained = count_trained(micro.batch)
    if kind == "loss-not-finite" and trained != 0 and not health.broken_weights and model is not None:
        overflow = trace_overflow(model, micro) if count_processes() == 1 else None
        health = replace(health, overflow=overflow)
    report = check_batch(micro, tokenizer)
    findings = report.findings if report is not None else ()
    return RootCause(find_cause(kind, health, trained, findings, _name_tokens(health, tokenizer)), health, report)


def _name_tokens(health: Health, tokenizer: TokenizerLike | None) -> str:
    """Return the tokens whose rows of an embedding or a head are broken."""
    broken = [weight for weight in health.broken_weights if any(part in weight.name for part in _TABLES)]
    rows = list(dict.fromkeys(row for weight in broken for row in weight.first_rows[:3]))
    if not rows or tokenizer is None or not hasattr(tokenizer, "convert_ids_to_tokens"):
        return ""
    return ", ".join(map(str, tokenizer.convert_ids_to_tokens(rows)))
