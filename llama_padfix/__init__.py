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
    "Choice": "choices",
    "Conversation": "formats",
    "CountedRow": "records",
    "Counts": "records",
    "DataCollatorForCompletionOnlyLM": "completion",
    "Encoding": "encoding",
    "Finding": "records",
    "GuardError": "incident",
    "Incident": "incident",
    "LoadPlan": "load_plan",
    "MaskView": "view",
    "MemoryAdvice": "memory",
    "MemoryEstimate": "memory",
    "PadCollator": "collator",
    "PadfixError": "records",
    "Plan": "records",
    "Precision": "records",
    "Prepared": "compose",
    "Report": "records",
    "TrainingGuard": "guard",
    "TurnMarkers": "records",
    "add_tokens": "embeddings",
    "build_trainer": "compose",
    "choose_attention": "attention",
    "choose_optimizer": "optimizers",
    "choose_precision": "precision",
    "diagnose": "doctor",
    "dedupe_bos": "bos",
    "estimate_memory": "memory",
    "find_lora_targets": "lora",
    "find_markers": "labels",
    "find_untrained": "untrained",
    "keep_trainable_float32": "lora",
    "load": "loading",
    "mask_labels": "labels",
    "mean_init_untrained": "untrained",
    "padding_side": "tokenizer",
    "patch_tokenizer": "tokenizer",
    "plan_load": "load_plan",
    "plan_patch": "tokenizer",
    "prepare": "compose",
    "read_encoding": "encoding",
    "read_row": "formats",
    "to_messages": "formats",
    "train_rows": "row_training",
    "train_with_backoff": "backoff",
    "view_mask": "view",
    "write_encoding": "encoding",
}

__all__ = [
    "IGNORE_INDEX",
    "Change",
    "ChatEncoder",
    "Choice",
    "Conversation",
    "CountedRow",
    "Counts",
    "DataCollatorForCompletionOnlyLM",
    "Encoding",
    "Finding",
    "GuardError",
    "Incident",
    "LoadPlan",
    "MaskView",
    "MemoryAdvice",
    "MemoryEstimate",
    "PadCollator",
    "PadfixError",
    "Plan",
    "Precision",
    "Prepared",
    "Report",
    "TrainingGuard",
    "TurnMarkers",
    "__version__",
    "add_tokens",
    "build_trainer",
    "choose_attention",
    "choose_optimizer",
    "choose_precision",
    "dedupe_bos",
    "diagnose",
    "estimate_memory",
    "find_lora_targets",
    "find_markers",
    "find_untrained",
    "keep_trainable_float32",
    "load",
    "mask_labels",
    "mean_init_untrained",
    "padding_side",
    "patch_tokenizer",
    "plan_load",
    "plan_patch",
    "prepare",
    "read_encoding",
    "read_row",
    "to_messages",
    "train_rows",
    "train_with_backoff",
    "view_mask",
    "write_encoding",
]

if TYPE_CHECKING:
    from llama_padfix.attention import choose_attention
    from llama_padfix.backoff import train_with_backoff
    from llama_padfix.bos import dedupe_bos
    from llama_padfix.choices import Choice
    from llama_padfix.collator import PadCollator
    from llama_padfix.completion import DataCollatorForCompletionOnlyLM
    from llama_padfix.compose import Prepared, build_trainer, prepare
    from llama_padfix.doctor import diagnose
    from llama_padfix.embeddings import add_tokens
    from llama_padfix.encode import ChatEncoder
    from llama_padfix.encoding import Encoding, read_encoding, write_encoding
    from llama_padfix.formats import Conversation, read_row, to_messages
    from llama_padfix.guard import TrainingGuard
    from llama_padfix.incident import GuardError, Incident
    from llama_padfix.labels import find_markers, mask_labels
    from llama_padfix.load_plan import LoadPlan, plan_load
    from llama_padfix.loading import load
    from llama_padfix.lora import find_lora_targets, keep_trainable_float32
    from llama_padfix.memory import MemoryAdvice, MemoryEstimate, estimate_memory
    from llama_padfix.optimizers import choose_optimizer
    from llama_padfix.precision import choose_precision
    from llama_padfix.records import (
        IGNORE_INDEX,
        Change,
        CountedRow,
        Counts,
        Finding,
        PadfixError,
        Plan,
        Precision,
        Report,
        TurnMarkers,
    )
    from llama_padfix.row_training import train_rows
    from llama_padfix.tokenizer import padding_side, patch_tokenizer, plan_patch
    from llama_padfix.untrained import find_untrained, mean_init_untrained
    from llama_padfix.view import MaskView, view_mask


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
