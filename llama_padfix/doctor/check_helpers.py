"""What several checks read from facts: the real part, padding and turns of a row, versions, places."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from llama_padfix.core.errors import IGNORE_INDEX
from llama_padfix.doctor.facts import DataFacts, Facts, RowFacts
from llama_padfix.doctor.findings import Change, Check, Evidence, Finding, Hit, Hits
from llama_padfix.doctor.row_facts import SourceTotals
from llama_padfix.encoding.masking.turns_in_ids import Turn, TurnMarkers, find_turns_in

if TYPE_CHECKING:
    from llama_padfix.core.types import BoolArray


_SHORTEST_PADDING = 2  # one pad token at the end of a row may be there on purpose


def real_part(row: RowFacts) -> BoolArray:
    """Return which positions are no padding, as booleans of shape (tokens,).

    The attention mask tells, without the runs of pad ids that `mark_padding` found in what it shows.
    """
    if row.real is not None:
        return row.real
    mask = row.attention_mask
    real: BoolArray = row.input_ids == row.input_ids if mask is None else mask != 0
    return real


def undo_shift(row: RowFacts) -> RowFacts:
    """Return a row whose labels are each the next id with those labels at the place of that id, as a model reads them.

    What is trained is then told apart from the shift, which LBL007 reports.
    """
    if row.labels is None or not (row.trained & (row.labels != row.input_ids)).any():
        return row
    trained = row.trained[:-1]
    if trained.sum() < 2 or not (row.labels[:-1] == row.input_ids[1:])[trained].all():
        return row
    labels = row.labels.copy()
    labels[0], labels[1:] = IGNORE_INDEX, row.labels[:-1]
    return replace(row, labels=labels, shifted=row.labels)


def mark_padding(row: RowFacts, facts: Facts) -> RowFacts:
    """Return a row with the padding that no mask hides: runs of a pad id at the ends of what its mask shows.

    A collator makes a mask of ones for rows that were padded before and bring none. Where the pad id also ends a turn
    or a text, and nothing else ends the row, the first one of the run at its end does.
    """
    start, stop = real_span(row)
    ids = row.input_ids[start:stop]
    if row.real is not None or len(ids) <= _SHORTEST_PADDING or (ids[0] != ids[1] and ids[-1] != ids[-2]):
        return row  # no run at either end, as in most rows
    first, last = start, stop
    stops = {facts.eos_token_id, *(facts.markers.stop_ids if facts.markers is not None else ())}
    for pad_id in pad_ids(facts):
        others = (ids != pad_id).nonzero()[0]
        if not len(others):
            continue
        at = int(others[-1])
        end = at + 1 + (pad_id in stops and int(ids[at]) not in stops)
        if len(ids) - end >= _SHORTEST_PADDING:
            last = start + end
        if others[0] >= _SHORTEST_PADDING:
            first = start + int(others[0])
    if (first, last) == (start, stop):
        return row
    real = real_part(row).copy()
    real[:first] = real[last:] = False
    return replace(row, real=real)


def real_span(row: RowFacts) -> tuple[int, int]:
    """Return the first position that is no padding and the one after the last; (0, 0) where all is padding."""
    real = real_part(row)
    if not real.any():
        return 0, 0
    return int(real.argmax()), len(real) - int(real[::-1].argmax())


def pad_ids(facts: Facts) -> frozenset[int]:
    """Return the ids that rows are padded with: the tokenizer's, and the collator's where a trainer was given."""
    of_collator = facts.trainer.collator_pad_token_id if facts.trainer is not None else None
    return frozenset(token_id for token_id in (facts.pad_token_id, of_collator) if token_id is not None)


def find_turns(row: RowFacts, markers: TurnMarkers) -> tuple[Turn, ...]:
    """Return the assistant turns of a row, in order; those that are not `opened` are what `mask_labels` trains."""
    if markers not in row.found_turns:
        row.found_turns[markers] = find_turns_in(row.input_ids, real_span(row)[1], markers)
    return row.found_turns[markers]


def turns_of(row: RowFacts, facts: Facts) -> tuple[Turn, ...]:
    """Return the assistant turns of a row by the markers of the facts; none without markers."""
    return () if facts.markers is None else find_turns(row, facts.markers)


def everything_is_trained(row: RowFacts, facts: Facts) -> bool:
    """Return True for plain language modeling: each real position but a document's first and the pad's has a label."""
    expected = real_part(row)
    for token_id in pad_ids(facts):
        expected = expected & (row.input_ids != token_id)
    if row.position_ids is not None:
        expected = expected & (row.position_ids != 0)
    first = real_span(row)[0]
    trained = row.trained[expected]
    skip = int(bool(expected[first])) if len(expected) else 0
    return len(trained) > skip and bool(trained[skip:].all())


def in_every_row(found: Finding, totals: SourceTotals) -> Finding | None:
    """Return the finding where every row of its source has the fault, else None: a `judge` of a check."""
    return found if found.rows == totals.seen else None


def label_as_read(row: RowFacts, facts: Facts) -> RowFacts | None:
    """Return a row with the labels that a collator or trainer makes where it brings none: every real id is trained.

    None where that is not known: in a batch of a trainer (which LBL010 looks at), of a loop without an optimizer, in
    pairs, and in rows of a classifier or reward model.
    """
    if row.labels is not None:
        return row
    import numpy as np

    loop = facts.optimizer is not None and facts.trainer is None and row.source.startswith("dataloader batch")
    scored = facts.model is not None and facts.model.pools_one_token
    if scored or ", " in row.source or not (loop or row.source.startswith("dataset")):
        return None
    return replace(row, labels=np.where(real_part(row), row.input_ids, IGNORE_INDEX))


def count_hidden(row: RowFacts, facts: Facts) -> int:
    """Return how many real tokens have no label; 0 for plain language modeling, whose first has none either."""
    return 0 if everything_is_trained(row, facts) else int((real_part(row) & ~row.trained).sum())


def hit_span(found: BoolArray, remark: str = "") -> Hits:
    """Yield one hit from the first position that is True to the last, counting all; none where all are False."""
    places = found.nonzero()[0]
    if len(places):
        yield Hit(int(places[0]), int(places[-1]) + 1, len(places), remark)


def found_in_data(
    check: Check,
    data: DataFacts,
    rows: int,
    message: str,
    examples: Iterable[tuple[int, str]] = (),
    changes: Sequence[Change] = (),
) -> Finding:
    """Return a finding on rows that are not encoded; `examples` are the first of them, with what was found."""
    evidence = tuple(Evidence(row, 0, 0, text) for row, text in examples)
    found = check.found(message, changes)
    return replace(found, where=data.source, rows=rows, count=rows, seen=data.seen, evidence=evidence)


def version_of(facts: Facts, package: str) -> str:
    """Return the installed version of a package, "" where it is not installed or not known."""
    return facts.environment.versions.get(package, "") if facts.environment is not None else ""


def version_key(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version; a release candidate counts as its release."""
    numbers = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, numbers.group().split("."))) if numbers is not None else ()


def token_text(entry: object) -> object:
    """Return the text of a token in tokenizer_config.json, which holds it as text or as an object."""
    return entry.get("content") if isinstance(entry, dict) else entry
