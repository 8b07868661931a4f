"""What a run saved into a folder: its files, what the JSON ones say, and whether the tokenizer loads true."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama_padfix.records import FolderFacts, PadfixError

__all__ = ["load_folder", "observe_folder"]

# Letters, digits, white space, other scripts, an emoji: what a wrong pre-tokenizer splits differently.
_PROBE = "Hello world, it's 12345 o'clock.\n\n  你好 мир 🙂\tend"


def observe_folder(path: str | Path) -> FolderFacts:
    """Return the facts about a saved folder. Raises `PadfixError` where there is none, or a file is no JSON."""
    folder = Path(path)
    if not folder.is_dir():
        raise PadfixError(f"{str(path)!r} is not a folder. Pass the folder that the run saved, output_dir.")
    return FolderFacts(
        path=str(folder),
        files=tuple(sorted(item.name for item in folder.iterdir())),
        tokenizer_config=_read_json(folder / "tokenizer_config.json"),
        config=_read_json(folder / "config.json"),
        generation_config=_read_json(folder / "generation_config.json"),
        adapter_config=_read_json(folder / "adapter_config.json"),
        raw_ids=_encode_raw(folder / "tokenizer.json"),
    )


def load_folder(folder: FolderFacts) -> tuple[Any, str | None]:
    """Return the tokenizer of a folder as transformers loads it, or None and why it cannot be loaded."""
    from transformers import AutoTokenizer

    if not {"tokenizer.json", "tokenizer_config.json"} & set(folder.files):
        return None, "there is no tokenizer in it"
    try:
        return AutoTokenizer.from_pretrained(folder.path, local_files_only=True), None
    except Exception as error:  # whatever a broken file makes transformers raise
        return None, f"{type(error).__name__}: {error}"


def _read_json(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PadfixError(f"{str(path)!r} is not valid JSON: {error}. Save the folder again.") from error
    return content if isinstance(content, dict) else {}


def _encode_raw(path: Path) -> tuple[int, ...]:
    if not path.is_file():
        return ()
    from tokenizers import Tokenizer

    return tuple(Tokenizer.from_file(str(path)).encode(_PROBE, add_special_tokens=False).ids)
