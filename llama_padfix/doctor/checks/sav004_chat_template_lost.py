"""SAV004: a tokenizer that ends turns, without a chat template.

A tokenizer whose EOS ends turns was tuned on chats. Without its template, `apply_chat_template` raises since
transformers 4.44, and servers use one that the model was not trained with. Templates get lost when tokenizer.json and
tokenizer_config.json are copied without chat_template.jinja (transformers 4.53 and later), or when a script rendered
the chats itself.
"""

from llama_padfix.doctor.check_helpers import token_text
from llama_padfix.doctor.findings import Change, Check, Facts, Findings

_TEMPLATE_FILES = frozenset({"chat_template.jinja", "chat_template.json", "additional_chat_templates"})
_TURN_ENDS = ("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<end_of_turn>", "<|end|>", "<|eot|>", "<|return|>")


def _find(facts: Facts) -> Findings:
    folder = facts.folder
    if folder is None or facts.template is not None or not _TEMPLATE_FILES.isdisjoint(folder.files):
        return
    eos = token_text(folder.tokenizer_config.get("eos_token"))
    if eos in _TURN_ENDS and not folder.tokenizer_config.get("chat_template"):
        why = "chats must be rendered as in the training"
        yield CHECK.found(
            f"The tokenizer's EOS is {eos}, which ends a turn of a chat, and the folder has no chat template: "
            "apply_chat_template raises, and servers fall back on a template of their own.",
            (Change("folder.chat_template", None, "tokenizer.chat_template = ...", why, "manual"),),
        )


CHECK = Check(
    code="SAV004",
    name="chat-template-lost",
    severity="warning",
    needs=("folder",),
    traps=(26,),
    doc=__doc__,
    bad="cp out/tokenizer.json out/tokenizer_config.json served/  # chat_template.jinja stays behind",
    good='tokenizer.save_pretrained("served")',
    find=_find,
)
