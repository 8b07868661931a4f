"""Packed rows to one batch in which each document keeps position ids of its own, and no mask stands in the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from llama_padfix.core.errors import IGNORE_INDEX, PadfixError
from llama_padfix.encoding.collator import PadCollator
from llama_padfix.encoding.id_columns import from_arrow, rows_of_table
from llama_padfix.encoding.packing.pack import PACKED_COLUMNS
from llama_padfix.encoding.sources import is_table

if TYPE_CHECKING:
    from typing import TypeAlias

    import torch

    from llama_padfix.core.types import IntArray, Row

    Batch: TypeAlias = dict[str, Any]  # tensors, but for two lengths and `use_cache`

Layout = Literal["rows", "flat"]
"""How packed rows lie in a batch: each in a row of its own, or all in one row (for FlashAttention)."""


@dataclass(frozen=True)
class PackCollator:
    """Make batches of packed rows, for `Trainer(data_collator=...)` or a `DataLoader(collate_fn=...)`.

    A batch has no attention mask: it would let each document attend to those before it. Position ids that begin anew
    at 0 mark the documents instead, and `use_cache=False` keeps sdpa and eager attention to them in a loop that calls
    `model(**batch)`. The end of a shorter row is filled up, as one more document without labels.

    Args:
        pad_token_id: What fills the end of a shorter row.
        layout: "rows" for a batch of shape (rows, width); "flat" for (1, tokens), with the bounds of the documents for
            FlashAttention's kernels of variable length and for kernels with a state.
        pad_to_multiple_of: The width is rounded up to a multiple of it; not for "flat".

    Raises:
        PadfixError: A setting cannot work.
    """

    pad_token_id: int
    layout: Layout = "rows"
    pad_to_multiple_of: int | None = None

    def __post_init__(self) -> None:
        """Raise `PadfixError` for settings that would only fail at the first batch."""
        PadCollator(self.pad_token_id, self.pad_to_multiple_of)
        if self.layout not in ("rows", "flat"):
            raise PadfixError(f'layout is {self.layout!r}. Pass "rows", or "flat" for FlashAttention.')

    def __call__(self, rows: Sequence[Row]) -> Batch:
        """Return one batch. `rows` is never changed.

        Args:
            rows: Mappings with `input_ids`, `labels` and `seq_lengths` (the tokens of each document), or an Arrow
                table; each column as `PadCollator` reads it.

        Returns:
            `input_ids`, `labels` and `position_ids`, int64 tensors of shape (rows, width) or (1, tokens), and
            `use_cache`, False. A "flat" batch also has `cu_seq_lens_q`, `cu_seq_lens_k` (int32, where documents begin
            and the last one ends), `max_length_q`, `max_length_k` (tokens of the longest document) and `seq_idx`
            (int32, shape (1, tokens), each token's document). The first label of each document is -100.

        Raises:
            PadfixError: As for `PadCollator`; a row has no `seq_lengths`, or they do not add up to its tokens.
        """
        if is_table(rows):
            rows = rows_of_table(rows, PACKED_COLUMNS)
        padded = PadCollator(self.pad_token_id, self.pad_to_multiple_of)(rows)
        lengths = [_read_lengths(row, number) for number, row in enumerate(rows)]
        return _lay_flat(padded, lengths) if self.layout == "flat" else _lay_in_rows(padded, lengths)


def _read_lengths(row: Any, number: int) -> IntArray:  # Any: what a user passes, which is checked
    import numpy as np

    value = from_arrow(row.get("seq_lengths"))
    if value is None:
        raise PadfixError(
            f"Row {number} has no seq_lengths, so its documents cannot be told apart. A Trainer drops columns that "
            "its model does not name: pass remove_unused_columns=False, as prepared.trainer_args does. Rows that are "
            "not packed are for PadCollator."
        )
    lengths = np.asarray(value, dtype=np.int64)
    if lengths.ndim != 1 or lengths.sum() != len(row["input_ids"]) or not (lengths > 0).all():
        raise PadfixError(
            f"Row {number}: its seq_lengths add up to {lengths.sum()}, and it has {len(row['input_ids'])} tokens. "
            "Pack it again: prepare(tokenizer, model, packing=True).encode(dataset)."
        )
    return lengths


def _lay_in_rows(padded: dict[str, torch.Tensor], lengths: Sequence[IntArray]) -> Batch:
    import numpy as np
    import torch

    ids, labels = padded["input_ids"], padded["labels"].numpy()
    positions = np.empty(ids.shape, dtype=np.int64)
    for row, own in enumerate(lengths):
        starts = np.concatenate(([0], np.cumsum(own)))
        positions[row] = np.arange(ids.shape[1])
        positions[row] -= np.repeat(starts, np.append(own, ids.shape[1] - starts[-1]))
    labels[positions == 0] = IGNORE_INDEX
    return {
        "input_ids": ids,
        "labels": padded["labels"],
        "position_ids": torch.from_numpy(positions),
        "use_cache": False,
    }


def _lay_flat(padded: dict[str, torch.Tensor], lengths: Sequence[IntArray]) -> Batch:
    import numpy as np
    import torch

    real = padded["attention_mask"] != 0
    every = np.concatenate(lengths)
    bounds = np.concatenate(([0], np.cumsum(every)))
    positions = np.arange(bounds[-1]) - np.repeat(bounds[:-1], every)
    labels = padded["labels"][real]
    labels[torch.from_numpy(bounds[:-1])] = IGNORE_INDEX
    ends, longest = torch.from_numpy(bounds.astype(np.int32)), int(every.max())
    return {
        "input_ids": padded["input_ids"][real][None],
        "labels": labels[None],
        "position_ids": torch.from_numpy(positions)[None],
        "use_cache": False,
        "cu_seq_lens_q": ends,
        "cu_seq_lens_k": ends,
        "max_length_q": longest,
        "max_length_k": longest,
        "seq_idx": torch.from_numpy(np.repeat(np.arange(len(every), dtype=np.int32), every))[None],
    }
