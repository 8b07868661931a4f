"""GEN003: rows are trained to end with a token at which generation does not stop.

A base model tuned on chats keeps its stop list: `generation_config.eos_token_id` is 128001 although every trained
answer ends with 128009. Generation then continues after that token. This check reads the rows, so it also covers
chats that were rendered without a chat template.
"""

from llama_padfix.doctor.check_helpers import real_span
from llama_padfix.doctor.findings import Check, Facts, Hit, Hits, RowFacts
from llama_padfix.doctor.token_policy import as_ids


def _inspect(row: RowFacts, facts: Facts) -> Hits:
    model, last = facts.model, real_span(row)[1]
    if model is None or last < 2 or not row.trained[last - 2 : last].all():
        return
    listed = as_ids(model.generation_eos_token_id if model.has_generation_config else model.config_eos_token_id)
    before, end = map(int, row.input_ids[last - 2 : last])
    controls = set(facts.special_ids.values())
    around = {facts.bos_token_id, facts.pad_token_id}
    if facts.markers is not None:
        around |= {*facts.markers.header_ids, *facts.markers.turn_start_ids}
    if end in controls - around - {*listed} and before not in controls:
        yield Hit(last - 1, last, remark=f"trained to end with {end}; generation stops at {list(listed)}")


CHECK = Check(
    code="GEN003",
    name="trained-end-is-not-a-stop",
    severity="warning",
    needs=("rows", "labels", "tokenizer", "model"),
    message="{rows} of {seen} rows ({where}) are trained to end with a token that is not in the model's stop list.",
    traps=(3,),
    doc=__doc__,
    bad="model.generation_config.eos_token_id  # 128001, and the rows end with 128009",
    good="prepare(tokenizer, model)  # or: model.generation_config.eos_token_id = [128001, 128008, 128009]",
    inspect=_inspect,
)
