"""SAV009: an adapter whose base model does not stop where the chat template ends a turn.

An adapter holds no `generation_config`: the stop list that was set for training is not saved with it. Merged, or
served on its base, it takes the base's list. A base model stops at `<|end_of_text|>` alone, and the chat goes on
after `<|eot_id|>`. Set the list on the merged model before it is saved, or with the request to the server. The base's
list is known where its folder or its copy in the cache is there.
"""

from llama_padfix.doctor.findings import Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    folder, template = facts.folder, facts.template
    stop_id = template.stop_token_id if template is not None else None
    if folder is None or template is None or folder.base_stops is None or stop_id in (None, *folder.base_stops):
        return
    base = folder.adapter_config.get("base_model_name_or_path")
    yield CHECK.found(
        f"The chat template ends a turn with {template.stop_token} ({stop_id}), and the adapter's base model {base} "
        f"stops at {list(folder.base_stops)}. Once merged, run: "
        "patch_tokenizer(tokenizer, model); model.save_pretrained(out). On a server, stop at "
        f"{sorted({*folder.base_stops, stop_id or 0})}"
    )


CHECK = Check(
    code="SAV009",
    name="stop-list-not-in-adapter",
    severity="warning",
    needs=("folder", "adapter", "base of the adapter", "template"),
    doc=__doc__,
    bad='AutoPeftModelForCausalLM.from_pretrained("adapter").merge_and_unload().save_pretrained("merged")',
    good='patch_tokenizer(tokenizer, merged); merged.save_pretrained("merged")',
    find=_find,
)
