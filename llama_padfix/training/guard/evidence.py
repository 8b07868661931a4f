"""Writes the folder of one incident, whole or not at all, and reads its batch; `docs/guard.md` describes each file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llama_padfix.core.errors import PadfixError
from llama_padfix.core.files import scratch_folder
from llama_padfix.core.hf_objects import dtype_name
from llama_padfix.core.kinds import require_path
from llama_padfix.core.version import installed_versions
from llama_padfix.training.guard.incident import Health, Incident, MicroBatch

_SCHEMA = 1
_PACKAGES = ("llama-padfix", "torch", "transformers", "accelerate", "trl", "peft", "bitsandbytes")


def write_evidence(
    parent: Path,
    incident: Incident,
    batches: Sequence[MicroBatch],
    health: Health,
    texts: Mapping[str, str],
    *,
    history: Sequence[float] = (),
    rank: int = 0,
) -> Path:
    """Write the evidence into a new folder, whole or not at all.

    Args:
        parent: The folder around it, made if it does not exist.
        incident: What was measured.
        batches: The micro-batches of the update; one file for each.
        health: The state of weights, gradients and optimizer.
        texts: Further files by name: the batch as text and as a page, the doctor's report.
        history: The losses of earlier updates.
        rank: The number of this process.

    Returns:
        The folder, named after step, kind and process, with a number behind it if one of that name exists.

    Raises:
        OSError: The disk is full, or the folder cannot be written to.
    """
    parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(parent, ".incident-") as scratch:
        for place, micro in enumerate(batches):
            _save_batch(scratch / f"batch-{place}.safetensors", micro)
        about = {
            "schema": _SCHEMA,
            **{name: value for name, value in asdict(incident).items() if name not in ("folder", "remark")},
            "rank": rank,
            "history": list(history),
            "arguments": [micro.arguments for micro in batches],
            "autocast": [micro.autocast and dtype_name(micro.autocast) for micro in batches],
            "versions": installed_versions(_PACKAGES),
        }
        files = {**texts, "optimizer.json": _to_json(asdict(health)), "incident.json": _to_json(about)}
        for name, text in files.items():
            (scratch / name).write_text(text, encoding="utf-8")
        return _rename(scratch, parent, f"step-{incident.step:06d}-{incident.kind}" + (f"-rank{rank}" if rank else ""))


# `Any`: tensors beside plain values, passed on to a model as `**`.
def load_batch(folder: str | Path, micro_batch: int | None = None) -> dict[str, Any]:
    """Return the keywords that a model was called with at an incident: `model(**load_batch(folder))`.

    Args:
        folder: The folder that the guard's message ends with.
        micro_batch: A number from 0; None for the micro-batch with the fault.

    Returns:
        Tensors on the CPU, and plain values.

    Raises:
        PadfixError: The folder holds no evidence, or not that micro-batch.
    """
    from safetensors.torch import load_file

    require_path(folder, "the folder of an incident", "Name the folder that the guard's message ends with.")
    try:
        incident = json.loads((Path(folder) / "incident.json").read_text(encoding="utf-8"))
        place = incident["micro_batch"] if micro_batch is None else micro_batch
        tensors = load_file(Path(folder) / f"batch-{place}.safetensors")
        return {**tensors, **incident["arguments"][place]}
    except (OSError, IndexError) as error:
        raise PadfixError(
            f"{str(folder)!r} holds no such batch ({error}). Name the folder that the guard's message ends with."
        ) from error


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


def _to_json(value: Mapping[str, object]) -> str:
    return json.dumps(_simplify(value), indent=2, allow_nan=False) + "\n"


def _simplify(value: object) -> object:
    """Return plain values for JSON; nan and infinities, which JSON does not have, become "nan", "inf" and "-inf"."""
    if isinstance(value, Mapping):
        return {str(key): _simplify(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_simplify(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if value is None or isinstance(value, (str, int)) else repr(value)
