"""EMB007: the model was resized for an adapter that trains none of the new rows.

PEFT saves the whole embedding with the adapter as soon as the model has other rows than its checkpoint: 1 GiB in
bfloat16 for 128256 rows of 4096 numbers. That adapter does not load onto the base model (SAV008). It is often done
for a pad token, which needs no row: it is never attended to and never predicted. `prepare` pads with a token that the
vocabulary has.
"""

from llama_padfix.doctor.findings import Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    model = facts.model
    if model is None or not model.is_peft or model.original_rows is None or model.embedding_rows is None:
        return
    new = range(model.original_rows, model.embedding_rows)
    trained = (model.trained_rows, model.trained_output_rows)
    if not new or any(rows is None or set(rows) & set(new) for rows in trained):
        return
    names = {i: token for token, i in facts.vocabulary.items() if i in new}
    shown = ", ".join(f"{names[i]!r} ({i})" for i in sorted(names)[:3]) or f"{new[0]} to {new[-1]}"
    yield CHECK.found(
        f"The model has {model.embedding_rows} rows of the embedding and its checkpoint {model.original_rows}; the "
        f"adapter trains none of the new ones ({shown}). It is saved with the whole embedding and does not load onto "
        "the base model. For a pad token add no row: load the model anew, and run prepare(tokenizer, model)"
    )


CHECK = Check(
    code="EMB007",
    name="resized-under-an-adapter",
    severity="warning",
    needs=("tokenizer", "model"),
    doc=__doc__,
    bad='tokenizer.add_special_tokens({"pad_token": "[PAD]"}); model.resize_token_embeddings(len(tokenizer))',
    good="prepare(tokenizer, model)  # pads with a token that has a row; then get_peft_model(model, lora)",
    find=_find,
)
