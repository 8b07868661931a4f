"""SRV002: an engine finds no chat template in the folder, or another one than the training used.

transformers 5 writes the template into chat_template.jinja, and reads that file first. Ollama's importer, TGI and
transformers.js read tokenizer_config.json only, and gguf prefers it. Without a template an engine falls back to one
of its own or refuses; with an old one in the other place it renders that. The cure is one template in both places.
"""

from llama_padfix.doctor.findings import Check

CHECK = Check(
    code="SRV002",
    name="template-not-read",
    severity="error",
    needs=("folder",),
    doc=__doc__,
    bad="chat_template.jinja, and no chat_template in tokenizer_config.json",
    good="the same text under chat_template in tokenizer_config.json",
)
