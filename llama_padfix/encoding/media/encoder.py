"""Rows with images, videos and sounds to ids and labels, with nothing lost in silence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import IGNORE_INDEX, TOO_DEEP, PadfixError
from llama_padfix.core.text import printable
from llama_padfix.encoding.counts import Counts, count_rows
from llama_padfix.encoding.encoded_rows import EncodedRow, fit_row
from llama_padfix.encoding.encoder import ChatEncoder
from llama_padfix.encoding.loss_selection import UntrainedError
from llama_padfix.encoding.media.chats import ChatsWithMedia, MediaChat, MediaRow
from llama_padfix.encoding.media.parts import TEXT_COLUMNS, read_media_row

if TYPE_CHECKING:
    import pyarrow as pa

    from llama_padfix.core.types import TokenizerLike

MEDIA_COLUMNS = ("input_ids", "labels", "media_counts")
_DETAIL = 200  # characters of a note


class MediaEncoder(ChatEncoder):
    """Encode rows with images, videos and sounds into `input_ids`, `labels` and `media_counts`.

    The ids are those of the processor's own call, with placeholders written out; every token that the processor writes
    for a medium has the label -100. Pixel values are made by the collator, from the row's own columns. `media_counts`
    are the numbers of images, videos and sounds of which the row holds the tokens.

    Args:
        processor: The processor, which is never changed.
        tokenizer: Its tokenizer.
        settings: Those of `ChatEncoder`.

    Raises:
        PadfixError: As `ChatEncoder`; the processor does not show where its media stand, or `truncation="tokens"`
            could cut one.
    """

    def __init__(self, processor: Any, tokenizer: TokenizerLike, *settings: Any, **named: Any) -> None:  # see there
        super().__init__(tokenizer, *settings, **named)
        self.processor = processor
        self.columns = MEDIA_COLUMNS
        self._chats = ChatsWithMedia(processor)
        if self.truncation == "tokens" and self.max_length is not None:
            raise PadfixError(
                "truncation='tokens' cuts a row at any token, and half an image is none. Cut whole turns with their "
                "media: truncation='turns'"
            )

    def __getstate__(self) -> dict[str, object]:
        """Leave out what was counted and learned."""
        return {**super().__getstate__(), "_chats": ChatsWithMedia(self.processor)}

    text_columns = TEXT_COLUMNS
    """The columns of text that an encoded dataset may lose."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of media that the processor reads."""
        return tuple(self._chats.reader.tokens)

    def encode_each(
        self, rows: Sequence[object], numbers: Sequence[int | None]
    ) -> tuple[list[MediaRow | None], Counts]:
        """Encode rows, None in the place of one that is dropped, and return what became of them beside.

        Raises:
            PadfixError: A row is refused (see `on_error`), with its number.
        """
        encoded: list[MediaRow | None] = []
        outcomes: list[tuple[int | None, int, int, Mapping[str, str]]] = []
        for number, row in zip(numbers, rows, strict=True):
            made, notes = self._encode(row, "" if number is None else f"row {number}")
            encoded.append(made)
            trained = sum(label != IGNORE_INDEX for label in made.labels) if made else 0
            notes = {kind: printable(detail)[:_DETAIL] for kind, detail in notes.items()}
            outcomes.append((number, len(made.input_ids) if made else 0, trained, notes))
        return encoded, count_rows(outcomes)

    def _encode_rows(
        self, rows: Sequence[object], numbers: Sequence[int | None], of_batch: bool = False, strict: bool = False
    ) -> tuple[dict[str, list[list[int]]], Counts]:
        encoded, counts = self.encode_each(rows, numbers)
        self.counts = self.counts + counts
        kept = [row for row in encoded if row is not None]
        return {name: [list(getattr(row, name)) for row in kept] for name in MEDIA_COLUMNS}, counts

    def encode_chunk(
        self, table: pa.Table | pa.RecordBatch, first_row: int = 0, *, carry: Sequence[str] = (), strict: bool = False
    ) -> tuple[pa.Table, Counts]:
        """Raise `PadfixError`: rows with media are encoded beside their own columns."""
        raise PadfixError("A table would lose its media. Pass the dataset: prepare(processor, model).encode(dataset)")

    encode_table = encode_chunk  # neither returns

    def _encode(self, row: object, name: str) -> tuple[MediaRow | None, Mapping[str, str]]:
        try:
            found, media = read_media_row(row)
            if found.messages is None:
                made = MediaChat(self._encode_text(row))
            else:
                made = self._chats.encode(self._learn().row_encoder, found, media)
            fitted = fit_row(made.row, self.max_length, self.settings.truncation, "")
        except (PadfixError, RecursionError) as error:
            error = PadfixError(TOO_DEEP) if isinstance(error, RecursionError) else error
            if self.settings.on_error == "drop":
                kind = "dropped_untrained" if isinstance(error, UntrainedError) else "dropped_invalid"
                return None, {kind: str(error)}
            raise PadfixError(f"{name}: {error}" if name else str(error)) from error
        if fitted.pieces:
            return None, {"dropped_too_long": f"{len(fitted.input_ids)} tokens of plain text"}
        if not fitted.trained:
            return None, fitted.notes
        return MediaRow(fitted.input_ids, fitted.labels, made.keep(len(fitted.input_ids))), fitted.notes

    def _encode_text(self, row: object) -> EncodedRow:
        [encoded] = self._learn().row_encoder.encode([("", row)])
        if isinstance(encoded, PadfixError):  # with on_error="drop"
            raise encoded
        return encoded
