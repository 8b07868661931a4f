"""GEN002: generation does not stop at every token that ends a turn or a text.

`generate` stops only at the ids in `generation_config.eos_token_id`. Without `<|eot_id|>` in that list, a chat model
continues. The list must hold every id that ends a text or a turn: `<|end_of_text|>`, `<|eom_id|>` and `<|eot_id|>`
where the vocabulary has them. Other tools read `model.config`. Its list may hold the tokenizer's EOS alone if the
generation config is complete: the Trainer of transformers 4.56 to 5.17 writes that. A base model without a chat
template stops rightly at its EOS alone as long as it writes plain text, so there it is a note. A trainer that samples
(GRPO) copies the list when it is made, and ends its rollouts there.
"""

from llama_padfix.doctor.findings import Change, Check, Facts, Findings
from llama_padfix.doctor.fixing.copies import complete_stops
from llama_padfix.doctor.token_policy import as_ids, stop_ids


def _find(facts: Facts) -> Findings:
    yield from _find_in_model(facts)
    trainer, stop_id = facts.trainer, facts.template.stop_token_id if facts.template is not None else None
    if trainer is None or not trainer.samples_completions or stop_id is None:
        return
    copies = [(target, held) for target, kind, held in trainer.copies if kind == "stop ids"]
    changes = [change for target, held in copies for change in complete_stops(target, held, facts)]
    short = [change for change in changes if stop_id not in as_ids(change.before)]
    if short:
        seen = ", ".join(f"{change.target} is {change.before}" for change in short)
        yield CHECK.found(
            f"A turn ends with {stop_id}, and {trainer.class_name} does not end its rollouts there ({seen}): they run "
            "on to max_completion_length, and none counts as ended.",
            changes,
        )


def _find_in_model(facts: Facts) -> Findings:
    model = facts.model
    if model is None:
        return
    stops = stop_ids(facts)
    # transformers 4.56 to 5.17 put the tokenizer's EOS in the place of the config's list as training starts.
    ends = {facts.eos_token_id, facts.template.stop_token_id if facts.template is not None else None} - {None}
    complete = model.has_generation_config and set(stops) <= set(as_ids(model.generation_eos_token_id))
    held = [("model.config.eos_token_id", model.config_eos_token_id, ends if complete else stops)]
    if model.has_generation_config:
        held.append(("model.generation_config.eos_token_id", model.generation_eos_token_id, stops))
    after: int | tuple[int, ...] = stops if len(stops) != 1 else stops[0]
    changes = []
    for target, before, required in held:
        present = as_ids(before)
        missing = [token_id for token_id in stops if token_id not in present]
        if not set(required) <= set(present):
            why = f"generation must also stop at {', '.join(map(str, missing))}"
            text = [token_id for token_id in present if token_id not in stops]
            why += f", and not at {', '.join(map(str, text))}, which is ordinary text" if text else ""
            changes.append(Change(target, before, after, why))
    if changes:
        seen = ", ".join(f"{change.target} is {change.before}" for change in changes)
        message = f"A turn or a text may end with any of {list(stops)}, but {seen}."
        # Without a template there are no turns: text ends with the EOS.
        is_right = facts.template is None and all(facts.eos_token_id in as_ids(before) for _, before, _ in held)
        yield CHECK.found(message, tuple(changes), severity="note" if is_right else None)


CHECK = Check(
    code="GEN002",
    name="incomplete-stop-list",
    severity="error",
    needs=("tokenizer", "model"),
    traps=(3,),
    doc=__doc__,
    bad="model.generation_config.eos_token_id  # 128001",
    good="model.generation_config.eos_token_id = [128001, 128008, 128009]",
    find=_find,
)
