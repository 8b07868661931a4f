"""TPL001: the chat template does not let itself be probed.

What a template writes around a turn is learned by rendering one question and one answer. No stop token is found if a
template raises on them, writes a message twice, or ends a turn without a special token.
"""

from llama_padfix.doctor.findings import Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    if facts.template is not None and facts.template.error is not None:
        yield CHECK.found(f"The chat template cannot be read: {facts.template.error}.")
    elif facts.template is not None and facts.template.stop_token is None:
        yield CHECK.found("The chat template ends an assistant turn without any special token: nothing says stop.")


CHECK = Check(
    code="TPL001",
    name="template-cannot-be-read",
    severity="warning",
    needs=("tokenizer", "template"),
    traps=(8,),
    doc=__doc__,
    bad="{{ raise_exception('only system messages') }}",
    good="{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' + message['content'] + '<|eot_id|>' }}",
    find=_find,
)
