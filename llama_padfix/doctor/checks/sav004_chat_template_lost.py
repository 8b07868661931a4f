"""SAV004: a tokenizer that ends turns, without a chat template."""

from llama_padfix.doctor.findings import Change, Check, Facts, Findings

_TURN_ENDS = ("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<end_of_turn>", "<|end|>", "<|eot|>", "<|return|>")


def _find(facts: Facts) -> Findings:
    folder = facts.folder
    if folder is None or not folder.tokenizer_config or facts.template is not None:
        return
    held = folder.tokenizer_config
    files = {"chat_template.jinja", "chat_template.json", "additional_chat_templates"}
    eos = held.get("eos_token")
    eos = eos.get("content") if isinstance(eos, dict) else eos
    if eos not in _TURN_ENDS or held.get("chat_template") or files & set(folder.files):
        return
    why = "chats must be rendered as in the training"
    change = Change("folder.chat_template", None, "tokenizer.chat_template = ...", why, "manual")
    message = (
        f"The tokenizer's EOS is {eos}, which ends a turn of a chat, and the folder has no chat template: "
        "apply_chat_template raises, and servers fall back on a template of their own."
    )
    yield CHECK.found(message, (change,))


CHECK = Check(
    code="SAV004",
    name="chat-template-lost",
    severity="warning",
    needs=("folder",),
    traps=(26,),
    explanation="""\
A tokenizer whose EOS ends turns was tuned on chats. Without its template, `apply_chat_template` raises since
transformers 4.44, and servers use one that the model was not trained with. Templates get lost when tokenizer.json and
tokenizer_config.json are copied without chat_template.jinja (transformers 4.53 and later), or when a script rendered
the chats itself.
""",
    bad="cp out/tokenizer.json out/tokenizer_config.json served/  # chat_template.jinja stays behind",
    good='tokenizer.save_pretrained("served")',
    find=_find,
)
