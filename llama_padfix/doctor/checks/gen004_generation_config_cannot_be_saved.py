"""GEN004: the generation config refuses to be saved.

`save_pretrained` validates the generation config, and raises where settings contradict each other, such as
temperature and do_sample=False. Loading and training raise nothing, so the first checkpoint fails. This check runs
that validation.
"""

from llama_padfix.doctor.findings import Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    error = facts.model.generation_error if facts.model is not None else None
    if error is not None:
        line = " ".join(error.split())
        yield CHECK.found(f"model.generation_config cannot be saved, so the run ends at its first checkpoint: {line}")


CHECK = Check(
    code="GEN004",
    name="generation-config-cannot-be-saved",
    severity="error",
    needs=("model",),
    traps=(26,),
    doc=__doc__,
    bad="model.generation_config.temperature = 0.6; model.generation_config.do_sample = False",
    good="model.generation_config.do_sample = True",
    find=_find,
)
