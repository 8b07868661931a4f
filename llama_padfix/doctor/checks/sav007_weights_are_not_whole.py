"""SAV007: files of weights that are cut short, damaged or missing.

The header of a safetensors file says how long the file is, and a file of torch ends with a directory. A copy that was
broken off, a full disk, or a pointer of Git LFS in place of the file is seen by that, without reading a tensor. Of an
index, a file is missing where others that it names are there.
"""

from llama_padfix.doctor.findings import Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    for fault in facts.folder.broken_weights if facts.folder is not None else ():
        yield CHECK.found(fault)


CHECK = Check(
    code="SAV007",
    name="weights-are-not-whole",
    severity="error",
    needs=("folder",),
    doc=__doc__,
    bad="cp -r out /full/disk/served  # broken off",
    good='model.save_pretrained("served")  # and llama-padfix doctor served, before it is deployed',
    find=_find,
)
