"""DAT005: text rows that begin with a written BOS, which encoding doubles.

A `text` column made with `apply_chat_template(..., tokenize=False)` begins with `<|begin_of_text|>`. TRL, and every
script that tokenizes it, adds the BOS again: ids start with `128000 128000`, which inference never has. The library's
encoder gives such rows one BOS. For other tools strip it from the text, or switch the automatic one off.
"""

from llama_padfix.doctor.check_helpers import found_in_data
from llama_padfix.doctor.findings import Change, Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    data = facts.data
    if data is not None and data.bos_in_text and facts.bos_added:
        change = Change("tokenizer.adds_bos", True, False, "the rows bring their BOS themselves", "unsafe")
        message = (
            f"{data.bos_in_text} of {data.seen} rows ({data.source}) are texts that begin with {facts.bos_token}, and "
            "the tokenizer adds it again: each starts with two."
        )
        yield found_in_data(CHECK, data, data.bos_in_text, message, changes=(change,))


CHECK = Check(
    code="DAT005",
    name="bos-written-in-text",
    severity="error",
    needs=("tokenizer", "data"),
    traps=(5,),
    doc=__doc__,
    bad='{"text": "<|begin_of_text|><|start_header_id|>user..."}  # and SFTTrainer(train_dataset=...)',
    good='dataset.map(lambda row: {"text": row["text"].removeprefix(tokenizer.bos_token)})',
    find=_find,
)
