"""TPL008: the tokenizer encodes control tokens as letters, those of its chat template too.

With `split_special_tokens=True`, `<|eot_id|>` in a text becomes the ids of its letters, wherever it comes from.
`apply_chat_template` then gives a prompt without one control token, which no model knows. It is meant for text that
people write; `ChatEncoder` keeps that apart from what the template writes, with the setting off.
"""

from llama_padfix.doctor.findings import Change, Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    if facts.split_special_tokens:
        why = (
            "the chat template's control tokens are ids of their own; text that spells them is encoded by ChatEncoder"
        )
        yield CHECK.found(
            "split_special_tokens is True: apply_chat_template encodes the template's control tokens as letters. "
            "Run: tokenizer.split_special_tokens = False",
            (Change("tokenizer.split_special_tokens", True, False, why),),
        )


CHECK = Check(
    code="TPL008",
    name="template-written-as-letters",
    severity="error",
    needs=("tokenizer", "template"),
    doc=__doc__,
    bad="tokenizer.split_special_tokens = True; tokenizer.apply_chat_template(messages)  # [27, 91, 7413, ...]",
    good="tokenizer.split_special_tokens = False; tokenizer.apply_chat_template(messages)  # [128000, 128006, ...]",
    find=_find,
)
