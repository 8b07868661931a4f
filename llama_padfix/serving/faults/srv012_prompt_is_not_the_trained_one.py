"""SRV012: what stands before a trained answer is not what the template writes before a generated one.

A template may write earlier turns otherwise while an answer is generated: it drops thoughts, or opens a thought in the
generation prompt. A row holds the conversation as it is written when it is complete. Train on the last turn only, or
with arguments under which both are the same.
"""

from llama_padfix.doctor.findings import Check

CHECK = Check(
    code="SRV012",
    name="prompt-is-not-the-trained-one",
    severity="warning",
    needs=("folder",),
    doc=__doc__,
    bad="rows with '<think>' inside the trained answer; the generation prompt ends in '<think>'",
    good="ChatEncoder(tokenizer, train_on='last')",
)
