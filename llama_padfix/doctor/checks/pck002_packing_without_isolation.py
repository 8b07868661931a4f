"""PCK002: the trainer packs documents that attend to one another.

FlashAttention keeps them apart by position ids that restart at 0. sdpa and eager do so only in versions of
transformers with packed masks (`find_packed_sequence_indices`), and only for models that use them. The strategy
`wrapped` keeps nothing apart, and cuts documents at the end of a row, which suits pre-training only.
"""

from llama_padfix.doctor.findings import Change, Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    trainer = facts.trainer
    arguments = trainer.arguments if trainer is not None else {}
    packing, free = bool(arguments.get("packing")), bool(arguments.get("padding_free"))
    if packing and arguments.get("packing_strategy") == "wrapped":
        why = "whole documents, each with position ids of its own"
        yield CHECK.found(
            "packing_strategy='wrapped' cuts documents at the row's end and lets what shares a row attend to it all.",
            (Change("trainer.args.packing_strategy", "wrapped", "bfd", why, "manual"),),
        )
    elif (packing or free) and trainer is not None and trainer.documents_isolated is False:
        setting = "packing=True" if packing else "padding_free=True"
        yield CHECK.found(
            f"{setting} with {trainer.attention} attention: this model's code does not keep to the documents that "
            "position ids mark, so every document attends to those before it in the row.",
            severity="error",
        )


CHECK = Check(
    code="PCK002",
    name="packing-without-isolation",
    severity="warning",
    needs=("trainer",),
    traps=(25,),
    doc=__doc__,
    bad='SFTConfig(packing=True, packing_strategy="wrapped")',
    good='SFTConfig(packing=True, packing_strategy="bfd")',
    find=_find,
)
