"""BOS001: the chat template and the tokenizer both write a BOS.

A script that renders first and tokenizes later gets two BOS: `tokenizer(apply_chat_template(..., tokenize=False))`
starts with `128000 128000`. So do TRL's `text` and `prompt`/`completion` paths, without a warning. The model is then
trained on a beginning that inference never has. `add_bos_token` reads False all the same, and setting it does nothing
in transformers 4.x: the tokenizer's post-processor decides. The change edits that, and is saved with tokenizer.json.
The library's encoder still gives plain text one BOS. In a trainer whose drawn rows each begin with one BOS, it is a
note: TRL encodes `messages` through the template alone.
"""

from llama_padfix.doctor.findings import Change, Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    template = facts.template
    if template is not None and template.leading_bos and facts.bos_added:
        why = "the chat template writes the BOS itself; rendered text now gets exactly one"
        total = template.leading_bos + facts.bos_added
        drawn = {pair for sample in facts.samples for pair in sample.beginnings}
        is_right = bool(drawn) and (facts.bos_token_id, facts.bos_token_id) not in drawn
        yield CHECK.found(
            f"The chat template starts with {facts.bos_token} and encoding adds it again: "
            f"tokenizer(apply_chat_template(..., tokenize=False)) starts with {total} of them."
            + (" No row that this trainer drew starts with two." if is_right else ""),
            (Change("tokenizer.adds_bos", True, False, why),),
            severity="note" if is_right else None,
        )


CHECK = Check(
    code="BOS001",
    name="double-bos",
    severity="error",
    needs=("tokenizer", "template"),
    traps=(5, 33),
    doc=__doc__,
    bad='tokenizer(tokenizer.apply_chat_template(messages, tokenize=False))["input_ids"][:2]  # [128000, 128000]',
    good="prepare(tokenizer)  # the template's BOS stays, the automatic one goes",
    find=_find,
)
