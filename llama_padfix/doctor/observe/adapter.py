"""What a saved adapter must agree with its base model in: the rows of its embedding, and where generation stops."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_padfix.core.text import parse_json
from llama_padfix.core.weights import read_shapes

if TYPE_CHECKING:
    from llama_padfix.core.types import JsonObject

# The whole matrix; PEFT writes it below the wrapper of an adapter that trains single rows of it.
_EMBEDDING = re.compile(
    r"\b(embed_tokens|wte|word_embeddings|embed_in|lm_head)(\.token_adapter)?(\.base_layer)?\.weight$"
)


def observe_adapter(folder: Path, adapter_config: JsonObject) -> dict[str, Any]:
    """Return the facts of a folder that holds an adapter, by the names of `FolderFacts`; none for another folder.

    Args:
        folder: the folder.
        adapter_config: its adapter_config.json, empty without one.
    """
    if not adapter_config:
        return {}
    rows, stops = read_rows_and_stops(adapter_config.get("base_model_name_or_path"))
    adapter_rows, is_nested = _read_header(folder / "adapter_model.safetensors")
    return {
        "adapter_rows": adapter_rows,
        "adapter_is_nested": is_nested,
        "base_rows": rows,
        "base_stops": stops or None,
    }


def read_rows_and_stops(name: object) -> tuple[int | None, tuple[int, ...]]:
    """Return the vocabulary size of a checkpoint, None where it is not known, and the ids at which it stops."""
    config = _read_saved(name, "config.json")
    inner = config.get("text_config", config)
    listed = [_read_saved(name, "generation_config.json").get("eos_token_id"), inner.get("eos_token_id")]
    held = next((each for each in listed if each is not None), ())
    size = config.get("vocab_size", inner.get("vocab_size"))
    stops = tuple(held) if isinstance(held, (list, tuple)) else (held,)
    return size if isinstance(size, int) else None, tuple(each for each in stops if isinstance(each, int))


def _read_saved(name: object, file: str) -> Mapping[str, Any]:
    """Return a JSON file of a checkpoint, from its folder or the local cache, never from the network; {} without."""
    if not isinstance(name, str) or not name:
        return {}
    try:
        path = Path(name, file)
        if not path.is_file():
            from huggingface_hub import try_to_load_from_cache

            path = Path(str(try_to_load_from_cache(name, file)))
        content = parse_json(path.read_text(encoding="utf-8"))
    except Exception:  # not in the cache, not a name, not JSON: it is not known
        return {}
    return content if isinstance(content, dict) else {}


def _read_header(path: Path) -> tuple[int | None, bool]:
    """Return the rows of the embedding or head in an adapter's file, None without, and True for names nested twice."""
    shapes = read_shapes(path)
    is_nested = any(name.startswith("base_model.model.base_model.model.") for name in shapes)
    rows = (shape[0] for name, shape in shapes.items() if shape and _EMBEDDING.search(name))
    return max(rows, default=None), is_nested
