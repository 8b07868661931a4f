"""SRV008: an engine feeds another number of BOS tokens than the training.

A BOS comes from the template, from the encoder, or from both. An engine that renders with the first and encodes with
the second feeds two; one that does neither feeds none. Both are positions that the model never saw.
"""

from llama_padfix.doctor.findings import Check

CHECK = Check(
    code="SRV008",
    name="bos-count",
    severity="error",
    needs=("folder",),
    doc=__doc__,
    bad="<|begin_of_text|><|begin_of_text|> in the prompt",
    good="tokenizer.add_bos_token = False where the template writes the BOS",
)
