"""BOS002: plain text gets no BOS although the family has one.

The first tokenizer.json of Llama 3 added no BOS to plain text, although the model was pre-trained with one before
every document. The library's encoder adds one to every plain text. The tokenizer is changed on request only.
"""

from llama_padfix.doctor.findings import Change, Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    template_writes_it = facts.template is not None and facts.template.leading_bos > 0
    if facts.bos_token is not None and not facts.bos_added and not template_writes_it:
        change = Change("tokenizer.adds_bos", False, True, "the family has a BOS that encoding does not add", "unsafe")
        yield CHECK.found(f"Encoding a plain text does not add {facts.bos_token}.", (change,))


CHECK = Check(
    code="BOS002",
    name="missing-bos",
    severity="note",
    needs=("tokenizer",),
    traps=(6,),
    doc=__doc__,
    bad='tokenizer("Once upon a time")["input_ids"][0]  # not 128000',
    good="patch_tokenizer(tokenizer, add_bos=True)",
    find=_find,
)
