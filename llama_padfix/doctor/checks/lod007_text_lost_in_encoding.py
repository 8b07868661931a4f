"""LOD007: the loaded tokenizer loses text, because its class splits in another way than its vocabulary needs.

A tokenizer's class can replace the splitting in tokenizer.json by its own, and raises nothing. Where
`tokenizer_class` is `LlamaTokenizerFast`, transformers 5.0 to 5.21 give Llama 3 the splitting of Llama 2: spaces are
lost, and "Hello world" becomes the ids of "Helloworld". The check encodes and decodes these words. `patch_tokenizer`
and `prepare` refuse such a tokenizer, because no setting corrects it. `LOD005` compares a folder with its file.
"""

from llama_padfix.doctor.findings import Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    if facts.probe_text.casefold().split() != ["hello", "world"]:
        yield CHECK.found(
            f"The tokenizer loaded as {facts.tokenizer_class} encodes 'Hello world' as {list(facts.probe_ids)}, which "
            f"decodes as {facts.probe_text!r}: the class splits text in another way than its vocabulary was made for. "
            "transformers 5.0 to 5.21 do that to Llama 3 where the folder names LlamaTokenizerFast. Load it with: "
            "tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(name), or: "
            "pip install 'transformers>=5.22'"
        )


CHECK = Check(
    code="LOD007",
    name="text-lost-in-encoding",
    severity="error",
    needs=("tokenizer",),
    traps=(27,),
    doc=__doc__,
    bad='tokenizer("Hello world")["input_ids"] == [128000, 39, 96392]  # LlamaTokenizerFast, transformers 5.12',
    good='tokenizer("Hello world")["input_ids"] == [128000, 9906, 1917]',
    find=_find,
)
