"""The folder of one incident: the batch, its text and mask, the doctor's findings and the optimizer's state of health.

Written whole or not at all; `docs/guard.md` describes every file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import IGNORE_INDEX, PadfixError
from llama_padfix.core.files import scratch_folder
from llama_padfix.core.hf_objects import dtype_name
from llama_padfix.core.version import installed_versions
from llama_padfix.doctor.findings import Report
from llama_padfix.training.guard.incident import Health, Incident, MicroBatch

if TYPE_CHECKING:
    import torch

__all__ = ["count_trained", "load_batch", "show_batch", "write_evidence"]

_SCHEMA = 1
_PER_TOKEN = ("labels", "attention_mask")
_PACKAGES = ("llama-padfix", "torch", "transformers", "accelerate", "trl", "peft", "bitsandbytes")


def write_evidence(
    parent: str | Path,
    incident: Incident,
    batches: Sequence[MicroBatch],
    *,
    health: Health,
    report: Report | None = None,
    history: Sequence[float] = (),
    tokenizer: Any = None,
    page: str = "",
    rank: int = 0,
) -> Path:
    """Write the evidence into a new folder under `parent` and return it; nothing is left behind where that fails.

    Raises `OSError` where the disk refuses. The folder is named after step, kind and process, with a number behind
    it where one of that name exists.
    """
    parent = Path(parent)
    parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(parent, ".incident-") as scratch:
        for place, micro in enumerate(batches):
            _save_batch(scratch / f"batch-{place}.safetensors", micro)
        if batches:
            blamed = batches[incident.micro_batch]
            _write(scratch / "batch.txt", show_batch(blamed.batch, tokenizer))
        if page:
            _write(scratch / "mask.html", page)
        if report is not None:
            _write(scratch / "report.txt", str(report))
            _write(scratch / "report.json", report.to_json())
        _write_json(scratch / "optimizer.json", asdict(health))
        _write_json(
            scratch / "incident.json",
            {
                "schema": _SCHEMA,
                **{name: value for name, value in asdict(incident).items() if name not in ("folder", "remark")},
                "rank": rank,
                "history": list(history),
                "arguments": [_simple(micro.arguments) for micro in batches],
                "autocast": [_dtype_name(micro.autocast) for micro in batches],
                "versions": installed_versions(_PACKAGES),
            },
        )
        return _rename(scratch, parent, f"step-{incident.step:06d}-{incident.kind}" + (f"-rank{rank}" if rank else ""))


def load_batch(folder: str | Path, micro_batch: int | None = None) -> dict[str, Any]:
    """Return the keywords with which the model was called, tensors on the CPU: `model(**load_batch(folder))`.

    `micro_batch` is a number from 0, the one to blame without it. Raises `PadfixError` for a folder without evidence.
    """
    from safetensors.torch import load_file

    try:
        incident = json.loads((Path(folder) / "incident.json").read_text(encoding="utf-8"))
        place = incident["micro_batch"] if micro_batch is None else micro_batch
        tensors = load_file(Path(folder) / f"batch-{place}.safetensors")
        return {**tensors, **incident["arguments"][place]}
    except (OSError, IndexError) as error:
        raise PadfixError(
            f"{str(folder)!r} holds no such batch ({error}). Name the folder that the guard's message ends with."
        ) from error


def count_trained(batch: Mapping[str, Any]) -> int | None:
    """Return how many labels of a batch count in the loss of a causal model; None where there are no labels.

    Position 0 of each row does not: the model shifts the labels by one.
    """
    labels: Any = batch.get("labels")
    if getattr(labels, "ndim", 0) != 2:
        return None
    return int((labels[:, 1:] != IGNORE_INDEX).sum())


def show_batch(batch: Mapping[str, Any], tokenizer: Any = None) -> str:
    """Return the rows of a batch as text: runs of padding, masked and trained tokens, decoded one by one.

    Without a tokenizer the ids stand in the text's place; without labels nothing counts as trained.
    """
    ids: Any = batch.get("input_ids")
    if getattr(ids, "ndim", 0) != 2:
        return f"A batch of {', '.join(map(str, batch)) or 'nothing'}: there are no rows of ids to show.\n"
    rows = ids.tolist()
    columns = {
        name: batch[name].tolist()
        for name in _PER_TOKEN
        if tuple(getattr(batch.get(name), "shape", ())) == tuple(ids.shape)
    }
    lines = []
    for number, row in enumerate(rows):
        labels = columns["labels"][number] if "labels" in columns else [IGNORE_INDEX] * len(row)
        mask = columns["attention_mask"][number] if "attention_mask" in columns else [1] * len(row)
        states = [_state(label, seen) for label, seen in zip(labels, mask, strict=True)]
        lines.append(
            f"row {number}: {len(row)} positions, {states.count('trained')} trained, {states.count('padding')} padding"
        )
        for state, group in groupby(range(len(row)), key=lambda place: states[place]):
            places = list(group)
            text = _decode([row[place] for place in places], tokenizer) if state != "padding" else ""
            lines.append(f"  {state:8} {places[0]:5}..{places[-1]:<5} {text}".rstrip())
    return "\n".join(lines) + "\n"


def _state(label: int, seen: int) -> str:
    if label != IGNORE_INDEX:
        return "trained"
    return "masked" if seen else "padding"


def _decode(ids: Sequence[int], tokenizer: Any) -> str:
    if tokenizer is None:
        return " ".join(map(str, ids))
    try:
        return repr(tokenizer.decode(ids))
    except Exception:  # an id beyond the vocabulary may be the very fault
        return " ".join(map(str, ids))


def _save_batch(path: Path, micro: MicroBatch) -> None:
    from safetensors.torch import save_file

    # Clones: safetensors refuses tensors that share their memory, such as labels that are the ids.
    save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in micro.batch.items()}, path)


def _rename(scratch: Path, parent: Path, name: str) -> Path:
    for number in range(1, 10_000):
        target = parent / (name if number == 1 else f"{name}-{number}")
        if not target.exists():
            return scratch.rename(target)
    raise FileExistsError(f"{parent / name} and 10,000 more exist")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    _write(path, json.dumps(_simple(value), indent=2, allow_nan=False) + "\n")


def _simple(value: Any) -> Any:
    """Plain values for JSON; nan and infinities, which JSON does not know, become "nan", "inf" and "-inf"."""
    if isinstance(value, Mapping):
        return {str(key): _simple(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_simple(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if value is None or isinstance(value, (str, int)) else repr(value)


def _dtype_name(dtype: torch.dtype | None) -> str | None:
    return None if dtype is None else dtype_name(dtype)
