"""A batch as text that needs no template and no checks: runs of padding, masked and trained tokens, row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from llama_padfix.core.errors import IGNORE_INDEX

if TYPE_CHECKING:
    import torch

    from llama_padfix.core.types import TokenizerLike


def show_batch(batch: Mapping[str, torch.Tensor], tokenizer: TokenizerLike | None = None) -> str:
    """Return the rows of a batch as text: a line for each run of padding, masked or trained tokens.

    Args:
        batch: `input_ids` of shape (rows, width); `labels` and `attention_mask` count where they have that shape.
        tokenizer: Decodes the runs; without one they are shown as ids.
    """
    ids = batch.get("input_ids")
    if ids is None or ids.ndim != 2:
        return f"A batch of {', '.join(map(str, batch)) or 'nothing'}: there are no rows of ids to show.\n"
    defaults = {"labels": IGNORE_INDEX, "attention_mask": 1}
    columns = []
    for name, default in defaults.items():
        fits = getattr(batch.get(name), "shape", None) == ids.shape
        columns.append(batch[name].tolist() if fits else [[default] * ids.shape[1]] * ids.shape[0])
    lines = []
    for number, (row, labels, mask) in enumerate(zip(ids.tolist(), *columns, strict=True)):
        states = [
            "trained" if label != IGNORE_INDEX else "masked" if seen else "padding"
            for label, seen in zip(labels, mask, strict=True)
        ]
        lines.append(
            f"row {number}: {len(row)} positions, {states.count('trained')} trained, {states.count('padding')} padding"
        )
        for state, group in groupby(range(len(row)), key=lambda place: states[place]):
            places = list(group)
            text = _decode([row[place] for place in places], tokenizer) if state != "padding" else ""
            lines.append(f"  {state:8} {places[0]:5}..{places[-1]:<5} {text}".rstrip())
    return "\n".join(lines) + "\n"


def _decode(ids: Sequence[int], tokenizer: TokenizerLike | None) -> str:
    if tokenizer is not None:
        try:
            return repr(tokenizer.decode(ids))
        except Exception:  # an id beyond the vocabulary may be the fault
            pass
    return " ".join(map(str, ids))
