"""LOD006: the tokenizer in the folder cannot be loaded.

A folder whose tokenizer does not load cannot be used. A file is missing or cut, or its class is unknown to the
installed transformers (`TokenizersBackend` before 5.0), or lacks its vocabulary. Its other checks are skipped.
"""

from llama_padfix.doctor.check_helpers import version_of
from llama_padfix.doctor.findings import Check, Facts, Findings

_READ_NO_PAIRS = ("0.19.", "0.18.")


def _find(facts: Facts) -> Findings:
    folder = facts.folder
    if folder is None or folder.load_error is None:
        return
    if folder.has_tokenizer:
        reason = " ".join(folder.load_error.split())
        installed = version_of(facts, "tokenizers")
        if "enum ModelWrapper" in reason and installed.startswith(_READ_NO_PAIRS):
            reason += (
                ". Its merges are pairs, as tokenizers 0.20 and newer write them, and "
                f"{installed} is installed. Run: pip install -U 'transformers>=4.45'"
            )
        yield CHECK.found(f"AutoTokenizer.from_pretrained does not load this folder: {reason}")
    elif not folder.adapter_config:
        seen = ", ".join(folder.files[:8]) or "no file"
        yield CHECK.found(f"There is no tokenizer in the folder, which holds {seen}.", severity="warning")


CHECK = Check(
    code="LOD006",
    name="saved-tokenizer-does-not-load",
    severity="error",
    needs=("folder",),
    traps=(26, 34),
    doc=__doc__,
    bad='OSError: Can\'t load tokenizer for "out/checkpoint-500"',
    good='tokenizer.save_pretrained("out")  # beside the model, with the versions that will load it',
    find=_find,
)
