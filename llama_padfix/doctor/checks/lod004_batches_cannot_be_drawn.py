"""LOD004: the dataloader raises.

The batches are drawn from the trainer's own dataloaders, or from the one that was given, as in training. Causes: no
pad token, rows of text that the collator cannot pad, labels of another length than their ids, or no column that the
model's `forward` takes.
"""

from llama_padfix.doctor.findings import Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    errors = (facts.trainer.loader_errors if facts.trainer is not None else facts.loader_errors) or {}
    for source, error in errors.items():
        seen = next((sample.seen for sample in facts.samples if sample.source == source), 0)
        after = f"after {seen} rows" if seen else "at the first batch"
        yield CHECK.found(f"Drawing a {source} raised {after}: {error}")


CHECK = Check(
    code="LOD004",
    name="batches-cannot-be-drawn",
    severity="error",
    needs=("batches",),
    traps=(1, 13),
    doc=__doc__,
    bad="Trainer(model, args, train_dataset=raw_rows)  # no column that the model knows",
    good="Trainer(model, args, train_dataset=prepared.encode(raw_rows), data_collator=prepared.collator)",
    find=_find,
)
