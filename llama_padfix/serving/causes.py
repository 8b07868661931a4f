"""The causes of a difference by name, and which of them change a text."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from llama_padfix.chat.traced_render import source_of
from llama_padfix.serving.rendering.chat import Chat, Quirk, RenderRefusedError
from llama_padfix.serving.rendering.quirks import UNPINNED_DATE
from llama_padfix.serving.rendering.render import apply_to_chat, render_chat
from llama_padfix.tokens.calls import encode_raw

if TYPE_CHECKING:
    from llama_padfix.serving.engines.engine import Engine
    from llama_padfix.serving.folder import ServedFolder
    from llama_padfix.serving.trained import Point

UNKNOWN = "unknown"

CAUSES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "date": ("SRV001", "the template prints a date, and that of the training is not passed"),
        "template": ("SRV002", "the engine renders another chat template than the training"),
        "arguments": ("SRV005", "arguments of the template with which the rows were trained are not passed"),
        "thinking switch": ("SRV005", "the engine switches thinking on or off by itself"),
        "escaped JSON": ("SRV006", "tojson writes ' < > & as escapes"),
        "numbers": ("SRV006", "numbers are written in another form"),
        "key order": ("SRV006", "keys of an object are written in another order"),
        "printed values": ("SRV006", "a list, an object or null is printed in another form"),
        "does not run": ("SRV007", "the engine does not run the template"),
        "filter operand": ("SRV007", "a filter for texts gets a list or null, which the engine refuses"),
        "refused": ("SRV012", "the template refuses the conversation up to here"),
        "BOS": ("SRV008", "another number of BOS tokens"),
        "thought key": ("SRV009", "a thought stands under another key than the one that the template reads"),
        "null key": ("SRV009", "null keys of a message reach the template"),
        "roles": ("SRV009", "a role is renamed"),
        "content parts": ("SRV009", "content is passed as parts, or parts as one text"),
        "call arguments": ("SRV009", "the arguments of a call are passed as text, or text as an object"),
        "message keys": ("SRV009", "keys of a message are left out"),
        "tools": ("SRV009", "tools reach the template otherwise, or a text about them is added"),
        "spelled control token": ("SRV010", "a message spells a control token, which was trained as text"),
        "token edge": ("SRV010", "the last token of the prompt reaches into the answer"),
        "encoding": ("SRV010", "the engine makes other ids of the same text"),
        "iterable null": ("SRV007", "null counts as iterable, so that a loop over it is entered"),
        "rewritten source": ("SRV007", "the engine replaces texts in the source of the template"),
        "comparisons": ("SRV007", "values are compared otherwise, so that the template takes another branch"),
        "white space": ("SRV011", "white space is kept or removed otherwise"),
        "earlier turns": ("SRV012", "the template writes earlier turns otherwise while an answer is generated"),
        "generation prompt": ("SRV012", "the generation prompt is not what stands before the trained answer"),
        UNKNOWN: ("SRV013", "no rule of this version explains it"),
    }
)
"""Every cause: its code, and what it is."""


@dataclass
class Explainer:
    """Renders one point after the other by rules, and names what changes their texts. A text is rendered once."""

    folder: ServedFolder

    def __post_init__(self) -> None:
        tokenizer = self.folder.tokenizer
        stripping = any(token.lstrip or token.rstrip for token in tokenizer.added_tokens_decoder.values())
        normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", True)
        self._tells_apart = normalizer is None and not stripping  # two texts always have two encodings

    def begin(self, point: Point, text_ids: tuple[int, ...]) -> None:
        """Go on to a point, of whose trained text the tokenizer makes `text_ids`, and forget the one before."""
        self.point, self.text_ids = point, text_ids
        self._unpinned, _ = apply_to_chat(point.chat, (UNPINNED_DATE,))
        self._chats: dict[str | None, Chat] = {}
        self._texts: dict[tuple[str, str, tuple[Quirk, ...]], str | RenderRefusedError] = {}
        self._ids = {point.text: text_ids}
        self._causes: dict[tuple[int, tuple[Quirk, ...], str], tuple[str, ...]] = {}

    def serve(self, engine: Engine) -> Chat:
        """Return what an engine is given: without the date that was pinned, with the template that it reads."""
        if engine.template not in self._chats:
            chat = self._unpinned
            if engine.template is None or engine.template == self.folder.template:
                served = source_of(self.folder.tokenizer, chat.tools)
            else:
                served = engine.template
            self._chats[engine.template] = chat if served == chat.source else replace(chat, source=served)
        return self._chats[engine.template]

    def render(self, chat: Chat, quirks: tuple[Quirk, ...]) -> str | RenderRefusedError:
        """Return the text of a chat by rules, or why there is none."""
        _, acting = apply_to_chat(chat, quirks)
        arguments = repr({name: value for name, value in chat.kwargs.items() if name != "chat_template"})
        key = (chat.source, arguments, acting)
        if key not in self._texts:
            try:
                self._texts[key] = render_chat(chat, acting)
            except RenderRefusedError as error:
                self._texts[key] = error
        return self._texts[key]

    def has_other_ids(self, text: str) -> bool:
        """Return True if the tokenizer surely makes other ids of a text than of the trained one, BOS aside."""
        return self._tells_apart and self._without_bos(text) != self._without_bos(self.point.text)

    def _without_bos(self, text: str) -> str:
        bos = self.folder.tokenizer.bos_token
        while bos and text.startswith(bos):
            text = text[len(bos) :]
        return text

    def encode(self, engine: Engine, text: str) -> tuple[int, ...]:
        """Return the ids that an engine feeds for a rendered text."""
        if engine.encode is not None:
            return tuple(engine.encode(text))
        if text not in self._ids:
            self._ids[text] = tuple(encode_raw(self.folder.tokenizer, text))
        ids = self._ids[text]
        return ids if engine.bos is None or ids[:1] == (engine.bos,) else (engine.bos, *ids)

    def explain(self, engine: Engine, served: str | RenderRefusedError) -> tuple[str, ...]:
        """Return the causes for which an engine's text at the point is not the trained one, by name.

        The engine's ways are added one by one to what transformers renders: each that changes the text is a cause.
        """
        chat = self.serve(engine)
        _, acting = apply_to_chat(chat, engine.quirks)
        key = (id(chat), acting, str(served))
        if key not in self._causes:
            self._causes[key] = self._find(engine, chat, acting, served)
        return self._causes[key]

    def _find(
        self, engine: Engine, chat: Chat, acting: tuple[Quirk, ...], served: str | RenderRefusedError
    ) -> tuple[str, ...]:
        trained, expected = self.point.text, self.render(self.point.chat, ())
        if isinstance(expected, RenderRefusedError):
            return ("refused",)
        causes: list[str] = []
        if expected != trained:
            is_prompt = expected.startswith(trained) or trained.startswith(expected)
            causes.append("generation prompt" if is_prompt else "earlier turns")
        steps: list[tuple[str, Chat, tuple[Quirk, ...]]] = []
        if _differ(self.render(chat, ()), expected):  # a template that is rewritten may still write the same
            steps = [("date", self._unpinned, ()), ("template", chat, ())]
        steps += [(quirk.cause, chat, acting[: place + 1]) for place, quirk in enumerate(acting)]
        last: str | RenderRefusedError = expected
        for cause, given, quirks in steps:
            text = self.render(given, quirks)
            if _differ(text, last):
                causes.append(cause)
            last = text
        is_lenient = bool(causes) and isinstance(last, RenderRefusedError)  # what a cause made of it
        if _differ(last, served) and not is_lenient:
            causes.append(_name_rest(engine, last, served))
        return tuple(dict.fromkeys(causes)) or (UNKNOWN,)


def _differ(one: str | RenderRefusedError, other: str | RenderRefusedError) -> bool:
    if isinstance(one, RenderRefusedError) and isinstance(other, RenderRefusedError):
        return False
    return one != other


def _name_rest(engine: Engine, expected: str | RenderRefusedError, served: str | RenderRefusedError) -> str:
    """Return the cause of what an engine's real part does otherwise than its rules say."""
    if isinstance(served, RenderRefusedError):
        message = str(served)
        return next((cause for pattern, cause in engine.refusals if re.search(pattern, message)), "does not run")
    if isinstance(expected, RenderRefusedError):
        return "does not run"
    one, other = expected, served
    for cause, normalize in _NORMALIZED:
        one, other = normalize(one), normalize(other)
        if one == other:
            return cause
    return UNKNOWN


_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?")
_WORDS = {"True": "true", "False": "false", "None": "null", "none": "null", "'": '"'}
# Each is applied behind those before it; the first after which two texts are the same is the cause.
_NORMALIZED: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("white space", lambda text: "".join(text.split())),
    ("escaped JSON", lambda text: _ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)),
    ("numbers", lambda text: _NUMBER.sub("0", text)),
    ("printed values", lambda text: re.sub("True|False|None|none|'", lambda found: _WORDS[found[0]], text)),
    ("key order", lambda text: "".join(sorted(text))),
)
