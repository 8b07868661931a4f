"""Rows to ids and labels one by one: whatever shape, template or special case, each turn proven where it stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, TypeVar

from llama_padfix.core.errors import TOO_DEEP, PadfixError
from llama_padfix.encoding.chat_rows import ChatRenderer, RenderedChat
from llama_padfix.encoding.encoded_rows import EncodedRow, find_cuts, label_tokens
from llama_padfix.encoding.loss_selection import choose_turns
from llama_padfix.encoding.masking.text_rows import TextEncoder
from llama_padfix.encoding.row_formats import Conversation, read_row
from llama_padfix.tokens.span_encoder import SpanEncoder
from llama_padfix.tokens.spelled import TextBackend, encode_around, make_text_backend

if TYPE_CHECKING:
    from llama_padfix.core.types import TokenizerLike
    from llama_padfix.encoding.settings import EncodeSettings
    from llama_padfix.tokens.offsets import EncodedText

_T = TypeVar("_T")
_RENDERERS = 8  # with arguments of rows that are kept


class RowEncoder:
    """Encodes rows exactly, and keeps what it learns of the tokenizer and its chat template.

    `settings` may be replaced by others with the same `template_kwargs`. `text_end_id` ends a plain text.
    """

    def __init__(self, tokenizer: TokenizerLike, settings: EncodeSettings, text_end_id: int | None) -> None:
        self.tokenizer = tokenizer
        self.settings = settings
        self.chats = ChatRenderer(tokenizer, settings.template_kwargs)
        self._chats_of_rows: dict[str, ChatRenderer] = {}
        self.texts = TextEncoder(tokenizer, settings.template_kwargs, text_end_id)
        self.spans = SpanEncoder(tokenizer)

    @cached_property
    def _text_backend(self) -> TextBackend:
        """What encodes a control token as text."""
        return make_text_backend(self.tokenizer, self.chats.tokens)

    def encode(self, named: Sequence[tuple[str, object]]) -> list[EncodedRow | PadfixError]:
        """Encode rows with their names; the error where a row cannot be read.

        Conversations without escaped tokens are encoded in one call of the tokenizer. `PadfixError` is always raised
        for a tokenizer without offsets.
        """
        read = [(name, self._read(row, name)) for name, row in named]
        chats = [row for _, row in read if isinstance(row, RenderedChat)]
        if any(chat.escaped for chat in chats):
            _ = self._text_backend  # outside of the attempts: it always raises
        together = self._encode_together(chats)
        encoded: list[EncodedRow | PadfixError] = []
        for name, row in read:
            if isinstance(row, RenderedChat):
                row = self._attempt(name, partial(self.label, row, None if row.escaped else next(together, None)))
            encoded.append(row)
        return encoded

    def _read(self, row: object, name: str) -> RenderedChat | EncodedRow | PadfixError:
        """Render a conversation, or encode a text; what is wrong with the tokenizer or its template always raises."""
        found = self._attempt(name, lambda: read_row(row))
        if isinstance(found, PadfixError):
            return found
        text, messages = found.text, found.messages or []
        if text is not None:
            return self._attempt(name, lambda: self.texts.encode(text, self.settings.train_on))
        if not found.needs_template:
            completion = self._attempt(name, lambda: self._encode_completion(found))
            if completion is not None:
                return completion
        chats = self.choose_renderer(found.template_kwargs)
        _ = chats.template  # outside of the attempt: it always raises
        chat = self._attempt(name, lambda: chats.render(messages, found.tools, found.trained_from, self.settings))
        return chat if isinstance(chat, PadfixError) else replace(chat, notes={**chat.notes, **found.notes})

    def choose_renderer(self, kwargs: Mapping[str, object]) -> ChatRenderer:
        """Return the renderer for rows with these arguments of the template beside those of the settings."""
        if not kwargs:
            return self.chats
        key = repr(sorted(kwargs.items()))
        if key not in self._chats_of_rows:
            if len(self._chats_of_rows) >= _RENDERERS:
                self._chats_of_rows.clear()
            given = {**self.settings.template_kwargs, **kwargs}
            self._chats_of_rows[key] = ChatRenderer(self.tokenizer, given)
        return self._chats_of_rows[key]

    def _encode_completion(self, found: Conversation) -> EncodedRow | None:
        """Encode a prompt and its completion as text; None where the chat template writes them."""
        assert found.texts is not None and found.messages is not None  # the row needs no template
        separator = "\n\n" if found.shape == "alpaca" else ""
        row = self.texts.encode_completion(*found.texts, separator, self.settings.train_on)
        if row is None:
            return None
        choose_turns(found.messages, self.settings.train_on, found.trained_from)  # a callable may choose none
        empty = {} if found.texts[1].strip() else {"empty": "its completion"}
        return replace(row, notes={**row.notes, **found.notes, **empty})

    def _attempt(self, name: str, read: Callable[[], _T]) -> _T | PadfixError:
        """Return what `read` returns; its error with `on_error="drop"`, else raise that with the row's name."""
        try:
            return read()
        except (PadfixError, RecursionError) as error:  # of a template too, which writes out what is nested
            error = PadfixError(TOO_DEEP) if isinstance(error, RecursionError) else error
            if self.settings.on_error == "drop":
                return error
            raise PadfixError(f"{name}: {error}" if name else str(error)) from error

    def encode_chats(self, chats: Sequence[RenderedChat]) -> list[EncodedText]:
        """Return the ids of rendered conversations, with the places of their trained turns."""
        together = self._encode_together(chats)
        return [self._encode_chat(chat, None if chat.escaped else next(together, None)) for chat in chats]

    def _encode_together(self, chats: Sequence[RenderedChat]) -> Iterator[EncodedText]:
        """Encode the conversations without escaped tokens in one call of the tokenizer."""
        plain = [(chat.rendered.text, chat.spans) for chat in chats if not chat.escaped]
        return iter(self.spans.encode_all(plain))

    def _encode_chat(self, chat: RenderedChat, encoded: EncodedText | None) -> EncodedText:
        text, spans = chat.rendered.text, chat.spans
        if chat.escaped:
            return encode_around(self.tokenizer, text, chat.escaped, self.chats.tokens, self._text_backend, spans)
        return encoded or self.spans.encode(text, spans)

    def label(self, chat: RenderedChat, encoded: EncodedText | None) -> EncodedRow:
        """Label a conversation; it is encoded here where `encoded` is None."""
        ids, places, ends = self._encode_chat(chat, encoded)
        labels = label_tokens(ids, places)
        if places and places[0][0] == 0:  # position 0 is never trained
            places = [(1, max(places[0][1], 1)), *places[1:]]
        max_length = self.settings.max_length
        too_long = max_length is not None and len(ids) > max_length
        cuts = [ends[place] for place in find_cuts(chat.rendered.turns)] if too_long else ()
        return EncodedRow(ids, labels, places, cuts, chat.notes)
