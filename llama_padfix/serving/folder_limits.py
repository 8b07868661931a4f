"""Limits of a folder of a stranger: files that are files, of usual size, and templates that come to an end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from llama_padfix.core.errors import PadfixError
from llama_padfix.serving.own_chats import OWN_CHATS
from llama_padfix.serving.rendering.chat import Chat, RenderRefusedError, RenderStoppedError
from llama_padfix.serving.rendering.render import render_chat

_MEGABYTES = {
    "tokenizer.json": 512,
    "vocab.json": 512,
    "merges.txt": 512,
    "generation_config.json": 4,
    "config.json": 16,
}
"""Beyond that a file is not read."""

_READ = {".json": 64, ".jinja": 4, ".txt": 64, ".model": 512, ".tiktoken": 512}
"""The same of other files by the ending; files with other endings, such as weights, are not read whole."""


def require_small_files(folder: Path) -> None:
    """Raise `PadfixError` for a file of unusual size, and for what has its name and is a device or a pipe."""
    for file in (*folder.iterdir(), *folder.glob("additional_chat_templates/*")):
        if file.suffix not in _READ and file.suffix not in (".safetensors", ".bin"):
            continue
        if not file.is_file():
            seen = "points to nothing" if file.is_symlink() and not file.exists() else "is no regular file"
            raise PadfixError(f"{file.name} {seen}, so it is not read. Check where the folder is from.")
        most = _MEGABYTES.get(file.name, _READ.get(file.suffix))
        size = file.stat().st_size
        if most is not None and size > most * 2**20:
            raise PadfixError(
                f"{file.name} has {size >> 20} MB, and none needs more than {most}. Check where it is from."
            )


def require_ending_templates(folder: Path, tokens: Mapping[str, str], *templates: object) -> None:
    """Render chats of the library's own within limits; raise `PadfixError` for a template that exceeds them.

    Args:
        folder: The folder.
        tokens: The texts of `bos_token` and the like.
        templates: Sources, objects of sources by name, or what a file holds in their place.
    """
    held = [text for one in templates for text in (one.values() if isinstance(one, Mapping) else [one])]
    for source in {text for text in held if isinstance(text, str)}:
        for row in OWN_CHATS.values():
            for end in range(1, len(row["messages"]) + 1):
                chat = Chat(row["messages"][:end], row.get("tools"), {}, source, tokens)
                try:
                    render_chat(chat)
                    render_chat(Chat(chat.messages, chat.tools, {}, source, tokens, add_generation_prompt=False))
                except RenderStoppedError as error:
                    raise PadfixError(
                        f"{error} Look at what wrote the template of {folder.name} before it is used."
                    ) from None
                except RenderRefusedError:  # some templates refuse some chats
                    continue
