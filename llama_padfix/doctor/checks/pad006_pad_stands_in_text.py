"""PAD006: the pad token also stands in rows as itself.

`tokenizer.pad_token_id = 0` comes from Llama 1 and 2, where id 0 is `<unk>`. In Llama 3's vocabulary id 0 is `!`, so
collators that mask by id mask every exclamation mark. Loaded again, `!` is a special token, and "!!" gets other ids.
"""

from llama_padfix.doctor.findings import Check, Facts, Findings
from llama_padfix.doctor.token_policy import change_pad_token, find_pad_fault


def _find(facts: Facts) -> Findings:
    fault = find_pad_fault(facts)
    if fault is not None and fault.kind == "in text":
        yield CHECK.found(
            f"The pad token {fault.message}: collators that mask every pad id hide it from the loss wherever it "
            "stands, and `generate` takes it for padding where no attention mask is given.",
            change_pad_token(facts),
        )


CHECK = Check(
    code="PAD006",
    name="pad-token-stands-in-text",
    severity="error",
    needs=("tokenizer",),
    traps=(2,),
    doc=__doc__,
    bad='tokenizer.pad_token_id = 0  # "!"',
    good="prepare(tokenizer, model)  # pads with a token that no text holds",
    find=_find,
)
