"""A batch as text that needs no template and no checks: runs of padding, masked and trained tokens, row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from llama_padfix.core.errors import IGNORE_INDEX
from llama_padfix.doctor.observe.rows import rows_of_batch

if TYPE_CHECKING:
    import torch

    from llama_padfix.core.types import TokenizerLike


def show_batch(batch: Mapping[str, torch.Tensor], tokenizer: TokenizerLike | None = None) -> str:
    """Return the rows of a batch as text: a line for each run of padding, masked or trained tokens.

    Args:
        batch: of any loss (`rows_of_batch`); labels and masks count where they have the shape of the ids.
        tokenizer: Decodes the runs; without one they are shown as ids.
    """
    shape = getattr(batch.get("input_ids"), "shape", None)
    fitting = {name: held for name, held in batch.items() if name != "labels" or getattr(held, "shape", None) == shape}
    rows = list(rows_of_batch(fitting, "batch"))
    if not rows:
        return f"A batch of {', '.join(map(str, batch)) or 'nothing'}: there are no rows of ids to show.\n"
    lines = []
    for number, row in enumerate(rows):
        size = len(row.input_ids)
        labels = [IGNORE_INDEX] * size if row.labels is None else row.labels.tolist()
        mask = [1] * size if row.attention_mask is None else row.attention_mask.tolist()
        states = [
            "trained" if label != IGNORE_INDEX else "masked" if seen else "padding"
            for label, seen in zip(labels, mask, strict=True)
        ]
        part = row.source.removeprefix("batch").replace(", ", " (") + ")" if row.source != "batch" else ""
        lines.append(
            f"row {number}{part}: {size} positions, {states.count('trained')} trained, "
            f"{states.count('padding')} padding"
        )
        ids = row.input_ids.tolist()
        for state, group in groupby(range(size), key=lambda place: states[place]):
            places = list(group)
            text = _decode([ids[place] for place in places], tokenizer) if state != "padding" else ""
            lines.append(f"  {state:8} {places[0]:5}..{places[-1]:<5} {text}".rstrip())
    return "\n".join(lines) + "\n"


def _decode(ids: Sequence[int], tokenizer: TokenizerLike | None) -> str:
    if tokenizer is not None:
        try:
            return repr(tokenizer.decode(ids))
        except Exception:  # an id beyond the vocabulary may be the fault
            pass
    return " ".join(map(str, ids))
