"""LBL003: the header of an assistant turn is trained."""

from collections.abc import Iterator

from llama_padfix.core.errors import IGNORE_INDEX
from llama_padfix.doctor.check_helpers import everything_is_trained, find_turns
from llama_padfix.doctor.facts import Facts, RowFacts
from llama_padfix.doctor.findings import Check, Hit


def _inspect(row: RowFacts, facts: Facts) -> Iterator[Hit]:
    if facts.markers is None or everything_is_trained(row, facts):
        return  # where all is trained the headers are the least of it: LBL004
    turns = find_turns(row, facts.markers)
    # The last id of a longer header may be: TRL trains the line break after ChatML's "assistant".
    trained = [t for t in turns if (row.labels[t.header : max(t.start - 1, t.header + 1)] != IGNORE_INDEX).any()]
    if trained:
        yield Hit(trained[0].header, trained[0].start, len(trained))


CHECK = Check(
    code="LBL003",
    name="header-trained",
    severity="warning",
    needs=("rows", "labels", "markers"),
    message="{rows} of {seen} rows ({where}) train the headers of {count} assistant turns, in part or whole.",
    traps=(9, 12),
    explanation="""\
At inference the header (`<|start_header_id|>assistant<|end_header_id|>` and two line breaks) is given by the
generation prompt; the model never has to produce it. Its tokens are certain after the first, so they make the loss
look better than it is, and a model that learned to open turns answers itself.
""",
    bad="labels = [-100, ..., 128006, 78191, 128007, 271, 791, ...]",
    good="prepared.encode(dataset)  # or mask_labels(input_ids, find_markers(tokenizer))",
    inspect=_inspect,
)
