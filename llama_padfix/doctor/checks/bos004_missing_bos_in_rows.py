"""BOS004: rows that do not begin with the BOS that the family has.

Llama was pre-trained with a BOS before every document. The first tokenizer.json of Llama 3 adds none to plain text,
nor does `tokenizer(text, add_special_tokens=False)`. Blocks cut out of a long text have none either, as in training.
`prepare` switches the automatic BOS off where the chat template writes one, so that a rendered chat has one: plain
`tokenizer(text)` then adds none, and `prepared.encode` gives each plain text one.
"""

from llama_padfix.doctor.check_helpers import real_span
from llama_padfix.doctor.findings import Check, Facts, Hit, Hits, RowFacts

_SWITCHED_OFF = (
    "tokenizer(text) adds none: the chat template writes the BOS, so prepare switches the automatic one off; "
    "prepared.encode gives a plain text one"
)


def _inspect(row: RowFacts, facts: Facts) -> Hits:
    bos_id = facts.bos_token_id
    arguments = facts.trainer.arguments if facts.trainer is not None else {}
    # Other strategies than "bfd" cut documents, so that rows begin anywhere.
    is_cut = arguments.get("packing") and arguments.get("packing_strategy") != "bfd"
    first, last = real_span(row)
    if bos_id in (None, facts.eos_token_id) or is_cut or first == last:
        return
    if not (row.input_ids[first:last] == bos_id).any():  # a BOS inside a row shows the rest of a packed document
        switched_off = facts.template is not None and facts.template.leading_bos > 0 and not facts.bos_added
        yield Hit(first, first + 1, remark=_SWITCHED_OFF if switched_off else "")


CHECK = Check(
    code="BOS004",
    name="missing-bos-in-rows",
    severity="note",
    needs=("rows", "tokenizer"),
    message="{rows} of {seen} rows ({where}) hold no BOS, although the tokenizer has one.",
    traps=(6,),
    doc=__doc__,
    bad='tokenizer(text, add_special_tokens=False)["input_ids"][0]  # not 128000',
    good="prepared.encode(dataset)  # exactly one BOS before every row",
    inspect=_inspect,
)
