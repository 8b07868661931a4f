"""SRV013: an engine feeds another prompt, and no rule of this version says why.

The place of the first difference is shown. Please report it with the template: each difference is to have a name.
"""

from llama_padfix.doctor.findings import Check

CHECK = Check(
    code="SRV013",
    name="unexplained-difference",
    severity="error",
    needs=("folder",),
    doc=__doc__,
    bad="a prompt of an engine that no rule explains",
    good="llama-padfix with a rule for it",
)
