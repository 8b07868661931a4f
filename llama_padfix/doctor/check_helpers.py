"""What checks of rows ask of a row: its real part, its padding, its turns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_padfix.core.errors import IGNORE_INDEX
from llama_padfix.doctor.facts import Facts, RowFacts
from llama_padfix.encoding.masking.turns_in_ids import Turn, TurnMarkers, find_turns_in

if TYPE_CHECKING:
    from llama_padfix.core.types import BoolArray


def real_part(row: RowFacts) -> BoolArray:
    """Return which positions the attention mask shows, as booleans of shape (tokens,); all without a mask."""
    mask = row.attention_mask
    real: BoolArray = row.input_ids == row.input_ids if mask is None else mask != 0
    return real


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


def everything_is_trained(row: RowFacts, facts: Facts) -> bool:
    """Tell plain language modelling: each real position has a label, but for a document's first and the pad's ids."""
    asked = real_part(row)
    for token_id in pad_ids(facts):
        asked = asked & (row.input_ids != token_id)
    if row.position_ids is not None:
        asked = asked & (row.position_ids != 0)
    first = real_span(row)[0]
    trained = (row.labels != IGNORE_INDEX)[asked]
    skip = int(bool(asked[first])) if len(asked) else 0
    return len(trained) > skip and bool(trained[skip:].all())
