"""TRN001: an answer that is trained ends without its stop token, where the row was cut.

`max_length` cut the row in the middle of an answer, so the model is trained on answers that do not end. Where most
rows are long, that is most of the data. (An end that is appended after the cut cannot be distinguished from a true
one in the ids: it trains to stop in mid-sentence.)
"""

from llama_padfix.doctor.check_helpers import real_span, turns_of
from llama_padfix.doctor.findings import Check, Facts, Hit, Hits, RowFacts


def _inspect(row: RowFacts, facts: Facts) -> Hits:
    arguments = facts.trainer.arguments if facts.trainer is not None else {}
    if arguments.get("packing") and arguments.get("packing_strategy") == "wrapped":
        return  # the next row continues where this one ends
    last = real_span(row)[1]
    for turn in turns_of(row, facts):
        if turn.stop_id is not None or turn.end == turn.start or not row.trained[turn.end - 1]:
            continue
        if turn.end == last or row.input_ids[turn.end] == facts.bos_token_id:  # or the next packed document
            yield Hit(turn.end - 1, turn.end, remark=f"cut after {turn.end - turn.start} tokens of the answer")


CHECK = Check(
    code="TRN001",
    name="row-cut-in-a-turn",
    severity="warning",
    needs=("rows", "labels", "markers"),
    message="{rows} of {seen} rows ({where}) end inside an answer that is trained, without a stop token.",
    traps=(11,),
    doc=__doc__,
    bad="SFTConfig(max_length=512)  # rows of 900 tokens",
    good="prepare(tokenizer, model, max_length=512)  # drops whole turns from the end, and counts the rows",
    inspect=_inspect,
)
