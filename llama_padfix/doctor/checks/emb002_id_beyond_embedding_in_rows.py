"""EMB002: rows with an id that the embedding has no row for.

Tokens were added without `model.resize_token_embeddings(len(tokenizer))`, the rows were encoded by another tokenizer,
or -100 got into `input_ids`. A CPU raises IndexError; a GPU raises a device-side assert some steps later, with a
misleading traceback. Padding counts too, since the embedding looks it up.
"""

from llama_padfix.doctor.findings import Check, Facts, Hit, Hits, RowFacts


def _inspect(row: RowFacts, facts: Facts) -> Hits:
    beyond = row.input_ids < 0
    rows = facts.model.embedding_rows if facts.model is not None else None
    if rows is not None:
        beyond = beyond | (row.input_ids >= rows)
        if row.labels is not None:
            beyond = beyond | (row.labels >= rows)
    if beyond.any():
        first = int(beyond.argmax())
        label = int(row.labels[first]) if row.labels is not None else -1
        bad = max(int(row.input_ids[first]), label) if row.input_ids[first] >= 0 else int(row.input_ids[first])
        limit = f", and the embedding has {rows} rows" if rows is not None else ""
        yield Hit(first, first + 1, int(beyond.sum()), f"id {bad}{limit}")


CHECK = Check(
    code="EMB002",
    name="id-beyond-embedding-in-rows",
    severity="error",
    needs=("rows",),
    message="{rows} of {seen} rows ({where}) hold {count} ids that are negative or beyond the embedding: IndexError.",
    traps=(13,),
    doc=__doc__,
    bad="input_ids = [128000, 9906, 128256]  # the embedding has 128256 rows: 0 to 128255",
    good="model.resize_token_embeddings(len(tokenizer))  # or encode with the model's own tokenizer",
    inspect=_inspect,
)
