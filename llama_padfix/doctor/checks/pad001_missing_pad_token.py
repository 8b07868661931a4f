"""PAD001: no pad token.

Llama 3 and 3.1 have no pad token. `padding=True` raises, or a tool invents an id: one beyond the embedding raises
IndexError (a device-side assert on a GPU), and `pad = eos` hides the token that ends a turn. The vocabulary holds one
that fits: `<|end_of_text|>` (Instruct), `<|finetune_right_pad_id|>` or a reserved token (base).
"""

from llama_padfix.doctor.findings import Check, Facts, Findings
from llama_padfix.doctor.token_policy import change_pad_token


def _find(facts: Facts) -> Findings:
    if facts.pad_token is None:
        message = "tokenizer.pad_token is None, so a batch of rows of different length cannot be padded."
        yield CHECK.found(message, change_pad_token(facts))


CHECK = Check(
    code="PAD001",
    name="missing-pad-token",
    severity="error",
    needs=("tokenizer",),
    traps=(1,),
    doc=__doc__,
    bad="tokenizer.pad_token = tokenizer.eos_token  # <|eot_id|> is now padding: the model never stops",
    good="prepare(tokenizer, model)  # pad becomes <|end_of_text|>, id 128001",
    find=_find,
)
