"""DAT001: rows that cannot be read."""

from collections.abc import Iterator
from dataclasses import replace

from llama_padfix.doctor.facts import Facts
from llama_padfix.doctor.findings import Check, Evidence, Finding


def _find(facts: Facts) -> Iterator[Finding]:
    data = facts.data
    if data is None or not data.unreadable_count:
        return
    number, why = data.unreadable[0]
    message = (
        f"{data.unreadable_count} of {data.seen} rows ({data.source}) cannot be read, the first is row {number}: {why}"
    )
    evidence = tuple(Evidence(row, 0, 0, reason) for row, reason in data.unreadable)
    rows = data.unreadable_count
    yield replace(CHECK.found(message), where=data.source, evidence=evidence, rows=rows, count=rows, seen=data.seen)


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
