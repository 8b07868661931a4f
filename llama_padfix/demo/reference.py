"""Llama 3.x tokenizers as the releases had them, built from the vocabulary in Meta's own package.

The demo, the tests and the examples in the documentation run on these, so that none of them needs a network.
The vocabulary is the `tokenizer.model` of the package `llama-models`; transformers' `TikTokenConverter` turns
it into ids identical to the hub's `tokenizer.json`. What differs between the releases is written down here:
the names of the special tokens, the EOS, whether encoding adds BOS, and the chat template.
"""

from __future__ import annotations

import copy
import importlib.util
import pickle
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from llama_padfix.core.errors import PadfixError

__all__ = ["RELEASES", "Release", "build_tokenizer", "copy_tokenizer", "make_tiny_llama"]

_TEMPLATES = Path(__file__).with_name("templates")

# The pre-tokenizer's pattern, from `pat_str` in llama_models/llama3/tokenizer.py.
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_FIRST_SPECIAL_ID = 128_000
_SPECIAL_TOKENS = 256


@dataclass(frozen=True)
class Release:
    """What sets the tokenizer of one Llama 3.x release apart; ids are counted from 128,000."""

    eos_token: str
    adds_bos: bool
    chat_template: str | None
    named: dict[int, str]
    eos_token_ids: tuple[int, ...]


_LLAMA_3 = {
    128000: "<|begin_of_text|>",
    128001: "<|end_of_text|>",
    128006: "<|start_header_id|>",
    128007: "<|end_header_id|>",
    128009: "<|eot_id|>",
}
_LLAMA_3_1_EARLY = {**_LLAMA_3, 128008: "<|eom_id|>", 128010: "<|python_tag|>"}
_LLAMA_3_1 = {**_LLAMA_3_1_EARLY, 128004: "<|finetune_right_pad_id|>"}
_ALL_STOPS = (128001, 128008, 128009)

RELEASES: dict[str, Release] = {
    "3-base": Release("<|end_of_text|>", True, None, _LLAMA_3, (128001,)),
    "3-instruct-early": Release("<|end_of_text|>", False, "llama3_early.jinja", _LLAMA_3, (128001,)),
    "3.1-base": Release("<|end_of_text|>", True, None, _LLAMA_3_1, (128001,)),
    "3.1-instruct-early": Release("<|eot_id|>", True, "llama3_1.jinja", _LLAMA_3_1_EARLY, _ALL_STOPS),
    "3.1-instruct": Release("<|eot_id|>", True, "llama3_1.jinja", _LLAMA_3_1, _ALL_STOPS),
    "3.2-instruct": Release("<|eot_id|>", True, "llama3_2.jinja", _LLAMA_3_1, _ALL_STOPS),
}
"""The releases by name; `eos_token_ids` is the stop list that the release's `generation_config.json` had."""


def build_tokenizer(release: str = "3.1-instruct") -> Any:
    """Return the tokenizer of a release in `RELEASES`, a `PreTrainedTokenizerFast` without a pad token.

    The first one of a process takes a few seconds for the 280,147 merges. Raises `PadfixError` for an unknown
    release, or when the package `llama-models` (or `tiktoken`, which the converter uses) is not installed.
    """
    if release not in RELEASES:
        raise PadfixError(f"Unknown release {release!r}. The known ones are: {', '.join(RELEASES)}.")
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    spec = RELEASES[release]
    special_tokens = _name_special_tokens(spec.named)
    backend = _copy_backend(_convert_vocabulary(_find_vocabulary()))
    backend.add_special_tokens(special_tokens)
    bos = special_tokens[0]
    if spec.adds_bos:
        # As in the hub's tokenizer.json: byte-level offsets first, then BOS before every sequence.
        backend.post_processor = processors.Sequence(
            [
                processors.ByteLevel(trim_offsets=False),
                processors.TemplateProcessing(
                    single=f"{bos} $A",
                    pair=f"{bos} $A {bos}:1 $B:1",
                    special_tokens=[(bos, _FIRST_SPECIAL_ID)],
                ),
            ]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=bos,
        eos_token=spec.eos_token,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=131_072,
    )
    if spec.chat_template is not None:
        tokenizer.chat_template = (_TEMPLATES / spec.chat_template).read_text(encoding="utf-8")
    return tokenizer


def copy_tokenizer(tokenizer: Any) -> Any:
    """Return an independent copy of a fast tokenizer that shares its vocabulary and merges, which nothing changes.

    `copy.deepcopy` would write and read all of them: 0.6 s for Llama 3 against 1 ms.
    """
    backend = tokenizer.backend_tokenizer
    return copy.deepcopy(tokenizer, {id(backend): _copy_backend(backend)})


def make_tiny_llama(release: str = "3.1-instruct", *, hidden_size: int = 64, seed: int = 0, **overrides: Any) -> Any:
    """Return a random `LlamaForCausalLM` over the full vocabulary, with the release's stop list and no pad id.

    Small enough to train on a CPU: two layers, float32, tied embeddings of shape (128256, hidden_size).
    `overrides` go to `LlamaConfig`.
    """
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    spec = RELEASES[release]
    eos_token_id: int | list[int] = list(spec.eos_token_ids) if len(spec.eos_token_ids) > 1 else spec.eos_token_ids[0]
    settings: dict[str, Any] = {
        "vocab_size": _FIRST_SPECIAL_ID + _SPECIAL_TOKENS,
        "hidden_size": hidden_size,
        "intermediate_size": 2 * hidden_size,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
        "bos_token_id": _FIRST_SPECIAL_ID,
        "eos_token_id": eos_token_id,
        **overrides,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**settings))
    model.generation_config = GenerationConfig(bos_token_id=_FIRST_SPECIAL_ID, eos_token_id=eos_token_id)
    return model


@lru_cache(maxsize=1)
def _convert_vocabulary(path: Path) -> Any:
    """Return the `tokenizers.Tokenizer` of Meta's vocabulary, without special tokens."""
    from transformers.convert_slow_tokenizer import TikTokenConverter

    # Transformers 5.0 iterates over the special tokens, which have other keywords in 4.43.
    converter = TikTokenConverter(vocab_file=str(path), pattern=_PATTERN)
    converter.extra_special_tokens = converter.additional_special_tokens = []
    return converter.converted()


def _copy_backend(backend: Any) -> Any:
    from tokenizers import Tokenizer

    copied = Tokenizer(backend.model)
    for name in ("normalizer", "pre_tokenizer", "decoder", "post_processor"):
        part = getattr(backend, name)
        if part is not None:
            setattr(copied, name, pickle.loads(pickle.dumps(part)))
    added = backend.get_added_tokens_decoder()
    for token_id in sorted(added):  # `add_tokens` of tokenizers 0.19 makes a special token an ordinary one
        add = copied.add_special_tokens if added[token_id].special else copied.add_tokens
        add([added[token_id]])
    return copied


def _name_special_tokens(named: dict[int, str]) -> list[str]:
    """Fill the places between the named tokens with `<|reserved_special_token_N|>`, counted as Meta counts them."""
    names: list[str] = []
    reserved = 0
    for token_id in range(_FIRST_SPECIAL_ID, _FIRST_SPECIAL_ID + _SPECIAL_TOKENS):
        if token_id in named:
            names.append(named[token_id])
        else:
            names.append(f"<|reserved_special_token_{reserved}|>")
            reserved += 1
    return names


def _find_vocabulary() -> Path:
    for package in ("llama_models", "tiktoken"):
        if importlib.util.find_spec(package) is None:
            raise PadfixError(
                f"The package {package} is not installed, and the real Llama 3 vocabulary is built with it. "
                "Run: pip install 'llama-padfix[demo]'"
            )
    package_spec = importlib.util.find_spec("llama_models")
    assert package_spec is not None and package_spec.origin is not None  # looked up three lines above
    path = Path(package_spec.origin).parent / "llama3" / "tokenizer.model"
    if not path.is_file():
        raise PadfixError(
            f"llama-models is installed but {path.name} is not in it. Run: pip install 'llama-models>=0.3'"
        )
    return path
