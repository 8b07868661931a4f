"""SRV009: an engine gives the template other messages than the rows have.

Servers rewrite messages before they are rendered: a thought stands under another key, `developer` becomes `system`,
content becomes a list of parts or parts become a text, arguments of calls are parsed, keys are left out. A template
that looks at them writes another prompt.
"""

from llama_padfix.doctor.findings import Check

CHECK = Check(
    code="SRV009",
    name="messages-rewritten",
    severity="warning",
    needs=("folder",),
    doc=__doc__,
    bad="rows with `reasoning_content`, and a template that reads `thinking`",
    good="rows with the keys that the template reads",
)
