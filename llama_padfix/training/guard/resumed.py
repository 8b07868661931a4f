"""Whether a resumed run holds the weights of its checkpoint: Trainer loads a file by its names, and not strictly.

A family whose files have other names than its models (Gemma 3, Mixtral) is converted by `from_pretrained` alone. Names
show what Trainer cannot have loaded; values show whether the weights are there all the same, since the model was made
from the checkpoint. Nothing is claimed where that is not certain.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from llama_padfix.core.weights import name_weights, read_shapes

if TYPE_CHECKING:
    import torch
    from transformers import TrainerState, TrainingArguments

_WIDTH = range(4, 9)  # values in a row that are looked for: eight of them, or as many as a row has, four at least
_MOST_COMPARED = 8  # tensors of the file
_LARGEST, _MOST_READ = 2**26, 2**31  # elements of a tensor of the file, and of all weights in which one is looked for


def find_unloaded(model: torch.nn.Module, args: TrainingArguments, state: TrainerState) -> str:
    """Return what is wrong with the weights of a resumed run; "" where nothing is, or where it is not certain."""
    folder = _find_checkpoint(args, state)
    plain = not any(getattr(args, name, None) for name in ("fsdp", "deepspeed"))
    if folder is None or not plain or hasattr(model, "peft_config") or getattr(model, "hf_quantizer", None):
        return ""
    files = {name: path for path in name_weights(folder) for name in read_shapes(path)}
    names: dict[int, list[str]] = {}
    weights = dict(model.named_parameters(remove_duplicate=False))
    for name, weight in weights.items():
        names.setdefault(id(weight), []).append(name)
    missing = {held[0]: weights[held[0]] for held in names.values() if files.keys().isdisjoint(held)}
    others = {name: path for name, path in files.items() if name not in weights and name not in model.state_dict()}
    if not missing or not others or not all(map(_is_plain, missing.values())):
        return ""
    found = [is_there for is_there in _compare(others, missing) if is_there is not None]
    if not found or any(found):
        return ""
    return (
        f"The run goes on at step {state.global_step} of {str(folder)!r} without its weights: {len(missing)} of "
        f"{len(names)} are not under their names in the file ({next(iter(missing))!r} there, {next(iter(others))!r} "
        f"here), by which Trainer loads it, and none of {len(found)} tensors that were compared is in the model. It "
        f"would train the weights on with which the model was made. Load them first: model = "
        f"{type(model).__name__}.from_pretrained({str(folder)!r}); then make the trainer of it, and resume again."
    )


def _find_checkpoint(args: TrainingArguments, state: TrainerState) -> Path | None:
    """Return the folder from which a run was resumed, by the state that it wrote; None where it is not certain."""
    folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
    try:
        saved = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        same = all(
            json.dumps(saved[name]) == json.dumps(getattr(state, name))
            for name in ("global_step", "total_flos", "log_history")
        )
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return None
    return folder if same else None


def _is_plain(weight: torch.Tensor) -> bool:
    return weight.is_floating_point() and weight.device.type != "meta" and not hasattr(weight, "placements")


def _compare(others: Mapping[str, Path], missing: Mapping[str, torch.Tensor]) -> Iterator[bool | None]:
    """Yield for a few tensors of a file whether one of the weights holds their values; None where it is not known."""
    from safetensors import safe_open

    kinds: dict[str, str] = {}
    for name in others:
        kinds.setdefault(re.sub(r"\d+", "", name), name)
    compared, read = 0, 0
    for name in kinds.values():
        with safe_open(others[name], "pt") as file:
            large = _size(file.get_slice(name).get_shape()) > _LARGEST
            row = None if large else _find_row(file.get_tensor(name))
        places = [weight for other, weight in missing.items() if not _numbers(other) - _numbers(name)]
        read += sum(weight.numel() for weight in places)
        if row is None or not places:
            yield None
            continue
        if compared == _MOST_COMPARED or read > _MOST_READ:
            return
        compared += 1
        yield any(_holds(weight, row) for weight in places)


def _size(shape: list[int]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size


def _numbers(name: str) -> Counter[str]:
    """Return the numbers in a name (of layers and experts), which a renamed weight keeps; a fused one loses some."""
    return Counter(re.findall(r"\d+", name))


def _find_row(tensor: torch.Tensor) -> torch.Tensor | None:
    """Return some values that follow one another in a row and differ; None where there are none."""
    if not tensor.is_floating_point() or not tensor.dim():
        return None
    rows = tensor.reshape(-1, tensor.shape[-1])[:64, : _WIDTH[-1]]
    if rows.shape[1] not in _WIDTH:
        return None
    return next((row for row in rows if len(row.unique()) == len(row)), None)


def _holds(weight: torch.Tensor, row: torch.Tensor) -> bool:
    """Return True if the values follow one another in a weight, along its rows or along its columns."""
    row = row.to(weight.device, weight.dtype)
    turned = [weight.transpose(-1, -2)] if weight.dim() > 1 else []
    for flat in (each.detach().reshape(-1) for each in (weight, *turned)):
        at = (flat[: flat.numel() - len(row) + 1] == row[0]).nonzero()[:, 0] if flat.numel() >= len(row) else flat[:0]
        for step in range(1, len(row)):
            at = at[flat[at + step] == row[step]] if len(at) else at
        if len(at):
            return True
    return False
