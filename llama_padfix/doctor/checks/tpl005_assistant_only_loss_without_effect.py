"""TPL005: assistant_only_loss is set, and the rows have no mask.

`assistant_only_loss=True` takes effect while TRL tokenizes: the mask comes from `{% generation %}` blocks in the chat
template, and without them it raises (Llama 3.1 and 3.2). Rows that TRL does not tokenize bring their own labels.
Without any, the labels are the ids, and the whole conversation is trained.
"""

from llama_padfix.doctor.findings import Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    trainer = facts.trainer
    columns = set(trainer.dataset_columns) if trainer and trainer.arguments.get("assistant_only_loss") else set()
    if "input_ids" in columns and not columns & {"labels", "assistant_masks"}:
        yield CHECK.found(
            "assistant_only_loss=True has no effect: the rows bring input_ids, and neither labels nor "
            "assistant_masks, so that every token is trained, the user's too."
        )


CHECK = Check(
    code="TPL005",
    name="assistant-only-loss-without-effect",
    severity="error",
    needs=("trainer",),
    traps=(8, 12),
    doc=__doc__,
    bad='SFTConfig(assistant_only_loss=True, dataset_kwargs={"skip_prepare_dataset": True})  # rows of input_ids only',
    good="SFTTrainer(train_dataset=prepared.encode(dataset), data_collator=prepared.collator, ...)",
    find=_find,
)
