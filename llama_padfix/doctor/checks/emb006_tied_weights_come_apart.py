"""EMB006: an adapter trains one of two tied matrices.

Small models such as Llama 3.2 1B and 3B use one matrix as embedding and head (`tie_word_embeddings`).
`modules_to_save=["embed_tokens"]` copies it for the embedding alone, so the model can read a new token and never
produce it. After merging, the checkpoint holds two matrices under a config that loads one.
"""

from llama_padfix.doctor.findings import Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    model = facts.model
    if model is None or not model.is_peft or not model.declared_tied or model.is_tied:
        return
    if (model.trained_rows is None) == (model.trained_output_rows is None):
        return
    trained, left = ("embedding", "head") if model.trained_rows is None else ("head", "embedding")
    yield CHECK.found(
        f"The config says that embedding and head are one matrix; the adapter trains a copy of the {trained}, and the "
        f"{left} stays. Merging writes one of them over the other. Set LoraConfig(ensure_weight_tying=True), or name "
        'both: modules_to_save=["embed_tokens", "lm_head"]'
    )


CHECK = Check(
    code="EMB006",
    name="tied-weights-come-apart",
    severity="warning",
    needs=("model",),
    traps=(14,),
    doc=__doc__,
    bad='LoraConfig(modules_to_save=["embed_tokens"])  # with tie_word_embeddings=True',
    good='LoraConfig(modules_to_save=["embed_tokens"], ensure_weight_tying=True)',
    find=_find,
)
