"""A whole dataset through an encoder: progress while it runs, and the counts of what became of its rows."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llama_padfix.compat import list_feature
from llama_padfix.encode import ChatEncoder
from llama_padfix.encoding import write_encoding
from llama_padfix.records import Counts, PadfixError

__all__ = ["encode_dataset"]

logger = logging.getLogger(__name__)

_BATCH_ROWS = 1000  # as in datasets.map


def encode_dataset(encoder: ChatEncoder, dataset: Any, *, progress: bool = True, name: str = "dataset") -> Any:
    """Encode a `Dataset`, `DatasetDict`, `IterableDataset`, `IterableDatasetDict` or list of rows.

    Returns the same kind (a `Dataset` for a list) with the int32 columns `input_ids` and `labels` alone. What
    was dropped, cut or repaired is logged as a warning, with the first rows of each kind, and added to
    `encoder.counts`; for a stream that happens batch by batch, each time that the stream is read. How it was encoded
    stands in the result's description (`read_encoding`). Raises `PadfixError` for a bad row, naming it (and `name`,
    unless it is the default), when the rows are encoded already, and when no row is left.
    """
    datasets = _import_datasets()
    if isinstance(dataset, Mapping):
        kind: Any = type(dataset)
        return kind(
            {
                split: encode_dataset(encoder, rows, progress=progress, name=f"split {split!r}")
                for split, rows in dataset.items()
            }
        )
    if isinstance(dataset, datasets.IterableDataset):
        return _map_stream(datasets, encoder, dataset, name)
    if isinstance(dataset, datasets.Dataset):
        batches: Iterable[Sequence[Any]] = _batches_of(dataset)
        columns: Iterable[Any] = dataset.column_names
    elif isinstance(dataset, (list, tuple)):
        batches = (dataset[start : start + _BATCH_ROWS] for start in range(0, len(dataset), _BATCH_ROWS))
        columns = dataset[0] if dataset and isinstance(dataset[0], Mapping) else ()
    else:
        raise PadfixError(
            f"A {type(dataset).__name__} is not a dataset. Pass a datasets.Dataset, DatasetDict or IterableDataset "
            "(datasets.load_dataset(name), datasets.Dataset.from_pandas(frame)), or a list of rows: list(rows)"
        )
    _refuse_encoded(columns, name)
    if not len(dataset):
        raise PadfixError(f"The {name} holds no rows. Check the files that it was read from.")

    from tqdm.auto import tqdm

    counts = Counts()
    parts = []
    with tqdm(total=len(dataset), desc=f"Encoding {name}", unit="row", disable=not progress) as bar:
        for rows in batches:
            encoded, batch_counts = _encode_named(encoder, rows, counts.rows, name)
            counts = counts + batch_counts
            if batch_counts.kept:
                parts.append(datasets.Dataset.from_dict(encoded, features=_features(datasets)))
            bar.update(len(rows))
            bar.set_postfix(tokens=counts.tokens, dropped=counts.dropped)
    if not parts:
        raise PadfixError(f"No row of the {name} is left to train on: {counts}. Look at the rows or raise max_length.")
    _log(name, counts)
    whole = datasets.concatenate_datasets(parts)
    write_encoding(whole, encoder.encoding)
    return whole


def _encode_named(
    encoder: ChatEncoder, rows: Sequence[Any], numbers: Sequence[int] | int, name: str
) -> tuple[dict[str, list[list[int]]], Counts]:
    try:
        return encoder.encode_rows(rows, numbers)
    except PadfixError as error:
        if name == "dataset":
            raise
        raise PadfixError(f"{name}, {error}") from error


def _log(name: str, counts: Counts) -> None:
    level = logging.WARNING if counts.remarkable else logging.INFO
    logger.log(level, "llama_padfix: %s: %s", name, "\n  ".join([str(counts), *counts.name_rows()]))


def _refuse_encoded(columns: Iterable[Any], name: str) -> None:
    if "input_ids" in columns:
        raise PadfixError(
            f"The {name} has a column input_ids, so it is encoded already. Train on it as it is, or encode the rows "
            'that it was made from; dataset.remove_columns("input_ids") keeps only those.'
        )


def _import_datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise PadfixError("Encoding a dataset needs the package datasets. Run: pip install datasets") from error
    return datasets


def _features(datasets: Any) -> Any:
    sequence = list_feature(datasets)
    return datasets.Features({name: sequence(datasets.Value("int32")) for name in ("input_ids", "labels")})


def _batches_of(dataset: Any) -> Iterator[list[Any]]:
    # Without the user's own format, so that rows come as plain Python values; a transform makes the rows, and stays.
    if dataset.format["type"] != "custom":
        dataset = dataset.with_format(None, columns=dataset.format["columns"])
    for columns in dataset.iter(batch_size=_BATCH_ROWS):
        yield _rows_of(columns)


def _rows_of(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    length = len(next(iter(columns.values()), ()))
    return [{column: values[place] for column, values in columns.items()} for place in range(length)]


def _map_stream(datasets: Any, encoder: ChatEncoder, dataset: Any, name: str) -> Any:
    # Nothing is read here: a stream need not declare its columns, and some can be read only once.
    _refuse_encoded(dataset.column_names or (), name)
    encoded = dataset.with_format(None).map(
        _StreamEncoder(encoder, name),
        batched=True,
        with_indices=True,
        batch_size=_BATCH_ROWS,
    )
    # The types come last: given to `map`, datasets 3.3 looks for each column of the stream among them.
    encoded = encoded.select_columns(["input_ids", "labels"]).cast(_features(datasets))
    write_encoding(encoded, encoder.encoding)
    return encoded


@dataclass(frozen=True)
class _StreamEncoder:
    """Encodes a batch of a stream when it is read; a class and no closure, for the workers of a dataloader."""

    encoder: ChatEncoder
    name: str

    def __call__(self, columns: Mapping[str, Sequence[Any]], numbers: Sequence[int]) -> dict[str, Any]:
        _refuse_encoded(columns, self.name)
        encoded, counts = _encode_named(self.encoder, _rows_of(columns), numbers, self.name)
        _log(f"{self.name}, rows {numbers[0]} to {numbers[-1]}", counts)
        # `map` keeps what it is not given anew, and rows that were dropped would leave the columns unequal.
        return {**dict.fromkeys(columns, [None] * counts.kept), **encoded}
