"""Analyzes one incident of a guard and saves its evidence; reads the first batch of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llama_padfix.hardware.distributed import get_rank
from llama_padfix.training.guard.batch_report import check_batch, describe_batch
from llama_padfix.training.guard.evidence import write_evidence
from llama_padfix.training.guard.health import observe_health
from llama_padfix.training.guard.incident import Incident, Kind, MicroBatch
from llama_padfix.training.guard.root_cause import RootCause, find_root_cause

if TYPE_CHECKING:
    import torch

    from llama_padfix.core.types import TokenizerLike
    from llama_padfix.doctor.findings import Report

_ONE_PROCESS = ("loss-not-finite", "zero-loss", "loss-spike")  # one process alone may see these


def check_first_batch(micro: MicroBatch, tokenizer: TokenizerLike | None) -> Report | None:
    """Return the doctor's report on the first batch of a run, in the first process alone."""
    return None if get_rank() else check_batch(micro, tokenizer)


def analyze_incident(
    kind: Kind,
    micro: MicroBatch,
    optimizer: torch.optim.Optimizer | None,
    model: torch.nn.Module | None,
    tokenizer: TokenizerLike | None,
    norm_before: float | None,
    finite_before: bool,
) -> RootCause:
    """Return the most likely cause of an incident, found in weights, gradients and the batch.

    Args:
        kind: What the guard stopped at.
        micro: The forward pass that the fault came from.
        optimizer: Of torch, no wrapper.
        model: None where it is not known: then nothing but the optimizer's parameters is read.
        tokenizer: Decodes the batch for the doctor.
        norm_before: The norm of the trainable weights 16 to 32 updates earlier.
        finite_before: Whether every weight was finite when the guard was attached.
    """
    health = observe_health(model, optimizer, norm_before, finite_before)
    return find_root_cause(kind, micro, health, model, tokenizer)


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
