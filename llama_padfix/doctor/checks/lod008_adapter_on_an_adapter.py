"""LOD008: an adapter around layers that have one already.

`get_peft_model` on a model that carries an adapter, or `PeftModel.from_pretrained` before it, wraps the layers a
second time. PEFT warns and goes on. What is saved then fits the base model no more: the names in the file hold the
inner wrapper, PEFT ignores them when the adapter is loaded, and the model answers as if it was not trained. Merge the
first adapter, unload it, or train on it. What was saved so already is SAV010.
"""

from llama_padfix.doctor.findings import Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    model = facts.model
    if model is not None and model.adapters_deep > 1:
        yield CHECK.found(
            f"{model.adapters_deep} adapters are wrapped around one another, so what is saved does not load onto the "
            "base model. Before the second one, run: model = model.merge_and_unload()  (or model.unload() to drop the "
            "first, or train on it: PeftModel.from_pretrained(base, folder, is_trainable=True))"
        )


CHECK = Check(
    code="LOD008",
    name="adapter-on-an-adapter",
    severity="error",
    needs=("model",),
    doc=__doc__,
    bad="model = PeftModel.from_pretrained(base, folder); model = get_peft_model(model, lora)",
    good="model = PeftModel.from_pretrained(base, folder).merge_and_unload(); model = get_peft_model(model, lora)",
    find=_find,
)
