"""PCK003: packing was asked for, and nothing is packed.

TRL packs while it prepares the dataset. With `dataset_kwargs={"skip_prepare_dataset": True}`, which rows that are
encoded already need, `packing=True` does nothing: each row stays alone, and most of a batch may be padding. Packed
rows have a column `seq_lengths`, by which the collator makes position ids. Pack the encoded rows with TRL's
`pack_dataset`.
"""

from llama_padfix.doctor.findings import Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    trainer = facts.trainer
    if trainer is None or not trainer.arguments.get("packing") or not trainer.dataset_columns:
        return
    strategy = str(trainer.arguments.get("packing_strategy") or "")
    if strategy.startswith("bfd") and not {"seq_lengths", "position_ids"} & set(trainer.dataset_columns):
        length = trainer.arguments.get("max_length")
        yield CHECK.found(
            "packing=True, and the training set holds no packed rows (no column seq_lengths): skip_prepare_dataset "
            f"leaves rows as they are. Run: trl.pack_dataset(rows, seq_length={length}), or drop packing=True"
        )


CHECK = Check(
    code="PCK003",
    name="packing-without-effect",
    severity="warning",
    needs=("trainer",),
    doc=__doc__,
    bad='SFTConfig(packing=True, dataset_kwargs={"skip_prepare_dataset": True})  # with encoded rows',
    good='trl.pack_dataset(rows.select_columns(["input_ids", "labels"]), seq_length=2048)',
    find=_find,
)
