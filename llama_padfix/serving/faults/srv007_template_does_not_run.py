"""SRV007: an engine does not run the template.

Other engines know a part of Jinja and of Python's methods: `{% generation %}`, `none is iterable`,
`tojson(ensure_ascii=...)`, `removeprefix` or formatting with `%` end in an error for each request. A training template
with `{% generation %}` is the most frequent one.
"""

from llama_padfix.doctor.findings import Check

CHECK = Check(
    code="SRV007",
    name="template-does-not-run",
    severity="error",
    needs=("folder",),
    doc=__doc__,
    bad="a training template with {% generation %} saved for serving",
    good="the chat template of the model family, saved with the model",
)
