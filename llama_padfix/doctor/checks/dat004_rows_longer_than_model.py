"""DAT004: rows that are longer than the model reads.

Rows longer than `tokenizer.model_max_length` are cut. Most tools cut at the token, so that the answer ends in
mid-sentence, without its stop token. The library's encoder keeps the whole turns that fit, splits plain texts into
several rows, and counts both.
"""

from llama_padfix.doctor.check_helpers import found_in_data
from llama_padfix.doctor.findings import Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    data = facts.data
    if data is not None and (data.cut or data.too_long or data.split):
        count = data.cut + data.too_long + data.split
        message = (
            f"Of {data.seen} rows ({data.source}) {count} are longer than the {data.max_length} tokens that the "
            f"tokenizer announces: {data.cut} lose turns at the end, {data.too_long} have no turn that fits, "
            f"{data.split} are texts that become several rows."
        )
        yield found_in_data(CHECK, data, count, message)


CHECK = Check(
    code="DAT004",
    name="rows-longer-than-model",
    severity="warning",
    needs=("tokenizer", "data"),
    traps=(11,),
    doc=__doc__,
    bad="SFTConfig(max_length=1024)  # the answer of a long chat is cut off, and trained as if complete",
    good="prepare(tokenizer, max_length=8192).encode(dataset)  # whole turns; the counts are printed",
    find=_find,
)
