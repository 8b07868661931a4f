"""Families of models by their published names: what ends a turn and a text, and which templates are theirs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_MADE_FOR_CHAT = re.compile(r"instruct|chat|-it\b", re.IGNORECASE)
_COPIES = r"(?:unsloth|NousResearch|[\w-]+-community)"


@dataclass(frozen=True)
class Family:
    """A family whose tokenizers and weights are alike."""

    name: str
    names: re.Pattern[str]
    """The published names, of the makers and of usual copies; a derivative may have another template."""
    turn_end: str
    """The token that ends a turn in its chat template."""
    base_eos: str
    chat_eos: str
    templates: tuple[str, ...]
    """Names of its templates in Axolotl, LLaMA-Factory and ms-swift; the first is that of LLaMA-Factory."""


def _family(name: str, pattern: str, tokens: tuple[str, str, str], templates: str) -> Family:
    return Family(name, re.compile(pattern, re.IGNORECASE), *tokens, tuple(templates.split()))


FAMILIES = (
    _family(
        "Llama 3",
        rf"^(?:meta-llama|LLM-Research|{_COPIES})/(?:Meta-)?Llama-3",
        ("<|eot_id|>", "<|end_of_text|>", "<|eot_id|>"),
        "llama3 llama3_2 llama-3",
    ),
    _family(
        "Qwen",
        rf"^(?:Qwen|{_COPIES})/Qwen[23]",
        ("<|im_end|>", "<|endoftext|>", "<|im_end|>"),
        "qwen chatml qwen2_5 qwen_25 qwen3 qwen3_nothink",
    ),
    _family(
        "Gemma",
        rf"^(?:google|LLM-Research|{_COPIES})/gemma-[23]",
        ("<end_of_turn>", "<eos>", "<eos>"),
        "gemma gemma2 gemma3 gemma3_text",
    ),
    _family(
        "Mistral",
        rf"^(?:mistralai|{_COPIES})/(?:Mistral|Mixtral|Ministral)-",
        ("</s>", "</s>", "</s>"),
        "mistral mistral_v1 mistral_v2v3 mistral_v3_tekken mistral_small ministral",
    ),
    _family(
        "Phi 3",
        rf"^(?:microsoft|LLM-Research|{_COPIES})/Phi-3",
        ("<|end|>", "<|endoftext|>", "<|endoftext|>"),
        "phi phi_3 phi_35 phi3",
    ),
)
"""Families whose weights are published in bfloat16."""

TURN_ENDS = frozenset(family.turn_end for family in FAMILIES if family.turn_end != family.base_eos)
"""Tokens that end turns and never a text."""

TEMPLATE_FAMILY: Mapping[str, Family] = {template: family for family in FAMILIES for template in family.templates}


def find_family(model: str) -> Family | None:
    """Return the family of a published name; None for a folder, a derivative, or a name that is not known."""
    return next((family for family in FAMILIES if family.names.match(model)), None)


def find_eos(model: str, family: Family) -> str:
    """Return the EOS of the tokenizer of a published name."""
    for_chat = _MADE_FOR_CHAT.search(model) or (family.name == "Qwen" and "/qwen3" in model.lower())
    return family.chat_eos if for_chat and "-base" not in model.lower() else family.base_eos
