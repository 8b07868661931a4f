"""SAV008: the adapter holds an embedding with more rows than its base model has.

Tokens were added and the model resized before the adapter was made, and PEFT saved the whole embedding with it.
`PeftModel.from_pretrained(base, folder)` then raises a size mismatch, and servers refuse the adapter. The base has to
be resized first. A pad token needs no new row: `prepare` takes one that the vocabulary has. It is a note where the
adapter trains rows, so that tokens were added on purpose. The base's size is known where its folder or its copy in
the cache is there.
"""

from llama_padfix.doctor.findings import Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    folder = facts.folder
    if folder is None or folder.adapter_rows is None or folder.base_rows in (None, folder.adapter_rows):
        return
    trains_rows = bool(
        folder.adapter_config.get("trainable_token_indices") or folder.adapter_config.get("modules_to_save")
    )
    yield CHECK.found(
        f"The adapter holds {folder.adapter_rows} rows of the embedding, and its base model "
        f"{folder.adapter_config.get('base_model_name_or_path')} has {folder.base_rows}: it does not load onto it. "
        f"First run: base.resize_token_embeddings({folder.adapter_rows})",
        severity="note" if trains_rows else "error",
    )


CHECK = Check(
    code="SAV008",
    name="adapter-of-other-rows",
    severity="error",
    needs=("folder", "adapter", "base of the adapter"),
    doc=__doc__,
    bad='tokenizer.add_special_tokens({"pad_token": "[PAD]"}); model.resize_token_embeddings(len(tokenizer))',
    good="prepare(tokenizer, model)  # pads with a token that has a row; then get_peft_model(model, lora)",
    find=_find,
)
