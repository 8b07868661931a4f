r"""DAT007: rows without a thought into which the chat template writes an empty one that is trained.

Templates of thinking models (Qwen 3) write `<think>\n\n</think>\n\n` in front of an answer without a thought, behind
the generation prompt. The model is then trained to think nothing, also where its prompt asks it to think. Give the
argument that moves the empty thought into the prompt, where the template has one, or data with thoughts.
"""

from llama_padfix.doctor.check_helpers import found_in_data
from llama_padfix.doctor.findings import Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    data = facts.data
    if data is not None and data.thoughtless_count:
        (number, what), count = data.thoughtless[0], data.thoughtless_count
        message = (
            f"{count} of {data.seen} rows ({data.source}) hold an answer without a thought, for which the chat "
            f"template writes an empty one that is trained; the first is row {number}, {what}."
        )
        yield found_in_data(CHECK, data, count, message, data.thoughtless)


CHECK = Check(
    code="DAT007",
    name="empty-thoughts",
    severity="warning",
    needs=("tokenizer", "template", "data"),
    doc=__doc__,
    bad="prepare(tokenizer)  # of Qwen 3, for data without thoughts",
    good='prepare(tokenizer, template_kwargs={"enable_thinking": False})  # the prompt holds the empty thought',
    find=_find,
)
