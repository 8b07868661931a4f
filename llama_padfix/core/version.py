"""The name and version of this library, as reports and files carry it."""

from __future__ import annotations

import sys

__all__ = ["tool"]


def tool() -> dict[str, str]:
    """Return the name and version of what made a report."""
    return {"name": "llama-padfix", "version": str(sys.modules["llama_padfix"].__version__)}
