"""LOD011: the reference model is not the model that is trained, before training.

Without `ref_model`, DPO loads the reference from the checkpoint again. What was changed in memory is not in it: rows
that were added, weights that were set, ids in its config. An id beyond its embedding is an IndexError on a CPU and a
device-side assert on a GPU; other weights shift every reward. Give a copy, or train an adapter: then the model
without its adapter is the reference.
"""

from llama_padfix.doctor.findings import Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    model, reference = facts.model, facts.trainer.reference if facts.trainer is not None else None
    if model is None or reference is None:
        return
    fix = "Pass ref_model=copy.deepcopy(model), made before the trainer, or train an adapter."
    if (
        None not in (model.embedding_rows, reference.embedding_rows)
        and model.embedding_rows != reference.embedding_rows
    ):
        yield CHECK.found(
            f"The reference model has {reference.embedding_rows} rows of the embedding, and the model "
            f"{model.embedding_rows}: it was loaded again, without what was added. {fix}"
        )
    elif model.config_pad_token_id != reference.config_pad_token_id:
        yield CHECK.found(
            f"The reference model's pad id is {reference.config_pad_token_id}, and the model's "
            f"{model.config_pad_token_id}: it was loaded again, without what was changed in memory. {fix}",
            severity="note",
        )


CHECK = Check(
    code="LOD011",
    name="reference-model-differs",
    severity="error",
    needs=("trainer", "model"),
    doc=__doc__,
    bad="model.resize_token_embeddings(len(tokenizer)); DPOTrainer(model, args=args)",
    good="DPOTrainer(model, ref_model=copy.deepcopy(model), args=args)",
    find=_find,
)
