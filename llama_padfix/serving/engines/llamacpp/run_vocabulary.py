"""llama.cpp's own tokenizer and stop list, run by node-llama-cpp on the vocabulary of a folder."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from llama_padfix.serving.engines.engine import EngineMissingError
from llama_padfix.serving.engines.javascript.bridge import BridgeError, NodeBridge, open_bridge
from llama_padfix.serving.engines.llamacpp.vocabulary import GgufMissingError, write_vocabulary
from llama_padfix.serving.rendering.chat import RenderRefusedError

__all__ = ["NODE_LLAMA", "GgufMissingError", "RunVocabulary", "open_vocabulary"]

NODE_LLAMA = "node-llama-cpp@3.22.1"
"""Runs llama.cpp's own tokenizer; prebuilt for most machines."""


class RunVocabulary:
    """llama.cpp's tokenizer on the vocabulary of a folder."""

    def __init__(self, bridge: NodeBridge, file: Path, held: Any) -> None:  # what removes the file
        self._bridge, self._held = bridge, held
        opened = bridge.ask("openGguf", file=str(file))
        self._bos: list[int] = [] if opened["bos"] is None else [int(opened["bos"])]
        self.ends = tuple(int(token_id) for token_id in opened["ends"])
        """The ids that end generation."""
        name = NODE_LLAMA.rpartition("@")[0]
        self.version = f"{name} {bridge.ask('versions', names=[name])[name]}"
        """What runs."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of a rendered prompt: one BOS in front where the vocabulary asks for one."""
        try:
            ids = [int(token_id) for token_id in self._bridge.ask("encodeGguf", texts=[text])[0]]
        except BridgeError as error:
            raise RenderRefusedError(str(error)) from None
        return ids if ids[:1] == self._bos else [*self._bos, *ids]

    def close(self) -> None:
        """End the process and remove the file."""
        self._bridge.close()
        self._held.cleanup()


def open_vocabulary(folder: Path) -> RunVocabulary:
    """Return llama.cpp's tokenizer on a GGUF file of the vocabulary of a folder, in a folder for temporary files.

    Raises:
        EngineMissingError: node-llama-cpp is not installed, or does not open the file.
        GgufMissingError: the file cannot be written.
    """
    bridge = open_bridge([NODE_LLAMA], never_in=folder, seconds=60.0)
    held = tempfile.TemporaryDirectory(prefix="llama_padfix_")
    file = Path(held.name, "vocabulary.gguf")
    try:
        write_vocabulary(folder, file)
        return RunVocabulary(bridge, file, held)
    except BaseException as error:
        bridge.close()
        held.cleanup()
        if isinstance(error, BridgeError):
            raise EngineMissingError(f"{NODE_LLAMA} does not open the vocabulary ({error})") from None
        raise
