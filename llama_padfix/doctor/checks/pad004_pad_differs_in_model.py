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
    # Where a faulty token is the model's too, they agree: once another check has replaced it, the model's is changed.
    own = facts.pad_token_id
    seen = ", ".join(
        f"{target} is {before}" for target, before in held if before != (choice.token_id if own is None else own)
    )
    if not seen:
        return
    if own is None:
        yield CHECK.found(f"The tokenizer has no pad id yet, {choice.token_id} is to become it, and {seen}.", changes)
    else:
        planned = "" if own == choice.token_id else f" ({choice.token_id} is to replace it)"
        yield CHECK.found(f"The tokenizer's pad id is {own}{planned}, but {seen}.", changes)


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
