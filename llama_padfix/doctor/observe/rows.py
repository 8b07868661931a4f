"""Encoded rows as the checks see them: from a dataset, a stream, a list, or padded batches."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import PadfixError
from llama_padfix.doctor.facts import Facts, RowFacts, SampleFacts
from llama_padfix.doctor.observe.data import observe_data
from llama_padfix.doctor.observe.environment import observe_environment
from llama_padfix.encoding.sources import is_batch, is_indexed, is_raw

if TYPE_CHECKING:
    from llama_padfix.core.types import TokenizerLike


_PER_TOKEN = ("labels", "attention_mask", "position_ids")  # besides input_ids
_SEED = 0  # the same rows are looked at every time


def observe_dataset(
    facts: Facts, dataset: Any, tokenizer: TokenizerLike | None, max_rows: int | None
) -> tuple[Facts, Iterable[RowFacts]]:
    """Return the facts with those of a dataset, and its encoded rows that are to be read; None is no dataset.

    Raw rows are read here, so that none are left. Encoded ones are read later, by the checks.
    """
    facts = replace(facts, environment=observe_environment())
    if dataset is None:
        return facts, ()
    if is_batch(dataset):
        drawn = list(rows_of_batch(dataset, "batch"))
        return replace(facts, samples=(SampleFacts("batch", len(drawn), len(drawn), tuple(dataset)),)), drawn
    sample, places = sample_of(dataset, "dataset", max_rows)
    if is_raw(dataset):
        data = observe_data(dataset, tokenizer, "dataset", places=places, max_rows=max_rows)
        return replace(facts, data=data), ()
    return replace(facts, samples=(sample,)), rows_of_dataset(dataset, "dataset", places, max_rows)


def refuse_unencoded(target: Any) -> None:
    """Raise `PadfixError` for what is neither encoded nor a tokenizer, with the line that helps."""
    if hasattr(target, "get_input_embeddings"):
        raise PadfixError(
            f"Got a {type(target).__name__} alone. Diagnose it with its tokenizer: diagnose((tokenizer, model))"
        )
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


def rows_of_batch(batch: Mapping[str, Any], source: str, first: int = 0) -> Iterator[RowFacts]:
    """Yield the rows of a collated batch, padding included, numbered from `first`.

    Nothing for a batch without two-dimensional `input_ids`, such as one of pairs; masks and positions of other
    shapes (four-dimensional masks, positions along several axes) are left out.
    """
    if not is_batch(batch):
        return
    shape = tuple(batch["input_ids"].shape)
    names = [
        name
        for name in _names(batch)
        if name in ("input_ids", "labels") or tuple(getattr(batch[name], "shape", ())) == shape
    ]
    for place in range(shape[0]):
        yield _row({name: batch[name][place] for name in names}, source, first + place)


def sample_of(dataset: Any, source: str, max_rows: int | None) -> tuple[SampleFacts, list[int] | None]:
    """Return what will be looked at in a dataset, and which rows: None for all (or the first ones of a stream)."""
    total = len(dataset) if hasattr(dataset, "__len__") else None
    names = getattr(dataset, "column_names", None) or ()
    if max_rows is None or total is None or total <= max_rows:
        seen = total if max_rows is None or total is not None else max_rows
        return SampleFacts(source, seen or 0, total, tuple(names)), None
    places = sorted(random.Random(_SEED).sample(range(total), max_rows))
    return SampleFacts(source, max_rows, total, tuple(names)), places


def rows_of_dataset(
    dataset: Any, source: str, places: Iterable[int] | None = None, max_rows: int | None = None
) -> Iterator[RowFacts]:
    """Yield rows of a dataset in constant memory: those at `places`, else all, or the first `max_rows`."""
    if hasattr(dataset, "with_format"):
        dataset = dataset.with_format(None)
    if places is not None:
        numbered: Iterable[tuple[int, Any]] = ((place, dataset[place]) for place in places)
    elif is_indexed(dataset):  # a torch dataset may know where it ends by its length only
        numbered = ((place, dataset[place]) for place in range(len(dataset)))
    else:
        numbered = enumerate(dataset)
    for number, row in islice(numbered, max_rows):
        if not isinstance(row, Mapping) or row.get("input_ids") is None:
            raise PadfixError(
                f"row {number} of the {source} has no input_ids, so it is not encoded. "
                "Encode it first: prepare(tokenizer).encode(dataset)"
            )
        yield _row({name: row[name] for name in _names(row)}, source, number)


def _names(columns: Mapping[str, Any]) -> list[str]:
    return [name for name in ("input_ids", *_PER_TOKEN) if name in columns and columns[name] is not None]


def _row(columns: Mapping[str, Any], source: str, number: int) -> RowFacts:
    import numpy

    arrays = {name: numpy.asarray(_plain(value), dtype=numpy.int64) for name, value in columns.items()}
    length = len(arrays["input_ids"])
    for name, array in arrays.items():
        if array.shape != (length,):
            raise PadfixError(
                f"row {number} of the {source}: {name} has shape {array.shape} beside {length} input_ids. "
                "Every per-token column must have one value a token."
            )
    return RowFacts(source, number, **arrays)


def _plain(value: Any) -> Any:
    return value.detach().cpu().numpy() if hasattr(value, "detach") else value
