"""DAT001: rows that cannot be read.

The row has no known shape, a role that no template knows, or content that is not text. Other tools write `human` and
`gpt` into the header unchanged, and mask turns of unknown roles silently. The library maps ShareGPT's roles, and
raises an error for the rest that names the row and the value.
"""

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
    doc=__doc__,
    bad='{"conversations": [{"from": "narrator", "value": "Once upon a time"}]}',
    good='{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}',
    find=_find,
)
