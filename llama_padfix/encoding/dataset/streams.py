"""Streams of rows encoded while they are read, and what every encoded dataset shares: its log and refusals."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.counts import Counts
from llama_padfix.encoding.dataset.arrow_stream import COLUMNS, make_features
from llama_padfix.encoding.encoder import ChatEncoder
from llama_padfix.encoding.id_columns import is_table
from llama_padfix.encoding.record import write_encoding
from llama_padfix.encoding.sources import column_names, rows_of

if TYPE_CHECKING:
    from typing import TypeAlias

    import datasets
    import pyarrow as pa

    Columns: TypeAlias = dict[str, list[object]]

logger = logging.getLogger(__name__)

_BATCH_ROWS = 1000  # of a stream, as in datasets.map


def log_counts(name: str, counts: Counts) -> None:
    """Log what became of the rows, with the first of each kind; as a warning where one was dropped, cut or changed."""
    level = logging.WARNING if counts.remarkable else logging.INFO
    logger.log(level, "llama_padfix: %s: %s", name, "\n  ".join([str(counts), *counts.name_rows()]))


def refuse_encoded(rows: object, name: str) -> None:
    """Raise `PadfixError` for a dataset, table or batch of columns that holds `input_ids`."""
    columns: Iterable[object] = rows if isinstance(rows, Mapping) else column_names(rows) or ()
    if "input_ids" in columns:
        raise PadfixError(
            f"The {name} has a column input_ids, so it is encoded already. Train on it as it is, or encode the rows "
            'that it was made from; dataset.remove_columns("input_ids") keeps only those.'
        )


def map_stream(encoder: ChatEncoder, dataset: datasets.IterableDataset, name: str) -> datasets.IterableDataset:
    """Return the stream encoded while it is read."""
    # Nothing is read here: a stream need not declare its columns, and some can be read only once.
    refuse_encoded(dataset, name)
    # One in Arrow's format hands its tables over; else rows come as Python values, whatever the user's format.
    as_table = getattr(getattr(dataset, "_formatting", None), "format_type", None) == "arrow"
    encoded = dataset.with_format("arrow" if as_table else None).map(
        _StreamEncoder(encoder, name), batched=True, with_indices=True, batch_size=_BATCH_ROWS
    )
    # The types come last: given to `map`, datasets 3.3 looks for each column of the stream among them.
    encoded = encoded.with_format(None).select_columns([*COLUMNS]).cast(make_features())
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
                encoded = {**dict.fromkeys(batch, [None] * counts.kept), **columns}
        except PadfixError as error:
            raise PadfixError(str(error) if self.name == "dataset" else f"{self.name}, {error}") from error
        log_counts(f"{self.name}, rows {numbers[0]} to {numbers[-1]}", counts)
        return encoded
