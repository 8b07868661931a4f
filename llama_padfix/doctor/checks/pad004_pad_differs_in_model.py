"""PAD004: model and tokenizer disagree on the pad id.

The tokenizer, `model.config` and `model.generation_config` each hold a pad id. If they differ, `generate` warns and
pads with the EOS, classification heads read the wrong position, and the saved files disagree.
"""

from llama_padfix.doctor.findings import Change, Check, Facts, Findings
from llama_padfix.doctor.token_policy import choose_pad_token


def _find(facts: Facts) -> Findings:
    model, choice = facts.model, choose_pad_token(facts)
    if model is None or choice is None:
        return
    held = [("model.config.pad_token_id", model.config_pad_token_id)]
    if model.has_generation_config:
        held.append(("model.generation_config.pad_token_id", model.generation_pad_token_id))
    changes = tuple(
        Change(target, before, choice.token_id, "the same id as the tokenizer's pad token")
        for target, before in held
        if before != choice.token_id
    )
    if changes:
        seen = ", ".join(f"{change.target} is {change.before}" for change in changes)
        yield CHECK.found(f"The pad id is {choice.token_id}, but {seen}.", changes)


CHECK = Check(
    code="PAD004",
    name="pad-id-differs-in-model",
    severity="warning",
    needs=("tokenizer", "model"),
    traps=(1,),
    doc=__doc__,
    bad="tokenizer.pad_token_id  # 128001, while model.config.pad_token_id is None",
    good="prepare(tokenizer, model)  # one id in all three places",
    find=_find,
)
