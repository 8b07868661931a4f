"""SRV006: an engine writes JSON or other values of a template in another form.

`tojson` of other engines escapes ' < > &, writes 1.0 as 1 or 1e-07 as 1e-7, moves keys that look like numbers to the
front, or rounds integers above 2^53. Schemas of tools and arguments of calls then have other tokens. The cure is to
write such values as text in the rows, or to choose values that all engines write alike.
"""

from llama_padfix.doctor.findings import Check

CHECK = Check(
    code="SRV006",
    name="values-written-otherwise",
    severity="warning",
    needs=("folder",),
    doc=__doc__,
    bad="tools with the default 1.0 or a description with an apostrophe",
    good="tools whose numbers and texts every engine writes alike",
)
