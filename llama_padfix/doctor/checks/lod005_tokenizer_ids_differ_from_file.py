"""LOD005: the class that loads gives other ids than tokenizer.json.

`tokenizer_class` in tokenizer_config.json decides how text is split, even against tokenizer.json: since transformers
5.0 some classes rebuild the splitting. `LlamaTokenizerFast`, which many Llama 3 derivatives name, encodes Llama 3
wrongly in 5.0-5.21 ("Hello world" becomes [128000, 39, 96392]), and `GPT2TokenizerFast` in every 5.x. Nothing is
raised, and the loss is only a little high. The check compares the ids of a probe text with those of the file.
"""

from llama_padfix.doctor.findings import Change, Check, Facts, Findings

_GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")


def _find(facts: Facts) -> Findings:
    folder = facts.folder
    if folder is None or folder.raw_ids == folder.loaded_ids:
        return
    named = folder.tokenizer_config.get("tokenizer_class")
    pairs = list(zip(folder.raw_ids, folder.loaded_ids, strict=False))
    at = next((place for place, (raw, loaded) in enumerate(pairs) if raw != loaded), len(pairs))
    target, why = "folder.tokenizer_config.tokenizer_class", "this class takes tokenizer.json as it is"
    yield CHECK.found(
        f"The tokenizer loads as {named}, and its ids are not those of tokenizer.json: a probe text has "
        f"{len(folder.loaded_ids)} ids instead of {len(folder.raw_ids)}, the first other one at position {at} "
        f"({list(folder.loaded_ids[at : at + 3])} for {list(folder.raw_ids[at : at + 3])}). What is trained on "
        "them reads another language than the model knows.",
        () if named in _GENERIC else (Change(target, named, _GENERIC[0], why, "unsafe"),),
    )


CHECK = Check(
    code="LOD005",
    name="tokenizer-ids-differ-from-file",
    severity="error",
    needs=("folder", "saved ids"),
    traps=(27,),
    doc=__doc__,
    bad='"tokenizer_class": "GPT2TokenizerFast"  # beside the tokenizer.json of Llama 3',
    good='"tokenizer_class": "PreTrainedTokenizerFast"',
    find=_find,
)
