"""LBL009: labels outside the assistant's turns, in rows that are masked elsewhere.

Part of the row is masked, but text of the user or system still has labels. Causes: a response marker that fits the
first turn only, a `completion` with further questions, or labels that moved when ids were cut. The model learns to
write the user's part.
"""

from llama_padfix.doctor.check_helpers import everything_is_trained, find_turns, hit_span, real_part
from llama_padfix.doctor.findings import Check, Facts, Hits, RowFacts

_TAIL = 4  # what a template writes after a stop token: a line break, an end of text


def _inspect(row: RowFacts, facts: Facts) -> Hits:
    template, markers = facts.template, facts.markers
    if markers is None or (template is not None and not template.header_in_history):
        return  # past answers have another header than the next one, so they look like prompts
    turns = find_turns(row, markers)
    if all(turn.opened for turn in turns) or everything_is_trained(row, facts):
        return
    outside = row.trained & real_part(row) & (row.input_ids != facts.bos_token_id)
    starts = set(markers.turn_start_ids) - set(markers.stop_ids)  # a header may begin with the end of the question
    for turn in turns:
        end = turn.end + (turn.stop_id is not None)
        for _ in range(_TAIL):
            if end >= len(outside) or int(row.input_ids[end]) in starts:
                break
            end += 1
        outside[turn.header : end] = False
    yield from hit_span(outside)


CHECK = Check(
    code="LBL009",
    name="prompt-trained",
    severity="warning",
    needs=("rows", "labels", "markers"),
    message="{rows} of {seen} rows ({where}) train {count} tokens outside the assistant's turns.",
    traps=(9, 12),
    doc=__doc__,
    bad="labels = [-100] * prompt_length + input_ids[prompt_length:]  # of a conversation with several questions",
    good="prepared.encode(dataset)  # or mask_labels(input_ids, find_markers(tokenizer))",
    inspect=_inspect,
)
