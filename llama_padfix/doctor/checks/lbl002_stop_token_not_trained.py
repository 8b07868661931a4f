"""LBL002: an assistant turn is trained, but not the token that ends it.

The loss covers the answer without the `<|eot_id|>` after it, so the model never learns to stop: it generates until
`max_new_tokens`. Causes: a mask that ends one token too early, or a `{% generation %}` block that closes before the
end token.
"""

from llama_padfix.doctor.check_helpers import pad_ids, turns_of
from llama_padfix.doctor.findings import Check, Facts, Hit, Hits, RowFacts


def _inspect(row: RowFacts, facts: Facts) -> Hits:
    turns = [turn for turn in turns_of(row, facts) if turn.stop_id is not None and turn.end > turn.start]
    trained = [turn for turn in turns if row.trained[turn.end - 1]]
    # A stop token that is hidden because it is the pad token has another fix: PAD008.
    left = [t for t in trained if not row.trained[t.end] and t.stop_id not in pad_ids(facts)]
    if left:
        remark = f"{len(trained) - len(left)} of {len(trained)} stop tokens of trained turns are trained"
        yield Hit(left[0].end, left[0].end + 1, len(left), remark)


CHECK = Check(
    code="LBL002",
    name="stop-token-not-trained",
    severity="error",
    needs=("rows", "labels", "markers"),
    message="{rows} of {seen} rows ({where}) train an answer and not its stop token, {count} times.",
    traps=(2, 9),
    doc=__doc__,
    bad="labels = [..., 791, 3363, -100]  # the -100 is <|eot_id|>",
    good="prepared.encode(dataset)  # every answer up to and including its stop token",
    inspect=_inspect,
)
