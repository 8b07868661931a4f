"""What an encoder learns of a tokenizer, and rows encoded with it: by the batch encoder where it is proven."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llama_padfix.encoding.batch.chat_columns import Chats, Words, read_chat_rows, read_chat_table, take_rows
from llama_padfix.encoding.batch.cross_check import (
    Batch,
    FastPathMismatch,
    Rows,
    encode_cross_checked,
    encode_row_by_row,
    make_batch_encoders,
)
from llama_padfix.encoding.reading.json_columns import decode_rows
from llama_padfix.encoding.reading.side_columns import (
    MEDIA_MARKS,
    find_unread,
    find_unread_columns,
    find_unread_fields,
    find_unread_keys,
)
from llama_padfix.encoding.row_formats import CONVERSATION_COLUMNS, SHAPES
from llama_padfix.tokens.calls import preserve_backend_state
from llama_padfix.tokens.engine import Engine, EngineChoice, choose_engine, read_settings

if TYPE_CHECKING:
    import pyarrow as pa

    from llama_padfix.core.types import IdArray, LongArray, TokenizerLike
    from llama_padfix.encoding.batch.encoder import BatchEncoder
    from llama_padfix.encoding.batch.texts import TextBatchEncoder
    from llama_padfix.encoding.row_encoder import RowEncoder
    from llama_padfix.encoding.settings import EncodeSettings

_CHUNK_ROWS = 2000  # one call of an engine for many more takes twice the CPU, and memory
_FEW = 2  # rows below which nothing is learned


def find_key(tokenizer: TokenizerLike, settings: EncodeSettings, engine: EngineChoice) -> tuple[object, ...]:
    """Return what decides which things are learned: with another key they are learned anew.

    Without a backend, of what decides the ids only the number of added tokens is compared.
    """
    decides = read_settings(tokenizer) or len(getattr(tokenizer, "added_tokens_decoder", ()))
    template = copy.copy(getattr(tokenizer, "chat_template", None))
    chosen = (dict(settings.template_kwargs), settings.train_on, engine)
    return tokenizer, decides, tokenizer.special_tokens_map, template, chosen


@dataclass(eq=False)
class Learned:
    """What was learned for one `key`, and encodes rows with it."""

    key: tuple[object, ...]
    row_encoder: RowEncoder
    engine_choice: EngineChoice
    gave_up: bool
    """Whether the batch encoder was given up because a row that it encoded proved wrong."""
    batch_encoder: BatchEncoder | None = None
    text_encoder: TextBatchEncoder | None = None
    tokenizer_hash: str = ""
    """Empty until it is needed: it takes a while to compute."""
    engine: Engine | None = None
    """Chosen when the first texts are encoded."""
    tried_batch: bool = False
    """Whether there was an attempt to make the batch encoder."""
    characters_ahead: int | None = None
    """An upper bound for the characters of the table that is encoded; it decides the engine."""

    def __post_init__(self) -> None:
        self.row_encoder.spans.encode_texts = self._encode_texts

    @property
    def doubtful(self) -> bool:
        """True once a fast path was given up because a row that it encoded proved wrong."""
        return self.gave_up or (self.engine is not None and bool(self.engine.failed))

    def encode_rows(
        self, rows: Sequence[object], numbers: Sequence[int | None], of_batch: bool, strict: bool
    ) -> Batch:
        """Encode rows with their numbers; see `Rows`. With `strict` raise `FastPathMismatch` once it is `doubtful`."""
        together = Rows(functools.partial(_choose, rows), numbers, of_batch)
        batch = self._encode(together, functools.partial(read_chat_rows, rows), strict)
        return _name_unread(batch, find_unread(rows, SHAPES) + find_unread_keys(rows, *self._keys_in))

    def encode_table(
        self, table: pa.Table, first_row: int, carry: Sequence[str], strict: bool
    ) -> list[tuple[pa.Table, Batch]]:
        """Encode the rows of a table in parts, each as a table with the columns to `carry`; see `encode_rows`."""
        import pyarrow

        with contextlib.suppress(pyarrow.ArrowException):  # some releases cannot measure views of strings
            self.characters_ahead = table.nbytes
        parts = []
        for start in range(0, max(table.num_rows, 1), _CHUNK_ROWS):
            part = table.slice(start, min(_CHUNK_ROWS, table.num_rows - start))  # without columns it would be longer
            numbers = range(first_row + start, first_row + start + part.num_rows)
            decoded = decode_rows(part)
            if decoded is None:
                rows = Rows(functools.partial(take_rows, part), numbers)
                batch = self._encode(rows, functools.partial(read_chat_table, part), strict)
                unread = find_unread_fields(part, *self._keys_in)
            else:
                rows = Rows(functools.partial(_choose, decoded), numbers)
                batch = self._encode(rows, functools.partial(read_chat_rows, decoded), strict)
                unread = find_unread_keys(decoded, *self._keys_in)
            batch = _name_unread(batch, find_unread_columns(part, SHAPES, carry) + unread)
            parts.append((batch.to_table(part.select(list(carry))), batch))
        return parts

    def _encode(self, rows: Rows, read_chats: Callable[[Words], Chats], strict: bool) -> Batch:
        """Encode rows, of which `read_chats` finds the plain conversations that hold none of some words, and texts."""
        batch = None
        with preserve_backend_state(self.row_encoder.tokenizer):
            if not self.tried_batch and len(rows.numbers) >= _FEW:
                self.tried_batch = True
                self.batch_encoder, self.text_encoder = make_batch_encoders(self.row_encoder, self._encode_texts)
            if self.batch_encoder is not None or self.text_encoder is not None:
                chats = read_chats(self._find_words())
                while self.batch_encoder is not None and self.batch_encoder.learn(chats):
                    chats = read_chats(self._find_words())
                try:
                    batch = encode_cross_checked(self.row_encoder, self.batch_encoder, self.text_encoder, chats, rows)
                except FastPathMismatch:
                    self.batch_encoder, self.text_encoder, self.gave_up = None, None, True
            if strict and self.doubtful:
                raise FastPathMismatch("a fast path proved wrong, so what it encoded before may be wrong too")
            return batch or encode_row_by_row(self.row_encoder, rows)

    @functools.cached_property
    def _keys_in(self) -> tuple[Sequence[str], str]:
        """The columns of messages, and the source of the chat template that reads their keys."""
        template = self.row_encoder.chats.find_template()
        return CONVERSATION_COLUMNS, template.source if template is not None else ""

    def _find_words(self) -> Words:
        batch, header = self.batch_encoder, self.row_encoder.texts.completion_header
        if batch is None:
            return Words(MEDIA_MARKS, header)
        return Words([*batch.forbidden, *MEDIA_MARKS], header, frozenset(batch.known.opened))

    def _encode_texts(self, texts: Sequence[str]) -> tuple[IdArray, LongArray]:
        if self.engine is None:
            self.engine = choose_engine(
                self.row_encoder.tokenizer, self.engine_choice, characters=self.characters_ahead
            )
            self.engine.is_fixed = True  # `find_key` holds its settings
        return self.engine.encode(texts)


def _name_unread(batch: Batch, columns: tuple[str, ...]) -> Batch:
    return replace(batch, counts=replace(batch.counts, unread_columns=columns)) if columns else batch


def _choose(rows: Sequence[object], places: Sequence[int]) -> list[object]:
    return [rows[place] for place in places]
