"""PAD009: the collator pads with another id than the one that the model looks for.

A reward model or a classifier reads its score at the last token that is not `model.config.pad_token_id`. Where the
collator fills rows with another id, the scores of shorter rows are read at padding. It happens when the pad token is
changed after the trainer was made, since collators of TRL keep the id. `fix()` sets it there too.
"""

from llama_padfix.doctor.findings import Change, Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    trainer, model = facts.trainer, facts.model
    if trainer is None or model is None or not model.pools_one_token:
        return
    fills, looked_for = trainer.collator_pad_token_id, model.config_pad_token_id
    if None not in (fills, looked_for) and fills != looked_for:
        why = "the model reads its score at the last token that is not this one"
        yield CHECK.found(
            f"The collator pads with {fills}, and the model reads its score at the last token that is not "
            f"{looked_for}: in each row that is padded that is padding.",
            (Change("trainer.data_collator.pad_token_id", fills, looked_for, why),),
        )


CHECK = Check(
    code="PAD009",
    name="collator-pads-otherwise",
    severity="error",
    needs=("trainer", "model"),
    doc=__doc__,
    bad="model.config.pad_token_id = 128001  # and the collator was made with pad_token_id=128009",
    good="trainer.data_collator.pad_token_id = model.config.pad_token_id",
    find=_find,
)
