"""GEN005: no row trains a token at which generation stops.

Plain texts that are encoded without an EOS, and answers whose end is missing, show the model no end: it never learns
to stop, and generates until `max_new_tokens`. TRL appends an EOS to `text` and to `completion`; a tokenizer that is
called by hand appends none. It is a note where texts are cut into blocks of one length, as in pre-training, and with
fewer than four rows. A stop token that is there and not trained is LBL002 or PAD008. Of encoded rows without labels
all is trained, as collators label them.
"""

from dataclasses import replace

from llama_padfix.doctor.check_helpers import (
    count_hidden,
    in_every_row,
    label_as_read,
    real_part,
    real_span,
    turns_of,
)
from llama_padfix.doctor.findings import Check, Facts, Finding, Hit, Hits, RowFacts
from llama_padfix.doctor.row_facts import SourceTotals
from llama_padfix.doctor.token_policy import stop_ids
from llama_padfix.encoding.masking.turns_in_ids import is_any

_UNTRAINED = "nothing is trained"  # which LBL001 reports; such a row shows no end either
_INSIDE = "no BOS begins the row"  # so it may begin inside a text
_BLOCK = 128  # as short as blocks of text are cut
_FEW = 4


def _inspect(given: RowFacts, facts: Facts) -> Hits:
    if (row := label_as_read(given, facts)) is None:
        return
    if not row.trained.any():
        yield Hit(0, len(row.input_ids), 0, _UNTRAINED)
        return
    if not _ends(row, facts):
        last = len(row.trained) - int(row.trained[::-1].argmax())
        is_begun = int(row.input_ids[real_span(row)[0]]) == facts.bos_token_id
        yield Hit(last - 1, last, count_hidden(row, facts), "" if is_begun else _INSIDE)


def _ends(row: RowFacts, facts: Facts) -> bool:
    """Return True if an answer ends in a stop token; of text without turns, if one stands behind what is trained."""
    turns = [turn for turn in turns_of(row, facts) if not turn.opened]
    stops = is_any(row.input_ids, stop_ids(facts)) & real_part(row)
    if turns:
        return any(turn.stop_id is not None for turn in turns) or bool(stops[real_span(row)[1] - 1])
    return bool(stops[int(row.trained.argmax()) :].any())


def _judge(found: Finding, totals: SourceTotals) -> Finding | None:
    if in_every_row(found, totals) is None or all(each.remark == _UNTRAINED for each in found.evidence):
        return None
    are_blocks = totals.shortest == totals.longest and (
        totals.longest >= _BLOCK or any(each.remark == _INSIDE for each in found.evidence)
    )
    may_be_right = totals.seen < _FEW or (found.count == 0 and are_blocks)
    return replace(found, count=found.rows, severity="note" if may_be_right else found.severity)


CHECK = Check(
    code="GEN005",
    name="no-row-ends",
    severity="warning",
    needs=("rows", "tokenizer"),
    message="None of {seen} rows ({where}) trains a token that ends a text or a turn, so the model does not learn to "
    "stop. Encode with prepared.encode(dataset), or texts as tokenizer(text + tokenizer.eos_token).",
    doc=__doc__,
    bad='tokenizer("Question: 1+1? Answer: 2")',
    good='tokenizer("Question: 1+1? Answer: 2" + tokenizer.eos_token)  # or prepared.encode(dataset)',
    inspect=_inspect,
    judge=_judge,
)
