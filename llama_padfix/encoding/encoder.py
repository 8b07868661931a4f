"""Conversations to ids and labels, with nothing lost in silence."""

from __future__ import annotations

import contextlib
import copy
import datetime
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

from llama_padfix.chat.dates import pin_date
from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.batch.chat_columns import Chats, read_chat_rows, read_chat_table
from llama_padfix.encoding.batch.cross_check import (
    Batch,
    FastPathMismatch,
    Rows,
    encode_cross_checked,
    encode_row_by_row,
    make_table,
)
from llama_padfix.encoding.batch.encoder import BatchEncoder, make_batch_encoder
from llama_padfix.encoding.counts import Counts
from llama_padfix.encoding.id_columns import is_table
from llama_padfix.encoding.loss_selection import TrainOn, require_train_on
from llama_padfix.encoding.record import Encoding, describe_encoding, hash_template, hash_tokenizer
from llama_padfix.encoding.row_encoder import CAREFUL_SETTINGS, RowEncoder
from llama_padfix.encoding.sources import split_batch
from llama_padfix.tokens.calls import check_tokenizer, preserve_backend_state
from llama_padfix.tokens.control import special_ids, text_end_id
from llama_padfix.tokens.engine import Engine, EngineChoice, choose_engine

__all__ = ["ChatEncoder", "OnError", "OnLoss", "SpecialTokens", "Truncation"]

SpecialTokens = Literal["escape", "error", "allow"]
Truncation = Literal["turns", "tokens", "error"]
OnError = Literal["raise", "drop"]
OnLoss = Literal["count", "error"]

_Columns = dict[str, list[list[int]]]
_LEARNED = ("counts", "_gave_up", "_known", "_careful", "_plain", "_tried_plain", "_engine", "_ahead", "_hash")
_CHUNK_ROWS = 2000  # one call of an engine for many more takes twice the CPU, and memory
_FEW = 2  # rows below which nothing is learned


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
        engine: EngineChoice = "auto",
    ) -> None:
        check_tokenizer(tokenizer)
        require_train_on(train_on)
        _require_choice("special_tokens", special_tokens, ("escape", "error", "allow"))
        _require_choice("truncation", truncation, ("turns", "tokens", "error"))
        _require_choice("on_error", on_error, ("raise", "drop"))
        _require_choice("on_loss", on_loss, ("count", "error"))
        _require_choice("engine", engine, ("auto", "tokenizers", "fastokens"))
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
        self.engine = engine
        self.template_kwargs = pin_date(tokenizer, template_kwargs, date)
        self.text_end_id = text_end_id(special_ids(tokenizer), tokenizer.eos_token_id)
        self._forget()

    def _forget(self) -> None:
        self.counts = Counts()
        self._gave_up = False
        self._known: tuple[Any, ...] = ()
        self._careful: RowEncoder | None = None
        self._plain: BatchEncoder | None = None
        self._tried_plain = False
        self._engine: Engine | None = None
        self._ahead: int | None = None  # characters, where the work ahead is known
        self._hash = ""  # of the tokenizer, which takes a while

    @property
    def encoding(self) -> Encoding:
        """How this encoder encodes, the pinned date included; `encode_dataset` writes it into what it returns."""
        self._hash = self._hash or hash_tokenizer(self.tokenizer)
        return describe_encoding(vars(self), hash_template(self.tokenizer), self._hash)

    @property
    def doubtful(self) -> bool:
        """Whether a fast way was given up because a row it encoded proved wrong: encode what went before again."""
        return self._gave_up or (self._engine is not None and bool(self._engine.failed))

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
        if is_table(rows):
            first = indices if isinstance(indices, int) else next(iter(indices or ()), 0)
            encoded: dict[str, Any] = self.encode_table(rows, first)
            return encoded
        batch = split_batch(rows)
        if batch is None:
            number = indices if isinstance(indices, int) or indices is None else indices[0]
            columns, counts = self._encode_rows([rows], [number])
            if not counts.kept:
                raise PadfixError(f"The row leaves nothing to train on ({counts}). Raise max_length, or drop the row.")
            return {name: column[0] for name, column in columns.items()}
        if indices is not None:
            return self.encode_rows(batch, indices)[0]
        return self._encode_rows(batch, range(len(batch)), of_batch=True)[0]

    def encode_rows(
        self, rows: Iterable[Any], numbers: Sequence[int] | int = 0, *, strict: bool = False
    ) -> tuple[_Columns, Counts]:
        """Encode rows into the columns `input_ids` and `labels`, and return what became of them.

        `numbers` are the rows' numbers for the error messages, or the number of the first one. Rows that are
        dropped leave no place in the columns. The counts are also added to `self.counts`; when an error is
        raised, nothing is added. `strict` is that of `encode_chunk`.
        """
        rows = list(rows)
        named = range(numbers, numbers + len(rows)) if isinstance(numbers, int) else list(numbers)
        return self._encode_rows(rows, named, strict=strict)

    def encode_table(self, table: Any, first_row: int = 0, *, carry: Sequence[str] = ()) -> Any:
        """Encode a `pyarrow.Table` or `RecordBatch` of rows into a table of `input_ids` and `labels`, lists of int32.

        `first_row` is the number of the table's first row for the error messages. Rows that are dropped leave no
        place; `carry` names columns (an id) that go along with the rows that are kept. `encoder.counts` adds up what
        became of the rows. Raises `PadfixError` for what `encode_rows` refuses, and for a column that is not there.
        """
        return self.encode_chunk(table, first_row, carry=carry)[0]

    def encode_chunk(
        self, table: Any, first_row: int = 0, *, carry: Sequence[str] = (), strict: bool = False
    ) -> tuple[Any, Counts]:
        """Encode as `encode_table` does, and return the counts of these rows beside the table.

        With `strict` a fast path that proves wrong raises `FastPathMismatch`: rows of earlier calls may be wrong.
        Without it the rows of this call are right, and `doubtful` shows it.
        """
        import pyarrow

        if isinstance(table, pyarrow.RecordBatch):
            table = pyarrow.Table.from_batches([table])
        missing = [name for name in carry if name not in table.column_names or name in ("input_ids", "labels")]
        if missing:
            raise PadfixError(
                f"carry names {missing[0]!r}, and the columns that can go along are {', '.join(table.column_names)}. "
                "Name one of those, or leave carry out."
            )
        with contextlib.suppress(pyarrow.ArrowException):  # some releases cannot measure views of strings
            self._ahead = table.nbytes
        counts = Counts()
        parts = []
        for start in range(0, max(table.num_rows, 1), _CHUNK_ROWS):
            part = table.slice(start, min(_CHUNK_ROWS, table.num_rows - start))  # without columns it would be longer
            numbers = range(first_row + start, first_row + start + part.num_rows)
            rows = Rows(functools.partial(_take_rows, part), numbers)
            batch = self._encode(rows, functools.partial(read_chat_table, part), strict)
            parts.append(make_table(batch, part.select(list(carry))))
            counts = counts + batch.counts
        self.counts = self.counts + counts
        return pyarrow.concat_tables(parts), counts

    def _encode_rows(
        self, rows: Sequence[Any], numbers: Sequence[int | None], of_batch: bool = False, strict: bool = False
    ) -> tuple[_Columns, Counts]:
        together = Rows(lambda places: [rows[place] for place in places], numbers, of_batch)
        batch = self._encode(together, lambda words: read_chat_rows(rows, words), strict)
        edges = [*pairwise(batch.bounds.tolist())]
        columns = {
            name: [flat[start:end] for start, end in edges]
            for name, flat in (("input_ids", batch.input_ids.tolist()), ("labels", batch.labels.tolist()))
        }
        self.counts = self.counts + batch.counts
        return columns, batch.counts

    def _encode(self, rows: Rows, read_chats: Callable[[Sequence[str]], Chats], strict: bool) -> Batch:
        """Encode rows, of which `read_chats` finds the plain conversations that hold none of some words."""
        careful, batch = self._renew_careful(), None
        with preserve_backend_state(self.tokenizer):
            if not self._tried_plain and len(rows.numbers) >= _FEW:
                self._tried_plain = True
                self._plain = self._find_plain_way(careful)
            if self._plain is not None:
                chats = read_chats(self._plain.forbidden)
                if self._plain.learn(chats):
                    chats = read_chats(self._plain.forbidden)
                try:
                    batch = encode_cross_checked(careful, self._plain, chats, rows)
                except FastPathMismatch:
                    self._plain, self._gave_up = None, True
            if strict and self.doubtful:
                raise FastPathMismatch("a fast path proved wrong, so what it encoded before may be wrong too")
            return batch or encode_row_by_row(careful, rows)

    def _find_plain_way(self, careful: RowEncoder) -> BatchEncoder | None:
        try:
            template = careful.template
        except PadfixError:  # the careful way says so, where a row needs it
            return None
        return make_batch_encoder(template, self._encode_texts, self.train_on)

    def _renew_careful(self) -> RowEncoder:
        """Return the careful way with the settings of now; what was learned of other ones is forgotten."""
        settings = {name: getattr(self, name) for name in CAREFUL_SETTINGS}
        tokenizer, source = self.tokenizer, getattr(self.tokenizer, "chat_template", None)
        added = len(getattr(tokenizer, "added_tokens_decoder", ()))  # len(tokenizer) takes 12 ms in tokenizers 0.19
        chosen = (dict(self.template_kwargs), self.train_on, self.engine)
        known = (tokenizer, added, tokenizer.special_tokens_map, copy.copy(source), chosen)
        if self._careful is None or known != self._known:
            self._gave_up = self.doubtful
            self._known, self._careful = known, RowEncoder(**settings)
            self._plain, self._tried_plain, self._engine = None, False, None
        for name, value in settings.items():  # how to cut, say, changes nothing of what was learned
            setattr(self._careful, name, value)
        return self._careful

    def _encode_texts(self, texts: Sequence[str]) -> tuple[Any, Any]:
        if self._engine is None:
            self._engine = choose_engine(self.tokenizer, self.engine, characters=self._ahead)
        return self._engine.encode(texts)


def _take_rows(table: Any, places: Sequence[int]) -> list[dict[str, Any]]:
    import pyarrow

    rows: list[dict[str, Any]]
    try:
        rows = table.take(list(places)).to_pylist()
    except pyarrow.ArrowNotImplementedError:  # of columns of views
        rows = [row for place in places for row in table.slice(place, 1).to_pylist()]
    return rows


def _require_choice(name: str, value: object, accepted: Sequence[str]) -> None:
    if value not in accepted:
        raise PadfixError(f"{name}={value!r} is not known. Use one of: {', '.join(map(repr, accepted))}.")
