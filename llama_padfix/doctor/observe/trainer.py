"""How a trainer is set up to run."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING

from llama_padfix.core.compat import count_second_division, find_tokenizer
from llama_padfix.core.errors import IGNORE_INDEX, PadfixError
from llama_padfix.core.hf_objects import base_model, dtype_name, read_quantization_config
from llama_padfix.doctor.facts import TrainerFacts
from llama_padfix.doctor.observe.reachable import filled_cells, is_own_code
from llama_padfix.doctor.observe.snapshot import find_read_once
from llama_padfix.doctor.observe.trainer_parts import observe_parts
from llama_padfix.hardware.precision import choose_precision

if TYPE_CHECKING:
    from typing import TypeGuard

    import torch

    from llama_padfix.core.types import Collator, ModelLike, TokenizerLike, TrainerLike

_FIRST_ROWS = 8  # rows of the dataset that are read to find labels of its own
_MOST_WRAPPERS = 1000  # functions that are followed around a forward


def observe_trainer(trainer: TrainerLike) -> TrainerFacts:
    """Return how the trainer is set up to run.

    Only its settings are read, the first rows of its dataset, and what its collator makes of two short rows.
    """
    model, args = trainer.model, trainer.args
    device = find_device(trainer)
    name, capability = _describe_device(device)
    advised, reason = _advise(device)
    collator = trainer.data_collator
    return TrainerFacts(
        class_name=type(trainer).__name__,
        arguments={
            name: value for name, value in vars(args).items() if value is None or isinstance(value, (int, float, str))
        },
        collator=f"{type(collator).__module__}.{getattr(type(collator), '__qualname__', 'function')}",
        given_labels_kept=_try_labels(collator),
        collator_pad_token_id=getattr(collator, "pad_token_id", None),
        device_type=device.type,
        device_name=name,
        device_capability=capability,
        trainable_dtypes=_count_dtypes(model, trainable=True),
        frozen_dtypes=_count_dtypes(model, trainable=False),
        attention=getattr(getattr(model, "config", None), "_attn_implementation", None),
        is_peft=hasattr(model, "peft_config"),
        quantization=_name_quantization(model),
        world_size=int(getattr(args, "world_size", 1)),
        expected_world_size=_announced_processes(),
        wrapper=type(trainer.model_wrapped).__name__ if trainer.model_wrapped is not model else None,
        autocast_dtype=_find_autocast(model),
        dataset_columns=tuple(getattr(trainer.train_dataset, "column_names", None) or ()),
        dataset_labels_masked=_brings_masked_labels(trainer.train_dataset),
        label_names=tuple(getattr(trainer, "label_names", None) or ()),
        mixed_precision=str(getattr(trainer.accelerator, "mixed_precision", "no")),
        launched="ACCELERATE_DYNAMO_BACKEND" in os.environ,  # `accelerate launch` always sets it
        distributed_type=getattr(trainer.accelerator.distributed_type, "value", "NO"),
        sharding_requested=next((kind for kind in ("fsdp", "deepspeed") if getattr(args, kind, None)), None),
        advised_dtype=advised,
        advised_reason=reason,
        documents_isolated=_isolates_documents(model),
        divided_again_by=count_second_division(trainer),
        own_loss=_name_own_loss(trainer),
        **observe_parts(trainer),
    )


def is_trainer(value: object) -> TypeGuard[TrainerLike]:
    """Return True for a trainer: it has a training dataloader to draw batches from."""
    return hasattr(value, "get_train_dataloader")


def find_tokenizer_of(trainer: TrainerLike) -> TokenizerLike | None:
    """Return the tokenizer of a trainer or of its processor; None where it has none."""
    tokenizer = find_tokenizer(trainer)
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    return tokenizer if hasattr(tokenizer, "get_vocab") else None


def find_device(trainer: TrainerLike) -> torch.device:
    """Return the device that will train: where the trainer puts its batches."""
    device: torch.device = trainer.args.device
    return device


def _name_own_loss(trainer: TrainerLike) -> str | None:
    """Return the name of a loss that is the user's own; None where the trainer's or the model's is used."""
    function = getattr(trainer, "compute_loss_func", None)
    if isinstance(function, FunctionType) and is_own_code(function):
        return str(function.__qualname__)
    kind = next((kind for kind in type(trainer).__mro__ if "compute_loss" in vars(kind)), None)
    return f"{kind.__qualname__}.compute_loss" if kind is not None and is_own_code(kind) else None


def _count_dtypes(model: ModelLike, *, trainable: bool) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for parameter in model.parameters():
        if parameter.requires_grad == trainable:
            counts[dtype_name(parameter.dtype)] += parameter.numel()
    return dict(counts)


def _name_quantization(model: ModelLike) -> str | None:
    method = read_quantization_config(getattr(model, "config", None)).get("quant_method")
    return str(method) if method is not None else None


def _describe_device(device: torch.device) -> tuple[str, tuple[int, int] | None]:
    import torch

    if device.type != "cuda":
        return device.type, None
    major, minor = torch.cuda.get_device_capability(device.index or 0)
    return torch.cuda.get_device_name(device.index or 0), (major, minor)


def _advise(device: torch.device) -> tuple[str | None, str]:
    try:
        advised = choose_precision(device)
    except PadfixError:  # no advice is known for this device
        return None, ""
    return dtype_name(advised.dtype), advised.reason


def _announced_processes() -> int | None:
    """Return how many processes the launcher announced: in the environment, or in the line that started it.

    `accelerate launch --cpu --num_processes 2` starts one process, and its environment does not show the two.
    """
    announced = os.environ.get("WORLD_SIZE", "")
    if announced.isdigit():
        return int(announced)
    try:
        line = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().decode().replace("\0", " ")
    except (OSError, UnicodeDecodeError):  # only Linux has this file
        return None
    requested = re.search(r"accelerate\S* launch .*--num_processes[= ](\d+)", line)
    return int(requested.group(1)) if requested else None


def _find_autocast(model: ModelLike) -> str | None:
    """Return the dtype of an autocast that accelerate wrapped around the forward of the model or of a part of it."""
    import torch

    stack: list[object] = [part.__dict__["forward"] for part in model.modules() if "forward" in part.__dict__]
    seen: set[int] = set()
    while stack and len(seen) < _MOST_WRAPPERS:
        value = stack.pop()
        if isinstance(value, torch.autocast):
            return dtype_name(value.fast_dtype)
        if id(value) in seen or isinstance(value, (torch.nn.Module, torch.Tensor)):
            continue
        seen.add(id(value))
        stack += [getattr(value, name, None) for name in ("__func__", "__wrapped__", "model_forward")]
        stack += filled_cells(value)
    return None


def _isolates_documents(model: ModelLike) -> bool | None:
    """Return True if the installed model code keeps attention within the documents that position ids mark."""
    attention = getattr(getattr(model, "config", None), "_attn_implementation", None)
    if attention is None:
        return None
    if "flash" in attention:
        return True
    makers = vars(sys.modules.get(type(base_model(model)).__module__, sys))
    masks = sys.modules.get("transformers.masking_utils")
    return hasattr(masks, "find_packed_sequence_indices") and "create_causal_mask" in makers


def _brings_masked_labels(dataset: object) -> bool | None:
    """Return True if some labels of the first rows are -100; None where rows have no labels, or no numbers."""
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__") or find_read_once(dataset, seeks=True):
        return None
    try:
        rows = [dataset[place] for place in range(min(len(dataset), _FIRST_ROWS))]
        labels = [list(row["labels"]) for row in rows if row.get("labels") is not None]
    except Exception:  # rows of another kind, which the checks of real batches read
        return None
    return any(IGNORE_INDEX in row for row in labels) if labels else None


def _try_labels(collator: Collator) -> bool | None:
    """Return True if the collator keeps the labels of two rows; None if it raises or reads what is read only once."""
    if find_read_once(collator, seeks=True):
        return None
    row = {"input_ids": [11, 12, 13], "attention_mask": [1, 1, 1], "labels": [IGNORE_INDEX, 12, IGNORE_INDEX]}
    try:
        labels = collator([dict(row), dict(row)])["labels"]
        return int((labels != IGNORE_INDEX).sum()) == 2
    except Exception:  # it needs other columns, or a pad token; the checks of real batches see what it does
        return None
