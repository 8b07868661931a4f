"""SRV005: rows were trained with arguments of the template that a server does not pass, or passes otherwise.

Switches such as `enable_thinking` change what stands before an answer. The training renders every row with its own;
a request has none unless its sender writes them, and mlx-lm and llama-server switch thinking on by themselves. The
cure is to pass the arguments with each request, or to make them the template's defaults.
"""

from llama_padfix.doctor.findings import Check

CHECK = Check(
    code="SRV005",
    name="arguments-not-passed",
    severity="warning",
    needs=("folder",),
    doc=__doc__,
    bad="rows: template_kwargs={'enable_thinking': False}; a request without chat_template_kwargs",
    good="a request with chat_template_kwargs={'enable_thinking': False}",
)
