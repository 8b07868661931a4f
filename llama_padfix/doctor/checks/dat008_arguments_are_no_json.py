"""DAT008: arguments of a tool call that are text and no JSON.

Most chat templates write arguments that are text as they stand, and all others as JSON (Qwen 3, Mistral, Hermes). A
cut or misquoted text is then trained as it is, and the model learns to write calls that no program can read. Others
(Llama 3.1) write the text as a JSON string. Fix the arguments, write them as an object, or drop the rows; they are
counted under `unparsed` when rows are encoded.
"""

from llama_padfix.doctor.check_helpers import found_in_data
from llama_padfix.doctor.findings import Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    data = facts.data
    if data is not None and data.unparsed_count:
        (number, what), count = data.unparsed[0], data.unparsed_count
        message = (
            f"{count} of {data.seen} rows ({data.source}) call a tool with arguments that are text and no JSON, which "
            f"is trained as it stands; the first is row {number}, {what}."
        )
        yield found_in_data(CHECK, data, count, message, data.unparsed)


CHECK = Check(
    code="DAT008",
    name="arguments-are-no-json",
    severity="warning",
    needs=("tokenizer", "template", "data"),
    doc=__doc__,
    bad='{"name": "look", "arguments": "{\'at\': \'sky\'}"}  # Python, and no JSON',
    good='{"name": "look", "arguments": {"at": "sky"}}',
    find=_find,
)
