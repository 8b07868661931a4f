"""DAT001: rows that cannot be read."""

from llama_padfix.doctor.check_helpers import found_in_data
from llama_padfix.doctor.findings import Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    data = facts.data
    if data is not None and data.unreadable_count:
        (number, why), count = data.unreadable[0], data.unreadable_count
        message = f"{count} of {data.seen} rows ({data.source}) cannot be read, the first is row {number}: {why}"
        yield found_in_data(CHECK, data, count, message, data.unreadable)


CHECK = Check(
    code="DAT001",
    name="unreadable-rows",
    severity="error",
    needs=("data",),
    traps=(21,),
    explanation="""\
A row of no known shape, with a role that no template knows, or with content that is no text. Other tools put
`human` and `gpt` into the header as they stand, and mask turns of unknown roles in silence. Here ShareGPT's roles are
mapped, and what is left is an error that names the row and the value.
""",
    bad='{"conversations": [{"from": "narrator", "value": "Once upon a time"}]}',
    good='{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}',
    find=_find,
)
