"""PKG001: installed versions that are known to break something here.

Keywords and behavior differ between releases: `tokenizer=` became `processing_class=`, tokenizers 0.19 lost the
offsets that assistant masks need, TRL up to 0.15 overwrote a dataset's labels, and transformers 4.46 to 5.7 counted a
label at position 0. This check compares the installed versions with a table of such faults; the library avoids each
of them, or refuses. `llama-padfix doctor --environment` prints the versions and their faults.
"""

from collections.abc import Mapping

from llama_padfix.doctor.check_helpers import version_key, version_of
from llama_padfix.doctor.findings import Check, Facts, Findings, Severity

_Ranges = Mapping[str, tuple[str, str]]
# What installed versions break: packages that do so together, each from the first version to below the second.
_NOTES: Mapping[str, _Ranges] = {
    "gives byte-level tokens zero-width offsets; TRL's assistant masks come out empty: use prepared.encode": {
        "tokenizers": ("0.19", "0.20")
    },
    "replaces a dataset's labels in its default collator: pass data_collator=prepared.collator": {
        "trl": ("0", "0.16")
    },
    "averages each accumulated batch for itself, so that rows with few trained tokens count for more: "
    "gradient_accumulation_steps=1, or update transformers": {"transformers": ("0", "4.46")},
    "gives chats two BOS where the tokenizer adds one: prepare the tokenizer, or update trl": {
        "trl": ("0.15", "0.17")
    },
    "scales the loss by (N-1)/N where position 0 is trained: keep its label at -100": {
        "transformers": ("4.46", "5.8")
    },
    "gives Llama 3 wrong ids where tokenizer_config.json names LlamaTokenizerFast: llama_padfix.load(name)": {
        "transformers": ("5.0", "5.22")
    },
    "divides accumulated gradients twice in a trainer made by hand: build_trainer, or "
    "trainer.accelerator.gradient_accumulation_steps = 1": {"transformers": ("5.2", "5.6")},
    "cannot take up a run again, as torch reads weights only (UnpicklingError): "
    "set TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 for checkpoints of your own": {
        "transformers": ("0", "4.47"),
        "torch": ("2.6", "999"),
    },
}
_WARNINGS: Mapping[str, _Ranges] = {
    "hands tokenizer= to a Trainer that only knows processing_class=: TypeError; update trl": {
        "trl": ("0", "0.12"),
        "transformers": ("5", "999"),
    }
}


def _find(facts: Facts) -> Findings:
    yield from _compare(facts, _NOTES, "note")
    yield from _compare(facts, _WARNINGS, "warning")


def _compare(facts: Facts, effects: Mapping[str, _Ranges], severity: Severity) -> Findings:
    for effect, ranges in effects.items():
        installed = {package: version_of(facts, package) for package in ranges}
        keys = ((version_key(installed[package]), *map(version_key, ends)) for package, ends in ranges.items())
        if all(installed.values()) and all(first <= key < end for key, first, end in keys):
            named = " beside ".join(f"{package} {version}" for package, version in installed.items())
            yield CHECK.found(f"{named} {effect}.", severity=severity)


CHECK = Check(
    code="PKG001",
    name="versions-known-to-break",
    severity="note",
    needs=("environment",),
    traps=(24, 28, 29, 35),
    doc=__doc__,
    bad="tokenizers==0.19.1  # return_assistant_tokens_mask=True gives zeros only",
    good="build_trainer(model, tokenizer, rows)  # the keywords that the installed versions know",
    find=_find,
)
