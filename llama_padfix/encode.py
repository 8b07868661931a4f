"""Conversations to ids and labels, with nothing lost in silence."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from llama_padfix.bos import dedupe_bos
from llama_padfix.chat import ChatTemplate, Rendered, read_template, render_turns
from llama_padfix.counts import count_rows
from llama_padfix.dates import pin_date
from llama_padfix.encoding import Encoding, describe_encoding, hash_template, hash_tokenizer
from llama_padfix.formats import read_row, require_unicode, split_batch
from llama_padfix.labels import find_markers, label_tokens, mask_labels
from llama_padfix.observe import check_tokenizer, encode_plain, observe_template, special_ids, untouched
from llama_padfix.offsets import Encoded, TextBackend, encode_around, encode_spans, make_text_backend
from llama_padfix.policy import text_end_id
from llama_padfix.records import IGNORE_INDEX, Counts, PadfixError, TurnMarkers
from llama_padfix.remarks import find_remarks, name_tokens
from llama_padfix.render import plain
from llama_padfix.selection import TrainOn, choose_turns, require_train_on
from llama_padfix.truncation import EncodedRow, find_cuts, fit_row

__all__ = ["ChatEncoder", "OnError", "OnLoss", "SpecialTokens", "TrainOn", "Truncation"]

SpecialTokens = Literal["escape", "error", "allow"]
Truncation = Literal["turns", "tokens", "error"]
OnError = Literal["raise", "drop"]
OnLoss = Literal["count", "error"]

_T = TypeVar("_T")
_LEARNED = ("counts", "_template", "_markers", "_header", "_hashes", "_text_backend")
_DETAIL = 100  # characters of an error or of spelled tokens that are kept beside a row's number


@dataclass(frozen=True)
class _Chat:
    """A conversation that is rendered and not yet encoded; `spelled` are the characters encoded as text."""

    rendered: Rendered
    tokens: tuple[str, ...]
    spelled: tuple[tuple[int, int], ...]
    seen: Mapping[str, str]


class ChatEncoder:
    """Encodes rows of any known shape into `input_ids` and `labels`, -100 outside what the model must produce.

    Use it on one conversation (`encoder(messages)`), on one row, on a list of rows, or as
    `dataset.map(encoder, batched=True, remove_columns=dataset.column_names)`. The ids are those of
    `apply_chat_template(messages, tokenize=True)`; a control token that is only spelled in a message is encoded
    as text. A `text` row gets exactly one BOS; where it is a rendered chat its assistant turns are trained, else
    the whole text with an end of text behind it.

    `train_on` is "assistant" (every assistant turn), "last", {"roles": [...]} or a callable(message, index) -> bool
    that is asked for each assistant message; a message with `train: false` or `weight: 0` is never trained, and
    these keys are taken away before rendering. `special_tokens` says what a control token becomes that a message
    spells: text ("escape"), an error ("error"), or the control token ("allow"); `allowed_tokens` (such as
    `<|python_tag|>`) stay control tokens inside the trained turns. Rows longer than `max_length` tokens lose whole
    turns from the end (`truncation="turns"`), are cut at the token ("tokens"), or raise ("error"); no stop token is
    forged. A row that cannot be read raises `PadfixError` with its number, or is dropped and counted with
    `on_error="drop"`. Where the chat template loses something without a word (a tool call, a message's text), the
    row is encoded as it is rendered and counted, or raises with `on_loss="error"`. `template_kwargs` go to the chat
    template. A template that prints today's date is pinned to `date` (a date or "2024-07-26"; by default the day on
    which the encoder is made), which `template_kwargs` then holds; `encoding` records it with all other settings.

    `counts` adds up what became of all rows so far, and names the first few.
    """

    def __init__(
        self,
        tokenizer: Any,
        max_length: int | None = None,
        train_on: TrainOn = "assistant",
        *,
        truncation: Truncation = "turns",
        on_error: OnError = "raise",
        on_loss: OnLoss = "count",
        template_kwargs: Mapping[str, Any] | None = None,
        special_tokens: SpecialTokens = "escape",
        allowed_tokens: Sequence[str] = (),
        date: datetime.date | str | None = None,
    ) -> None:
        check_tokenizer(tokenizer)
        require_train_on(train_on)
        _require_choice("special_tokens", special_tokens, ("escape", "error", "allow"))
        _require_choice("truncation", truncation, ("turns", "tokens", "error"))
        _require_choice("on_error", on_error, ("raise", "drop"))
        _require_choice("on_loss", on_loss, ("count", "error"))
        if max_length is not None and (not isinstance(max_length, int) or max_length < 2):
            raise PadfixError(f"max_length={max_length!r}: a row needs at least 2 tokens. Pass an int, or None.")
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.train_on = train_on
        self.truncation = truncation
        self.on_error = on_error
        self.on_loss = on_loss
        self.special_tokens = special_tokens
        self.allowed_tokens = tuple(allowed_tokens)
        self.template_kwargs = pin_date(tokenizer, template_kwargs, date)
        self._text_end_id = text_end_id(special_ids(tokenizer), tokenizer.eos_token_id)
        self._forget()

    def _forget(self) -> None:
        self.counts = Counts()
        self._template: ChatTemplate | None = None
        self._markers: TurnMarkers | None = None
        self._header: str | None = None
        self._hashes: tuple[str, str] | None = None
        self._text_backend: TextBackend | None = None

    @property
    def encoding(self) -> Encoding:
        """How this encoder encodes, the pinned date included; `encode_dataset` writes it into what it returns."""
        self._hashes = self._hashes or (hash_template(self.tokenizer), hash_tokenizer(self.tokenizer))
        return describe_encoding(vars(self), *self._hashes)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what was counted and learned, so that `datasets` knows an encoder again after its use."""
        return {name: value for name, value in vars(self).items() if name not in _LEARNED}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __call__(self, rows: Any, indices: Sequence[int] | int | None = None) -> dict[str, Any]:
        """Encode one conversation, one row, or a batch of rows or columns; see the class.

        One row gives flat lists and raises where a batch would drop it. `indices` are the rows' numbers in the
        dataset for the error messages (`dataset.map(..., with_indices=True)`); without them rows are named by their
        place in the batch.
        """
        batch = split_batch(rows)
        if batch is None:
            number = indices if isinstance(indices, int) or indices is None else indices[0]
            columns, counts = self._encode_rows([(number, rows)])
            if not counts.kept:
                raise PadfixError(f"The row leaves nothing to train on ({counts}). Raise max_length, or drop the row.")
            return {name: column[0] for name, column in columns.items()}
        if indices is not None:
            return self.encode_rows(batch, indices)[0]
        return self._encode_rows(list(enumerate(batch)), of_batch=True)[0]

    def encode_rows(
        self, rows: Iterable[Any], numbers: Sequence[int] | int = 0
    ) -> tuple[dict[str, list[list[int]]], Counts]:
        """Encode rows into the columns `input_ids` and `labels`, and return what became of them.

        `numbers` are the rows' numbers for the error messages, or the number of the first one. Rows that are
        dropped leave no place in the columns. The counts are also added to `self.counts`; when an error is
        raised, nothing is added.
        """
        return self._encode_rows(
            [(numbers + n if isinstance(numbers, int) else numbers[n], row) for n, row in enumerate(rows)]
        )

    def _encode_rows(
        self, numbered: Sequence[tuple[int | None, Any]], of_batch: bool = False
    ) -> tuple[dict[str, list[list[int]]], Counts]:
        columns: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
        outcomes: list[tuple[int | None, int, int, Mapping[str, str]]] = []
        with untouched(self.tokenizer):
            encoded_rows = self._encode_numbered([(_name(number, of_batch), row) for number, row in numbered])
        for (number, _), encoded in zip(numbered, encoded_rows, strict=True):
            if isinstance(encoded, PadfixError):
                outcomes.append((number, 0, 0, {"dropped_invalid": _shorten(plain(encoded))}))
                continue
            row = fit_row(encoded, self.max_length, self.truncation, _name(number, of_batch))
            seen = {kind: _shorten(plain(detail)) for kind, detail in row.seen.items()} if row.seen else row.seen
            trained = sum(last - first for first, last in row.trained)
            outcomes.append((number, len(row.input_ids) if trained else 0, trained, seen))
            if trained:
                columns["input_ids"].append(row.input_ids)
                columns["labels"].append(row.labels)
        counts = count_rows(outcomes, of_batch=of_batch)
        self.counts = self.counts + counts
        return columns, counts

    def _encode_numbered(self, named: Sequence[tuple[str, Any]]) -> list[EncodedRow | PadfixError]:
        """Encode rows in one call of the tokenizer where that is possible; the error where a row cannot be read."""
        read = [(name, self._read_or_drop(row, name)) for name, row in named]
        together = [chat.rendered for _, chat in read if isinstance(chat, _Chat) and not chat.spelled]
        encodings = iter(
            encode_spans(self.tokenizer, [one.text for one in together], [_spans_of(one) for one in together])
        )
        spelled = next((chat for _, chat in read if isinstance(chat, _Chat) and chat.spelled), None)
        if spelled is not None and self._text_backend is None:
            self._text_backend = make_text_backend(self.tokenizer, spelled.tokens)
        return [
            self._attempt(name, functools.partial(self._encode_spelled, item))
            if isinstance(item, _Chat) and item.spelled
            else self._label(item, next(encodings))
            if isinstance(item, _Chat)
            else item
            for name, item in read
        ]

    def _encode_spelled(self, chat: _Chat) -> EncodedRow:
        assert self._text_backend is not None  # made when the first such row was read
        text, spans = chat.rendered.text, _spans_of(chat.rendered)
        return self._label(
            chat, encode_around(self.tokenizer, text, chat.spelled, chat.tokens, self._text_backend, spans)
        )

    def _label(self, chat: _Chat, encoded: Encoded) -> EncodedRow:
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
        template = self._template = self._template or read_template(self.tokenizer, self.template_kwargs)
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
        rendered = render_turns(template, messages, tools, wanted, allow_loss=self.on_loss == "count")
        require_unicode(rendered.text)
        if rendered.spelled and self.special_tokens == "error":
            raise PadfixError(
                f"a message spells the control token {name_tokens(rendered, rendered.spelled)}, which "
                "special_tokens='error' forbids. Remove it, or encode it as text: special_tokens='escape'"
            )
        escaped = self._keep_escaped(rendered)
        seen = find_remarks(rendered, messages, wanted, escaped)
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
        input_ids = encode_plain(self.tokenizer, single)
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
        if self._text_end_id is not None and input_ids[-1:] != [self._text_end_id]:
            input_ids = [*input_ids, self._text_end_id]
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


def _name(number: int | None, of_batch: bool) -> str:
    """Return what a row is called in an error; "" for one that came alone and without its number."""
    return "" if number is None else f"row {number} of this batch" if of_batch else f"row {number}"


def _spans_of(rendered: Rendered) -> list[tuple[int, int]]:
    return [(turn.start, turn.end) for turn in rendered.turns]


def _shorten(text: str) -> str:
    return text if len(text) <= _DETAIL else text[: _DETAIL - 3] + "..."


def _require_choice(name: str, value: object, accepted: Sequence[str]) -> None:
    if value not in accepted:
        raise PadfixError(f"{name}={value!r} is not known. Use one of: {', '.join(map(repr, accepted))}.")
