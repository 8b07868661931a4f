"""transformers 5.20 and older by rules: a thought stands under the key that the row gives it, and no other.

Read: utils/chat_template_utils.py, in which 5.21 adds each thought under its other names.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from llama_padfix.serving.engines import transformers
from llama_padfix.serving.rendering.quirks import NO_ALIAS

if TYPE_CHECKING:
    from llama_padfix.serving.engines.engine import Engine
    from llama_padfix.serving.folder import ServedFolder


def open_engine(folder: ServedFolder) -> Engine:
    """Return an older transformers with a folder opened."""
    engine = transformers.open_engine(folder)
    return replace(
        engine,
        name="transformers-5.20",
        version="rules of transformers 5.20: read, not run",
        quirks=(*engine.quirks, NO_ALIAS),
    )
