"""TRN005: the trainer dropped rows that it was given.

TRL drops a row whose prompt alone fills `max_length`, and a preference pair likewise: nothing of its answer would be
left. `RewardTrainer` drops each pair of which one side is longer. A progress bar is shown and no count. An evaluation
set that is cut in the same way is another one than before. Raise `max_length`, or shorten the prompts.
`prepared.encode` counts what it drops, by reason. Streams and KTO, which encodes once more, are not counted.
"""

from llama_padfix.doctor.findings import Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    trainer = facts.trainer
    if trainer is None:
        return
    fills = "which are longer than" if trainer.class_name.startswith("Reward") else "whose prompt alone fills"
    for source, (given, kept) in trainer.dropped.items():
        yield CHECK.found(
            f"Of {given} rows of the {source} set the trainer kept {kept}; it dropped {given - kept}, {fills} "
            f"max_length={trainer.arguments.get('max_length')}. Raise max_length, or shorten the prompts."
        )


CHECK = Check(
    code="TRN005",
    name="rows-dropped",
    severity="warning",
    needs=("trainer",),
    doc=__doc__,
    bad="SFTConfig(max_length=512)  # for prompts of 600 tokens",
    good="SFTConfig(max_length=2048)  # or prepared.encode(rows), then prepared.counts",
    find=_find,
)
