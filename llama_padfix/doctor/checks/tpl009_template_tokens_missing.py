"""TPL009: the chat template writes control tokens that the vocabulary does not have.

A ChatML template on Llama 3's tokenizer writes `<|im_end|>`, which that vocabulary lacks: it is encoded as letters,
six or seven ids. Nothing says stop, generation goes on behind it, and anybody's text can forge a turn. Add the tokens
and train their rows, or use the template of the tokenizer's own family.
"""

import re

from llama_padfix.doctor.findings import Check, Facts, Findings

_CONTROL = re.compile("<[|\uff5c][^\\s<>|\uff5c]{1,40}[|\uff5c]>|<(?:start|end)_of_(?:turn|text|role)>")


def _find(facts: Facts) -> Findings:
    template = facts.template
    if template is None:
        return
    texts = (template.header, template.prompt, template.ending, *template.role_headers.values())
    written = dict.fromkeys(token for text in texts for token in _CONTROL.findall(text))
    missing = [token for token in written if token not in facts.vocabulary]
    if missing:
        yield CHECK.found(
            f"The chat template writes {', '.join(missing)}, which the vocabulary lacks, so they are encoded as "
            f"letters. Run: add_tokens(model, tokenizer, {missing}), or use a template of the tokenizer's family."
        )


CHECK = Check(
    code="TPL009",
    name="template-tokens-missing",
    severity="warning",
    needs=("tokenizer", "template"),
    doc=__doc__,
    bad="tokenizer.chat_template = chatml  # Llama 3's vocabulary has no <|im_end|>",
    good='add_tokens(model, tokenizer, ["<|im_start|>", "<|im_end|>"])',
    find=_find,
)
