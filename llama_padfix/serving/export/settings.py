"""Changes of a folder's JSON files: one template in both places, one end of turns, and all stops in each file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import PadfixError
from llama_padfix.core.kinds import require_path
from llama_padfix.serving.engines.llamacpp.special_tokens import find_bos
from llama_padfix.serving.export.rewrites import holds_eos
from llama_padfix.serving.export.tokens import clear_flags, drop_beyond

if TYPE_CHECKING:
    from llama_padfix.core.types import JsonObject
    from llama_padfix.serving.folder import ServedFolder
    from llama_padfix.serving.trained import TrainedRows

TEMPLATE_FILE = "chat_template.jinja"


def require_new(out: object) -> Path:
    """Return the folder to write; raise `PadfixError` if this is no path, one that exists, or one in no folder."""
    require_path(out, "a folder to write", 'Name a new one: export_for_serving(folder, "served", rows)')
    target = Path(str(out))
    if "\0" in str(out) or any(parent.exists() and not parent.is_dir() for parent in target.parents):
        raise PadfixError(f"{str(out)!r} is in no folder, so nothing can be written there. Name a new folder.")
    if target.exists() or target.is_symlink():
        raise PadfixError(f"{str(out)!r} exists already, and nothing is written over it. Name a new folder.")
    return target


def find_files(folder: Path, patterns: Sequence[str]) -> Iterator[Path]:
    """Yield the files of some names.

    Raises:
        PadfixError: One is a link out of the folder, and not into the cache of the hub.
    """
    inside = (folder.resolve(), folder.resolve().parents[1] / "blobs")
    for file in sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()}):
        if not any(part in file.resolve().parents for part in inside):
            raise PadfixError(
                f"{file.name} is a link to a file outside of the folder, which is not copied. Where it is meant: "
                f"cp -rL {folder.name} whole"
            )
        yield file


def write_template(folder: Path, source: str) -> None:
    """Write the template into both files."""
    (folder / TEMPLATE_FILE).write_text(source, encoding="utf-8")
    _edit(folder / "tokenizer_config.json", {"chat_template": source})


def fix_files(folder: Path, served: ServedFolder, trained: TrainedRows, source: str) -> tuple[list[str], list[str]]:
    """Write stops, named tokens and added tokens as engines read them; return what was changed and what is left.

    Args:
        folder: The copy.
        served: What was read of the original.
        trained: The rows of the training.
        source: The template that is saved.
    """
    changes = [*set_stops(folder, served, trained.ends, source), *_set_bos(folder, served, trained)]
    used = {token_id for point in trained.points for token_id in point.row_ids}
    done = [drop_beyond(folder, served, used, source), clear_flags(folder, trained.points)]
    changes += [change for change, _ in done if change]
    return changes, [left for _, left in done if left]


def _set_bos(folder: Path, served: ServedFolder, trained: TrainedRows) -> Iterator[str]:
    """Say that no BOS is added, where the training has none and llama.cpp would add one."""
    bos_id = find_bos(served)
    if bos_id is not None and trained.points and not any(point.ids[:1] == (bos_id,) for point in trained.points):
        _edit(folder / "tokenizer_config.json", {"add_bos_token": False})
        yield "tokenizer_config.json: add_bos_token = false, as the trained rows have no BOS"


def set_stops(folder: Path, served: ServedFolder, ends: Mapping[int, int], source: str) -> Iterator[str]:
    """Write the ids with which trained turns end into every file of stops; yield what was changed, a sentence each.

    Args:
        folder: The copy.
        served: What was read of the original.
        ends: The ids with which trained turns end, with the number of turns.
        source: The template that is saved.
    """
    if not ends:
        return
    listed = [*_as_list(served.generation_config.get("eos_token_id")), *sorted(ends, key=lambda end: -ends[end])]
    ids = list(dict.fromkeys(listed))
    if ids != _as_list(served.generation_config.get("eos_token_id")):
        _edit(folder / "generation_config.json", {"eos_token_id": ids})
        yield f"generation_config.json: eos_token_id = {ids}"
    if (folder / "config.json").is_file() and ids != _as_list(served.config.get("eos_token_id")):
        _edit(folder / "config.json", {"eos_token_id": ids})
        yield f"config.json: eos_token_id = {ids}"
    own = served.id_of("eos_token")
    if own not in ends and ("eos_token" not in source or holds_eos(source)):  # it would write another text
        [token] = served.name_ids([max(ends, key=lambda end: ends[end])])
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            if (folder / name).is_file():
                _edit(folder / name, {"eos_token": token})
        yield f"tokenizer_config.json: eos_token = {token}, with which trained turns end"


def _as_list(held: Any) -> list[int]:  # what a config holds
    several = held if isinstance(held, list) else [held]
    return [one for one in several if isinstance(one, int)]


def _edit(path: Path, entries: JsonObject) -> None:
    held = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps({**held, **entries}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
