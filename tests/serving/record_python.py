"""Writes `recorded_python.json`: what the code of vLLM, SGLang and mlx-lm makes of the pairs.

    python -m tests.serving.record_python FOLDER

Installs them in FOLDER where there is none, without what they need to run a model. Of each template the hash of all
its texts is kept, and which of its chats are refused. `LLAMA_PADFIX_PYTHON_ENGINES=FOLDER pytest -m slow
tests/serving/test_python_engines.py` compares with the code itself.
"""

from __future__ import annotations

import datetime
import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from llama_padfix.serving.rendering.chat import Chat, RenderRefusedError
from llama_padfix.serving.rendering.render import render_chat
from tests.serving.engine_chats import pairs, short_hash
from tests.serving.odd_chats import ODD_CHATS, SHOW, SHOW_PARTS

FILE = Path(__file__).with_name("recorded_python.json")
DAY = datetime.date(2026, 7, 4)
ENGINES = {"vllm": "vllm", "sglang": "sglang", "mlx-lm": "mlx_lm"}
"""By the name of an engine: its file in `tests/serving/real`."""
NEEDED = ("mlx[cpu]==0.32.4", "openai", "fastapi", "msgspec", "orjson", "partial-json-parser", "pillow")


def all_chats() -> Iterator[tuple[str, Iterator[Chat]]]:
    """Yield each template with its chats, under a name that holds what all were made of."""
    given = ((name, chat) for name, chat in pairs())
    for template, several in groupby(given, key=lambda pair: pair[0].partition("/")[0]):
        held = list(several)
        names = short_hash(" ".join(name for name, _ in held))
        yield f"{template}/{names}", (replace(chat, day=DAY) for _, chat in held)
    for name, source in (("show", SHOW), ("show parts", SHOW_PARTS)):
        chats = [Chat(odd["messages"], odd.get("tools"), source=source, day=DAY) for odd in ODD_CHATS.values()]
        yield f"{name}/{short_hash(source + repr(ODD_CHATS))}", iter(chats)


def hash_texts(chats: Iterator[Chat], render: Callable[[Chat], str], refused: list[bool]) -> str:
    """Return the hash of what an engine makes of chats; what is in `refused` is left out.

    Args:
        chats: The chats.
        render: Makes the text of a chat.
        refused: Whether the real engine refuses a chat, for each; filled where it is empty.
    """
    known, texts = bool(refused), []
    for number, chat in enumerate(chats):
        if known and refused[number]:
            continue
        try:
            texts.append(render(chat))
        except RenderRefusedError:
            texts.append("error")
        except Exception:  # of the real engine: it refuses the request
            refused.append(True)
            continue
        if not known:
            refused.append(False)
    return short_hash("\0".join(texts))


def record(folder: Path) -> dict[str, dict[str, dict[str, object]]]:
    """Return for each engine and template the hash, and the numbers of the chats that it refuses."""
    recorded: dict[str, dict[str, dict[str, object]]] = {}
    for engine, file in ENGINES.items():
        serve = importlib.import_module(f"tests.serving.real.{file}").open_engine(folder)
        found = recorded[engine] = {}
        for name, chats in all_chats():
            refused: list[bool] = []
            texts = hash_texts(chats, lambda chat: render_chat(serve(chat)), refused)  # noqa: B023
            found[name] = {"texts": texts, "refused": [number for number, no in enumerate(refused) if no]}
    return recorded


def install(folder: Path, packages: list[str]) -> None:
    """Install the packages alone, and what their modules for prompts import."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder)]
    subprocess.run([*pip, "--no-deps", *packages], check=True)
    subprocess.run([*pip, *NEEDED], check=True)


def main(folder: Path) -> None:
    versions = [importlib.import_module(f"tests.serving.real.{file}").PACKAGE for file in ENGINES.values()]
    if not folder.is_dir():
        install(folder, versions)
    document = {"made by": "make python-engines", "versions": versions, "engines": record(folder)}
    FILE.write_text(json.dumps(document, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
