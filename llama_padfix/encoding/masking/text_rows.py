"""Texts to ids and labels: a rendered chat trains its assistant turns, a completion itself, another text all of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from llama_padfix.chat.profile.template_profile import observe_template
from llama_padfix.core.errors import IGNORE_INDEX, PadfixError
from llama_padfix.core.text import require_unicode
from llama_padfix.encoding.encoded_rows import EncodedRow, label_tokens
from llama_padfix.encoding.masking.labels import find_markers, mask_labels
from llama_padfix.encoding.masking.rendered_text import RenderedMarks, observe_marks
from llama_padfix.tokens.bos import dedupe_bos, encode_with_one_bos
from llama_padfix.tokens.offsets import encode_spans

if TYPE_CHECKING:
    from llama_padfix.core.types import TokenizerLike
    from llama_padfix.encoding.masking.turns_in_ids import TurnMarkers
    from llama_padfix.tokens.offsets import StartEnd


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
    def _marks(self) -> RenderedMarks | None:
        return observe_marks(self.tokenizer, self.template_kwargs)

    @cached_property
    def markers(self) -> TurnMarkers:
        """The ids around the turns of a rendered chat. Raises `PadfixError` where ids alone do not tell them."""
        return find_markers(self.tokenizer, self.template_kwargs)

    @property
    def completion_header(self) -> str:
        """What a prompt or its completion must hold for `encode_completion` to take them; "" for nothing."""
        return self._marks.header if self._marks is not None else ""

    def may_be_chat(self, text: str) -> bool:
        """Return True for a text that holds the header of an assistant turn."""
        return bool(self._header) and self._header in text

    def is_usual(self, text: str) -> bool:
        """Return True for a text whose labels, if it is a rendered chat, are found in its ids, which are as they are.

        In any other the BOS is doubled, or the generation prompt writes more than stands before earlier answers.
        """
        bos, marks = self.tokenizer.bos_token, self._marks
        doubled = bool(bos) and text.startswith(2 * str(bos))
        return (
            bool(text)
            and not doubled
            and (marks is None or marks.header in ("", self._header) or marks.header not in text)
        )

    def encode(self, text: str, train_on: object) -> EncodedRow:
        """Encode one text, of which `train_on="last"` trains the last turn alone.

        Raises `PadfixError` for an empty text and for half of a surrogate pair.
        """
        if not text:
            raise PadfixError("the text is empty, so there is nothing to train on. Drop such rows: on_error='drop'")
        require_unicode(text)
        marks = self._marks
        if marks is not None and marks.header != self._header and marks.header in text:
            # The generation prompt writes more than stands before earlier answers.
            answers = marks.find_answers(text)
            return self._encode_spans(text, answers[-1:] if train_on == "last" else answers)
        input_ids, repaired = encode_with_one_bos(self.tokenizer, text)
        notes = {"repaired": ""} if repaired else {}
        if self.may_be_chat(text):
            turns = "last" if train_on == "last" else "assistant"
            labels: list[int] = mask_labels(input_ids, self.markers, train_on=turns)
            if any(label != IGNORE_INDEX for label in labels):
                return make_chat_row(input_ids, labels, self.markers.stop_ids, notes)
        if self.text_end_id is not None and input_ids[-1:] != [self.text_end_id]:
            input_ids = [*input_ids, self.text_end_id]
        return make_text_row(input_ids, notes)

    def encode_completion(self, prompt: str, completion: str, separator: str, train_on: object) -> EncodedRow | None:
        """Encode a prompt that is a rendered chat, or any prompt where there is no chat template; else return None.

        `separator` parts a plain prompt from its completion. The completion alone is trained, with what ends it.

        Raises `PadfixError` for half of a surrogate pair, and for a rendered chat and a tokenizer without offsets.
        """
        if not (getattr(self.tokenizer, "chat_template", None) or self.template_kwargs.get("chat_template")):
            return self._encode_plain(prompt + separator, completion)
        rendered = self._marks.find_completion(prompt, completion) if self._marks is not None else None
        if rendered is None:
            return None
        text, answers = rendered
        return self._encode_spans(text, answers[-1:] if train_on == "last" else answers)

    def _encode_plain(self, prompt: str, completion: str) -> EncodedRow:
        """Encode a prompt and its completion without turns, with an end of text behind them.

        The prompt has the ids that it has alone, as in a call of the model, also where a token would join the two.
        """
        require_unicode(prompt + completion)
        start, repaired = encode_with_one_bos(self.tokenizer, prompt)
        ids, _ = encode_with_one_bos(self.tokenizer, prompt + completion)
        end = self.text_end_id
        if ids[: len(start)] != start and end is not None:
            mark = str(self.tokenizer.convert_ids_to_tokens(end))  # encoding parts a text at a control token
            ids, _ = encode_with_one_bos(self.tokenizer, prompt + mark + completion)
            if ids[: len(start) + 1] == [*start, end]:
                del ids[len(start)]
        if end is not None and ids[len(start) :][-1:] != [end]:
            ids.append(end)
        spans = [(max(1, len(start)), max(1, len(ids)))]
        return EncodedRow(ids, label_tokens(ids, spans), spans, (len(ids),), {"repaired": ""} if repaired else {})

    def _encode_spans(self, text: str, spans: list[StartEnd]) -> EncodedRow:
        """Encode a text with one BOS, of which the spans are trained."""
        require_unicode(text)
        bos, bos_id = self.tokenizer.bos_token, self.tokenizer.bos_token_id
        single = dedupe_bos(text, bos_token=bos) if bos else text
        cut = len(text) - len(single)
        spans = [(max(0, start - cut), max(0, end - cut)) for start, end in spans]
        ids, places, ends = next(encode_spans(self.tokenizer, [single], [spans]))
        if bos_id is not None and ids[:1] != [bos_id]:
            ids = [bos_id, *ids]
            places, ends = [(first + 1, last + 1) for first, last in places], [end + 1 for end in ends]
        places = [(max(1, first), max(1, last)) for first, last in places]  # position 0 is never trained
        return EncodedRow(ids, label_tokens(ids, places), places, ends, {"repaired": ""} if cut else {})


def make_chat_row(
    input_ids: list[int], labels: list[int], stop_ids: Collection[int], notes: Mapping[str, str]
) -> EncodedRow:
    """Return the row of a rendered chat, of which the labels train the answers."""
    trained = [(n, n + 1) for n, label in enumerate(labels) if label != IGNORE_INDEX]
    ends = tuple(last for first, last in trained if labels[first] in stop_ids)
    empty = {"empty": ""} if any(labels[end - 2] == IGNORE_INDEX for end in ends) else {}
    return EncodedRow(input_ids, labels, trained, ends, {**notes, **empty})


def make_text_row(input_ids: list[int], notes: Mapping[str, str]) -> EncodedRow:
    """Return the row of a plain text, which is trained from its second token on."""
    length = len(input_ids)
    spans = [(1, length)] if length > 1 else []
    return EncodedRow(input_ids, label_tokens(input_ids, spans), spans, (length,), notes, is_text=True)
