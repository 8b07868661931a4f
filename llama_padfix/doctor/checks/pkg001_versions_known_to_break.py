"""PKG001: installed versions that are known to break something here."""

from llama_padfix.doctor.check_helpers import version_key, version_of
from llama_padfix.doctor.findings import Check, Facts, Findings, Severity

_Range = tuple[str, str, str]
# The packages that break together, each from one version to below another; how severe that is; what it does.
_BREAKING: tuple[tuple[tuple[_Range, ...], Severity, str], ...] = (
    (
        (("tokenizers", "0.19", "0.20"),),
        "note",
        "gives byte-level tokens zero-width offsets; TRL's assistant masks come out empty: use prepared.encode",
    ),
    (
        (("trl", "0", "0.16"),),
        "note",
        "replaces a dataset's labels in its default collator: pass data_collator=prepared.collator",
    ),
    (
        (("transformers", "0", "4.46"),),
        "note",
        "averages each accumulated batch for itself, so that rows with few trained tokens count for more: "
        "gradient_accumulation_steps=1, or update transformers",
    ),
    (
        (("trl", "0.15", "0.17"),),
        "note",
        "gives chats two BOS where the tokenizer adds one: prepare the tokenizer, or update trl",
    ),
    (
        (("transformers", "4.46", "5.8"),),
        "note",
        "scales the loss by (N-1)/N where position 0 is trained: keep its label at -100",
    ),
    (
        (("transformers", "5.0", "5.22"),),
        "note",
        "gives Llama 3 wrong ids where tokenizer_config.json names LlamaTokenizerFast: llama_padfix.load(name)",
    ),
    (
        (("transformers", "5.2", "5.6"),),
        "note",
        "divides accumulated gradients twice in a trainer made by hand: build_trainer, or "
        "trainer.accelerator.gradient_accumulation_steps = 1",
    ),
    (
        (("trl", "0", "0.12"), ("transformers", "5", "999")),
        "warning",
        "hands tokenizer= to a Trainer that only knows processing_class=: TypeError; update trl",
    ),
    (
        (("transformers", "0", "4.47"), ("torch", "2.6", "999")),
        "note",
        "cannot take up a run again, as torch reads weights only (UnpicklingError): "
        "set TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 for checkpoints of your own",
    ),
)


def _find(facts: Facts) -> Findings:
    for ranges, severity, what in _BREAKING:
        installed = {package: version_of(facts, package) for package, _, _ in ranges}
        if all(_is_within(installed[package], first, end) for package, first, end in ranges):
            named = " beside ".join(f"{package} {version}" for package, version in installed.items())
            yield CHECK.found(f"{named} {what}.", severity=severity)


def _is_within(version: str, first: str, end: str) -> bool:
    return bool(version) and version_key(first) <= version_key(version) < version_key(end)


CHECK = Check(
    code="PKG001",
    name="versions-known-to-break",
    severity="note",
    needs=("environment",),
    traps=(24, 28, 29, 35),
    explanation="""\
Keywords and behavior differ between releases: `tokenizer=` became `processing_class=`, tokenizers 0.19 lost the
offsets that assistant masks need, TRL up to 0.15 overwrote a dataset's labels, and transformers 4.46 to 5.7 counted a
label at position 0. This check compares the installed versions with a table of such faults; the library avoids each
of them, or refuses. `llama-padfix doctor --environment` prints the versions and their faults.
""",
    bad="tokenizers==0.19.1  # return_assistant_tokens_mask=True gives zeros only",
    good="build_trainer(model, tokenizer, rows)  # the keywords that the installed versions know",
    find=_find,
)
