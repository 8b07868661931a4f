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
    "IGNORE_INDEX": "core.errors",
    "ChatEncoder": "encoding.encoder",
    "Change": "doctor.findings",
    "Choice": "core.choices",
    "Conversation": "encoding.row_formats",
    "CountedRow": "encoding.counts",
    "Counts": "encoding.counts",
    "DataCollatorForCompletionOnlyLM": "encoding.completion_collator",
    "Encoding": "encoding.record",
    "Finding": "doctor.findings",
    "GuardError": "training.guard.incident",
    "Incident": "training.guard.incident",
    "LoadPlan": "training.loading.plan",
    "MaskView": "view.mask_view",
    "MemoryAdvice": "training.memory.estimate",
    "MemoryEstimate": "training.memory.estimate",
    "PadCollator": "encoding.collator",
    "PadfixError": "core.errors",
    "Plan": "doctor.findings",
    "Precision": "hardware.precision",
    "Prepared": "training.prepare",
    "Report": "doctor.findings",
    "TrainingGuard": "training.guard.callback",
    "TurnMarkers": "encoding.turns_in_ids",
    "add_tokens": "training.adapters.added_tokens",
    "build_trainer": "training.prepare",
    "choose_attention": "hardware.attention",
    "choose_optimizer": "hardware.optimizers",
    "choose_precision": "hardware.precision",
    "diagnose": "doctor.diagnose",
    "dedupe_bos": "tokens.bos",
    "estimate_memory": "training.memory.estimate",
    "find_lora_targets": "training.adapters.lora",
    "find_markers": "encoding.labels",
    "find_untrained": "training.adapters.untrained_rows",
    "keep_trainable_float32": "training.adapters.lora",
    "load": "training.loading.load",
    "mask_labels": "encoding.labels",
    "mean_init_untrained": "training.adapters.untrained_rows",
    "padding_side": "doctor.patch",
    "patch_tokenizer": "doctor.patch",
    "plan_load": "training.loading.plan",
    "plan_patch": "doctor.patch",
    "prepare": "training.prepare",
    "read_encoding": "encoding.record",
    "read_row": "encoding.row_formats",
    "to_messages": "encoding.row_formats",
    "train_rows": "training.adapters.row_training",
    "train_with_backoff": "training.oom_backoff",
    "view_mask": "view.mask_view",
    "write_encoding": "encoding.record",
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
    from llama_padfix.core.choices import Choice
    from llama_padfix.core.errors import IGNORE_INDEX, PadfixError
    from llama_padfix.doctor.diagnose import diagnose
    from llama_padfix.doctor.findings import Change, Finding, Plan, Report
    from llama_padfix.doctor.patch import padding_side, patch_tokenizer, plan_patch
    from llama_padfix.encoding.collator import PadCollator
    from llama_padfix.encoding.completion_collator import DataCollatorForCompletionOnlyLM
    from llama_padfix.encoding.counts import CountedRow, Counts
    from llama_padfix.encoding.encoder import ChatEncoder
    from llama_padfix.encoding.labels import find_markers, mask_labels
    from llama_padfix.encoding.record import Encoding, read_encoding, write_encoding
    from llama_padfix.encoding.row_formats import Conversation, read_row, to_messages
    from llama_padfix.encoding.turns_in_ids import TurnMarkers
    from llama_padfix.hardware.attention import choose_attention
    from llama_padfix.hardware.optimizers import choose_optimizer
    from llama_padfix.hardware.precision import Precision, choose_precision
    from llama_padfix.tokens.bos import dedupe_bos
    from llama_padfix.training.adapters.added_tokens import add_tokens
    from llama_padfix.training.adapters.lora import find_lora_targets, keep_trainable_float32
    from llama_padfix.training.adapters.row_training import train_rows
    from llama_padfix.training.adapters.untrained_rows import find_untrained, mean_init_untrained
    from llama_padfix.training.guard.callback import TrainingGuard
    from llama_padfix.training.guard.incident import GuardError, Incident
    from llama_padfix.training.loading.load import load
    from llama_padfix.training.loading.plan import LoadPlan, plan_load
    from llama_padfix.training.memory.estimate import MemoryAdvice, MemoryEstimate, estimate_memory
    from llama_padfix.training.oom_backoff import train_with_backoff
    from llama_padfix.training.prepare import Prepared, build_trainer, prepare
    from llama_padfix.view.mask_view import MaskView, view_mask


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
