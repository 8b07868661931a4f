"""PAD002: the pad token is one that the model must learn to produce."""

from collections.abc import Iterator

from llama_padfix.policy import change_pad_token, learned_stop_ids
from llama_padfix.records import Check, Facts, Finding


def _find(facts: Facts) -> Iterator[Finding]:
    asked_for = facts.requested_pad_token is not None and facts.requested_pad_token == facts.pad_token
    if facts.pad_token_id is not None and facts.pad_token_id in learned_stop_ids(facts) and not asked_for:
        message = (
            f"The pad token {facts.pad_token} ({facts.pad_token_id}) is also what ends a turn or a text: "
            "collators that mask every pad id hide it from the loss, and the model never learns to stop."
        )
        yield CHECK.found(message, change_pad_token(facts, CHECK.code))


CHECK = Check(
    code="PAD002",
    name="pad-token-must-be-learned",
    severity="error",
    needs=("tokenizer",),
    explanation="""\
`DataCollatorForLanguageModeling` sets the label of every pad id to -100, wherever it stands. With pad = eos =
`<|eot_id|>` not one end of turn is trained and the model talks on for ever. TRL even writes pad = eos into the
tokenizer that it saves. Another token must pad; ours masks by position besides.
""",
    bad='tokenizer.pad_token = "<|eot_id|>"',
    good='tokenizer.pad_token = "<|end_of_text|>"  # Instruct: ends a text, never a turn',
    find=_find,
)
