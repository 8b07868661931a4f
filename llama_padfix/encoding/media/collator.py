"""Encoded rows with media to one batch: ids padded as ever, everything else by the processor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.collator import PadCollator
from llama_padfix.encoding.media.parts import holds_messages, read_column, read_media_row
from llama_padfix.encoding.media.processor import MediaReader
from llama_padfix.encoding.media.values import KINDS, Medium
from llama_padfix.encoding.reading.json_values import as_list

if TYPE_CHECKING:
    import torch

    from llama_padfix.core.types import Row


@dataclass(frozen=True)
class MediaCollator:
    """Pad rows of `MediaEncoder` to one length, and make pixel values and all else that the processor makes.

    Media are read from the row's own columns when a batch needs them, so that a dataset stays as small as it was.

    Args:
        processor: The processor with which the rows were encoded.
        pad_token_id: As for `PadCollator`.
        pad_to_multiple_of: As for `PadCollator`.
        dtype: What half-precision values become that a processor makes whatever the model is (Llama 4's are bfloat16);
            None to leave them.
    """

    processor: Any  # transformers.ProcessorMixin
    pad_token_id: int
    pad_to_multiple_of: int | None = None
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        """Raise `PadfixError` for settings that cannot work."""
        PadCollator(self.pad_token_id, self.pad_to_multiple_of)

    def __call__(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Return one padded batch. `rows` is never changed.

        Args:
            rows: Rows with `input_ids`, `labels`, `media_counts` and the columns from which they were encoded.

        Returns:
            `input_ids`, `attention_mask` and `labels` as `PadCollator` makes them, int64 of shape (len(rows), width),
            and what the processor makes for them: `pixel_values` and others, by the family.

        Raises:
            PadfixError: As `PadCollator`; a medium cannot be read, or needs another number of tokens than the row has.
        """
        padded = PadCollator(self.pad_token_id, self.pad_to_multiple_of)(rows)
        media = [_read_kept(place, row) for place, row in enumerate(rows)]
        made = MediaReader(self.processor).collate(padded["input_ids"], padded["attention_mask"], media)
        return {**{name: self._cast(value) for name, value in made.items()}, "labels": padded["labels"]}

    def _cast(self, value: Any) -> Any:  # a tensor, or what a processor did not make one
        is_half = getattr(value, "is_floating_point", bool)() and value.element_size() == 2
        return value.to(self.dtype) if is_half and self.dtype is not None else value


def _read_kept(place: int, row: Row) -> list[Medium]:
    """Return the media of a row of which it holds the tokens: a row that was cut has lost those behind."""
    counts = row.get("media_counts")
    if counts is None:
        raise PadfixError(
            f"Row {place} has no media_counts, so it was not encoded with this processor. Encode the dataset first: "
            "prepare(processor, model).encode(dataset)"
        )
    left = {kind: int(count) for kind, count in zip(KINDS, as_list(counts) or (), strict=True)}
    if not any(left.values()):
        return []
    columns: Mapping[str, object] = {
        name: value for name, value in row.items() if name not in ("input_ids", "labels", "media_counts")
    }
    kept = []
    media = (
        read_media_row(columns)[1] if holds_messages(columns) else [*chain(*(read_column(columns, k) for k in KINDS))]
    )
    for medium in media:
        if left[medium.kind] > 0:
            left[medium.kind] -= 1
            kept.append(medium)
    return kept
