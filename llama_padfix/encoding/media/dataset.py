"""Many rows with media: their own columns stay, and ids, labels and the number of media are put beside."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.counts import Counts
from llama_padfix.encoding.dataset.cache import name_temporary_file
from llama_padfix.encoding.dataset.open_rows import as_sequence, map_splits, require_rows
from llama_padfix.encoding.dataset.stream import log_counts
from llama_padfix.encoding.media.encoder import MEDIA_COLUMNS, MediaEncoder
from llama_padfix.encoding.media.values import make_features
from llama_padfix.encoding.sources import is_table, refuse_encoded, rows_of

if TYPE_CHECKING:
    import datasets

    from llama_padfix.core.types import Rows
    from llama_padfix.encoding.media.chats import MediaRow

_CHUNK = 100  # rows that are in memory at once, as they are stored


def encode_media(
    encoder: MediaEncoder,
    dataset: Rows | str | os.PathLike[str],
    *,
    progress: bool = True,
    name: str = "dataset",
    num_proc: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    max_shard_size: int | str | None = None,
) -> Any:  # of the kind of `dataset`
    """Encode a whole dataset; its own columns stay, from which the collator reads the media of a batch.

    Args:
        encoder: Its settings decide the ids and labels.
        dataset: As for `encode_dataset`.
        progress: Show a progress bar.
        name: What errors and the log call the dataset.
        num_proc: Not for rows with media, as the two that follow.
        cache_dir: See there.
        max_shard_size: See there.

    Returns:
        A `Dataset`, `DatasetDict` or `IterableDataset` for one of these: the rows that are kept, with int32 columns
        `input_ids`, `labels` and `media_counts` (images, videos, sounds) beside their own. No image is copied. Text
        columns of a `Dataset` go where all media stand in columns. Else a `Dataset` of these three and of the media:
        paths stay paths, and an image in memory is stored as a PNG.

    Raises:
        PadfixError: For a bad row, naming it, if the rows are encoded already, or if no row is left.
    """
    import datasets

    if (num_proc, cache_dir, max_shard_size) != (None, None, None):
        raise PadfixError(
            "Rows with media are encoded in this process, beside their own columns, and nothing is cached. Leave "
            "num_proc, cache_dir and max_shard_size out. To encode once, keep the dataset: "
            "prepared.encode(dataset).save_to_disk(folder), and train on datasets.load_from_disk(folder)"
        )
    dataset = as_sequence(dataset)
    if isinstance(dataset, Mapping):
        return map_splits(
            dataset, lambda split, rows: encode_media(encoder, rows, progress=progress, name=f"split {split!r}")
        )
    if isinstance(dataset, datasets.IterableDataset):
        encode = _Stream(encoder, name)
        return dataset.with_format(None).map(encode, batched=True, with_indices=True, batch_size=_CHUNK)
    require_rows(dataset, name)
    if isinstance(dataset, datasets.Dataset):
        return _encode_dataset(encoder, dataset, progress, name)
    rows: Any = dataset  # a sequence
    return _show(_write(encoder, rows, progress, name)[0])


def _encode(encoder: MediaEncoder, rows: Any, progress: bool, name: str) -> Iterator[MediaRow | None]:
    """Yield rows encoded, add up what became of them, and log it at the end."""
    from tqdm.auto import tqdm

    total = Counts()
    with tqdm(desc=f"Encoding {name}", total=len(rows), unit="row", disable=not progress) as bar:
        for start in range(0, len(rows), _CHUNK):
            numbers = range(start, min(start + _CHUNK, len(rows)))
            part = rows.read(start, numbers.stop) if isinstance(rows, _Stored) else [rows[at] for at in numbers]
            try:
                encoded, counts = encoder.encode_each(part, numbers)
            except PadfixError as error:
                raise PadfixError(str(error) if name == "dataset" else f"{name}, {error}") from error
            total = total + counts
            bar.update(len(numbers))
            yield from encoded
    encoder.counts = encoder.counts + total
    log_counts(name, total)
    if not total.kept:
        raise PadfixError(f"No row of the {name} is left to train on: {total}. Look at the rows or raise max_length.")


class _Stored:
    """The rows of a dataset with its images as they are stored, not decoded; sounds and videos are decoded."""

    def __init__(self, dataset: datasets.Dataset) -> None:
        decoded = any(f"{kind}(" in repr(dataset.features) for kind in ("Audio", "Video"))
        self._rows = dataset.with_format(None if decoded else "arrow")

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, start: int, stop: int) -> list[Any]:  # rows
        rows = self._rows[start:stop]
        return list(rows.to_pylist()) if is_table(rows) else rows_of(rows)


def _encode_dataset(encoder: MediaEncoder, dataset: datasets.Dataset, progress: bool, name: str) -> datasets.Dataset:
    """Return a dataset with the encoded columns beside its own, in a file that is deleted with the process."""
    import datasets
    import numpy as np

    if dataset.format["type"] == "custom":
        raise PadfixError(
            f"The {name} has a transform, which may make other rows each time. Write them out: dataset.map(function)"
        )
    dataset = dataset.with_format(None)
    kept: list[bool] = []
    beside, needs_text = _write(encoder, _Stored(dataset), progress, name, kept)
    if not needs_text:  # with messages beside the media, TRL would make ids and labels of its own
        dataset = dataset.remove_columns([column for column in encoder.text_columns if column in dataset.column_names])
    whole = datasets.concatenate_datasets([dataset, beside], axis=1) if dataset.column_names else beside
    return _show(whole if all(kept) else whole.select(np.flatnonzero(kept)))


def _write(
    encoder: MediaEncoder, rows: Any, progress: bool, name: str, kept: list[bool] | None = None
) -> tuple[datasets.Dataset, bool]:
    """Return rows encoded, from a file that is deleted with the process, with their media.

    With `kept`, every row leaves a place, media stay where they are, and which rows are kept is appended. Beside,
    whether any medium stands in a message.
    """
    import datasets
    from datasets.arrow_writer import ArrowWriter

    kinds = encoder.kinds if kept is None else ()
    path, in_messages = str(name_temporary_file()), False
    with ArrowWriter(path=path, features=make_features(MEDIA_COLUMNS, kinds)) as writer:
        for row in _encode(encoder, rows, progress, name):
            if kept is not None:
                kept.append(row is not None)
            elif row is None:
                continue
            in_messages = in_messages or any(not medium.in_column for medium in (row.media if row else ()))
            stored = {f"{kind}s": [m.store() for m in row.media if m.kind == kind] for kind in kinds} if row else {}
            writer.write({**_arrays(row), **stored})
        writer.finalize()
    return datasets.Dataset.from_file(path), in_messages


def _show(dataset: datasets.Dataset) -> datasets.Dataset:
    """Return a dataset whose rows hold the encoded columns as arrays, and the others as they are decoded."""
    return dataset.with_format("numpy", columns=list(MEDIA_COLUMNS), output_all_columns=True)


def _arrays(row: MediaRow | None) -> dict[str, Any]:  # arrays by column
    import numpy as np

    return {name: np.asarray(getattr(row, name, ()), np.int32) for name in MEDIA_COLUMNS}


@dataclass(frozen=True)
class _Stream:
    """Encodes a batch of a stream when it is read; a class and no closure, for the workers of a dataloader."""

    encoder: MediaEncoder
    name: str

    def __call__(self, batch: Mapping[str, list[Any]], numbers: list[int]) -> dict[str, list[Any]]:
        refuse_encoded(batch, self.name)
        encoded, counts = self.encoder.encode_each(rows_of(batch), numbers)
        self.encoder.counts = self.encoder.counts + counts
        log_counts(f"{self.name}, rows {numbers[0]} to {numbers[-1]}", counts)
        kept = [place for place, row in enumerate(encoded) if row is not None]
        own = {name: [column[place] for place in kept] for name, column in batch.items()}
        made = [_arrays(encoded[place]) for place in kept]
        return {**own, **{name: [row[name].tolist() for row in made] for name in MEDIA_COLUMNS}}
