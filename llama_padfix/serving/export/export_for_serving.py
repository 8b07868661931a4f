"""`export_for_serving`: a copy of a folder in which files make the difference that files can make."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llama_padfix.core.files import scratch_folder
from llama_padfix.serving.check_serving import check_serving
from llama_padfix.serving.engines.catalogue import choose_engines, open_engines
from llama_padfix.serving.export.beyond_files import list_beyond, list_commands
from llama_padfix.serving.export.settings import find_files, fix_files, require_new, write_template
from llama_padfix.serving.export.template import rewrite_template
from llama_padfix.serving.export.training import read_training
from llama_padfix.serving.folder import read_served_folder

if TYPE_CHECKING:
    from llama_padfix.core.types import Rows
    from llama_padfix.encoding.encoder import ChatEncoder
    from llama_padfix.serving.report import ServingReport

_COPIED = ("*.json", "*.jinja", "*.model", "*.txt")
_LINKED = ("*.safetensors", "*.bin", "*.pt", "*.pth")


def export_for_serving(
    folder: str | Path,
    out: str | Path,
    dataset: Rows | None = None,
    *,
    engines: Sequence[str] | None = None,
    rows: int = 200,
    encoder: ChatEncoder | None = None,
) -> ServingReport:
    """Write a copy of a folder that serving engines read as the training did, and compare it.

    The template is written into both places that engines read, with the date and the arguments of the training in it;
    constructs that engines lack are rewritten, each only where every row and every own chat renders to the same text,
    and no engine renders more of them otherwise.
    The ids with which trained turns end go into every file of stops. Weights are linked where the file system can,
    else copied. What files cannot do is in `ServingReport.beyond_files`, with the lines for
    a server's start in `ServingReport.commands`.

    Args:
        folder: The folder that the run saved.
        out: The folder to write, which must not exist; it is written whole or not at all.
        dataset: The rows that were trained; None for the library's own chats.
        engines: The names of engines to compare the copy with; None for all.
        rows: The most rows that are read.
        encoder: The encoder of the training; by default `ChatEncoder(tokenizer)`, which pins the date of today.

    Returns:
        The comparison of the copy with the training, and `changes`, `commands` and `beyond_files`.

    Raises:
        PadfixError: `out` exists, or what `check_serving` raises. Nothing is written then.
    """
    target = require_new(out)
    names = choose_engines(engines)
    served = read_served_folder(folder)
    training = read_training(served, dataset, rows, encoder)
    ends = training.trained.ends
    eos = served.tokens.get("eos_token") if ends and served.id_of("eos_token") not in ends else None
    with ExitStack() as stack:
        opened, _ = open_engines(names, served, stack)
        saved = rewrite_template(training.chats, training.more, opened, eos)
    target.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(target.parent, f".{target.name}-") as scratch:
        _copy(Path(served.path), scratch)
        write_template(scratch, saved.source)
        changes = [*saved.changes, "the template is in chat_template.jinja and in tokenizer_config.json"]
        fixed, left = fix_files(scratch, served, training.trained, saved.source)
        report = check_serving(scratch, training.rows or None, engines=names, rows=rows, encoder=training.encoder)
        commands = tuple(list_commands(report, read_served_folder(scratch), ends, saved))
        scratch.rename(target)
    beyond_files = (*list_beyond(report), *left)
    return replace(report, changes=(*changes, *fixed), commands=commands, beyond_files=beyond_files)


def _copy(folder: Path, scratch: Path) -> None:
    """Copy the settings of a folder, and link its weights where that can be done."""
    for file in find_files(folder, _COPIED):
        shutil.copyfile(file, scratch / file.name)
    for file in find_files(folder, _LINKED):
        try:
            os.link(file.resolve(), scratch / file.name)
        except OSError:  # another file system, or one without links
            shutil.copyfile(file, scratch / file.name)
