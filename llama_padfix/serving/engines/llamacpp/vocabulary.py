"""A vocabulary-only GGUF file of a folder, as llama.cpp's converter writes the vocabulary, by the package `gguf`."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from llama_padfix.core.errors import PadfixError

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_PUNCTUATION = r" ?[^\s\p{L}\p{N}]+"
_START = r"[^\r\n\p{L}\p{N}]?"
_WORDS = (f"{_START}{_UPPER}*{_LOWER}+", f"{_START}{_UPPER}+{_LOWER}*")
PATTERNS = MappingProxyType(
    {
        rf"{_CONTRACTIONS}|{_START}\p{{L}}+|\p{{N}}{{1,3}}|{_PUNCTUATION}[\r\n]*|{_REST}": "llama-bpe",
        rf"{_CONTRACTIONS}|{_START}\p{{L}}+|\p{{N}}|{_PUNCTUATION}[\r\n]*|{_REST}": "qwen2",
        rf"{_CONTRACTIONS}|{_START}[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_REST}": "qwen35",
        rf"{'|'.join(f'{word}{_CONTRACTIONS}?' for word in _WORDS)}|\p{{N}}{{1,3}}|{_PUNCTUATION}[\r\n/]*|{_REST}": (
            "gpt-4o"
        ),
        rf"{_WORDS[0]}|{_WORDS[1]}|\p{{N}}|{_PUNCTUATION}[\r\n/]*|{_REST}": "tekken",
    }
)
"""The regex of a tokenizer.json to the name of llama.cpp's pre-tokenizer: comments in src/llama-vocab.cpp, 0.5.0."""


class GgufMissingError(Exception):
    """No file can be written; the message says why."""


def write_vocabulary(folder: Path, file: Path) -> None:
    """Write the vocabulary, merges, special ids and template of a folder, and no tensor.

    Args:
        folder: Holds tokenizer.json of a byte-level BPE.
        file: The file to write.

    Raises:
        GgufMissingError: `gguf` is not installed, or the kind of tokenizer is none of those that are known here.
        PadfixError: tokenizer.json cannot be read.
    """
    writer = begin_file(folder, file)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def begin_file(folder: Path, file: Path) -> Any:  # a GGUFWriter
    """Return the writer of a GGUF file that holds the vocabulary of a folder and is not written yet.

    Raises:
        GgufMissingError: as `write_vocabulary`.
        PadfixError: as `write_vocabulary`.
    """
    try:
        gguf: Any = importlib.import_module("gguf")
    except ImportError:
        raise GgufMissingError("pip install gguf") from None
    try:
        document = json.loads((folder / "tokenizer.json").read_bytes())
    except (OSError, ValueError) as error:
        raise PadfixError(f"tokenizer.json cannot be read ({error}). Save the tokenizer again.") from error
    pre = find_pre_tokenizer(document)
    if pre is None:
        raise GgufMissingError("the name of its pre-tokenizer in llama.cpp is not known here")
    texts, types = _list_tokens(document, gguf.TokenType)
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)  # gguf warns of what it does not read of the post-processor
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            writer = gguf.GGUFWriter(file, "llama")
            writer.add_tokenizer_model("gpt2")
            writer.add_tokenizer_pre(pre)
            writer.add_token_list(texts)
            writer.add_token_types(types)
            gguf.SpecialVocab(folder, load_merges=True, n_vocab=len(texts)).add_to_gguf(writer)
    finally:
        logging.disable(level)
    return writer


def find_pre_tokenizer(document: Mapping[str, Any]) -> str | None:
    """Return llama.cpp's name for how a tokenizer.json splits a text; None where it is not known."""
    model, splitter = document.get("model") or {}, document.get("pre_tokenizer") or {}
    parts = splitter.get("pretokenizers", [splitter])
    kinds = [part.get("type") for part in parts]
    if model.get("type") != "BPE" or kinds != ["Split", "ByteLevel"] or parts[1].get("use_regex"):
        return None
    return PATTERNS.get(str((parts[0].get("pattern") or {}).get("Regex")))


def _list_tokens(document: Mapping[str, Any], kinds: Any) -> tuple[list[str], list[int]]:
    """Return the texts and types of all ids, those without a token named as the converter names them."""
    added = {token["id"]: token for token in document.get("added_tokens", [])}
    by_id = {token_id: text for text, token_id in document["model"]["vocab"].items()}
    texts, types = [], []
    for token_id in range(max(*by_id, *added) + 1 if added else max(by_id) + 1):
        if token_id in added:
            texts.append(added[token_id]["content"])
            types.append(kinds.CONTROL if added[token_id]["special"] else kinds.USER_DEFINED)
        else:
            texts.append(by_id.get(token_id, f"[PAD{token_id}]"))
            types.append(kinds.NORMAL if token_id in by_id else kinds.UNUSED)
    return texts, types
