"""A stream through an encoder while it is read, and the log of what became of rows."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.dataset.arrow_stream import make_features
from llama_padfix.encoding.record import write_encoding
from llama_padfix.encoding.sources import is_table, refuse_encoded, rows_of

if TYPE_CHECKING:
    from typing import TypeAlias

    import datasets
    import pyarrow as pa

    from llama_padfix.encoding.counts import Counts
    from llama_padfix.encoding.encoder import ChatEncoder

    Columns: TypeAlias = dict[str, list[object]]

logger = logging.getLogger(__name__)

_STREAM_ROWS = 1000  # encoded at once of a stream, as in datasets.map


def encode_stream(encoder: ChatEncoder, dataset: datasets.IterableDataset, name: str) -> datasets.IterableDataset:
    """Return the stream encoded while it is read."""
    # Nothing is read here: a stream need not declare its columns, and some can be read only once.
    refuse_encoded(dataset, name)
    # One in Arrow's format hands its tables over; else rows come as Python values, whatever the user's format.
    as_table = getattr(getattr(dataset, "_formatting", None), "format_type", None) == "arrow"
    encoded = dataset.with_format("arrow" if as_table else None).map(
        _StreamEncoder(encoder, name), batched=True, with_indices=True, batch_size=_STREAM_ROWS
    )
    # The types come last: given to `map`, datasets 3.3 expects each column of the stream among them.
    encoded = encoded.with_format(None).select_columns([*encoder.columns]).cast(make_features(encoder.columns))
    write_encoding(encoded, encoder.encoding)
    return encoded


@dataclass(frozen=True)
class _StreamEncoder:
    """Encodes a batch of a stream when it is read; a class and no closure, for the workers of a dataloader."""

    encoder: ChatEncoder
    name: str

    def __call__(self, batch: pa.Table | Columns, numbers: Sequence[int]) -> pa.Table | Columns:
        refuse_encoded(batch, self.name)
        try:
            if is_table(batch):
                encoded, counts = self.encoder.encode_chunk(batch, numbers[0])
            else:
                columns, counts = self.encoder.encode_rows(rows_of(batch), numbers)
                # `map` keeps what it is not given anew, and rows that were dropped would leave the columns unequal.
                encoded = {**dict.fromkeys(batch, [None] * len(columns[self.encoder.columns[0]])), **columns}
        except PadfixError as error:
            raise PadfixError(str(error) if self.name == "dataset" else f"{self.name}, {error}") from error
        log_counts(f"{self.name}, rows {numbers[0]} to {numbers[-1]}", counts)
        return encoded


def log_counts(name: str, counts: Counts) -> None:
    """Log what became of the rows, with the first of each kind; as a warning where one was dropped, cut or changed."""
    level = logging.WARNING if counts.remarkable else logging.INFO
    logger.log(level, "llama_padfix: %s: %s", name, "\n  ".join([str(counts), *counts.name_rows()]))
