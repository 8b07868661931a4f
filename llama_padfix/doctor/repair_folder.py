"""A repaired copy of a saved folder: tokenizer, config.json, generation_config.json; written whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from llama_padfix.core.errors import PadfixError
from llama_padfix.core.files import scratch_folder
from llama_padfix.core.records import record_html, short_repr
from llama_padfix.doctor.diagnose import diagnose
from llama_padfix.doctor.findings import Change, Plan, Report
from llama_padfix.doctor.fixing.repair import repair_until_stable
from llama_padfix.doctor.fixing.settings import Owners, apply_changes
from llama_padfix.doctor.observe.folder import SavedModel, observe_folder, read_folder

if TYPE_CHECKING:
    from llama_padfix.core.types import JsonObject, TokenizerLike
    from llama_padfix.doctor.facts import FolderFacts

_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)
# By the beginning of a change's target, the file that it is made in.
_IN_FILES = {"folder.tokenizer_config.": "tokenizer_config.json", "folder.tokenizer.": "tokenizer.json"}


@dataclass(frozen=True)
class RepairedFolder:
    """What was written: the folder, its files, the changes, and the report on the new folder."""

    path: str
    files: tuple[str, ...]
    plan: Plan
    left: Report

    __repr__ = short_repr
    _repr_html_ = record_html

    def __str__(self) -> str:
        return (
            f"{self.plan}\nwritten to {self.path}: {', '.join(self.files)}\n"
            f"The weights are as they were and are not copied: copy these files over those in the run's folder."
        )


def heal_folder(
    folder: str | Path,
    out: str | Path,
    *,
    unsafe: bool = False,
    select: Sequence[str] | None = None,
    ignore: Sequence[str] | None = None,
) -> RepairedFolder:
    """Write a copy of a folder's settings to `out` with every safe change applied, and diagnose the copy.

    The folder itself and the weights stay as they are.

    Args:
        folder: the folder that a run saved.
        out: the folder to write, which must not exist.
        unsafe: apply unsafe changes too: a class, a template, ids.
        select: codes, beginnings of codes or names of the checks to run; all by default.
        ignore: codes, beginnings of codes or names of checks to leave out.

    Returns:
        What was written, the changes, and the report on the copy.

    Raises:
        PadfixError: `out` exists, the tokenizer does not load, or it loads with other ids than its file holds. Nothing
            is written then.
    """
    target = Path(out)
    if target.exists() or target.is_symlink():
        raise PadfixError(f"{str(out)!r} exists already, and nothing is written over it. Name a new folder.")
    observed = observe_folder(folder)
    source, rows = Path(observed.path), observed.embedding_rows  # the newest checkpoint where there is nothing else
    target.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(target.parent, f".{target.name}-") as scratch:
        for name in _FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, scratch / name)
        check = partial(diagnose, scratch, select=select, ignore=ignore)
        changes, left = _repair(scratch, rows, ("safe", "unsafe") if unsafe else ("safe",), check)
        scratch.chmod(0o755)  # mkdtemp lets only the owner in
        scratch.rename(target)
    files = tuple(sorted(item.name for item in target.iterdir()))
    return RepairedFolder(str(target), files, Plan(changes), left)


def _repair(
    scratch: Path, rows: int | None, safeties: Sequence[str], check: Callable[[], Report]
) -> tuple[tuple[Change, ...], Report]:
    """Apply changes to the files until none is left; return them and the report on what remains."""
    done: list[Change] = []

    def find(report: Report) -> list[Change]:
        changes = [c for finding in report.findings for c in finding.changes if c.safety in safeties]
        in_config = [change for change in changes if change.target.startswith(tuple(_IN_FILES))]
        # A changed class may load other ids, so nothing else is applied before the folder is observed again.
        return in_config or [change for change in changes if not change.target.startswith("folder.")]

    def apply(report: Report, changes: Sequence[Change]) -> Report:
        in_config = changes[0].target.startswith(tuple(_IN_FILES))
        done.extend(_edit_files(scratch, changes) if in_config else _apply(scratch, changes, rows))
        return check()

    report, _ = repair_until_stable(check(), find, apply, "Please report it with the tokenizer's name.")
    if not done:
        _load(scratch)  # a copy of what cannot be loaded is not repaired
    return tuple(dict.fromkeys(done)), report


def _apply(scratch: Path, changes: Sequence[Change], rows: int | None) -> Sequence[Change]:
    """Load, apply, and write what was changed; everything else in the files stays as it is."""
    tokenizer, folder = _load(scratch)
    if folder.raw_ids and folder.raw_ids != folder.loaded_ids:
        raise PadfixError(
            f"The tokenizer loads as {folder.tokenizer_config.get('tokenizer_class')} with other ids than "
            "tokenizer.json has, and saving it would write those. Let the class be changed: --unsafe"
        )
    saved = SavedModel(replace(folder, embedding_rows=rows))
    declared = folder.tokenizer_config
    try:
        plan = apply_changes(changes, Owners(tokenizer, saved))
        if any(change.target.startswith("tokenizer.") for change in plan):
            tokenizer.save_pretrained(str(scratch))
    except (PadfixError, OSError):
        raise
    except Exception as error:  # whatever a value that loads, and cannot be written, makes transformers raise
        raise PadfixError(
            f"The tokenizer loads, and cannot be changed and saved ({type(error).__name__}: {error}). "
            "Correct its tokenizer_config.json, or save it again from the model that it came from."
        ) from error
    if any(change.target.startswith("tokenizer.") for change in plan):
        path = scratch / "tokenizer_config.json"
        written = json.loads(path.read_text(encoding="utf-8"))
        for name in ("is_local", "local_files_only", "name_or_path"):  # these describe how it was loaded here
            if name not in declared:
                written.pop(name, None)
        if "tokenizer_class" in declared:
            written["tokenizer_class"] = declared["tokenizer_class"]
        _write(path, written)
    for name, document in saved.documents.items():
        _write(scratch / f"{name}.json", document)
    return plan.changes


def _load(scratch: Path) -> tuple[TokenizerLike, FolderFacts]:
    tokenizer, folder = read_folder(scratch)
    if tokenizer is None:
        raise PadfixError(f"The tokenizer does not load, so it cannot be repaired ({folder.load_error}).")
    return tokenizer, folder


def _edit_files(scratch: Path, changes: Sequence[Change]) -> Sequence[Change]:
    """Set entries of the tokenizer's JSON files; in tokenizer_config.json, None removes one."""
    for beginning, file in _IN_FILES.items():
        mine = [change for change in changes if change.target.startswith(beginning)]
        if not mine:
            continue
        path = scratch / file
        content = json.loads(path.read_text(encoding="utf-8"))
        for change in mine:
            name = change.target.removeprefix(beginning)
            content[name] = list(change.after) if isinstance(change.after, tuple) else change.after
            if change.after is None and file == "tokenizer_config.json":
                del content[name]
        _write(path, content)
    return changes


def _write(path: Path, content: JsonObject) -> None:
    try:
        text = (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell
        text = (json.dumps(content, indent=2) + "\n").encode()
    path.write_bytes(text)
