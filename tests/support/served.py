"""Saved folders for serving: a byte tokenizer with a template of TRL's, and where each engine finds it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.byte_tokenizer import make_byte_tokenizer
from tests.support.families import _CONTROL, _SOFT, FOLDER


def read_template(name: str) -> str:
    return (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")


def save_folder(
    folder: Path,
    source: str,
    *,
    eos: str | None = None,
    everywhere: bool = True,
    generation: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    more: tuple[str, ...] = (),
) -> Path:
    """Save a byte tokenizer with a template; `everywhere` puts the template into both files."""
    controls = sorted({*_CONTROL.findall(source), *more, "<|end|>"})
    bos = next((one for one in controls if "begin_of_text" in one or one in ("<bos>", "<s>")), None)
    bos = bos or ("<s>" if "bos_token" in source else None)
    tokenizer = make_byte_tokenizer(
        controls, eos or "<|end|>", template=source, bos=bos, soft=sorted(set(_SOFT.findall(source)))
    )
    tokenizer.save_pretrained(folder)
    if everywhere:
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": source}))
    for name, held in (("generation_config.json", generation), ("config.json", config)):
        if held is not None:
            (folder / name).write_text(json.dumps(held))
    return folder
