"""Ollama's importer by the rules of its sources of August 2026: files and stops, and no prompts.

Read: convert/tokenizer.go, template/template.go. Its templates are Go templates that it finds by likeness to the Jinja
one, so a prompt is not compared here: make it by a Modelfile with TEMPLATE.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_padfix.serving.engines.engine import Engine
from llama_padfix.serving.engines.files import generation_eos, merge, tokenizer_eos

if TYPE_CHECKING:
    from llama_padfix.serving.folder import ServedFolder

READ_AT = "of August 2026"


def open_engine(folder: ServedFolder) -> Engine:
    """Return what Ollama reads of a folder."""
    template = folder.template_in_config
    listed = generation_eos(folder) if isinstance(folder.generation_config.get("eos_token_id"), list) else ()
    return Engine(
        "ollama",
        f"rules of Ollama {READ_AT}: read, not run; approximate",
        template,
        "tokenizer_config.json" if template is not None else "none: tokenizer_config.json has no chat_template",
        stops=merge(tokenizer_eos(folder), listed, source="tokenizer_config.json, a list in generation_config.json"),
        compares=False,
        notes=(
            "it takes one of its own Go templates that is alike (fewer than 100 edits), so prompts are not compared; "
            "a Modelfile with TEMPLATE decides",
        ),
    )
