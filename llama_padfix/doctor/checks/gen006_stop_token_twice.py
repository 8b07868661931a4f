"""GEN006: one stop token directly after another, and the second is trained.

A text that its chat template has ended already, with an EOS appended: `<|eot_id|><|eot_id|>`, or
`<|eot_id|><|end_of_text|>` where the EOS is another token. Generation ends at the first one, so the second is never
generated. Trained, it is what the model expects where the next question begins. A template that itself ends a turn
with several is not reported.
"""

from llama_padfix.doctor.check_helpers import hit_span, pad_ids, real_part
from llama_padfix.doctor.findings import Check, Facts, Hits, RowFacts
from llama_padfix.doctor.token_policy import stop_ids
from llama_padfix.encoding.masking.turns_in_ids import is_any


def _inspect(row: RowFacts, facts: Facts) -> Hits:
    template = facts.template
    if template is not None and sum(map(template.ending.count, template.stops)) > 1:
        return  # the template itself ends a turn with several
    stops = set(stop_ids(facts)) - {facts.bos_token_id}  # where BOS and EOS are one token, it begins a document
    is_stop = is_any(row.input_ids, stops)
    twice = is_stop & row.trained & real_part(row)
    twice[1:] &= is_stop[:-1]
    twice[:1] = False
    if row.attention_mask is None:
        twice &= ~is_any(row.input_ids, pad_ids(facts))  # this may be padding: LBL005
    yield from hit_span(twice)


CHECK = Check(
    code="GEN006",
    name="stop-token-twice",
    severity="warning",
    needs=("rows", "labels", "tokenizer"),
    message="{rows} of {seen} rows ({where}) train a second stop token behind the one that ends, {count} times. "
    "Do not append an EOS to a text that the chat template rendered.",
    doc=__doc__,
    bad="tokenizer.apply_chat_template(messages, tokenize=False) + tokenizer.eos_token",
    good="tokenizer.apply_chat_template(messages, tokenize=False)  # or prepared.encode(dataset)",
    inspect=_inspect,
)
