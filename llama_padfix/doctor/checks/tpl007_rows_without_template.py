"""TPL007: the tokenizer has a chat template, and no row is written with it.

An Instruct model is trained on `text`, or on `prompt` and `completion` as plain strings. Trainers take such strings
as they are and use no template. Whoever then calls the model with `apply_chat_template` gives it a prompt that it was
not trained on. A string as `prompt` of GRPO is sampled from as it is, too. Rows of `messages`, or a `prompt` and
`completion` that are lists of messages, are rendered. It is a note where all of a row is trained, since that may be
plain language modeling.
"""

from dataclasses import replace

from llama_padfix.doctor.check_helpers import count_hidden, in_every_row, label_as_read, turns_of
from llama_padfix.doctor.findings import Check, Facts, Finding, Hit, Hits, RowFacts
from llama_padfix.doctor.row_facts import SourceTotals
from llama_padfix.encoding.masking.turns_in_ids import is_any


def _inspect(row: RowFacts, facts: Facts) -> Hits:
    controls = set(facts.special_ids.values()) - {facts.bos_token_id}
    opening = controls & set(facts.markers.turn_start_ids if facts.markers is not None else ())
    is_prompt = row.source.endswith(", prompt")
    read = label_as_read(row, facts)
    if (is_prompt or read) and not is_any(row.input_ids, opening).any() and not turns_of(row, facts):
        yield Hit(0, min(len(row.input_ids), 12), count_hidden(read, facts) if read else 1)


def _judge(found: Finding, totals: SourceTotals) -> Finding | None:
    is_text = found.count == 0  # all of it is trained
    if in_every_row(found, totals) is None or (is_text and totals.seen == 1):
        return None
    return replace(found, count=found.rows, severity="note" if is_text else found.severity)


CHECK = Check(
    code="TPL007",
    name="rows-without-template",
    severity="warning",
    needs=("rows", "template", "markers"),
    message="None of {seen} rows ({where}) is written with the tokenizer's chat template, so the model is trained on "
    "other prompts than apply_chat_template gives it. Encode with prepared.encode(dataset), or use build_trainer.",
    doc=__doc__,
    bad='{"prompt": "1+1?", "completion": "2"}  # in SFTTrainer, with the tokenizer of an Instruct model',
    good='{"prompt": [{"role": "user", "content": "1+1?"}], "completion": [{"role": "assistant", "content": "2"}]}',
    inspect=_inspect,
    judge=_judge,
)
