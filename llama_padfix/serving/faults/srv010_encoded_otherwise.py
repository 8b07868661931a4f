"""SRV010: the ids of a prompt differ although its text is the trained one.

A message that spells a control token is text in the training and a control token in a server, which encodes the whole
prompt. Flags of added tokens, normalizers and tokens across the end of the prompt make other ids too.
"""

from llama_padfix.doctor.findings import Check

CHECK = Check(
    code="SRV010",
    name="encoded-otherwise",
    severity="warning",
    needs=("folder",),
    doc=__doc__,
    bad="a question that holds <|eot_id|>",
    good="a server that escapes control tokens in messages, or rows without them",
)
