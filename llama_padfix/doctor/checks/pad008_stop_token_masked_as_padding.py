"""PAD008: true stop tokens are hidden from the loss since their id is the pad token's.

With `tokenizer.pad_token = tokenizer.eos_token`, a collator that masks every pad id also masks the end of every
answer, as DataCollatorForLanguageModeling does. The model never stops, and the loss does not show it.
"""

from llama_padfix.doctor.check_helpers import pad_ids, real_span, turns_of
from llama_padfix.doctor.findings import Check, Facts, Hit, Hits, RowFacts


def _inspect(row: RowFacts, facts: Facts) -> Hits:
    pads = pad_ids(facts)
    ends = [turn.end for turn in turns_of(row, facts) if turn.stop_id in pads and turn.end > turn.start]
    if not ends and row.attention_mask is not None:
        first, last = real_span(row)  # a text: its last token, where a mask separates it from padding
        if last - first > 1 and int(row.input_ids[last - 1]) in pads:
            ends = [last - 1]
    ended = [end for end in ends if row.trained[end - 1] and row.input_ids[end - 1] not in pads]
    hidden = [end for end in ended if not row.trained[end]]
    if hidden:
        remark = f"{len(ended) - len(hidden)} of {len(ended)} ends of trained text are trained"
        yield Hit(hidden[0], hidden[0] + 1, len(hidden), remark)


CHECK = Check(
    code="PAD008",
    name="stop-token-masked-as-padding",
    severity="error",
    needs=("rows", "labels", "tokenizer"),
    message="{rows} of {seen} rows ({where}) have their stop token masked because it is the pad token, {count} times.",
    traps=(2,),
    doc=__doc__,
    bad="tokenizer.pad_token = tokenizer.eos_token; DataCollatorForLanguageModeling(tokenizer, mlm=False)",
    good="prepare(tokenizer, model)  # another pad token; prepared.collator masks by position, not by id",
    inspect=_inspect,
)
