"""EMB003: tokens were added, and their rows are not trained.

`resize_token_embeddings` gives every new token a row very near the mean of the others. LoRA trains no row of the
embedding by default, so the new tokens stay alike. `trainable_token_indices` trains these rows alone (PEFT 0.15 and
newer); `modules_to_save=["embed_tokens", "lm_head"]` trains and saves all. `add_tokens` of this library adds, resizes
and returns the configuration; `train_rows` returns it for tokens that were added before. New rows are found by the
checkpoint's config.json and their distance to the mean.
"""

from llama_padfix.doctor.findings import Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    model = facts.model
    if model is None or not model.is_peft or model.embedding_rows is None:
        return
    names = {token_id: token for token, token_id in facts.vocabulary.items()}
    # A row of zeros is one of the reserved tokens of a base model, which was not added.
    added = {i for i, row in model.rows.items() if row.is_mean_like and not row.is_zero}
    if model.original_rows is not None:
        added |= {i for i in names if model.original_rows <= i < model.embedding_rows}
    added -= {facts.pad_token_id}  # never in the loss, never attended to
    for place, trained in (("embedding", model.trained_rows), ("output head", model.trained_output_rows)):
        missed = sorted(added - set(trained)) if trained is not None else []
        if not missed or (place == "output head" and (model.is_tied or model.declared_tied)):
            continue
        shown = ", ".join(f"{names.get(i, '?')!r} ({i})" for i in missed[:5])
        more = f" and {len(missed) - 5} more" if len(missed) > 5 else ""
        yield CHECK.found(
            f"{len(missed)} added tokens have rows of the {place} that the adapter does not train: {shown}{more}. "
            f"Make the adapter anew, from: train_rows(model, [{', '.join(map(str, missed[:5]))}"
            f"{', ...' if more else ''}], lora=your_lora_config).lora"
        )
        return


CHECK = Check(
    code="EMB003",
    name="added-rows-not-trained",
    severity="error",
    needs=("tokenizer", "model"),
    traps=(14,),
    doc=__doc__,
    bad='tokenizer.add_tokens(["<tool>"]); LoraConfig(target_modules="all-linear")  # after resizing',
    good='added = add_tokens(model, tokenizer, ["<tool>"])  # then peft_config=added.lora',
    find=_find,
)
