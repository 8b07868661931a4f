"""Encoded rows as the checks read them: from a dataset, a stream, a list, or padded batches."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import PadfixError, describe
from llama_padfix.doctor.facts import Facts, RowFacts, SampleFacts
from llama_padfix.doctor.observe.data import observe_data
from llama_padfix.doctor.observe.losses.batch_rows import PER_TOKEN, label_by_masks, rows_of_losses
from llama_padfix.doctor.observe.losses.documents import lengths_in_batch, split_documents
from llama_padfix.encoding.dataset.open_rows import as_rows
from llama_padfix.encoding.sources import column_names, is_indexed, is_iterable

if TYPE_CHECKING:
    from llama_padfix.core.types import Row, TokenizerLike

_SEED = 0  # the same rows are sampled every time


def observe_dataset(
    facts: Facts,
    dataset: object,
    tokenizer: TokenizerLike | None,
    max_rows: int | None,
    source: str = "dataset",
    processor: Any = None,  # transformers.ProcessorMixin
) -> tuple[Facts, Iterable[RowFacts]]:
    """Return the facts with those of a dataset, and the encoded rows that the checks are to read.

    Raw rows are read here, so that none are left. Without a dataset (None) there are no rows.

    Args:
        facts: what was observed so far.
        dataset: rows, encoded or not, one batch or a list of batches; or where they lie.
        tokenizer: encodes raw rows.
        max_rows: how many rows are read at most; None for all.
        source: what the rows are called in findings.
        processor: what reads the media of raw rows; without it they are text.
    """
    if dataset is None:
        return facts, ()
    dataset = as_rows(dataset)
    batches = [dataset] if isinstance(dataset, Mapping) else dataset
    if isinstance(batches, (list, tuple)) and batches and all(map(holds_rows, batches)):
        return _observe_batches(facts, batches, max_rows if batches is dataset else None, source)
    names, dataset = _find_columns(dataset)
    if names is None or (hasattr(dataset, "__len__") and not len(dataset)):
        return replace(facts, samples=(*facts.samples, SampleFacts(source, 0, 0, (), "it holds no rows"))), ()
    sample, places = sample_of(dataset, source, max_rows)
    if "input_ids" in names:
        rows = rows_of_dataset(dataset, source, places, max_rows, documents=True)
        return replace(facts, samples=(*facts.samples, sample)), rows
    data = observe_data(dataset, tokenizer, source, places=places, max_rows=max_rows, processor=processor)
    if facts.data is None:
        return replace(facts, data=data), ()
    return replace(facts, more_data=(*facts.more_data, data)), ()


def _observe_batches(
    facts: Facts, batches: Sequence[Mapping[str, Any]], max_rows: int | None, source: str
) -> tuple[Facts, list[RowFacts]]:
    drawn: list[RowFacts] = []
    counts: Counter[str] = Counter()
    for batch in batches:
        if max_rows is None or len(drawn) < max_rows:
            name, first = "batch" if source == "dataset" else source, max(counts.values(), default=0)
            rows = rows_of_batch(batch, name, first, documents=True)
            drawn += list(rows)
            counts = Counter(row.source for row in drawn)
    total = None if max_rows is not None and len(drawn) >= max_rows else 0
    samples = (SampleFacts(part, n, None if total is None else n, tuple(batches[0])) for part, n in counts.items())
    return replace(facts, samples=(*facts.samples, *samples)), drawn


def _find_columns(dataset: Any) -> tuple[Sequence[str] | None, Any]:  # `Any`: whatever holds rows
    """Return the columns of rows, None where there is no row, and the rows.

    A stream that does not declare its columns is asked for its first row, which then comes before the others.
    """
    names = column_names(dataset)
    if names is not None or not is_iterable(dataset):
        return names if names is not None else ("input_ids",), dataset
    stream = iter(dataset.with_format(None) if hasattr(dataset, "with_format") else dataset)
    first = next(stream, None)
    if first is None:
        return None, dataset
    names = tuple(first) if isinstance(first, Mapping) else ()
    return names, chain([first], stream)


def refuse_unencoded(target: object) -> None:
    """Raise `PadfixError` for a target of rows that are not encoded, with the line that fixes it."""
    if isinstance(target, Mapping) and not hasattr(target, "get_vocab"):
        parts = ", ".join(map(repr, list(target)[:8]))
        raise PadfixError(
            f"Got a mapping of {parts or 'nothing'}. Pass one split or one batch: diagnose(dataset['train'])"
        )
    if isinstance(target, (list, tuple)) and not target:
        raise PadfixError("The dataset is empty: there is no row to look at.")
    if isinstance(target, (list, tuple)) or any(hasattr(target, name) for name in ("column_names", "__getitem__")):
        raise PadfixError(
            "The dataset is not encoded: its rows have no input_ids. Encode it, or give it with its trainer: "
            "diagnose(tokenizer, dataset=prepare(tokenizer).encode(dataset))"
        )


def holds_rows(batch: object) -> bool:
    """Return True for a batch of any loss: a mapping in which `rows_of_losses` finds ids of two dimensions."""
    return next(rows_of_losses(batch), None) is not None


def masks_of_labels(row: Row) -> tuple[str, ...]:
    """Return the names of the masks of which the labels of an encoded row are made; none where it brings labels."""
    return label_by_masks(row)[1]


def rows_of_batch(
    batch: object, source: str, first: int = 0, *, blocks: Sequence[str] = (), documents: bool = False
) -> Iterator[RowFacts]:
    """Yield the rows of a collated batch of any loss, padding included, numbered from `first`.

    The source of a pair's rows is "batch, chosen" and "batch, rejected", and both have the number of the pair. Masks
    and positions of other shapes (four-dimensional masks, positions along several axes) are left out.

    Args:
        batch: what `rows_of_losses` reads; anything else has no rows.
        source: what the rows are called in findings.
        first: the number of the first row.
        blocks: the parts that follow one another in the batch, such as ("chosen", "rejected").
        documents: yield each document of a packed or flattened row as a row of its own.
    """
    numbers: Counter[str] = Counter()
    lengths = lengths_in_batch(batch) if documents and isinstance(batch, Mapping) else []
    is_off = isinstance(batch, Mapping) and batch.get("use_cache") is False
    for part, row in rows_of_losses(batch, blocks=blocks):
        whole = _row(row, f"{source}, {part}" if part else source, 0)
        for each in split_documents(whole, () if part else lengths) if documents else (whole,):
            yield replace(each, number=first + numbers[part], cache_is_off=is_off)
            numbers[part] += 1


def sample_of(dataset: object, source: str, max_rows: int | None) -> tuple[SampleFacts, list[int] | None]:
    """Return which sample of a dataset will be read, and its rows: None for all, or the first ones of a stream."""
    total = len(dataset) if hasattr(dataset, "__len__") else None
    sample = SampleFacts(source, 0, count_documents(dataset), tuple(getattr(dataset, "column_names", None) or ()))
    if max_rows is None or total is None or total <= max_rows:
        return replace(sample, seen=(max_rows if total is None else total) or 0), None
    return replace(sample, seen=max_rows), sorted(random.Random(_SEED).sample(range(total), max_rows))


def count_documents(dataset: Any) -> int | None:  # whatever holds rows
    """Return how many rows a dataset holds, those of a pack by themselves; None where that is not known at once."""
    if not hasattr(dataset, "__len__"):
        return None
    if "seq_lengths" not in (getattr(dataset, "column_names", None) or ()):
        return len(dataset)
    table: Any = getattr(dataset, "data", None)
    if getattr(table, "num_rows", None) != len(dataset):
        return None  # some of its rows are left out
    import pyarrow.compute as compute

    return int(compute.sum(compute.list_value_length(table.column("seq_lengths"))).as_py() or 0)


def rows_of_dataset(
    dataset: Any,  # a dataset, a list or a stream
    source: str,
    places: Iterable[int] | None = None,
    max_rows: int | None = None,
    *,
    documents: bool = False,
) -> Iterator[RowFacts]:
    """Yield rows of a dataset in constant memory.

    Args:
        dataset: encoded rows.
        source: what they are called in findings.
        places: the numbers of the rows to read; all without them.
        max_rows: how many rows to read at most.
        documents: yield each document of a packed row as a row, with the number of the pack.

    Raises:
        PadfixError: a row has no `input_ids`, or columns of other lengths.
    """
    if hasattr(dataset, "with_format"):
        dataset = dataset.with_format(None)
    if places is None and is_indexed(dataset):
        places = range(len(dataset))  # the end of some torch datasets is known by their length only
    numbered = enumerate(dataset) if places is None else ((place, dataset[place]) for place in places)
    for number, row in islice(numbered, max_rows):
        if not isinstance(row, Mapping) or row.get("input_ids") is None:
            raise PadfixError(
                f"row {number} of the {source} has no input_ids, so it is not encoded. "
                "Encode it first: prepare(tokenizer).encode(dataset)"
            )
        columns, _ = label_by_masks(row)
        whole = _row({name: columns[name] for name in _names(columns)}, source, number)
        yield from split_documents(whole, row.get("seq_lengths") or ()) if documents else (whole,)


def _names(columns: Row) -> list[str]:
    return [name for name in PER_TOKEN if name in columns and columns[name] is not None]


def _row(columns: Row, source: str, number: int) -> RowFacts:
    import numpy as np

    arrays: dict[str, Any] = {}  # Any: integer arrays, given as keywords
    for name, held in columns.items():
        try:
            arrays[name] = np.asarray(held.detach().cpu() if hasattr(held, "detach") else held, dtype=np.int64)
        except (TypeError, ValueError, OverflowError) as error:
            raise PadfixError(
                f"row {number} of the {source}: {name} holds {describe(held)}, which are no 64-bit whole numbers. "
                "Encode the rows anew: prepare(tokenizer).encode(dataset)"
            ) from error
    length = arrays["input_ids"].size
    for name, array in arrays.items():
        if array.shape != (length,):
            raise PadfixError(
                f"row {number} of the {source}: {name} has shape {array.shape} beside {length} input_ids. "
                "Every per-token column must have one value a token."
            )
    return RowFacts(source, number, **arrays)
