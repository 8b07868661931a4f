"""What an engine is to the comparison: how it renders, encodes, stops and samples with one folder.

A file of an engine defines `open_engine(folder: ServedFolder) -> Engine`, which raises `EngineMissingError` where the
package or program that it runs is not installed. An engine by rules is `Engine` with its quirks and nothing more; one
that runs a real part gives `run`, and its quirks then only name causes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llama_padfix.serving.rendering.chat import Chat, Quirk
from llama_padfix.serving.rendering.render import render_chat

if TYPE_CHECKING:
    from llama_padfix.serving.folder import ServedFolder


class EngineMissingError(Exception):
    """What an engine runs is not installed; the message is the line that installs it."""


@dataclass(frozen=True)
class Stops:
    """Where an engine ends an answer."""

    ids: tuple[int, ...] = ()
    """The ids at which generation ends."""

    texts: tuple[str, ...] = ()
    """Texts at which it ends besides."""

    source: str = ""
    """The files and keys that they come from, in a few words."""


@dataclass(frozen=True)
class Engine:
    """One engine with one folder opened."""

    name: str
    """Its name on the command line, such as "vllm"."""

    version: str
    """What was run or read, such as "minijinja 3.1.0, run" or "rules of vLLM 0.33: read, not run"."""

    template: str | None
    """The source of the chat template that it finds, in Jinja; None where it finds none."""

    template_source: str
    """The file that the template is read from, or why there is none."""

    quirks: Sequence[Quirk] = ()
    """How its rendering differs from that of transformers, in the order in which they apply."""

    run: Callable[[Chat], str] | None = field(default=None, repr=False)
    """Renders by the engine's real part; raises `RenderRefusedError`. None for an engine by rules."""

    refusals: Sequence[tuple[str, str]] = ()
    """Patterns (regular expressions) of messages of `RenderRefusedError`, each with the name of the cause."""

    encode: Callable[[str], Sequence[int]] | None = field(default=None, repr=False)
    """The ids that it feeds for a rendered text, BOS included; None where they are those of the tokenizer."""

    bos: int | None = None
    """The BOS that it puts before the tokenizer's ids where they begin with none; None where it puts none."""

    stops: Stops | None = None
    """Where it ends an answer; None for one that renders and does not generate."""

    sampling: Mapping[str, object] = field(default_factory=dict)
    """The settings of sampling that it takes from the folder where a request names none."""

    compares: bool = True
    """Whether its prompts can be compared; False for an engine of which only files and stops are known."""

    notes: tuple[str, ...] = ()
    """What else is to be said of it, a sentence each."""

    close: Callable[[], None] | None = field(default=None, repr=False)
    """Ends a process that it started."""

    def render(self, chat: Chat) -> str:
        """Return the text that the engine makes of a chat.

        Raises:
            RenderRefusedError: it gives none, with its own message.
        """
        return self.run(chat) if self.run is not None else render_chat(chat, self.quirks)


OpenEngine = Callable[["ServedFolder"], Engine]
"""The type of `open_engine`."""
