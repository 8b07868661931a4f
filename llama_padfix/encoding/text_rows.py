"""Texts to ids and labels: a rendered chat trains its assistant turns, any other text the whole of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from llama_padfix.chat.profile.template_profile import observe_template
from llama_padfix.core.errors import IGNORE_INDEX, PadfixError
from llama_padfix.core.text import require_unicode
from llama_padfix.encoding.encoded_rows import EncodedRow, label_tokens
from llama_padfix.encoding.masking.labels import find_markers, mask_labels
from llama_padfix.tokens.bos import encode_with_one_bos

if TYPE_CHECKING:
    from llama_padfix.core.types import TokenizerLike
    from llama_padfix.encoding.masking.turns_in_ids import TurnMarkers


@dataclass
class TextEncoder:
    """Encodes texts with one BOS, and an end of text (`text_end_id`) behind those that are no rendered chat."""

    tokenizer: TokenizerLike
    template_kwargs: Mapping[str, object]
    text_end_id: int | None

    @cached_property
    def _header(self) -> str:
        """What opens an assistant turn in a rendered chat; "" where there is no chat template."""
        facts = observe_template(self.tokenizer, self.template_kwargs)
        return facts.header if facts is not None else ""

    @cached_property
    def _markers(self) -> TurnMarkers:
        return find_markers(self.tokenizer)

    def encode(self, text: str, train_on: object) -> EncodedRow:
        """Encode one text, of which `train_on="last"` trains the last turn alone.

        Raises `PadfixError` for an empty text and for half of a surrogate pair.
        """
        if not text:
            raise PadfixError("the text is empty, so there is nothing to train on. Drop such rows: on_error='drop'")
        require_unicode(text)
        input_ids, repaired = encode_with_one_bos(self.tokenizer, text)
        notes = {"repaired": ""} if repaired else {}
        if self._header and self._header in text:
            turns = "last" if train_on == "last" else "assistant"
            labels: list[int] = mask_labels(input_ids, self._markers, train_on=turns)
            trained = [(n, n + 1) for n, label in enumerate(labels) if label != IGNORE_INDEX]
            if trained:
                ends = tuple(last for first, last in trained if labels[first] in self._markers.stop_ids)
                if any(labels[end - 2] == IGNORE_INDEX for end in ends):
                    notes["empty"] = ""
                return EncodedRow(input_ids, labels, trained, ends, notes)
        if self.text_end_id is not None and input_ids[-1:] != [self.text_end_id]:
            input_ids = [*input_ids, self.text_end_id]
        length = len(input_ids)
        spans = [(1, length)] if length > 1 else []
        return EncodedRow(input_ids, label_tokens(input_ids, spans), spans, (length,), notes)
