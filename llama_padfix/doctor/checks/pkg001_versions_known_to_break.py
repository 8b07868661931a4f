"""PKG001: installed versions that are known to break something here."""

import re
from collections.abc import Iterator

from llama_padfix.doctor.facts import Facts
from llama_padfix.doctor.findings import Check, Finding, Severity

# (package, from, below, what it does); a second package with its range, and how bad it is, where only the pair breaks.
_ALONE = (
    (
        "tokenizers",
        "0.19",
        "0.20",
        "gives byte-level tokens zero-width offsets; TRL's assistant masks come out empty: use prepared.encode",
    ),
    ("trl", "0", "0.16", "replaces a dataset's labels in its default collator: pass data_collator=prepared.collator"),
    (
        "transformers",
        "0",
        "4.46",
        "averages each accumulated batch for itself, so that rows with few trained tokens count for more: "
        "gradient_accumulation_steps=1, or update transformers",
    ),
    ("trl", "0.15", "0.17", "gives chats two BOS where the tokenizer adds one: prepare the tokenizer, or update trl"),
    ("transformers", "4.46", "5.8", "scales the loss by (N-1)/N where position 0 is trained: keep its label at -100"),
    (
        "transformers",
        "5.0",
        "5.22",
        "gives Llama 3 wrong ids where tokenizer_config.json names LlamaTokenizerFast: llama_padfix.load(name)",
    ),
    (
        "transformers",
        "5.2",
        "5.6",
        "divides accumulated gradients twice in a trainer made by hand: build_trainer, or "
        "trainer.accelerator.gradient_accumulation_steps = 1",
    ),
)
_Range = tuple[str, str, str]
_TOGETHER: tuple[tuple[_Range, _Range, Severity, str], ...] = (
    (
        ("trl", "0", "0.12"),
        ("transformers", "5", "999"),
        "warning",
        "hands tokenizer= to a Trainer that only knows processing_class=: TypeError; update trl",
    ),
    (
        ("transformers", "0", "4.47"),
        ("torch", "2.6", "999"),
        "note",
        "cannot take up a run again, as torch reads weights only (UnpicklingError): "
        "set TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 for checkpoints of your own",
    ),
)


def _find(facts: Facts) -> Iterator[Finding]:
    versions = facts.environment.versions if facts.environment is not None else {}
    for package, first, end, what in _ALONE:
        version = versions.get(package)
        if version is not None and _key(first) <= _key(version) < _key(end):
            yield CHECK.found(f"{package} {version} {what}.")
    for one, other, severity, what in _TOGETHER:
        pair = [(name, versions.get(name), first, end) for name, first, end in (one, other)]
        if all(version is not None and _key(first) <= _key(version) < _key(end) for _, version, first, end in pair):
            named = " beside ".join(f"{name} {version}" for name, version, _, _ in pair)
            yield CHECK.found(f"{named} {what}.", severity=severity)


def _key(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version; a release candidate counts as its release."""
    numbers = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, numbers.group().split("."))) if numbers is not None else ()


CHECK = Check(
    code="PKG001",
    name="versions-known-to-break",
    severity="note",
    needs=("environment",),
    traps=(24, 28, 29, 35),
    explanation="""\
Keywords and behaviour drift between releases: `tokenizer=` became `processing_class=`, `max_seq_length` became
`max_length`, tokenizers 0.19 lost the offsets that assistant masks are made from, TRL up to 0.15 overwrote labels that
a dataset brought, and transformers 4.46 to 5.7 divided the loss by one position too many where the first one is
trained. The installed versions are compared with the table of such faults in this check; the library itself avoids
each of them, or refuses. `llama-padfix doctor --environment` prints the versions and what is known of them.
""",
    bad="tokenizers==0.19.1  # return_assistant_tokens_mask=True gives zeros only",
    good="build_trainer(model, tokenizer, rows)  # the keywords that the installed versions know",
    find=_find,
)
