"""Composable fixes that make Llama 3.x (and any chat model) fine-tune right the first time.

    from llama_padfix import prepare

    prepared = prepare(tokenizer, model, max_length=2048)

Public names are loaded on first use (PEP 562): importing the package loads neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_MODULE_OF = {
    "IGNORE_INDEX": "records",
    "ChatEncoder": "encode",
    "Change": "records",
    "Conversation": "formats",
    "Counts": "records",
    "Finding": "records",
    "PadCollator": "collator",
    "PadfixError": "records",
    "Plan": "records",
    "Precision": "records",
    "Prepared": "compose",
    "Report": "records",
    "TurnMarkers": "records",
    "build_trainer": "compose",
    "choose_precision": "precision",
    "diagnose": "doctor",
    "dedupe_bos": "bos",
    "find_markers": "labels",
    "load": "loading",
    "mask_labels": "labels",
    "padding_side": "tokenizer",
    "patch_tokenizer": "tokenizer",
    "plan_patch": "tokenizer",
    "prepare": "compose",
    "read_row": "formats",
    "to_messages": "formats",
}

__all__ = [
    "IGNORE_INDEX",
    "Change",
    "ChatEncoder",
    "Conversation",
    "Counts",
    "Finding",
    "PadCollator",
    "PadfixError",
    "Plan",
    "Precision",
    "Prepared",
    "Report",
    "TurnMarkers",
    "__version__",
    "build_trainer",
    "choose_precision",
    "dedupe_bos",
    "diagnose",
    "find_markers",
    "load",
    "mask_labels",
    "padding_side",
    "patch_tokenizer",
    "plan_patch",
    "prepare",
    "read_row",
    "to_messages",
]

if TYPE_CHECKING:
    from llama_padfix.bos import dedupe_bos
    from llama_padfix.collator import PadCollator
    from llama_padfix.compose import Prepared, build_trainer, prepare
    from llama_padfix.doctor import diagnose
    from llama_padfix.encode import ChatEncoder
    from llama_padfix.formats import Conversation, read_row, to_messages
    from llama_padfix.labels import find_markers, mask_labels
    from llama_padfix.loading import load
    from llama_padfix.precision import choose_precision
    from llama_padfix.records import (
        IGNORE_INDEX,
        Change,
        Counts,
        Finding,
        PadfixError,
        Plan,
        Precision,
        Report,
        TurnMarkers,
    )
    from llama_padfix.tokenizer import padding_side, patch_tokenizer, plan_patch


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
