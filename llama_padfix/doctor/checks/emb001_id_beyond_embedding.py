"""EMB001: the tokenizer has ids that the embedding has no row for.

`tokenizer.add_tokens(...)` without `model.resize_token_embeddings(...)` gives ids without a row: IndexError on a CPU,
a device-side assert some steps later on a GPU. `add_tokens(model, tokenizer, tokens)` of this library gives new tokens
rows, and returns the configuration that trains them. Padding needs no new token: load the tokenizer again, and
`prepare(tokenizer, model)` takes one that the vocabulary has.
"""

from llama_padfix.doctor.findings import Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    rows = facts.model.embedding_rows if facts.model is not None else None
    if rows is None or max(facts.vocabulary.values(), default=-1) < rows:
        return
    beyond = sorted((i, token) for token, i in facts.vocabulary.items() if i >= rows)
    if beyond:
        named = ", ".join(f"{token!r} ({token_id})" for token_id, token in beyond[:5])
        more = f" and {len(beyond) - 5} more" if len(beyond) > 5 else ""
        yield CHECK.found(
            f"The embedding has {rows} rows, but the tokenizer knows {named}{more}: IndexError at the first use."
        )


CHECK = Check(
    code="EMB001",
    name="id-beyond-embedding",
    severity="error",
    needs=("tokenizer", "model"),
    traps=(13,),
    doc=__doc__,
    bad='tokenizer.add_special_tokens({"pad_token": "[PAD]"})  # id 128256, the embedding has 128256 rows',
    good="model.resize_token_embeddings(len(tokenizer))  # to pad alone, load it again: prepare() adds none",
    find=_find,
)
