"""GEN001: the tokenizer's EOS is not what ends a turn in the chat template.

In early Llama 3 Instruct, and in every base model with a chat template, the EOS is `<|end_of_text|>` (128001) while a
turn ends with `<|eot_id|>` (128009). Generation that stops at the tokenizer's EOS then never stops. What ends a turn
is found by rendering the template.
"""

from llama_padfix.doctor.findings import Change, Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    template = facts.template
    if template is not None and template.stop_token not in (None, facts.eos_token):
        why = f"the chat template ends an assistant turn with {template.stop_token} ({template.stop_token_id})"
        yield CHECK.found(
            f"The chat template ends an assistant turn with {template.stop_token}, the tokenizer's EOS is "
            f"{facts.eos_token}: trained chats would be saved with an EOS that they never produce.",
            (Change("tokenizer.eos_token", facts.eos_token, template.stop_token, why),),
        )


CHECK = Check(
    code="GEN001",
    name="eos-is-not-the-turn-stop",
    severity="error",
    needs=("tokenizer", "template"),
    traps=(3,),
    doc=__doc__,
    bad='tokenizer.eos_token  # "<|end_of_text|>" beside a template that ends turns with <|eot_id|>',
    good='tokenizer.eos_token = "<|eot_id|>"  # prepare(tokenizer) does it',
    find=_find,
)
