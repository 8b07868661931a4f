"""BOS003: rows in which a BOS follows a BOS.

The chat template wrote a BOS and encoding added another. TRL's `text` path does that to rendered chats, and so does
`tokenizer(apply_chat_template(..., tokenize=False))`, without a warning. The model is trained on a beginning that
inference never has. `dedupe_bos` repairs encoded rows, with their labels and masks; encoding the messages again does
too.
"""

from llama_padfix.doctor.check_helpers import pad_ids, real_part
from llama_padfix.doctor.findings import Check, Facts, Hit, Hits, RowFacts


def _inspect(row: RowFacts, facts: Facts) -> Hits:
    bos_id = facts.bos_token_id
    if bos_id is None or bos_id == facts.eos_token_id or (row.attention_mask is None and bos_id in pad_ids(facts)):
        return  # a pair may be padding, or the end of one text and the beginning of the next
    is_bos = (row.input_ids == bos_id) & real_part(row)
    doubled = is_bos[1:] & is_bos[:-1]
    if row.position_ids is not None:
        doubled = doubled & (row.position_ids[1:] != 0)  # an empty document, packed
    if doubled.any():
        first = int(doubled.argmax())
        yield Hit(first, first + 2, int(doubled.sum()))


CHECK = Check(
    code="BOS003",
    name="double-bos-in-rows",
    severity="error",
    needs=("rows", "tokenizer"),
    message="{rows} of {seen} rows ({where}) have a BOS after a BOS, {count} times in all.",
    traps=(5,),
    doc=__doc__,
    bad="input_ids = [128000, 128000, 128006, ...]",
    good="prepared.encode(dataset)  # or dedupe_bos(row, tokenizer) for rows that are encoded already",
    inspect=_inspect,
)
