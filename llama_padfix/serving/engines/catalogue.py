"""The engines by name. A name's file is loaded when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from llama_padfix.core.errors import PadfixError, describe
from llama_padfix.encoding.sources import is_iterable
from llama_padfix.serving.engines.engine import Engine, EngineMissingError

if TYPE_CHECKING:
    from contextlib import ExitStack

    from llama_padfix.serving.folder import ServedFolder
    from llama_padfix.serving.rendering.chat import Chat

ENGINES = MappingProxyType(
    {
        "transformers": "transformers",
        "transformers-5.20": "transformers_before",
        "vllm": "vllm",
        "sglang": "sglang",
        "tgi": "tgi",
        "minijinja": "minijinja",
        "mlx-lm": "mlx_lm",
        "ollama": "ollama",
        "llama.cpp": "llama_cpp",
        "transformers.js": "transformers_js",
    }
)
"""Every engine by its name, with its file in this room."""


def choose_engines(names: str | Sequence[str] | None, argument: str = "engines") -> tuple[str, ...]:
    """Return the names of engines, each once; all where None is given.

    Args:
        names: A name, or several.
        argument: What the error calls them.

    Raises:
        PadfixError: a name is not known, or there is none.
    """
    given: object = names
    chosen = list(ENGINES if given is None else given if is_iterable(given) else [given])
    for name in chosen or ("",):
        if not isinstance(name, str) or name not in ENGINES:
            raise PadfixError(
                f"{argument} names {describe(name)}, which is not known. Choose of: {', '.join(ENGINES)}"
            )
    return tuple(dict.fromkeys(chosen))


def open_engines(names: Sequence[str], folder: ServedFolder, stack: ExitStack) -> tuple[list[Engine], dict[str, str]]:
    """Return the engines with a folder opened, and for those that are not installed the line that installs them.

    The stack ends the processes that they start, those of the first ones too where a later one raises.
    """
    opened: list[Engine] = []
    missing: dict[str, str] = {}
    for name in names:
        module = importlib.import_module(f"llama_padfix.serving.engines.{ENGINES[name]}")
        try:
            engine: Engine = module.open_engine(folder)
        except EngineMissingError as error:
            missing[name] = str(error)
            continue
        opened.append(engine)
        if engine.close is not None:
            stack.callback(engine.close)
    return opened, missing


def open_live(url: str, folder: ServedFolder, chats: Sequence[Chat]) -> Engine:
    """Return a server that runs; `serving.live.open_server` says how."""
    module = importlib.import_module("llama_padfix.serving.live.open_server")
    engine: Engine = module.open_server(url, folder, chats)
    return engine
