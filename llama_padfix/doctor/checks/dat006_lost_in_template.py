"""DAT006: rows of which the chat template leaves something out.

Chat templates leave out what they do not know, without an error: thoughts (R1-distill all, Qwen 3 those of earlier
turns), the text beside a tool call (Llama 3.1, gpt-oss), messages of the roles developer, function or tool, the tools.
The model is then trained on an answer without what it answers to. Keep thoughts with keep_reasoning=True where the
template can be proven to, use another template, or another role.
"""

from llama_padfix.doctor.check_helpers import found_in_data
from llama_padfix.doctor.findings import Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    data = facts.data
    if data is not None and data.lost_count:
        (number, what), count = data.lost[0], data.lost_count
        message = (
            f"{count} of {data.seen} rows ({data.source}) hold something that the chat template does not write, the "
            f"first is row {number}: {what.rstrip('.')}."
        )
        yield found_in_data(CHECK, data, count, message, data.lost)


CHECK = Check(
    code="DAT006",
    name="lost-in-template",
    severity="warning",
    needs=("tokenizer", "template", "data"),
    traps=(),
    doc=__doc__,
    bad='{"role": "developer", "content": "Be brief"}  # Qwen 3 writes nothing of it',
    good='{"role": "system", "content": "Be brief"}',
    find=_find,
)
