"""Llama 3.x tokenizers as the releases had them, built from the vocabulary in Meta's own package.

The demo, the tests and the examples in the documentation use them, so that none of these needs a network. The
vocabulary is the `tokenizer.model` of the package `llama-models`; with transformers' `TikTokenConverter` it gives the
ids of the hub's `tokenizer.json`. `RELEASES` holds the differences between the releases: the names of the special
tokens, the EOS, the added BOS and the chat template.
"""

from __future__ import annotations

import importlib.util
import itertools
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from llama_padfix.core.errors import PadfixError
from llama_padfix.tokens.backend import clone_backend

if TYPE_CHECKING:
    import tokenizers
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast


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
    """The properties of the tokenizer of one Llama 3.x release."""

    eos_token: str
    adds_bos: bool
    """Encoding adds BOS."""
    chat_template: str | None
    """The file of the chat template."""
    named: dict[int, str]
    """The special tokens by id that are not reserved."""
    eos_token_ids: tuple[int, ...]
    """The stop list of the release's `generation_config.json`."""


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
"""The releases by name."""


def build_tokenizer(release: str = "3.1-instruct") -> PreTrainedTokenizerFast:
    """Return the tokenizer of a release, without a pad token.

    The first one of a process takes a few seconds for the 280,147 merges.

    Args:
        release: A name in `RELEASES`.

    Raises:
        PadfixError: The release is unknown, or the package `llama-models` or `tiktoken`, which the converter uses, is
            not installed.
    """
    if release not in RELEASES:
        raise PadfixError(f"Unknown release {release!r}. The known ones are: {', '.join(RELEASES)}.")
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    spec = RELEASES[release]
    special_tokens = _name_special_tokens(spec.named)
    backend = clone_backend(_convert_vocabulary(_find_vocabulary()))
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
    # transformers copies it, which takes a second with the vocabulary.
    backend.__deepcopy__ = lambda memo: clone_backend(backend)  # type: ignore[attr-defined]  # the class has a __dict__
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


def make_tiny_llama(
    release: str = "3.1-instruct", *, hidden_size: int = 64, seed: int = 0, **overrides: object
) -> LlamaForCausalLM:
    """Return a random model over the full vocabulary, small enough to train on a CPU.

    It has two layers in float32, tied embeddings of shape (128256, hidden_size), the release's stop list and no pad.

    Args:
        release: A name in `RELEASES`.
        hidden_size: The width of the model.
        seed: The seed of the weights; torch's own random state stays as it is.
        overrides: Arguments of `LlamaConfig`.
    """
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    spec = RELEASES[release]
    eos_token_id: int | list[int] = list(spec.eos_token_ids) if len(spec.eos_token_ids) > 1 else spec.eos_token_ids[0]
    settings: dict[str, object] = {
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
def _convert_vocabulary(path: Path) -> tokenizers.Tokenizer:
    """Return the backend of Meta's vocabulary, without special tokens."""
    from transformers.convert_slow_tokenizer import TikTokenConverter

    # Transformers 5.0 iterates over the special tokens, whose keyword differs from 4.43.
    converter = TikTokenConverter(vocab_file=str(path), pattern=_PATTERN)
    converter.extra_special_tokens = converter.additional_special_tokens = []
    backend: tokenizers.Tokenizer = converter.converted()
    return backend


def _name_special_tokens(named: dict[int, str]) -> list[str]:
    """Return the named tokens, and `<|reserved_special_token_N|>` between them, counted from 0 as Meta does."""
    reserved = itertools.count()
    ids = range(_FIRST_SPECIAL_ID, _FIRST_SPECIAL_ID + _SPECIAL_TOKENS)
    return [named.get(token_id) or f"<|reserved_special_token_{next(reserved)}|>" for token_id in ids]


def _find_vocabulary() -> Path:
    for package in ("llama_models", "tiktoken"):
        if importlib.util.find_spec(package) is None:
            raise PadfixError(
                f"The package {package} is not installed, and the real Llama 3 vocabulary is built with it. "
                'Run: pip install "llama-padfix[demo]"'
            )
    package_spec = importlib.util.find_spec("llama_models")
    assert package_spec is not None and package_spec.origin is not None  # found in the loop above
    path = Path(package_spec.origin).parent / "llama3" / "tokenizer.model"
    if not path.is_file():
        raise PadfixError(
            f'llama-models is installed but {path.name} is not in it. Run: pip install "llama-models>=0.3"'
        )
    return path
