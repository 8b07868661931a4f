"""LOD009: tokenizer.json pads or truncates every text.

A call with `padding="max_length"` or `truncation=True` leaves that setting in the tokenizer, and `save_pretrained`
writes it into tokenizer.json. transformers sets it anew at each call. What reads the file itself obeys it: the
package `tokenizers`, and servers on it, give 512 ids for "hello", or cut a long prompt. `load` and the repair of a
folder take it out.
"""

from llama_padfix.doctor.findings import Change, Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    folder = facts.folder
    if folder is None or not folder.baked:
        return
    why = "whoever calls the tokenizer decides on padding and truncation"
    yield CHECK.found(
        f"tokenizer.json holds {' and '.join(folder.baked.values())}: what reads the file without transformers does "
        "that to every text. Run: llama-padfix doctor FOLDER --fix FIXED, or before saving: "
        "tokenizer.backend_tokenizer.no_padding(); tokenizer.backend_tokenizer.no_truncation()",
        tuple(Change(f"folder.tokenizer.{name}", seen, None, why) for name, seen in folder.baked.items()),
    )


CHECK = Check(
    code="LOD009",
    name="padding-in-tokenizer-json",
    severity="warning",
    needs=("folder",),
    doc=__doc__,
    bad='tokenizer(text, padding="max_length", max_length=512); tokenizer.save_pretrained("out")',
    good='tokenizer.backend_tokenizer.no_padding(); tokenizer.save_pretrained("out")',
    find=_find,
)
