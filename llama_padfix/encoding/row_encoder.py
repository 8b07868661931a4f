"""Rows to ids and labels one by one: whatever shape, template or special case, each turn proven where it stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.chat_ids import ChatLabeler
from llama_padfix.encoding.chat_rows import ChatRenderer, RenderedChat
from llama_padfix.encoding.row_formats import read_row
from llama_padfix.encoding.text_rows import TextEncoder

if TYPE_CHECKING:
    from llama_padfix.core.types import TokenizerLike
    from llama_padfix.encoding.settings import EncodeSettings
    from llama_padfix.encoding.truncation import EncodedRow

__all__ = ["RowEncoder"]

_T = TypeVar("_T")


class RowEncoder:
    """Encodes rows exactly, and keeps what it learns of the tokenizer and its chat template.

    `settings` may be replaced by others with the same `template_kwargs`. `text_end_id` ends a plain text.
    """

    def __init__(self, tokenizer: TokenizerLike, settings: EncodeSettings, text_end_id: int | None) -> None:
        self.tokenizer = tokenizer
        self.settings = settings
        self.chats = ChatRenderer(tokenizer, settings.template_kwargs)
        self._labeler = ChatLabeler(tokenizer)
        self._texts = TextEncoder(tokenizer, settings.template_kwargs, text_end_id)

    def encode(self, named: Sequence[tuple[str, Any]]) -> list[EncodedRow | PadfixError]:
        """Encode rows in one call of the tokenizer where that is possible; the error where a row cannot be read."""
        read = [(name, self._read(row, name)) for name, row in named]
        chats = [chat for _, chat in read if isinstance(chat, RenderedChat)]
        labels = self._labeler.start(chats, self.settings.max_length)
        return [self._attempt(name, next(labels)) if isinstance(row, RenderedChat) else row for name, row in read]

    def _read(self, row: Any, name: str) -> RenderedChat | EncodedRow | PadfixError:
        """Render a conversation, or encode a text; what is wrong with the tokenizer or its template always raises."""
        found = self._attempt(name, lambda: read_row(row))
        if isinstance(found, PadfixError):
            return found
        text, messages = found.text, found.messages or []
        if text is not None:
            return self._attempt(name, lambda: self._texts.encode(text, self.settings.train_on))
        _ = self.chats.template  # outside of the attempt: it always raises
        return self._attempt(name, lambda: self.chats.render(messages, found.tools, found.trained_from, self.settings))

    def _attempt(self, name: str, read: Callable[[], _T]) -> _T | PadfixError:
        """Return what `read` returns; its error with `on_error="drop"`, else raise that with the row's name."""
        try:
            return read()
        except PadfixError as error:
            if self.settings.on_error == "drop":
                return error
            raise PadfixError(f"{name}: {error}" if name else str(error)) from error
