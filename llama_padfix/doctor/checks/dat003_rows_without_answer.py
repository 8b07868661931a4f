"""DAT003: rows without an answer to train on."""

from collections.abc import Iterator
from dataclasses import replace

from llama_padfix.doctor.facts import Facts
from llama_padfix.doctor.findings import Check, Evidence, Finding


def _find(facts: Facts) -> Iterator[Finding]:
    data = facts.data
    if data is None or not data.unanswered_count:
        return
    number, roles = data.unanswered[0]
    message = (
        f"{data.unanswered_count} of {data.seen} rows ({data.source}) have no assistant turn to train on, the first "
        f"is row {number}: {roles}."
    )
    evidence = tuple(Evidence(row, 0, 0, why) for row, why in data.unanswered)
    rows = data.unanswered_count
    yield replace(CHECK.found(message), where=data.source, evidence=evidence, rows=rows, count=rows, seen=data.seen)


CHECK = Check(
    code="DAT003",
    name="rows-without-answer",
    severity="warning",
    needs=("data",),
    traps=(10, 21),
    explanation="""\
A conversation without an assistant turn (or a prompt/completion row whose completion holds none) has nothing that
the model could learn to say: all its labels are -100, and a batch of such rows has a loss of nan, logged as 0.0. The
library's encoder refuses such a row by number, or drops and counts it with on_error="drop".
""",
    bad='{"messages": [{"role": "user", "content": "Anybody there?"}]}',
    good='{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "Yes."}]}',
    find=_find,
)
