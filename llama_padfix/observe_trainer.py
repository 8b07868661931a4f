"""How a trainer is set up, and real batches out of its dataloaders, leaving it as it was."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from typing import Any

from llama_padfix.observe_rows import rows_of_batch
from llama_padfix.records import IGNORE_INDEX, RowFacts, SampleFacts, TrainerFacts

__all__ = ["draw_rows", "observe_trainer", "undisturbed"]

_FEW_ROWS = 64  # what is drawn from a trainer's own loaders by default: its batches cost collation


def observe_trainer(trainer: Any) -> TrainerFacts:
    """Return how the trainer is set up to run."""
    arguments = {name: value for name, value in vars(trainer.args).items() if _is_plain(value)}
    model = trainer.model
    device = next((parameter.device for parameter in model.parameters()), None)
    kind = getattr(device, "type", "cpu")
    name, capability = _describe_device(kind)
    collator = trainer.data_collator
    return TrainerFacts(
        class_name=type(trainer).__name__,
        arguments=arguments,
        collator=f"{type(collator).__module__}.{getattr(type(collator), '__qualname__', 'function')}",
        given_labels_kept=_try_labels(collator),
        collator_pad_token_id=getattr(collator, "pad_token_id", None),
        device_type=kind,
        device_name=name,
        device_capability=capability,
        trainable_dtypes=_count_dtypes(model, trainable=True),
        frozen_dtypes=_count_dtypes(model, trainable=False),
        attention=getattr(model.config, "_attn_implementation", None),
        is_peft=hasattr(model, "peft_config"),
        quantization=_name_quantization(model),
        world_size=int(getattr(trainer.args, "world_size", 1)),
        expected_world_size=int(os.environ["WORLD_SIZE"]) if os.environ.get("WORLD_SIZE", "").isdigit() else None,
        wrapper=type(trainer.model_wrapped).__name__ if trainer.model_wrapped is not model else None,
        autocast_dtype=None,
        dataset_columns=tuple(getattr(trainer.train_dataset, "column_names", None) or ()),
    )


def draw_rows(trainer: Any, max_rows: int | None) -> tuple[list[SampleFacts], list[Iterator[RowFacts]]]:
    """Return what will be looked at and the rows of real training and evaluation batches, not yet drawn."""
    limit = None if max_rows is None else min(max_rows, _FEW_ROWS)
    loaders = [("train batch", trainer.get_train_dataloader, trainer.train_dataset)]
    if getattr(trainer, "eval_dataset", None) is not None and not isinstance(trainer.eval_dataset, dict):
        loaders.append(("eval batch", trainer.get_eval_dataloader, trainer.eval_dataset))
    samples, rows = [], []
    for source, make_loader, dataset in loaders:
        total = len(dataset) if hasattr(dataset, "__len__") else None
        seen = total if limit is None else limit if total is None else min(limit, total)
        columns = tuple(getattr(dataset, "column_names", None) or ())
        samples.append(SampleFacts(source, seen or 0, total, columns))
        rows.append(_rows_of_loader(make_loader, source, limit))
    return samples, rows


def _rows_of_loader(make_loader: Any, source: str, limit: int | None) -> Iterator[RowFacts]:
    number = 0
    for batch in make_loader():
        for row in rows_of_batch(batch, source, number):
            yield row
            number += 1
            if number == limit:
                return


@contextlib.contextmanager
def undisturbed(trainer: Any) -> Iterator[None]:
    """Put back the random states and the accelerator's list of dataloaders, so that training runs as it would."""
    import numpy
    import torch

    states = (random.getstate(), numpy.random.get_state(), torch.get_rng_state())
    on_cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    accelerator = trainer.accelerator
    gradient_state = accelerator.gradient_state
    kept = (list(accelerator._dataloaders), list(gradient_state.dataloader_references))
    signature = getattr(trainer, "_signature_columns", None)
    try:
        yield
    finally:
        random.setstate(states[0])
        numpy.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if on_cuda is not None:
            torch.cuda.set_rng_state_all(on_cuda)
        accelerator._dataloaders[:], gradient_state.dataloader_references[:] = kept[0], kept[1]
        trainer._signature_columns = signature


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def _count_dtypes(model: Any, *, trainable: bool) -> dict[str, int]:
    counts: dict[str, int] = {}
    for parameter in model.parameters():
        if parameter.requires_grad == trainable:
            name = str(parameter.dtype).removeprefix("torch.")
            counts[name] = counts.get(name, 0) + parameter.numel()
    return counts


def _name_quantization(model: Any) -> str | None:
    config = getattr(model.config, "quantization_config", None)
    method = config.get("quant_method") if isinstance(config, dict) else getattr(config, "quant_method", None)
    return str(getattr(method, "value", method)) if method is not None else None


def _describe_device(kind: str) -> tuple[str, tuple[int, int] | None]:
    import torch

    if kind != "cuda":
        return kind, None
    major, minor = torch.cuda.get_device_capability()
    return torch.cuda.get_device_name(), (major, minor)


def _try_labels(collator: Any) -> bool | None:
    """Tell whether labels that a dataset brings survive the collator, by giving it two rows of them."""
    row = {"input_ids": [11, 12, 13], "attention_mask": [1, 1, 1], "labels": [IGNORE_INDEX, 12, IGNORE_INDEX]}
    try:
        labels = collator([dict(row), dict(row)])["labels"]
    except Exception:  # it wants other columns, or a pad token: then its real batches must tell
        return None
    return bool((labels != IGNORE_INDEX).sum() == 2)
