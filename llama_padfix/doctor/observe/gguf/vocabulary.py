"""What a GGUF file says of its tokenizer and model, as a tokenizer and a stand-in for the model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import PadfixError
from llama_padfix.core.llama_cpp import find_end_tokens
from llama_padfix.doctor.observe.gguf.header import GgufHeader, read_gguf_header

if TYPE_CHECKING:
    from llama_padfix.core.types import TokenizerLike

_PREFIX = "tokenizer.ggml."
_CONTROL, _ADDED = 3, 4  # of token_type
_NAMED_ENDS = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")  # by ids in the file
# What llama.cpp adds a BOS for, where `add_bos_token` is missing, by the name of the pre-tokenizer.
_WITH_BOS = ("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "tekken")
_NO_MEANING = "no meaning in a GGUF file, which is made for generation"
LEFT_OUT = {
    "PAD": _NO_MEANING,
    "GEN001": f"{_NO_MEANING}: llama.cpp knows what ends a turn by its name too",
    "BOS001": f"{_NO_MEANING}: llama.cpp writes one BOS where the template writes one too",
    "LOD007": "only the vocabulary of a GGUF file is read, and not how it splits a text",
}
"""Checks that are not asked about a GGUF file, by beginning of their codes, with the reason."""


def open_gguf(path: Path) -> tuple[TokenizerLike, Any, tuple[str, ...]]:  # `Any`: a stand-in for a model
    """Return a tokenizer with the ids, special tokens and template of a GGUF file, its model's stand-in, and notes.

    The tokenizer knows every id and renders the template. It does not split text as the file's own would.

    Raises:
        PadfixError: The file cannot be read, holds no tokens, or names a token that it does not hold.
    """
    header = read_gguf_header(path)
    tokens = header.metadata.get(f"{_PREFIX}tokens")
    if not isinstance(tokens, list) or not tokens or not all(isinstance(token, str) for token in tokens):
        raise PadfixError(
            f"{str(path)!r} holds no tokens ({_PREFIX}tokens). Of a file in parts the first holds them: "
            "pass that one, ...-00001-of-...gguf"
        )
    named = {name: _token(path, header, tokens, f"{name}_token_id") for name in ("bos", "eos", "unknown", "padding")}
    tokenizer = _make_tokenizer(header, tokens, named)
    ends = _find_ends(header, tokens)
    shape = header.shapes.get("token_embd.weight", ())
    rows = int(shape[1]) if len(shape) == 2 else header.metadata.get(f"{_architecture(header)}.vocab_size")
    model = SimpleNamespace(
        config=SimpleNamespace(pad_token_id=_id(header, "padding"), eos_token_id=ends),
        generation_config=None,
        get_input_embeddings=lambda: SimpleNamespace(weight=SimpleNamespace(shape=(rows, 0))) if rows else None,
    )
    listed = ", ".join(f"{tokens[end]} ({end})" for end in ends if 0 <= end < len(tokens)) or "nothing"
    notes = (
        f"Looked at the header of a GGUF file ({_architecture(header)}, {len(tokens)} tokens, "
        f"{len(header.shapes)} tensors), and at no weight.",
        f"llama.cpp ends a text at {listed}, and adds {'a' if adds_bos(header) else 'no'} BOS.",
    )
    return tokenizer, model, notes


def adds_bos(header: GgufHeader) -> bool:
    """Return True if llama.cpp puts a BOS before a plain text."""
    written = header.metadata.get(f"{_PREFIX}add_bos_token")
    if isinstance(written, bool):
        return written
    return header.metadata.get(f"{_PREFIX}model") == "llama" or header.metadata.get(f"{_PREFIX}pre") in _WITH_BOS


def _architecture(header: GgufHeader) -> str:
    return str(header.metadata.get("general.architecture", "unknown"))


def _id(header: GgufHeader, name: str) -> int | None:
    held = header.metadata.get(f"{_PREFIX}{name}_token_id")
    return held if isinstance(held, int) else None


def _token(path: Path, header: GgufHeader, tokens: list[str], key: str) -> str | None:
    """Return the token of an id in the metadata, None where there is no such id."""
    held = header.metadata.get(_PREFIX + key)
    if not isinstance(held, int) or held in (-1, 0xFFFFFFFF):
        return None
    if not 0 <= held < len(tokens):
        raise PadfixError(
            f"{str(path)!r}: {_PREFIX}{key} is {held}, and the file holds {len(tokens)} tokens. "
            "Convert it again from the folder that it was made of."
        )
    return tokens[held]


def _find_ends(header: GgufHeader, tokens: list[str]) -> list[int]:
    """Return the ids at which llama.cpp ends a text: those that the file names, and those that it knows by name."""
    named = [end for name in _NAMED_ENDS if (end := _id(header, name)) is not None]
    known = {*find_end_tokens({*tokens})}
    return list(dict.fromkeys([*named, *(place for place, token in enumerate(tokens) if token in known)]))


def _make_tokenizer(header: GgufHeader, tokens: list[str], named: dict[str, str | None]) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    is_byte_level = header.metadata.get(f"{_PREFIX}model") == "gpt2"
    vocabulary = {token: place for place, token in reversed(list(enumerate(tokens)))}
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token=named["unknown"], byte_fallback=not is_byte_level))
    if is_byte_level:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.decoder = decoders.ByteLevel()
    types = header.metadata.get(f"{_PREFIX}token_type")
    kinds = types if isinstance(types, list) and len(types) == len(tokens) else [0] * len(tokens)
    added = [(token, kind) for token, kind in zip(tokens, kinds, strict=True) if kind in (_CONTROL, _ADDED)]
    backend.add_special_tokens([AddedToken(token, special=True) for token, kind in added if kind == _CONTROL])
    backend.add_tokens([AddedToken(token, special=False, normalized=False) for token, kind in added if kind == _ADDED])
    bos = named["bos"]
    if bos is not None and adds_bos(header):
        start = [(bos, vocabulary[bos])]
        backend.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=start)
    settings = {"bos_token": bos, "eos_token": named["eos"], "unk_token": named["unknown"]}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, **{name: token for name, token in settings.items() if token is not None}
    )
    tokenizer.pad_token = named["padding"]
    template = header.metadata.get("tokenizer.chat_template")
    tokenizer.chat_template = template if isinstance(template, str) else None
    return tokenizer
