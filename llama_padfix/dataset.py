"""A whole dataset through an encoder: progress while it runs, and the counts of what became of its rows."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from llama_padfix.encode import ChatEncoder
from llama_padfix.records import Counts, PadfixError

__all__ = ["encode_dataset"]

logger = logging.getLogger(__name__)

_BATCH_ROWS = 1000  # as in datasets.map


def encode_dataset(encoder: ChatEncoder, dataset: Any, *, progress: bool = True, name: str = "dataset") -> Any:
    """Encode a `Dataset`, `DatasetDict`, `IterableDataset`, `IterableDatasetDict` or list of rows.

    Returns the same kind (a `Dataset` for a list) with the int32 columns `input_ids` and `labels` alone. What
    was dropped, cut or repaired is logged as a warning and added to `encoder.counts`; for a stream it is counted
    while the stream is read. Raises `PadfixError` for a bad row, naming it, and when no row is left.
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
        return _map_stream(datasets, encoder, dataset)
    if isinstance(dataset, datasets.Dataset):
        batches: Iterable[Sequence[Any]] = _batches_of(dataset)
    elif isinstance(dataset, (list, tuple)):
        batches = (dataset[start : start + _BATCH_ROWS] for start in range(0, len(dataset), _BATCH_ROWS))
    else:
        raise PadfixError(
            f"A {type(dataset).__name__} is not a dataset. Pass a datasets.Dataset, DatasetDict or IterableDataset, "
            "or a list of rows: list(rows)"
        )

    from tqdm.auto import tqdm

    counts = Counts()
    parts = []
    with tqdm(total=len(dataset), desc=f"Encoding {name}", unit="row", disable=not progress) as bar:
        for rows in batches:
            columns, batch_counts = encoder.encode_rows(rows, counts.rows)
            counts = counts + batch_counts
            if batch_counts.kept:
                parts.append(datasets.Dataset.from_dict(columns, features=_features(datasets)))
            bar.update(len(rows))
            bar.set_postfix(tokens=counts.tokens, dropped=counts.dropped)
    if not parts:
        raise PadfixError(f"No row of the {name} is left to train on: {counts}. Look at the rows or raise max_length.")
    changed = counts.dropped or counts.cut or counts.repaired or counts.escaped
    logger.log(logging.WARNING if changed else logging.INFO, "llama_padfix: %s: %s", name, counts)
    return datasets.concatenate_datasets(parts)


def _import_datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise PadfixError("Encoding a dataset needs the package datasets. Run: pip install datasets") from error
    return datasets


def _features(datasets: Any) -> Any:
    sequence = getattr(datasets, "List", None) or datasets.Sequence
    return datasets.Features({name: sequence(datasets.Value("int32")) for name in ("input_ids", "labels")})


def _batches_of(dataset: Any) -> Iterator[list[Any]]:
    # Without the user's own format, so that rows come as plain Python values.
    for columns in dataset.with_format(None).iter(batch_size=_BATCH_ROWS):
        length = len(next(iter(columns.values())))
        yield [{column: values[place] for column, values in columns.items()} for place in range(length)]


def _map_stream(datasets: Any, encoder: ChatEncoder, dataset: Any) -> Any:
    columns = dataset.column_names
    if columns is None:  # a stream without declared features: its first row tells
        columns = list(next(iter(dataset), {}))
    if not columns:
        raise PadfixError("The stream holds no rows. Check the files that it reads.")
    return dataset.map(
        encoder.encode_stream_batch,
        batched=True,
        with_indices=True,
        batch_size=_BATCH_ROWS,
        remove_columns=columns,
        features=_features(datasets),
    )
