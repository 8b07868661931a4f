"""Rendered conversations to ids and labels: all in one call, those with escaped tokens one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.span_labels import label_tokens
from llama_padfix.encoding.truncation import EncodedRow, find_cuts
from llama_padfix.tokens.offsets import Encoded, encode_spans, require_fast
from llama_padfix.tokens.spelled import TextBackend, encode_around, make_text_backend

if TYPE_CHECKING:
    from llama_padfix.core.types import TokenizerLike
    from llama_padfix.encoding.chat_rows import RenderedChat

__all__ = ["ChatLabeler"]


class ChatLabeler:
    """Encodes and labels rendered conversations with one tokenizer."""

    def __init__(self, tokenizer: TokenizerLike) -> None:
        self.tokenizer = tokenizer
        self._text_backend: TextBackend | None = None

    def start(self, chats: Sequence[RenderedChat], max_length: int | None) -> Iterator[Callable[[], EncodedRow]]:
        """Yield for each conversation the function that labels it; ends of turns are found above `max_length` only.

        Conversations without escaped tokens are encoded in one call of the tokenizer, which is also what raises
        `PadfixError` here for one without offsets. The functions raise it where the tokens of a row cannot be placed.
        """
        escaped = next((chat for chat in chats if chat.escaped), None)
        if escaped is not None and self._text_backend is None:
            self._text_backend = make_text_backend(self.tokenizer, escaped.tokens)
        together = self._encode_together([chat for chat in chats if not chat.escaped])
        for chat in chats:
            encoded = None if chat.escaped else next(together, None)
            yield partial(self._label, chat, encoded, max_length)

    def _encode_together(self, chats: Sequence[RenderedChat]) -> Iterator[Encoded]:
        """Encode conversations in one call; none of them where the tokens of one cannot be placed."""
        if not chats:
            return iter(())
        require_fast(self.tokenizer)
        try:
            texts = [chat.rendered.text for chat in chats]
            return iter([*encode_spans(self.tokenizer, texts, [chat.spans for chat in chats])])
        except PadfixError:
            return iter(())  # each by itself shows which one it is

    def _label(self, chat: RenderedChat, encoded: Encoded | None, max_length: int | None) -> EncodedRow:
        text, spans = chat.rendered.text, chat.spans
        if chat.escaped:
            assert self._text_backend is not None  # made by `start`
            encoded = encode_around(self.tokenizer, text, chat.escaped, chat.tokens, self._text_backend, spans)
        ids, places, ends = encoded or next(encode_spans(self.tokenizer, [text], [spans]))
        labels = label_tokens(ids, places)
        if places and places[0][0] == 0:  # position 0 is never trained
            places = [(1, max(places[0][1], 1)), *places[1:]]
        too_long = max_length is not None and len(ids) > max_length
        cuts = [ends[place] for place in find_cuts(chat.rendered.turns)] if too_long else ()
        return EncodedRow(ids, labels, places, cuts, chat.notes)
