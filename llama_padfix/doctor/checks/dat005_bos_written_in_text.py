"""DAT005: text rows that begin with a written BOS, which encoding doubles."""

from collections.abc import Iterator
from dataclasses import replace

from llama_padfix.doctor.facts import Facts
from llama_padfix.doctor.findings import Change, Check, Finding


def _find(facts: Facts) -> Iterator[Finding]:
    data = facts.data
    if data is None or not data.bos_in_text or not facts.bos_added:
        return
    why = "the rows bring their BOS themselves"
    change = Change("tokenizer.adds_bos", True, False, why, "unsafe", CHECK.code)
    message = (
        f"{data.bos_in_text} of {data.seen} rows ({data.source}) are texts that begin with {facts.bos_token}, and "
        "the tokenizer adds it again: each starts with two."
    )
    rows = data.bos_in_text
    yield replace(CHECK.found(message, (change,)), where=data.source, rows=rows, count=rows, seen=data.seen)


CHECK = Check(
    code="DAT005",
    name="bos-written-in-text",
    severity="error",
    needs=("tokenizer", "data"),
    traps=(5,),
    explanation="""\
A `text` column that was made with `apply_chat_template(..., tokenize=False)` begins with `<|begin_of_text|>`. TRL and
every script that tokenises it adds the BOS again: ids start `128000 128000`, a beginning that inference never has.
The library's encoder gives such rows one BOS; for other tools strip it from the text, or switch the automatic one off.
""",
    bad='{"text": "<|begin_of_text|><|start_header_id|>user..."}  # and SFTTrainer(train_dataset=...)',
    good='dataset.map(lambda row: {"text": row["text"].removeprefix(tokenizer.bos_token)})',
    find=_find,
)
