"""Rows to ids and labels one by one: whatever shape, template or special case, each turn proven where it stands."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from llama_padfix.chat.render import ChatTemplate, Rendered
from llama_padfix.chat.template_profile import observe_template
from llama_padfix.chat.turns import read_template, render_turns
from llama_padfix.core.errors import IGNORE_INDEX, PadfixError
from llama_padfix.core.text import require_unicode
from llama_padfix.encoding.labels import find_markers, label_tokens, mask_labels
from llama_padfix.encoding.loss_selection import TrainOn, choose_turns
from llama_padfix.encoding.row_formats import read_row
from llama_padfix.encoding.row_notes import collect_row_notes, name_tokens
from llama_padfix.encoding.truncation import EncodedRow, find_cuts
from llama_padfix.encoding.turns_in_ids import TurnMarkers
from llama_padfix.tokens.bos import dedupe_bos
from llama_padfix.tokens.calls import encode_raw
from llama_padfix.tokens.control import find_rewritable
from llama_padfix.tokens.offsets import EncodedText, encode_spans, require_fast
from llama_padfix.tokens.spelled import TextBackend, encode_around, make_text_backend

__all__ = ["CAREFUL_SETTINGS", "RowEncoder"]

_T = TypeVar("_T")


@dataclass(frozen=True)
class _Chat:
    """A conversation that is rendered and not yet encoded; `spelled` are the characters encoded as text."""

    rendered: Rendered
    tokens: tuple[str, ...]
    spelled: tuple[tuple[int, int], ...]
    seen: Mapping[str, str]


@dataclass
class RowEncoder:
    """Encodes rows with the settings of a `ChatEncoder`, and keeps what it learns of the tokenizer."""

    tokenizer: Any
    max_length: int | None
    train_on: TrainOn
    on_error: str
    on_loss: str
    special_tokens: str
    allowed_tokens: tuple[str, ...]
    template_kwargs: Mapping[str, Any]
    truncation: str
    text_end_id: int | None
    _template: ChatTemplate | None = field(default=None, init=False)
    _rewritable: tuple[str, ...] = field(default=(), init=False)
    _markers: TurnMarkers | None = field(default=None, init=False)
    _header: str | None = field(default=None, init=False)
    _text_backend: TextBackend | None = field(default=None, init=False)

    @property
    def template(self) -> ChatTemplate:
        """The tokenizer's chat template, read once. Raises `PadfixError` where it has none."""
        if self._template is None:
            self._template = read_template(self.tokenizer, self.template_kwargs)
            self._rewritable = find_rewritable(self.tokenizer, self._template.controls + self._template.tags)
        return self._template

    def encode(self, named: Sequence[tuple[str, Any]]) -> list[EncodedRow | PadfixError]:
        """Encode rows in one call of the tokenizer where that is possible; the error where a row cannot be read."""
        read = [(name, self._read_or_drop(row, name)) for name, row in named]
        chats = [chat for _, chat in read if isinstance(chat, _Chat)]
        together = self._encode_together([chat for chat in chats if not chat.spelled])
        spelled = next((chat for chat in chats if chat.spelled), None)
        if spelled is not None and self._text_backend is None:
            self._text_backend = make_text_backend(self.tokenizer, spelled.tokens)
        return [
            self._attempt(
                name, functools.partial(self._encode_chat, item, None if item.spelled else next(together, None))
            )
            if isinstance(item, _Chat)
            else item
            for name, item in read
        ]

    def _encode_together(self, chats: Sequence[_Chat]) -> Iterator[EncodedText]:
        """Encode conversations in one call of the tokenizer; nothing where the tokens of one cannot be placed."""
        if not chats:
            return iter(())
        require_fast(self.tokenizer)  # no row's fault
        texts = [chat.rendered.text for chat in chats]
        try:
            return iter([*encode_spans(self.tokenizer, texts, [_spans_of(chat.rendered) for chat in chats])])
        except PadfixError:
            return iter(())  # each by itself shows which one it is

    def _encode_chat(self, chat: _Chat, encoded: EncodedText | None) -> EncodedRow:
        text, spans = chat.rendered.text, _spans_of(chat.rendered)
        if chat.spelled:
            assert self._text_backend is not None  # made when the first such row was read
            encoded = encode_around(self.tokenizer, text, chat.spelled, chat.tokens, self._text_backend, spans)
        return self._label(chat, encoded or next(encode_spans(self.tokenizer, [text], [spans])))

    def _label(self, chat: _Chat, encoded: EncodedText) -> EncodedRow:
        ids, places, ends = encoded
        labels = label_tokens(ids, places)
        if places and places[0][0] == 0:  # position 0 is never trained
            places = [(1, max(places[0][1], 1)), *places[1:]]
        too_long = self.max_length is not None and len(ids) > self.max_length
        cuts = [ends[place] for place in find_cuts(chat.rendered.turns)] if too_long else ()
        return EncodedRow(ids, labels, places, cuts, chat.seen)

    def _read_or_drop(self, row: Any, name: str) -> _Chat | EncodedRow | PadfixError:
        """Read a row; what is wrong with the tokenizer or its template is no row's fault and always raises."""
        conversation = self._attempt(name, lambda: read_row(row))
        if isinstance(conversation, PadfixError):
            return conversation
        text, messages = conversation.text, conversation.messages
        if text is not None:
            return self._attempt(name, lambda: self._encode_text(text))
        template = self.template
        return self._attempt(
            name, lambda: self._render(template, messages or [], conversation.tools, conversation.trained_from)
        )

    def _attempt(self, name: str, read: Callable[[], _T]) -> _T | PadfixError:
        try:
            return read()
        except PadfixError as error:
            if self.on_error == "drop":
                return error
            raise PadfixError(f"{name}: {error}" if name else str(error)) from error

    def _render(
        self, template: ChatTemplate, messages: list[dict[str, Any]], tools: list[Any] | None, trained_from: int
    ) -> _Chat:
        messages, wanted = choose_turns(messages, self.train_on, trained_from)
        rewritable = self._rewritable if self.special_tokens != "allow" else ()
        rendered = render_turns(
            template, messages, tools, wanted, allow_loss=self.on_loss == "count", rewritable=rewritable
        )
        require_unicode(rendered.text)
        if rendered.spelled and self.special_tokens == "error":
            raise PadfixError(
                f"a message spells the control token {name_tokens(rendered, rendered.spelled)}, which "
                "special_tokens='error' forbids. Remove it, or encode it as text: special_tokens='escape'"
            )
        escaped = self._keep_escaped(rendered)
        seen = collect_row_notes(rendered, messages, wanted, escaped)
        return _Chat(rendered, template.controls + template.tags, escaped, seen)

    def _keep_escaped(self, rendered: Rendered) -> tuple[tuple[int, int], ...]:
        """Return the spelled control tokens that are encoded as text: all but those that are allowed."""
        if self.special_tokens == "allow" or not rendered.spelled:
            return ()
        return tuple(
            (start, end)
            for start, end in rendered.spelled
            if rendered.text[start:end] not in self.allowed_tokens
            or not any(turn.start <= start and end <= turn.end for turn in rendered.turns)
        )

    def _encode_text(self, text: str) -> EncodedRow:
        if not text:
            raise PadfixError("the text is empty, so there is nothing to train on. Drop such rows: on_error='drop'")
        require_unicode(text)
        bos, bos_id = self.tokenizer.bos_token, self.tokenizer.bos_token_id
        single = dedupe_bos(text, bos_token=bos) if bos is not None else text
        seen = {"repaired": ""} if single != text else {}
        input_ids = encode_raw(self.tokenizer, single)
        if bos_id is not None and input_ids[:1] != [bos_id]:
            input_ids = [bos_id, *input_ids]
        markers = self._find_markers_once(single)
        if markers is not None:
            labels = mask_labels(input_ids, markers, train_on="last" if self.train_on == "last" else "assistant")
            ends = tuple(
                position + 1
                for position, label in enumerate(labels)
                if label != IGNORE_INDEX and label in markers.stop_ids
            )
            trained = [(n, n + 1) for n, label in enumerate(labels) if label != IGNORE_INDEX]
            if trained:
                return EncodedRow(input_ids, labels, trained, ends, seen)
        if self.text_end_id is not None and input_ids[-1:] != [self.text_end_id]:
            input_ids = [*input_ids, self.text_end_id]
        length = len(input_ids)
        return EncodedRow(
            input_ids, [IGNORE_INDEX, *input_ids[1:]], [(1, length)] if length > 1 else [], (length,), seen
        )

    def _find_markers_once(self, text: str) -> TurnMarkers | None:
        """Return what marks the turns of a rendered chat; None where the text holds no assistant header."""
        if self._header is None:
            facts = observe_template(self.tokenizer, self.template_kwargs)
            self._header = facts.header if facts is not None else ""
        if not self._header or self._header not in text:
            return None
        if self._markers is None:
            self._markers = find_markers(self.tokenizer)
        return self._markers


def _spans_of(rendered: Rendered) -> list[tuple[int, int]]:
    return [(turn.start, turn.end) for turn in rendered.turns]


CAREFUL_SETTINGS = tuple(item.name for item in fields(RowEncoder) if item.init)
"""The attributes of a `ChatEncoder` that decide how a row is encoded."""
