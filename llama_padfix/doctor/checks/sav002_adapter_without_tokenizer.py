"""SAV002: an adapter was saved without its tokenizer.

`model.save_pretrained(folder)` of a PEFT model writes the adapter alone. With the base model's tokenizer, an adapter
that ends its turns with `<|eot_id|>` gets a tokenizer that stops at `<|end_of_text|>`, or that has no chat template
or no added tokens. Save the tokenizer beside the adapter; `trainer.save_model` does that if the trainer has it.
"""

from llama_padfix.doctor.findings import Change, Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    folder = facts.folder
    if folder is not None and folder.adapter_config and not folder.has_tokenizer:
        why = "the adapter was trained with the pad token, the EOS and the template of this tokenizer"
        yield CHECK.found(
            f"The folder holds an adapter of {folder.adapter_config.get('base_model_name_or_path')!r} and no "
            "tokenizer: it is loaded with the base model's, without the pad token, the EOS, the chat template and the "
            "added tokens of the training.",
            (Change("folder.tokenizer", None, "tokenizer.save_pretrained(folder)", why, "manual"),),
        )


CHECK = Check(
    code="SAV002",
    name="adapter-without-tokenizer",
    severity="warning",
    needs=("folder",),
    traps=(26,),
    doc=__doc__,
    bad='model.save_pretrained("adapter")  # adapter_config.json, adapter_model.safetensors',
    good='model.save_pretrained("adapter"); tokenizer.save_pretrained("adapter")',
    find=_find,
)
