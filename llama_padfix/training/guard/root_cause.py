"""Finds the root cause of one incident in weights, gradients, the batch and the doctor's report, and saves it all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llama_padfix.hardware.distributed import count_processes, get_rank
from llama_padfix.training.guard.batch_report import check_batch, count_trained, describe_batch
from llama_padfix.training.guard.causes import find_cause
from llama_padfix.training.guard.evidence import write_evidence
from llama_padfix.training.guard.health import observe_health, trace_overflow
from llama_padfix.training.guard.incident import Cause, Health, Incident, Kind, MicroBatch

if TYPE_CHECKING:
    import torch

    from llama_padfix.core.types import TokenizerLike
    from llama_padfix.doctor.findings import Report

_ONE_PROCESS = ("loss-not-finite", "zero-loss", "loss-spike")  # one process alone may see these
_TABLES = ("embed", "lm_head", "wte")  # parts of the names of weights whose rows are tokens


@dataclass(frozen=True)
class RootCause:
    """The most likely cause, the state of health that shows it, and the doctor's report on the batch."""

    cause: Cause
    health: Health
    report: Report | None


def check_first_batch(micro: MicroBatch, tokenizer: TokenizerLike | None) -> Report | None:
    """Return the doctor's report on the first batch of a run, in the first process alone."""
    return None if get_rank() else check_batch(micro, tokenizer)


def find_root_cause(
    kind: Kind,
    micro: MicroBatch,
    optimizer: torch.optim.Optimizer | None,
    model: torch.nn.Module | None,
    tokenizer: TokenizerLike | None,
    norm_before: float | None,
    finite_before: bool,
) -> RootCause:
    """Return the most likely cause of an incident, with what shows it.

    Runs the batch through the model once more if that helps, and there is one process: a second forward pass by some
    of several would hang a sharded model.

    Args:
        kind: What the guard stopped at.
        micro: The forward pass that the fault came from.
        optimizer: Of torch, no wrapper.
        model: None where it is not known: then nothing but the optimizer's parameters is read.
        tokenizer: Decodes the batch for the doctor.
        norm_before: The norm of the trainable weights 16 to 32 updates earlier.
        finite_before: True if every weight was finite when the guard was attached.
    """
    health = observe_health(model, optimizer, norm_before, finite_before)
    trained = count_trained(micro.batch)
    if kind == "loss-not-finite" and trained != 0 and not health.broken_weights and model is not None:
        health = replace(health, overflow=trace_overflow(model, micro) if count_processes() == 1 else None)
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


def save_evidence(
    parent: Path,
    incident: Incident,
    batches: Sequence[MicroBatch],
    found: RootCause,
    history: Sequence[float],
    tokenizer: TokenizerLike | None,
) -> Incident:
    """Write the evidence of an incident, and return the incident with the folder, or with why there is none.

    The first process writes what all processes see; what one alone sees is written by that one.
    """
    rank = get_rank()
    if rank and incident.kind not in _ONE_PROCESS:
        return incident
    try:
        texts = describe_batch(batches[incident.micro_batch], tokenizer, found.report) if batches else {}
        folder = write_evidence(parent, incident, batches, found.health, texts, history=history, rank=rank)
    except Exception as error:  # a full disk must not hide what was seen
        remark = f"The evidence could not be written to {parent}: {type(error).__name__}: {error}"
        return replace(incident, remark=remark)
    return replace(incident, folder=str(folder))
