"""How a trainer is set up, and real batches out of its dataloaders, leaving it as it was."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from llama_padfix.core.compat import count_second_division
from llama_padfix.core.errors import IGNORE_INDEX, PadfixError
from llama_padfix.core.hf_objects import dtype_name
from llama_padfix.doctor.facts import RowFacts, SampleFacts, TrainerFacts
from llama_padfix.doctor.observe.rows import rows_of_batch
from llama_padfix.doctor.observe.snapshot import find_read_once, remember_random_states, remember_state
from llama_padfix.hardware.precision import choose_precision

__all__ = ["Draw", "observe_trainer", "preserve_state", "sample_batches"]

_FEW_ROWS = 64  # what is drawn from a trainer's own loaders by default: its batches cost collation
_FIRST_ROWS = 8  # rows of the dataset itself, to see whether it brings labels of its own
_PER_TOKEN = ("input_ids", "labels", "attention_mask", "position_ids")


def observe_trainer(trainer: Any) -> TrainerFacts:
    """Return how the trainer is set up to run."""
    model, args = trainer.model, trainer.args
    device = find_device(trainer)
    name, capability = _describe_device(device)
    advised, reason = _advise(device)
    collator = trainer.data_collator
    masked = _brings_masked_labels(trainer.train_dataset)
    return TrainerFacts(
        class_name=type(trainer).__name__,
        arguments={name: value for name, value in vars(args).items() if _is_plain(value)},
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
        dataset_labels_masked=masked,
        label_names=tuple(getattr(trainer, "label_names", None) or ()),
        mixed_precision=str(getattr(trainer.accelerator, "mixed_precision", "no")),
        launched="ACCELERATE_DYNAMO_BACKEND" in os.environ,  # `accelerate launch` sets it, whatever it is told
        distributed_type=getattr(trainer.accelerator.distributed_type, "value", "NO"),
        sharding_asked=next((kind for kind in ("fsdp", "deepspeed") if getattr(args, kind, None)), None),
        advised_dtype=advised,
        advised_reason=reason,
        documents_isolated=_isolates_documents(model),
        divided_again_by=count_second_division(trainer),
    )


@dataclass
class Draw:
    """Rows out of a trainer's loaders; what became of it is known once `rows` is used up."""

    rows: Iterator[RowFacts] = field(default_factory=lambda: iter(()))
    samples: list[SampleFacts] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)
    not_drawn: dict[str, str] = field(default_factory=dict)


def sample_batches(trainer: Any, max_rows: int | None) -> Draw:
    """Return the rows of real training and evaluation batches, not yet drawn; at most 64 of each unless None.

    A loader that raises ends its source and is noted in `errors`; a stream that can be read only once, and
    batches without `input_ids`, are noted in `not_drawn`.
    """
    draw = Draw()
    draw.rows = _draw(trainer, None if max_rows is None else min(max_rows, _FEW_ROWS), draw)
    return draw


def _draw(trainer: Any, limit: int | None, draw: Draw) -> Iterator[RowFacts]:
    for source, make_loader, dataset in _loaders(trainer):
        total = len(dataset) if hasattr(dataset, "__len__") else None
        stream = None if total is not None else find_read_once(dataset)
        names: dict[str, None] = {}
        seen = 0
        if stream is not None:
            draw.not_drawn[source] = f"its dataset reads from a {stream}, which can be read only once"
        else:
            try:
                for batch in _batches(make_loader):
                    for row in _rows(batch, source, seen):
                        seen += 1
                        yield row
                        if seen == limit:
                            break
                    names.update(dict.fromkeys(batch if isinstance(batch, Mapping) else ()))
                    if seen == limit or not seen:
                        break
            except Exception as error:
                draw.errors[source] = f"{type(error).__name__}: {error}"
            if not seen and source not in draw.errors:
                held = ", ".join(map(str, names)) or "none"
                draw.not_drawn[source] = f"its batches hold no input_ids of rows (they hold: {held})"
        columns = tuple(getattr(dataset, "column_names", None) or names)
        draw.samples.append(SampleFacts(source, seen, total, columns))


def _loaders(trainer: Any) -> Iterator[tuple[str, Callable[[], Any], Any]]:
    if trainer.train_dataset is not None:
        yield "train batch", trainer.get_train_dataloader, trainer.train_dataset
    evaluation = getattr(trainer, "eval_dataset", None)
    if isinstance(evaluation, dict):
        for name, dataset in evaluation.items():
            yield f"eval batch ({name})", partial(trainer.get_eval_dataloader, name), dataset
    elif evaluation is not None:
        yield "eval batch", trainer.get_eval_dataloader, evaluation


def _batches(make_loader: Callable[[], Any]) -> Iterator[Any]:
    """Yield the batches of a loader, and end its workers whenever the reader stops."""
    batches = iter(make_loader())
    try:
        yield from batches
    finally:
        if hasattr(batches, "close"):
            batches.close()


def _rows(batch: Any, source: str, first: int) -> Iterator[RowFacts]:
    """Yield the rows of a batch; of its columns, those that have a value a token."""
    ids: Any = batch.get("input_ids") if isinstance(batch, Mapping) else None
    if getattr(ids, "ndim", None) != 2 or 0 in ids.shape:
        return
    shaped = {name: batch[name] for name in _PER_TOKEN if getattr(batch.get(name), "shape", None) == ids.shape}
    yield from rows_of_batch(shaped, source, first)


@contextlib.contextmanager
def preserve_state(trainer: Any) -> Iterator[None]:
    """Put back whatever drawing batches moves, so that training runs as it would have run.

    That is the random states, the accelerator's notes on dataloaders, what the trainer keeps, and the counters and
    generators of its datasets and collator.
    """
    restore_random_states = remember_random_states()
    accelerator, gradient_state = trainer.accelerator, trainer.accelerator.gradient_state
    restore = remember_state(
        trainer.train_dataset,
        getattr(trainer, "eval_dataset", None),
        trainer.data_collator,
        shallow=(trainer, trainer.args, accelerator, gradient_state),
    )
    try:
        yield
    finally:
        restore()
        restore_random_states()


def find_device(trainer: Any) -> Any:
    """Return the device that will train: where the trainer puts its batches."""
    return trainer.args.device


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def _count_dtypes(model: Any, *, trainable: bool) -> dict[str, int]:
    counts: dict[str, int] = {}
    for parameter in model.parameters():
        if parameter.requires_grad == trainable:
            name = dtype_name(parameter.dtype)
            counts[name] = counts.get(name, 0) + parameter.numel()
    return counts


def _name_quantization(model: Any) -> str | None:
    config = getattr(getattr(model, "config", None), "quantization_config", None)
    method = config.get("quant_method") if isinstance(config, dict) else getattr(config, "quant_method", None)
    return str(getattr(method, "value", method)) if method is not None else None


def _describe_device(device: Any) -> tuple[str, tuple[int, int] | None]:
    import torch

    if device.type != "cuda":
        return device.type, None
    major, minor = torch.cuda.get_device_capability(device.index or 0)
    return torch.cuda.get_device_name(device.index or 0), (major, minor)


def _advise(device: Any) -> tuple[str | None, str]:
    try:
        advised = choose_precision(device)
    except PadfixError:  # a device that nobody can judge
        return None, ""
    return dtype_name(advised.dtype), advised.reason


def _announced_processes() -> int | None:
    """Return how many processes the launcher announced: in the environment, or in the line that started it.

    `accelerate launch --cpu --num_processes 2` starts one process and tells it nothing of two.
    """
    announced = os.environ.get("WORLD_SIZE", "")
    if announced.isdigit():
        return int(announced)
    try:
        line = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().decode().replace("\0", " ")
    except (OSError, UnicodeDecodeError):  # only Linux tells
        return None
    asked = re.search(r"accelerate\S* launch .*--num_processes[= ](\d+)", line)
    return int(asked.group(1)) if asked else None


def _find_autocast(model: Any) -> str | None:
    """Return the dtype of an autocast that accelerate wrapped around the forward of the model or of a part of it."""
    import torch

    stack: list[Any] = [part.__dict__["forward"] for part in model.modules() if "forward" in part.__dict__]
    seen: set[int] = set()
    while stack and len(seen) < 1000:
        value = stack.pop()
        if isinstance(value, torch.autocast):
            return dtype_name(value.fast_dtype)
        if id(value) in seen or isinstance(value, (torch.nn.Module, torch.Tensor)):
            continue
        seen.add(id(value))
        stack += [
            getattr(value, name) for name in ("__func__", "__wrapped__", "model_forward") if hasattr(value, name)
        ]
        for cell in getattr(value, "__closure__", None) or ():
            with contextlib.suppress(ValueError):  # a cell that is not filled
                stack.append(cell.cell_contents)
    return None


def _isolates_documents(model: Any) -> bool | None:
    """Tell whether attention keeps to the documents that position ids mark, as the installed model code has it."""
    attention = getattr(getattr(model, "config", None), "_attn_implementation", None)
    if attention is None:
        return None
    if "flash" in attention:
        return True
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    makers = vars(sys.modules.get(type(base).__module__, sys))
    masks = sys.modules.get("transformers.masking_utils")
    return hasattr(masks, "find_packed_sequence_indices") and "create_causal_mask" in makers


def _brings_masked_labels(dataset: Any) -> bool | None:
    """Tell whether the first rows bring labels of which some are -100; None where rows have no labels to see."""
    if dataset is None or not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        return None
    try:
        rows = [dataset[place] for place in range(min(len(dataset), _FIRST_ROWS))]
        labels = [list(row["labels"]) for row in islice(rows, _FIRST_ROWS) if row.get("labels") is not None]
    except Exception:  # rows of another kind: its real batches must tell
        return None
    return any(IGNORE_INDEX in row for row in labels) if labels else None


def _try_labels(collator: Any) -> bool | None:
    """Tell whether labels that a dataset brings survive the collator, by giving it two rows of them."""
    row = {"input_ids": [11, 12, 13], "attention_mask": [1, 1, 1], "labels": [IGNORE_INDEX, 12, IGNORE_INDEX]}
    try:
        labels = collator([dict(row), dict(row)])["labels"]
        return int((labels != IGNORE_INDEX).sum()) == 2
    except Exception:  # it wants other columns, or a pad token: then its real batches must tell
        return None
