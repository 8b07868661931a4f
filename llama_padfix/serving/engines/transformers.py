"""transformers as it is installed: the folder's own tokenizer, in the request that a server or notebook makes."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from llama_padfix.serving.engines.engine import Engine, Stops
from llama_padfix.serving.engines.files import ids_of
from llama_padfix.serving.rendering.quirks import NO_ARGUMENTS, UNPINNED_DATE

if TYPE_CHECKING:
    from llama_padfix.serving.folder import ServedFolder

_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p", "repetition_penalty", "do_sample")


def open_engine(folder: ServedFolder) -> Engine:
    """Return transformers with a folder opened."""
    held, source = folder.generation_config, "generation_config.json"
    if not held:
        held, source = folder.config, "config.json"
    return Engine(
        "transformers",
        f"transformers {version('transformers')}: its own rendering",
        folder.template,
        folder.template_file_name,
        quirks=(UNPINNED_DATE, NO_ARGUMENTS),
        stops=Stops(ids_of(held.get("eos_token_id")), source=source),
        sampling={name: held[name] for name in _SAMPLING if held.get(name) is not None},
    )
