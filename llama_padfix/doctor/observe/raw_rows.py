"""What reads and encodes raw rows for the checks: with a processor their media too, else text alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import PadfixError
from llama_padfix.doctor.observe.losses.preferences import holds_answers, read_conversations

if TYPE_CHECKING:
    from llama_padfix.core.types import TokenizerLike
    from llama_padfix.encoding.encoder import ChatEncoder
    from llama_padfix.encoding.row_formats import Conversation


class RawRows:
    """Reads rows one by one, and encodes them together, as `prepare(...).encode` does.

    Args:
        tokenizer: Encodes the rows; without one they are only read.
        processor: Holds the tokenizer, and reads the media of rows; None for rows of text.
        max_length: Tokens of a row.
    """

    def __init__(self, tokenizer: TokenizerLike | None, processor: Any, max_length: int | None) -> None:
        self.encoder = _make_encoder(tokenizer, processor, max_length) if tokenizer is not None else None
        self.reads_media = hasattr(self.encoder, "processor")
        own = self.encoder.template_kwargs.get("chat_template") if self.encoder is not None else None
        self.has_template = bool(getattr(tokenizer, "chat_template", None) or own)

    def read(self, row: Any, number: int) -> tuple[str, list[Conversation], object]:  # a row of any shape
        """Return what `read_conversations` does, of a row that may hold media."""
        if not self.reads_media or holds_answers(row):
            return read_conversations(row, number)
        from llama_padfix.encoding.media.parts import read_media_row

        found, _ = read_media_row(row)
        return found.shape, [found], row

    def encode(self, rows: Sequence[tuple[int, object]]) -> None:
        """Encode rows, which are given with their numbers, and count what becomes of them."""
        if self.encoder is not None and rows:
            self.encoder.encode_rows([row for _, row in rows], [number for number, _ in rows])

    @property
    def unread_media(self) -> int:
        """The number of rows whose conversation can be read, and whose media cannot."""
        return self.encoder.counts.dropped_invalid if self.encoder is not None and self.reads_media else 0


def _make_encoder(tokenizer: TokenizerLike, processor: Any, max_length: int | None) -> ChatEncoder:
    from llama_padfix.encoding.media.choose import choose_encoder  # half of the package, for raw rows alone

    try:
        make, _ = choose_encoder(tokenizer if processor is None else processor, None, "sft", False)
        return make(tokenizer, max_length, on_error="drop")
    except PadfixError:
        if processor is None:
            raise
        return _make_encoder(tokenizer, None, max_length)  # the processor does not show where media stand
