"""GEN008: the model stops at fewer tokens than its checkpoint.

TRL's `clone_chat_template` and many scripts set `eos_token_id` to the tokenizer's single EOS. What the checkpoint
stopped at besides is gone: the end of a message for tools, or of a text. Where the tokenizer knows such a token by
Llama's names, GEN002 reports it. The checkpoint's list is known where its folder or its copy in the cache is there.
"""

from llama_padfix.doctor.findings import Change, Check, Facts, Findings
from llama_padfix.doctor.token_policy import as_ids, stop_ids


def _find(facts: Facts) -> Findings:
    model = facts.model
    if model is None or not model.has_generation_config or model.generation_eos_token_id is None:
        return
    held, required = as_ids(model.generation_eos_token_id), stop_ids(facts)
    names = {i: token for token, i in facts.special_ids.items()}
    lost = [i for i in model.original_stops if i in names and i not in held and i not in required]
    if lost:
        shown = ", ".join(f"{names[i]} ({i})" for i in lost)
        why = f"the checkpoint stops at {shown} too"
        target, after = "model.generation_config.eos_token_id", tuple(dict.fromkeys((*required, *lost)))
        yield CHECK.found(
            f"Generation stops at {list(held)}, and the checkpoint stopped at {shown} besides. "
            f"Run: {target} = {list(after)}",
            (Change(target, model.generation_eos_token_id, after, why),),
        )


CHECK = Check(
    code="GEN008",
    name="stop-list-shortened",
    severity="warning",
    needs=("tokenizer", "model"),
    doc=__doc__,
    bad='model, tokenizer, _ = clone_chat_template(model, tokenizer, "Qwen/Qwen3-0.6B")',
    good="patch_tokenizer(tokenizer, model)  # after it: the list holds the old and the new",
    find=_find,
)
