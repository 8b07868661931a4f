"""GEN007: an evaluation that generates gets rows with their answer, or rows that are padded on the right.

`Seq2SeqTrainer(predict_with_generate=True)` calls `generate` with the whole `input_ids`. That suits models with an
encoder. For a decoder-only model the rows of training hold the answer already, so the model continues behind it, and
right padding puts padding between the prompt and what is generated. The metric is then of something else. Give the
evaluation set the prompts alone, padded on the left, and keep the answers in another column. A `prediction_step` of
your own that calls `generate` and cuts nothing off is judged in the same way.
"""

from llama_padfix.doctor.check_helpers import real_span
from llama_padfix.doctor.findings import Check, Facts, Hit, Hits, RowFacts


def _inspect(row: RowFacts, facts: Facts) -> Hits:
    trainer, model = facts.trainer, facts.model
    if (
        trainer is None
        or not trainer.generates_from_rows
        or not row.source.startswith("eval")
        or (model is not None and model.is_encoder_decoder)
    ):
        return
    last = real_span(row)[1]
    if row.labels is not None and row.trained.any():
        first = int(row.trained.argmax())
        yield Hit(first, last, 1, "the answer stands in the prompt")
    elif last < len(row.input_ids):
        yield Hit(last - 1, last, 1, f"{len(row.input_ids) - last} ids of padding follow the prompt")


CHECK = Check(
    code="GEN007",
    name="answer-in-generation-prompt",
    severity="error",
    needs=("rows", "trainer"),
    message="{rows} of {seen} rows ({where}) are given to generate in evaluation with their answer or with "
    "padding on the right. Give it prompts alone: tokenizer.apply_chat_template(messages[:-1], "
    'add_generation_prompt=True), padded with padding_side="left".',
    doc=__doc__,
    bad="Seq2SeqTrainer(model, Seq2SeqTrainingArguments(predict_with_generate=True), eval_dataset=training_rows)",
    good='eval_dataset=prompts, data_collator=DataCollatorWithPadding(tokenizer)  # padding_side="left"',
    inspect=_inspect,
)
