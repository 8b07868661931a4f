"""BOS004: rows that do not begin with the BOS that the family has."""

from llama_padfix.doctor.check_helpers import real_span
from llama_padfix.doctor.findings import Check, Facts, Hit, Hits, RowFacts


def _inspect(row: RowFacts, facts: Facts) -> Hits:
    bos_id = facts.bos_token_id
    if bos_id is None or bos_id == facts.eos_token_id:
        return
    arguments = facts.trainer.arguments if facts.trainer is not None else {}
    if arguments.get("packing") and arguments.get("packing_strategy") != "bfd":
        return  # such rows begin wherever the row before was full
    first, last = real_span(row)
    if first == last or row.input_ids[first] == bos_id:
        return
    if not (row.input_ids[first:last] == bos_id).any():  # with one further on it is a packed remainder
        yield Hit(first, first + 1)


CHECK = Check(
    code="BOS004",
    name="missing-bos-in-rows",
    severity="note",
    needs=("rows", "tokenizer"),
    message="{rows} of {seen} rows ({where}) hold no BOS, although the tokenizer has one.",
    traps=(6,),
    explanation="""\
Llama was pre-trained with a BOS before every document. The first tokenizer.json of Llama 3 adds none to plain text,
nor does `tokenizer(text, add_special_tokens=False)`. Blocks cut out of a long text have none either, as in
pre-training.
""",
    bad='tokenizer(text, add_special_tokens=False)["input_ids"][0]  # not 128000',
    good="prepared.encode(dataset)  # exactly one BOS before every row",
    inspect=_inspect,
)
