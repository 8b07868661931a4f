"""Rendered conversations to ids as the encoder makes them: a spelled control token is text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llama_padfix.tokens.span_encoder import SpanEncoder
from llama_padfix.tokens.spelled import TextBackend, encode_around, make_text_backend

if TYPE_CHECKING:
    from llama_padfix.core.types import TokenizerLike
    from llama_padfix.encoding.chat_rows import RenderedChat
    from llama_padfix.tokens.offsets import EncodedText


class ChatIds:
    """Makes ids of rendered conversations, many in one call of the tokenizer."""

    def __init__(self, tokenizer: TokenizerLike) -> None:
        self._tokenizer = tokenizer
        self._spans = SpanEncoder(tokenizer)
        self._text_backend: TextBackend | None = None

    def encode(self, chats: Sequence[RenderedChat], tokens: tuple[str, ...]) -> list[EncodedText]:
        """Return the ids of conversations, with the places of their trained turns.

        Args:
            chats: The conversations.
            tokens: The control tokens and tags of the template, which a message may only spell.
        """
        plain = [chat for chat in chats if not chat.escaped]
        together = iter(self._spans.encode_all([(chat.rendered.text, chat.spans) for chat in plain]))
        encoded = []
        for chat in chats:
            one = None if chat.escaped else next(together, None)
            encoded.append(one or self._encode(chat, tokens))
        return encoded

    def _encode(self, chat: RenderedChat, tokens: tuple[str, ...]) -> EncodedText:
        if not chat.escaped:
            return self._spans.encode(chat.rendered.text, chat.spans)
        if self._text_backend is None:
            self._text_backend = make_text_backend(self._tokenizer, tokens)
        return encode_around(self._tokenizer, chat.rendered.text, chat.escaped, tokens, self._text_backend, chat.spans)
