"""TOK001: a run holds two tokenizers that differ.

A trainer has one tokenizer as `processing_class` and its collator another, loaded twice or copied before a setting was
changed. Rows are then encoded with one, padded with the other, and saved with the first: another pad token is not
masked, another template or EOS is what inference gets, and other ids are other words. What `diagnose` compares is
vocabulary, pad token, EOS, chat template and padding side. A tokenizer that pads on the other side, for generation, is
a note.
"""

from llama_padfix.doctor.findings import Change, Check, Facts, Findings, Severity

_SEVERITIES: dict[str, Severity] = {"vocabulary": "error", "padding_side": "note"}


def _find(facts: Facts) -> Findings:
    first = facts.tokenizer_where or "the given tokenizer"
    for other in facts.other_tokenizers:
        seen = "; ".join(f"{name} is {of_first} and {of_other}" for name, of_first, of_other in other.differences)
        severities = [_SEVERITIES.get(name, "warning") for name, _, _ in other.differences]
        severity = next(level for level in ("error", "warning", "note") if level in severities)
        why = "one tokenizer encodes, pads and is saved"
        yield CHECK.found(
            f"{first} and {other.where} are two tokenizers: {seen}. Give both places the same one.",
            (Change(other.where, "a tokenizer of its own", first, why, "manual"),),
            severity,
        )


CHECK = Check(
    code="TOK001",
    name="tokenizers-differ",
    severity="warning",
    needs=("tokenizer",),
    doc=__doc__,
    bad="Trainer(..., processing_class=tokenizer, data_collator=DataCollatorForSeq2Seq(another))",
    good="Trainer(..., processing_class=tokenizer, data_collator=DataCollatorForSeq2Seq(tokenizer))",
    find=_find,
)
