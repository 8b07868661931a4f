"""LBL020: the collator replaces the labels of the dataset.

`DataCollatorForLanguageModeling(mlm=False)` overwrites the labels of the rows with a copy of the ids; it was TRL's
default up to 0.15. A dataset whose labels are -100 outside the answers is then trained on everything, with a lower
loss. What a collator does is found by giving it two rows with labels.
"""

from llama_padfix.doctor.findings import Change, Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    trainer = facts.trainer
    if trainer is not None and trainer.given_labels_kept is False and trainer.dataset_labels_masked:
        why = "it pads the labels that the rows bring"
        yield CHECK.found(
            f"The dataset brings labels with -100 in them, and {trainer.collator.rpartition('.')[2]} replaces them by "
            "its own: the prompts are trained too.",
            (Change("trainer.data_collator", trainer.collator, "llama_padfix.PadCollator", why, "manual"),),
        )


CHECK = Check(
    code="LBL020",
    name="collator-overwrites-labels",
    severity="error",
    needs=("trainer",),
    traps=(35,),
    doc=__doc__,
    bad="Trainer(data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False), train_dataset=rows_with_labels)",
    good="Trainer(data_collator=PadCollator(tokenizer.pad_token_id), train_dataset=rows_with_labels)",
    find=_find,
)
