"""LBL008: a header that nothing answers, with a trained end behind it.

An early Llama 3 chat template appends the generation prompt to every conversation, and then an end of text is
appended. The rows end with `<|start_header_id|>assistant<|end_header_id|>`, two line breaks and a trained
`<|end_of_text|>`: the prompt of inference with an empty answer.
"""

from llama_padfix.doctor.check_helpers import real_span, turns_of
from llama_padfix.doctor.findings import Check, Facts, Hit, Hits, RowFacts


def _inspect(row: RowFacts, facts: Facts) -> Hits:
    last = real_span(row)[1]
    always = facts.template is not None and facts.template.always_adds_prompt
    for turn in turns_of(row, facts):
        # Where the template itself opens a turn at the end, even its own stop token there was appended later.
        empty = turn.opened or (always and turn.end == turn.start and turn.end == last - 1)
        if empty and turn.stop_id is not None and row.trained[turn.end]:
            yield Hit(turn.header, turn.end + 1)


CHECK = Check(
    code="LBL008",
    name="empty-turn-trained",
    severity="error",
    needs=("rows", "labels", "markers"),
    message="{rows} of {seen} rows ({where}) train an end right after an assistant header, {count} times.",
    traps=(7,),
    doc=__doc__,
    bad="...Bye.<|eot_id|><|start_header_id|>assistant<|end_header_id|>\\n\\n<|end_of_text|>",
    good="prepared.encode(dataset)  # a header without an answer is not trained, nor is what follows it",
    inspect=_inspect,
)
