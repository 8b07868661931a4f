"""PAD002: the pad token is one that the model must learn to produce.

`DataCollatorForLanguageModeling` sets the label of every pad id to -100, wherever it is. With pad = eos =
`<|eot_id|>` no end of turn is trained, and the model never stops. TRL even saves pad = eos with the tokenizer. Pad
with another token. This library's collator masks by position.
"""

from llama_padfix.doctor.findings import Check, Facts, Findings
from llama_padfix.doctor.token_policy import change_pad_token, find_pad_fault


def _find(facts: Facts) -> Findings:
    fault = find_pad_fault(facts)
    if fault is not None and fault.kind == "learned":
        yield CHECK.found(
            f"The pad token {fault.message}: collators that mask every pad id hide it from the loss, and the model "
            "never learns to stop.",
            change_pad_token(facts),
        )


CHECK = Check(
    code="PAD002",
    name="pad-token-must-be-learned",
    severity="error",
    needs=("tokenizer",),
    traps=(2,),
    doc=__doc__,
    bad='tokenizer.pad_token = "<|eot_id|>"',
    good='tokenizer.pad_token = "<|end_of_text|>"  # Instruct: ends a text, never a turn',
    find=_find,
)
