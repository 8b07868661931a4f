"""Composable fixes that make Llama 3.x (and any chat model) fine-tune right the first time.

    from llama_padfix import prepare

    prepared = prepare(tokenizer, model, max_length=2048)

Public names are loaded on first use (PEP 562): importing the package loads neither torch nor transformers. The file
`__init__.pyi` lists them once, for type checkers and for this module.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path

__version__ = "0.1.0"

_PUBLIC = Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")
_MODULE_OF = {name: module for module, name in re.findall(r"^from (\S+) import \(?\s*(\w+) as", _PUBLIC, re.MULTILINE)}
__all__ = ["__version__", *_MODULE_OF]


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
