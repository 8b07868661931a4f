"""PCK001: several conversations in one row, each of which sees those before it.

Packing puts several conversations into one row. Without borders, an answer attends to the conversations before it.
Position ids that restart keep them apart in FlashAttention and, since transformers 4.54, in sdpa and eager if the
batch has no attention mask. `packing_strategy="wrapped"` has no borders and cuts conversations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_padfix.doctor.check_helpers import find_turns, pad_ids, real_span, version_key, version_of
from llama_padfix.doctor.findings import Check, Facts, Hit, Hits, RowFacts
from llama_padfix.doctor.token_policy import learned_stop_ids

if TYPE_CHECKING:
    from llama_padfix.core.types import LongArray

_MASKED_BY_POSITIONS = (4, 54)  # since then sdpa and eager, too, read document borders from position ids


def _inspect(row: RowFacts, facts: Facts) -> Hits:
    import numpy as np

    template, markers, bos_id = facts.template, facts.markers, facts.bos_token_id
    # A template whose turns do not open with a control token may write a BOS before each of them, as Llama 2's does.
    if template is None or not template.header_has_control or markers is None or bos_id is None:
        return
    columns = next((sample.columns for sample in facts.samples if sample.source == row.source), ())
    if bos_id == facts.eos_token_id or (row.source == "dataset" and {"seq_lengths", "position_ids"} & set(columns)):
        return  # the collator makes position ids of these
    first, last = real_span(row)
    is_bos = row.input_ids[first:last] == bos_id
    # A document ends before the next begins: a BOS behind other text is one that a message spells.
    ended = np.isin(row.input_ids[first:last], [*markers.stop_ids, *pad_ids(facts), *learned_stop_ids(facts)])
    starts = (is_bos[1:] & ended[:-1]).nonzero()[0] + first + 1
    if facts.model is not None and row.position_ids is not None and not row.position_ids[starts].any():
        return  # PCK004
    if len(starts) and not _is_isolated(row, starts, facts) and find_turns(row, markers):
        yield Hit(int(starts[0]), int(starts[0]) + 1, len(starts), f"{len(starts)} more begin inside the row")


def _is_isolated(row: RowFacts, starts: LongArray, facts: Facts) -> bool:
    if row.attention_mask is not None and len(set(row.attention_mask.tolist()) - {0}) > 1:
        return True  # numbered documents, for a patched attention
    if row.position_ids is None or (row.position_ids[starts] != 0).any():
        return False
    attention = facts.trainer.attention if facts.trainer is not None else None
    if attention is None or "flash" in attention:
        return True
    numbers = version_key(version_of(facts, "transformers"))
    return row.attention_mask is None and (not numbers or numbers >= _MASKED_BY_POSITIONS)


CHECK = Check(
    code="PCK001",
    name="packed-row-without-isolation",
    severity="warning",
    needs=("rows", "template", "markers"),
    message="{rows} of {seen} rows ({where}) hold {count} further conversations that see those before them.",
    traps=(25,),
    doc=__doc__,
    bad='SFTConfig(packing=True, packing_strategy="wrapped")',
    good='SFTConfig(packing=True, packing_strategy="bfd")  # position ids begin anew, and there is no attention mask',
    inspect=_inspect,
)
