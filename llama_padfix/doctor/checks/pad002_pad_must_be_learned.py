"""PAD002: the pad token is one that the model must learn to produce.

`DataCollatorForLanguageModeling` sets the label of every pad id to -100, wherever it is. With pad = eos =
`<|eot_id|>` no end of turn is trained, and the model never stops. TRL even saves pad = eos with the tokenizer. Pad
with another token. This library's collator masks by position.

In a trainer it is a note where no end is hidden: the drawn rows train the token, as TRL's collators do, which mask by
length, or rollouts are masked where they end. In a reward model or a classifier no token is hidden from a loss. There
the model reads its score at the last token that is not the pad token, which is then the one before the end.
"""

from llama_padfix.doctor.findings import Check, Facts, Findings
from llama_padfix.doctor.token_policy import change_pad_token, find_pad_fault


def _find(facts: Facts) -> Findings:
    fault = find_pad_fault(facts)
    if fault is None or fault.kind != "learned":
        return
    ends = "a turn" if facts.template is not None else "a document"
    name, changes = f"The pad token {facts.pad_token!r} ({facts.pad_token_id})", change_pad_token(facts)
    is_trained = any(facts.pad_token_id in sample.trained_ends for sample in facts.samples)
    if facts.model is not None and facts.model.pools_one_token:
        message = (
            f"{name} also ends {ends}: the model reads its score at the last token that is not the pad token, so "
            "never at the end itself."
        )
        yield CHECK.found(message, changes, severity="warning")
    elif is_trained or (facts.trainer is not None and facts.trainer.samples_completions):
        how = "the rows that were drawn train it" if is_trained else "rollouts are masked where they end"
        message = f"{name} also ends {ends}. Nothing is hidden in this trainer: {how}."
        yield CHECK.found(f"{message} Collators that mask every pad id hide it.", changes, severity="note")
    else:
        yield CHECK.found(
            f"The pad token {fault.message}: collators that mask every pad id hide it from the loss, and the model "
            "never learns to stop.",
            changes,
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
