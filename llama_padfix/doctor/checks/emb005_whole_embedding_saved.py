"""EMB005: an adapter that trains and saves the whole embedding.

`modules_to_save=["embed_tokens"]` saves the whole embedding with the adapter: 1 GiB in bfloat16 for 128256 rows of
4096 numbers, and optimizer states. For a few new tokens `trainable_token_indices` saves their rows alone.
"""

from llama_padfix.doctor.findings import Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    model = facts.model
    if model is not None and model.is_peft and model.trained_rows is None and model.embedding_rows is not None:
        yield CHECK.found(
            f"The adapter trains and saves all {model.embedding_rows} rows of the embedding. For a few new tokens "
            "trainable_token_indices trains just their rows."
        )


CHECK = Check(
    code="EMB005",
    name="whole-embedding-saved",
    severity="note",
    needs=("model",),
    traps=(14,),
    doc=__doc__,
    bad='LoraConfig(modules_to_save=["embed_tokens", "lm_head"])  # for two new tokens',
    good='LoraConfig(trainable_token_indices={"embed_tokens": [128256, 128257]})',
    find=_find,
)
