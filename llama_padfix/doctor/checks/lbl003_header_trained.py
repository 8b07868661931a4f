"""LBL003: the header of an assistant turn is trained.

At inference the generation prompt gives the header (`<|start_header_id|>assistant<|end_header_id|>` and two line
breaks), so the model never has to produce it. Training it lowers the loss. Such a model may answer itself.
"""

from llama_padfix.doctor.check_helpers import everything_is_trained, turns_of
from llama_padfix.doctor.findings import Check, Facts, Hit, Hits, RowFacts


def _inspect(row: RowFacts, facts: Facts) -> Hits:
    if everything_is_trained(row, facts):
        return  # LBL004 finds such a row
    # The last id of a longer header may be: TRL trains the line break after ChatML's "assistant".
    spans = [(turn.header, max(turn.start - 1, turn.header + 1), turn.start) for turn in turns_of(row, facts)]
    trained = [(first, last) for first, end, last in spans if row.trained[first:end].any()]
    if trained:
        yield Hit(*trained[0], len(trained))


CHECK = Check(
    code="LBL003",
    name="header-trained",
    severity="warning",
    needs=("rows", "labels", "markers"),
    message="{rows} of {seen} rows ({where}) train the headers of {count} assistant turns, in part or whole.",
    traps=(9, 12),
    doc=__doc__,
    bad="labels = [-100, ..., 128006, 78191, 128007, 271, 791, ...]",
    good="prepared.encode(dataset)  # or mask_labels(input_ids, find_markers(tokenizer))",
    inspect=_inspect,
)
