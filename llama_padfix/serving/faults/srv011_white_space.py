"""SRV011: an engine keeps or removes white space where the training does not.

Line breaks behind blocks are kept by engines without `trim_blocks`, and `trim` removes other characters in other
languages. The tokens around such a place are others than those of the rows.
"""

from llama_padfix.doctor.findings import Check

CHECK = Check(
    code="SRV011",
    name="white-space",
    severity="warning",
    needs=("folder",),
    doc=__doc__,
    bad="a template with line breaks behind its blocks, served by TGI",
    good="{%- and -%} in the template, which every engine reads alike",
)
