"""DAT003: rows without an answer to train on.

A row without an assistant turn has nothing to train: all its labels are -100. A batch of such rows has a loss of nan,
logged as 0.0. The library's encoder refuses such a row by number, or drops it with on_error="drop".
"""

from llama_padfix.doctor.check_helpers import found_in_data
from llama_padfix.doctor.findings import Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    data = facts.data
    if data is not None and data.unanswered_count:
        (number, roles), count = data.unanswered[0], data.unanswered_count
        message = (
            f"{count} of {data.seen} rows ({data.source}) have no assistant turn to train on, the first is row "
            f"{number}: {roles}."
        )
        yield found_in_data(CHECK, data, count, message, data.unanswered)


CHECK = Check(
    code="DAT003",
    name="rows-without-answer",
    severity="warning",
    needs=("data",),
    traps=(10, 21),
    doc=__doc__,
    bad='{"messages": [{"role": "user", "content": "Anybody there?"}]}',
    good='{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "Yes."}]}',
    find=_find,
)
