"""The trained model served: saved, exported, written as GGUF and run by llama.cpp itself, where that is installed."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from llama_padfix.demo.gguf_model import write_model
from llama_padfix.serving.engines.engine import EngineMissingError
from llama_padfix.serving.engines.javascript.bridge import BridgeError, open_bridge
from llama_padfix.serving.engines.llama_cpp import QUIRKS
from llama_padfix.serving.engines.llamacpp.run_vocabulary import NODE_LLAMA, GgufMissingError
from llama_padfix.serving.folder import read_served_folder
from llama_padfix.serving.rendering.chat import Chat
from llama_padfix.serving.rendering.render import render_chat

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from llama_padfix.core.types import Message, TokenizerLike

    Export = Callable[[Path, Path], object]

_CONTEXT = 1024  # tokens
_SECONDS = 120.0  # for all answers of one model


class Answer(NamedTuple):
    """What llama.cpp generated for a prompt."""

    ids: list[int]
    """The generated ids."""
    ended: bool
    """The last one is an end of generation for llama.cpp."""


Generate = Callable[[Path, Sequence[str], int], list[Answer]]
"""From a GGUF file, prompts as text and the most new tokens to greedy answers."""


def count_stops_in_llama_cpp(
    model: PreTrainedModel,
    tokenizer: TokenizerLike,
    prompts: Sequence[list[Message]],
    new_tokens: int,
    export: Export | None = None,
) -> int | str:
    """Return the number of prompts whose answer llama.cpp ends by itself, or the lines that install it.

    Args:
        model: The trained model.
        tokenizer: Its tokenizer.
        prompts: Conversations whose next turn is the assistant's.
        new_tokens: The most tokens of an answer.
        export: Writes the folder that is served from the one that was saved; by default that one is served.
    """
    try:
        generate = find_llama_cpp()
        with tempfile.TemporaryDirectory(prefix="llama_padfix_") as place:
            folder, exported, file = Path(place, "saved"), Path(place, "exported"), Path(place, "model.gguf")
            model.save_pretrained(folder)
            tokenizer.save_pretrained(str(folder))
            if export is not None:
                export(folder, exported)
                folder = exported
            write_model(model, folder, file)
            return sum(answer.ended for answer in generate(file, render_prompts(folder, prompts), new_tokens))
    except (EngineMissingError, GgufMissingError) as error:
        return str(error)


def render_prompts(folder: Path, prompts: Sequence[list[Message]]) -> list[str]:
    """Return the texts that llama-server's chat layer makes of conversations today, by its rules."""
    served = read_served_folder(folder, today=True)
    source, tokens = served.template or "", served.tokens
    return [render_chat(Chat(chat, None, source=source, tokens=tokens, day=served.day), QUIRKS) for chat in prompts]


def find_llama_cpp() -> Generate:
    """Return what generates: llama-cpp-python if it is installed, else node-llama-cpp.

    Raises:
        EngineMissingError: neither is there; the message is the lines that install them.
    """
    try:
        llama_cpp: Any = importlib.import_module("llama_cpp")  # untyped, and rarely installed
    except (ImportError, OSError, RuntimeError):  # the last two where its library does not load
        return _find_node()
    return lambda file, prompts, new_tokens: _generate_in_process(llama_cpp, file, prompts, new_tokens)


def _find_node() -> Generate:
    with tempfile.TemporaryDirectory() as nowhere:
        try:
            bridge = open_bridge([NODE_LLAMA], never_in=Path(nowhere), seconds=_SECONDS)
        except EngineMissingError as error:
            raise EngineMissingError(f"pip install llama-cpp-python, or {error}") from None

    def generate(file: Path, prompts: Sequence[str], new_tokens: int) -> list[Answer]:
        try:
            answers = bridge.ask("generateGguf", file=str(file), texts=prompts, tokens=new_tokens, context=_CONTEXT)
        except BridgeError as error:
            raise EngineMissingError(f"{NODE_LLAMA} does not run the model ({error})") from None
        finally:
            bridge.close()
        return [Answer(answer["ids"], answer["ended"]) for answer in answers]

    return generate


def _generate_in_process(llama_cpp: Any, file: Path, prompts: Sequence[str], new_tokens: int) -> list[Answer]:
    model = llama_cpp.Llama(str(file), n_ctx=_CONTEXT, n_gpu_layers=0, n_threads=1, n_threads_batch=1, verbose=False)
    vocabulary = llama_cpp.llama_model_get_vocab(model.model)
    answers = []
    for prompt in prompts:
        ids: list[int] = []
        ended = False
        for token in model.generate(model.tokenize(prompt.encode(), add_bos=False, special=True), temp=0.0):
            ids.append(int(token))
            ended = bool(llama_cpp.llama_vocab_is_eog(vocabulary, token))
            if ended or len(ids) == new_tokens:
                break
        answers.append(Answer(ids, ended))
    model.close()
    return answers
