"""LOD001: FlashAttention is set where it cannot run.

`attn_implementation="flash_attention_2"` needs the package flash-attn, and an NVIDIA GPU of compute capability 8.0 or
newer (9.0 for FlashAttention 3) or a supported AMD one. It computes in float16 and bfloat16 only. On other machines
loading raises, or the first step if a saved config holds the setting. `sdpa` is part of torch.
"""

from llama_padfix.doctor.findings import Change, Check, Facts, Findings

_CAPABILITY = {"flash_attention_2": (8, 0), "flash_attention_3": (9, 0)}  # Ampere; Hopper


def _find(facts: Facts) -> Findings:
    model, trainer = facts.model, facts.trainer
    if model is None or model.attention not in _CAPABILITY:
        return
    faults = []
    if model.attention_installed is False:
        faults.append("its package is not installed")
    if trainer is not None:
        needed = _CAPABILITY[model.attention]
        capability = trainer.device_capability
        if trainer.device_type == "cpu":
            faults.append("the trainer runs on a CPU")
        elif trainer.device_type == "cuda" and capability is not None and capability < needed:
            seen = ".".join(map(str, capability))
            faults.append(f"{trainer.device_name} has compute capability {seen}, it needs {needed[0]}.{needed[1]}")
        half = {"float16", "bfloat16"} & set(model.floating_dtypes)
        if not half and trainer.mixed_precision == "no":
            faults.append(f"it computes in float16 and bfloat16 only, and the model is {model.floating_dtypes[0]}")
    if faults:
        why = "sdpa comes with torch, runs everywhere, and gives the same numbers"
        change = Change("model.config.attn_implementation", model.attention, "sdpa", why, "manual")
        message = f"The model attends with {model.attention}, but {'; '.join(faults)}. Run: "
        yield CHECK.found(message + 'model.set_attn_implementation("sdpa")', (change,))


CHECK = Check(
    code="LOD001",
    name="attention-not-available",
    severity="error",
    needs=("model",),
    traps=(19,),
    doc=__doc__,
    bad='AutoModelForCausalLM.from_pretrained(name, attn_implementation="flash_attention_2")  # on a T4, or a CPU',
    good='AutoModelForCausalLM.from_pretrained(name, attn_implementation="sdpa")',
    find=_find,
)
