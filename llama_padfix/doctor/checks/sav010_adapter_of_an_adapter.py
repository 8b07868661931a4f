"""SAV010: the saved adapter was made on a model that had an adapter already.

Its file names the layers through two wrappers, `base_model.model.base_model.model...`. Loaded onto the base model,
none of these names is found: PEFT warns of missing keys, and the model answers as if it was not trained. Load the
first adapter, then this one onto it, merge both, and save the model; or rename the keys.
"""

from llama_padfix.doctor.findings import Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    if facts.folder is not None and facts.folder.adapter_is_nested:
        yield CHECK.found(
            "The adapter's file holds the names of an adapter on an adapter (base_model.model.base_model.model...): "
            "loaded onto the base model it changes nothing. Load it as it was made, and save the merged model: "
            "PeftModel.from_pretrained(PeftModel.from_pretrained(base, first), folder).merge_and_unload()"
        )


CHECK = Check(
    code="SAV010",
    name="adapter-of-an-adapter",
    severity="error",
    needs=("folder",),
    doc=__doc__,
    bad="get_peft_model(PeftModel.from_pretrained(base, first), lora).save_pretrained(folder)",
    good="get_peft_model(PeftModel.from_pretrained(base, first).merge_and_unload(), lora)",
    find=_find,
)
