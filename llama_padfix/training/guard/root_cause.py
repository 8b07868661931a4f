"""Finds the root cause of one incident in weights, gradients, the batch and the doctor's report, and saves it all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llama_padfix.hardware.distributed import count_processes, get_rank
from llama_padfix.training.guard.batch_report import check_batch, count_trained, describe_batch
from llama_padfix.training.guard.causes import GROWN, find_cause, find_error
from llama_padfix.training.guard.evidence import write_evidence
from llama_padfix.training.guard.health import (
    measure_cross_entropy,
    observe_health,
    read_numbers,
    take_norm,
    trace_overflow,
)
from llama_padfix.training.guard.incident import Cause, Health, Incident, Kind, MicroBatch
from llama_padfix.training.guard.loss_spikes import NEXT_LOSSES, WORSE_THAN_CHANCE, LossHistory
from llama_padfix.training.guard.rules import Update, find_bad_micro_batch

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


def find_jump_of_update(
    history: LossHistory,
    loss: float | None,
    update: Update,
    model: torch.nn.Module | None,
    tokenizer: TokenizerLike | None,
    norm_before: torch.Tensor | None,
) -> tuple[str, bool]:
    """Add the loss of an update to the history; return in words how it jumped, and whether that is a fault already.

    It is one where the losses before it stayed up too, and where something explains it: weights that grew, an error
    that the doctor finds in the batch. Any other jump has to wait for the next losses.
    """
    jump = history.add(loss) if loss is not None else ""
    if not jump or loss is None:
        return "", False
    place = find_bad_micro_batch("loss-spike", update.losses)
    micro = update.batches[place] if update.batches else MicroBatch()
    chance = history.chance
    if chance is not None and loss > WORSE_THAN_CHANCE * chance and not _is_mean_of_tokens(micro, model, chance):
        jump = history.forget_chance()
    if jump and history.lasts:
        return f"{jump}, as in the {NEXT_LOSSES} updates before", True
    return jump, bool(jump) and _explains_jump(micro, model, tokenizer, norm_before)


def _explains_jump(
    micro: MicroBatch, model: torch.nn.Module | None, tokenizer: TokenizerLike | None, norm_before: torch.Tensor | None
) -> bool:
    """Return whether a jump of the loss needs no second look: the doctor finds an error in its batch, or weights grew.

    Weights are looked at where there is one process: their shards are summed by all together.
    """
    if norm_before is not None and model is not None and count_processes() == 1:
        before, now = read_numbers([norm_before, take_norm(p for p in model.parameters() if p.requires_grad)])
        if before and now is not None and not now <= GROWN * before:
            return True
    report = check_batch(micro, tokenizer)
    return report is not None and find_error(report.findings) is not None


def _is_mean_of_tokens(micro: MicroBatch, model: torch.nn.Module | None, chance: float) -> bool:
    """Return whether a loss above twice that of a uniform guess is a mean cross-entropy of tokens, and so is a fault.

    With one process the batch goes through the model once more. A sum, a regression and any other loss is not.
    """
    labels = micro.batch.get("labels")
    if model is None or labels is None or labels.ndim != 2 or labels.is_floating_point():
        return False
    if count_processes() > 1:
        return True
    measured = measure_cross_entropy(model, micro)
    return measured is not None and not measured <= WORSE_THAN_CHANCE * chance


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
