"""BOS004: rows that do not begin with the BOS that the family has.

Llama was pre-trained with a BOS before every document. The first tokenizer.json of Llama 3 adds none to plain text,
nor does `tokenizer(text, add_special_tokens=False)`. Blocks cut out of a long text have none either, as in training.
"""

from llama_padfix.doctor.check_helpers import real_span
from llama_padfix.doctor.findings import Check, Facts, Hit, Hits, RowFacts


def _inspect(row: RowFacts, facts: Facts) -> Hits:
    bos_id = facts.bos_token_id
    arguments = facts.trainer.arguments if facts.trainer is not None else {}
    # Other strategies than "bfd" cut documents, so that rows begin anywhere.
    is_cut = arguments.get("packing") and arguments.get("packing_strategy") != "bfd"
    first, last = real_span(row)
    if bos_id in (None, facts.eos_token_id) or is_cut or first == last:
        return
    if not (row.input_ids[first:last] == bos_id).any():  # a BOS inside a row shows the rest of a packed document
        yield Hit(first, first + 1)


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
