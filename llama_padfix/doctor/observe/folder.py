"""What a run saved into a folder: its files, the JSON ones' contents, and the ids of its tokenizer once loaded.

No tensor is loaded: `SavedModel` stands in for the model, with the settings of the JSON files and the shape of the
embedding from the header of the weights.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import PadfixError
from llama_padfix.core.kinds import require_path
from llama_padfix.core.text import parse_json
from llama_padfix.core.weights import find_broken_weights, name_weights, read_shapes
from llama_padfix.doctor.folder_facts import TOKENIZER_FILES, FolderFacts
from llama_padfix.doctor.observe.adapter import observe_adapter
from llama_padfix.doctor.observe.saved_tokenizer.read import read_generic

if TYPE_CHECKING:
    import tokenizers

    from llama_padfix.core.types import JsonObject, TokenizerLike

RUN_FILES = (*TOKENIZER_FILES, "config.json", "adapter_config.json")
"""The files of which a folder has at least one where a tokenizer, a model or an adapter was saved into it."""

# Letters, digits, white space, other scripts, an emoji: what a wrong pre-tokenizer splits differently.
_PROBE = "Hello world, it's 12345 o'clock.\n\n  你好 мир 🙂\tend"
# The input embedding's name ends so in Llama and most families, in GPT-2, BLOOM, GPT-NeoX and InternLM.
_EMBEDDINGS = tuple(
    f"{name}.weight" for name in ("embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings")
)


def fetch_folder(name: str | Path) -> Path:
    """Return the folder or GGUF file of that name, or the snapshot of that hub repository, without its weights.

    Args:
        name: a folder, a .gguf file, or the name of a repository, which is not downloaded where `HF_HUB_OFFLINE` is
            set.

    Raises:
        PadfixError: there is neither.
    """
    folder = Path(name).expanduser()
    if folder.is_dir() or (folder.suffix == ".gguf" and folder.is_file()):
        return folder
    refusal = f"{str(name)!r} is not a folder"
    if folder.exists() or str(name).count("/") > 1 or str(name).startswith((".", "/", "~")):
        raise PadfixError(f"{refusal}. Pass the folder that the run saved, output_dir.")
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(str(name), allow_patterns=["*.json", "*.jinja", "*.model", "*.txt"]))
    except Exception as error:  # no network, offline mode, no such repository, a gated one, no valid name
        reason = " ".join(str(error).split())
        raise PadfixError(
            f"{refusal}, and the hub gives none of that name ({type(error).__name__}: {reason}). "
            "Pass a folder, or check the name and HF_HUB_OFFLINE; a gated model needs: hf auth login"
        ) from error


def read_folder(path: str | Path, *, exact: bool = True) -> tuple[TokenizerLike | None, FolderFacts]:
    """Return the tokenizer of a folder, None where it does not load, and the facts with the ids that it gives.

    Args:
        path: the folder.
        exact: with False, a tokenizer that is tokenizer.json and nothing else is read without transformers. It gives
            the same ids and texts, and is neither called with several texts nor saved.

    Raises:
        PadfixError: there is no such folder, or one of its files is not valid JSON.
    """
    backend = _open_backend(find_run(_require_folder(path))[0] / "tokenizer.json")
    folder = observe_folder(path, backend)
    alike: Any = read_generic(folder, backend) if backend is not None and not exact else None
    return load_folder(folder) if alike is None else (alike, replace(folder, loaded_ids=folder.raw_ids))


def observe_folder(path: str | Path, backend: tokenizers.Tokenizer | None = None) -> FolderFacts:
    """Return the facts about a saved folder.

    Args:
        path: the folder. No tensor is loaded: the shape of the embedding is read from the header of the weights.
        backend: what its tokenizer.json holds, where that was read already.

    Raises:
        PadfixError: there is no such folder, or one of its files is not valid JSON.
    """
    given = _require_folder(path)
    folder, checkpoints = find_run(given)
    files = sorted(item for item in folder.iterdir() if item.is_file())
    config, adapter_config = _read_json(folder / "config.json"), _read_json(folder / "adapter_config.json")
    template = folder / "chat_template.jinja"
    raw_ids, byte_level, baked = encode_with_file(folder / "tokenizer.json") if backend is None else _probe(backend)
    in_weights = _count_embedding_rows(folder)
    declared = _inner(config).get("vocab_size")
    return FolderFacts(
        path=str(folder),
        files=tuple(item.name for item in files),
        tokenizer_config=_read_json(folder / "tokenizer_config.json"),
        config=config,
        generation_config=_read_json(folder / "generation_config.json"),
        adapter_config=adapter_config,
        raw_ids=raw_ids,
        chat_template=template.read_text(encoding="utf-8", errors="replace") if template.is_file() else None,
        saved_at={item.name: item.stat().st_mtime for item in files},
        byte_level=byte_level,
        baked=baked,
        embedding_rows=in_weights if in_weights is not None else declared if isinstance(declared, int) else None,
        weights_seen=in_weights is not None,
        broken_weights=tuple(find_broken_weights(folder, may_lack_all=True)),
        given=str(given),
        checkpoints=checkpoints,
        **observe_adapter(folder, adapter_config),
    )


def _require_folder(path: str | Path) -> Path:
    require_path(path, "a folder", "Pass the one that the run saved, output_dir.")
    folder = Path(path)
    if not folder.is_dir():
        rows = f" Rows in a file go beside a tokenizer: diagnose(tokenizer, dataset={str(path)!r})"
        raise PadfixError(
            f"{str(path)!r} is not a folder. Pass the folder that the run saved, output_dir."
            + (rows if folder.is_file() else "")
        )
    return folder


def find_run(folder: Path) -> tuple[Path, tuple[str, ...]]:
    """Return the folder that holds what a run saved, and the names of its checkpoints, the oldest first.

    That is the newest checkpoint where the folder itself holds no tokenizer, model or adapter.
    """
    steps = (re.fullmatch(r"checkpoint-(\d+)", item.name) for item in folder.iterdir() if item.is_dir())
    names = tuple(step.group() for step in sorted(filter(None, steps), key=lambda step: int(step.group(1))))
    holds_some = any((folder / name).is_file() for name in RUN_FILES)
    return folder / names[-1] if names and not holds_some else folder, names


def load_folder(folder: FolderFacts) -> tuple[TokenizerLike | None, FolderFacts]:
    """Return the tokenizer of a folder as transformers loads it, and the facts with the ids that it gives.

    The tokenizer is None where it cannot be loaded; `load_error` then holds the reason.
    """
    if not folder.has_tokenizer:
        return None, replace(folder, load_error="there is no tokenizer in it")
    from transformers import AutoTokenizer

    try:
        tokenizer: TokenizerLike = AutoTokenizer.from_pretrained(
            folder.path, local_files_only=True, trust_remote_code=False
        )
        loaded_ids = encode_probe(tokenizer)
    except Exception as error:  # whatever a broken file makes transformers raise
        return None, replace(folder, load_error=f"{type(error).__name__}: {error}")
    return tokenizer, replace(folder, loaded_ids=loaded_ids)


def encode_probe(tokenizer: TokenizerLike) -> tuple[int, ...]:
    """Return the ids that a loaded tokenizer gives the text that `encode_with_file` encodes by the file."""
    return tuple(int(token_id) for token_id in tokenizer(_PROBE, add_special_tokens=False)["input_ids"])


class SavedModel:
    """A stand-in for a saved model: its `config` and `generation_config`, without weights."""

    def __init__(self, folder: FolderFacts) -> None:
        self.documents = {
            name: json.loads(json.dumps(dict(held)))
            for name, held in (("config", folder.config), ("generation_config", folder.generation_config))
            if held
        }
        self.config = _Settings(_inner(self.documents.get("config", {})))
        generation = self.documents.get("generation_config")
        self.generation_config = _Settings(generation) if generation is not None else None
        self._rows = folder.embedding_rows

    def get_input_embeddings(self) -> SimpleNamespace | None:
        """Return what has the shape of the embedding, None where it is not known."""
        return None if self._rows is None else SimpleNamespace(weight=SimpleNamespace(shape=(self._rows, 0)))


def saved_model(folder: FolderFacts) -> SavedModel | None:
    """Return the stand-in for the model of a folder, None where it has no config.json."""
    return SavedModel(folder) if folder.config else None


class _Settings:
    """Attributes that are the entries of a JSON object: setting one sets the entry."""

    def __init__(self, entries: JsonObject) -> None:
        self.__dict__ = entries
        for name in ("pad_token_id", "eos_token_id"):
            if name in entries and not _is_ids(entries[name]):
                raise PadfixError(f"{name} is {entries[name]!r} in a saved config, and no id. Save the folder again.")


def _is_ids(value: object) -> bool:
    each = value if isinstance(value, list) else [value]
    return value is None or all(isinstance(item, int) and not isinstance(item, bool) for item in each)


def _inner(config: JsonObject) -> JsonObject:
    """Return the part of a config that holds the special ids: the text part of a model that has several."""
    text = config.get("text_config")
    return text if isinstance(text, dict) else config


def _read_json(path: Path) -> JsonObject:
    if not path.is_file():
        return {}
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PadfixError(f"{str(path)!r} is not valid JSON: {error}. Save the folder again.") from error
    return content if isinstance(content, dict) else {}


def encode_with_file(path: Path) -> tuple[tuple[int, ...], bool, dict[str, str]]:
    """Return the ids that tokenizer.json gives the probe, True if it splits bytes, and what it does to every text.

    The ids are those without the padding and truncation that the file may hold, as transformers encodes. Without the
    file there are none.
    """
    backend = _open_backend(path)
    return ((), False, {}) if backend is None else _probe(backend)


def _open_backend(path: Path) -> tokenizers.Tokenizer | None:
    if not path.is_file():
        return None
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    except Exception:  # tokenizers raises bare Exceptions; `load_folder` gives the reason
        return None


def _probe(backend: tokenizers.Tokenizer) -> tuple[tuple[int, ...], bool, dict[str, str]]:
    baked = clear_padding_and_truncation(backend)
    splitter = backend.pre_tokenizer
    state = splitter.__getstate__() if splitter is not None else b""
    return tuple(backend.encode(_PROBE, add_special_tokens=False).ids), b'"ByteLevel"' in bytes(state), baked


def clear_padding_and_truncation(backend: tokenizers.Tokenizer) -> dict[str, str]:
    """Switch off the padding and truncation that a backend keeps from an earlier call, and return them in words."""
    held = {}
    if (padding := backend.padding) is not None:
        length = padding.get("length")
        held["padding"] = f"padding to {length} ids" if length is not None else "padding to the longest of a batch"
        backend.no_padding()
    if (truncation := backend.truncation) is not None:
        held["truncation"] = f"truncation at {truncation['max_length']} ids"
        backend.no_truncation()
    return held


def _count_embedding_rows(folder: Path) -> int | None:
    """Return the rows of the input embedding by the header of the weights; no tensor is read."""
    for path in name_weights(folder):
        if path.suffix != ".safetensors" or not path.is_file():
            continue
        for name, shape in read_shapes(path).items():
            if name.endswith(_EMBEDDINGS) and shape:
                return shape[0]
    return None
