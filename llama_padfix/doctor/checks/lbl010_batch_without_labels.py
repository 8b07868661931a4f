"""LBL010: batches without labels, in a trainer whose loss the model computes from labels.

A language model returns no loss without `labels`, and the first step raises "The model did not return a loss from the
inputs". An evaluation without labels has no `eval_loss`. `DataCollatorForSeq2Seq`, `DataCollatorWithPadding` and
`default_data_collator` make no labels: the rows must bring them. `DataCollatorForLanguageModeling(mlm=False)` makes
them of the ids, and trains the prompt too.
"""

from llama_padfix.doctor.findings import Check, Facts, Hit, Hits, RowFacts


def _inspect(row: RowFacts, facts: Facts) -> Hits:
    trainer = facts.trainer
    if row.labels is None and trainer is not None and trainer.loss_from_labels and not trainer.samples_completions:
        yield Hit(0, min(len(row.input_ids), 12))


CHECK = Check(
    code="LBL010",
    name="batch-without-labels",
    severity="error",
    needs=("rows", "trainer"),
    message="{rows} of {seen} rows ({where}) come without labels, so the model returns no loss. Encode the rows with "
    "prepared.encode(dataset), and pass data_collator=prepared.collator.",
    doc=__doc__,
    bad="Trainer(model, args, train_dataset=rows, data_collator=DataCollatorForSeq2Seq(tokenizer))  # input_ids alone",
    good="Trainer(model, args, train_dataset=prepared.encode(rows), data_collator=prepared.collator)",
    inspect=_inspect,
)
