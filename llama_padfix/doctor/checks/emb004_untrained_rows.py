"""EMB004: the template uses tokens whose rows were never trained.

The base models of Llama 3 have rows near zero (such as 1e-23) for `<|eot_id|>`, `<|start_header_id|>`,
`<|end_header_id|>` and the reserved tokens, in embedding and head. With a chat template such a model cannot read its
headers, and gives the stop token a low probability after training (torchtune#2429: 0.05 where other tokens have 1.0).
A row counts as untrained if it is shorter than a ten-thousandth of an ordinary row, or equals that of another control
token. `mean_init_untrained` sets such rows to the mean of trained ones, and returns the LoRA configuration.
"""

from llama_padfix.doctor.findings import Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    model, template = facts.model, facts.template
    if model is None or template is None or not model.rows:
        return
    used = {template.stop_token_id}
    if facts.markers is not None:
        used |= {*facts.markers.header_ids, *facts.markers.stop_ids, *facts.markers.turn_start_ids}
    names = {token_id: token for token, token_id in facts.special_ids.items()}
    blank = {i: "the same as another" for i, row in model.rows.items() if row.is_twin}
    blank |= {i: "zero" for i, row in model.rows.items() if row.is_zero}
    found = sorted(i for i in used & set(blank) if i is not None and i in names)
    missed = [i for i in found if model.trained_rows is not None and i not in model.trained_rows]
    shown = ", ".join(f"{names[i]} ({i}: {blank[i]})" for i in found)
    message = f"The chat template uses {len(found)} tokens whose rows of the embedding were never trained: {shown}"
    if missed:
        yield CHECK.found(
            f"{message}; the adapter does not train {len(missed)} of them. Without the adapter run: "
            "done = mean_init_untrained(model, tokenizer); model = get_peft_model(model, done.lora)",
            severity="error",
        )
    elif found:
        yield CHECK.found(
            f"{message}. They start from nothing. Set them to the mean of the others, before get_peft_model: "
            "done = mean_init_untrained(model, tokenizer), and train with peft_config=done.lora"
        )


CHECK = Check(
    code="EMB004",
    name="untrained-rows",
    severity="warning",
    needs=("tokenizer", "template", "model"),
    traps=(15,),
    doc=__doc__,
    bad="model = AutoModelForCausalLM.from_pretrained('meta-llama/Meta-Llama-3-8B')  # and an Instruct chat template",
    good="done = mean_init_untrained(model, tokenizer, dataset)  # then peft_config=done.lora",
    find=_find,
)
