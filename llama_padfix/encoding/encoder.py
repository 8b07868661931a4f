"""Conversations to ids and labels, with nothing lost in silence."""

from __future__ import annotations

import datetime
import os
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.counts import Counts
from llama_padfix.encoding.learned import Learned, find_key
from llama_padfix.encoding.record import Encoding, describe_encoding, hash_template, hash_tokenizer
from llama_padfix.encoding.row_encoder import RowEncoder
from llama_padfix.encoding.settings import find_text_end, make_settings, require_choice
from llama_padfix.encoding.sources import is_table, split_batch
from llama_padfix.tokens.engine import EngineChoice

if TYPE_CHECKING:
    import pyarrow as pa

    from llama_padfix.core.types import TokenizerLike
    from llama_padfix.encoding.settings import OnError, OnLoss, SpecialTokens, TrainOn, Truncation

_Columns = dict[str, list[Any]]  # lists of ints, or numbers


def _setting(name: str) -> Any:  # a property, whose value has the type that the class declares
    """Return an attribute that is a field of `settings`; to set it makes new settings, which are checked."""

    def change(encoder: ChatEncoder, value: object) -> None:
        changed: dict[str, Any] = {name: value}  # a field of any type
        encoder.settings = replace(encoder.settings, **changed)

    return property(attrgetter(f"settings.{name}"), change)


class ChatEncoder:
    """Encode rows of any known shape into `input_ids` and `labels`, -100 outside of what the model must produce.

    Use it on one conversation (`encoder(messages)`), on one row, on a list of rows, or as
    `dataset.map(encoder, batched=True, remove_columns=dataset.column_names)`. The ids are those of
    `apply_chat_template(messages, tokenize=True)`. A `text` row gets exactly one BOS; where it is a rendered chat its
    assistant turns are trained, else the whole text with an end of text behind it.

    The settings are attributes that can be set. `settings` holds them all, and `encoding` is their record. Threads may
    share an encoder: they encode one after another.

    Args:
        tokenizer: The tokenizer, which is never changed.
        max_length: Most tokens of a row (at least 2), or None.
        train_on: The turns to train: "assistant" (every assistant message), "last", {"roles": [...]}, or a
            callable(message, index) -> bool that is called for each assistant message. A message with `train: false`
            or `weight: 0` is never trained; these keys are removed before rendering.
        truncation: What becomes of a longer row: it loses whole turns from the end ("turns"), is cut at the token
            ("tokens"), or raises ("error"). No stop token is added where a turn is cut. With "turns", for which
            "split" is another name, a plain text loses nothing: it becomes several rows of `max_length` tokens.
        on_error: "raise" for a row that cannot be read, with its number, or "drop" to drop and count it.
        on_loss: "count" to encode and count a row as rendered where the chat template leaves something out (a tool
            call, a message's text), or "error" to raise.
        template: The source of the chat template to use in place of the tokenizer's, which stays as it is.
            `template_kwargs` then hold it, as `chat_template`.
        template_kwargs: Arguments of the chat template. A row's own, in its column `chat_template_kwargs`, win.
        keep_reasoning: True to train the thoughts that the chat template drops from earlier turns, and to refuse a row
            that loses thoughts all the same. `template_kwargs` then holds what makes the template keep them: one of
            its own arguments, or TRL's training variant as `chat_template`. The ids are those of these arguments.
        special_tokens: What a control token becomes that a message spells: text ("escape"), an error ("error"), or
            the control token ("allow").
        allowed_tokens: Tokens such as `<|python_tag|>` that stay control tokens inside trained turns.
        date: For a template that prints today's date: the date it prints instead (a date or "2024-07-26"; by default
            the day on which the encoder is made). `template_kwargs` then holds it.
        engine: What makes ids of many texts: "tokenizers", "cached", "fastokens" or "auto"; see `choose_engine`.

    Attributes:
        counts: What became of all rows so far (`Counts`), with the first few of each kind by number.
        columns: The names of the columns of encoded rows.

    Raises:
        PadfixError: `tokenizer` is none, a setting is not known, or nothing makes the template keep thoughts.
    """

    columns: Sequence[str] = ("input_ids", "labels")
    max_length: int | None = _setting("max_length")
    train_on: TrainOn = _setting("train_on")
    truncation: Truncation = _setting("truncation")
    on_error: OnError = _setting("on_error")
    on_loss: OnLoss = _setting("on_loss")
    template_kwargs: Mapping[str, object] = _setting("template_kwargs")
    special_tokens: SpecialTokens = _setting("special_tokens")
    allowed_tokens: Sequence[str] = _setting("allowed_tokens")

    def __init__(
        self,
        tokenizer: TokenizerLike,
        max_length: int | None = None,
        train_on: TrainOn = "assistant",
        *,
        truncation: Truncation = "turns",
        on_error: OnError = "raise",
        on_loss: OnLoss = "count",
        template: str | None = None,
        template_kwargs: Mapping[str, object] | None = None,
        keep_reasoning: bool = False,
        special_tokens: SpecialTokens = "escape",
        allowed_tokens: Sequence[str] = (),
        date: datetime.date | str | None = None,
        engine: EngineChoice = "auto",
    ) -> None:
        require_choice("engine", engine, EngineChoice)
        self.tokenizer = tokenizer
        self.settings = make_settings(
            tokenizer,
            date,
            template_kwargs,
            template,
            max_length=max_length,
            train_on=train_on,
            truncation=truncation,
            on_error=on_error,
            on_loss=on_loss,
            keep_reasoning=keep_reasoning,
            special_tokens=special_tokens,
            allowed_tokens=tuple(allowed_tokens),
        )
        self.engine = engine
        self.text_end_id = find_text_end(tokenizer)
        self._forget()

    def _forget(self) -> None:
        self.counts = Counts()
        self._learned: Learned | None = None
        self._lock = threading.RLock()
        _encoders.add(self)

    def _renew_after_fork(self) -> None:
        """Forget in a forked process what a thread of the parent was learning."""
        if not self._lock.acquire(blocking=False):
            self._learned, self._lock = None, threading.RLock()
        else:
            self._lock.release()

    @property
    def encoding(self) -> Encoding:
        """How this encoder encodes, the pinned date included; `encode_dataset` writes it into what it returns."""
        with self._lock:
            learned = self._learn()
            learned.tokenizer_hash = learned.tokenizer_hash or hash_tokenizer(self.tokenizer)
            return describe_encoding(self.settings, hash_template(self.tokenizer), learned.tokenizer_hash)

    @property
    def doubtful(self) -> bool:
        """True once a fast path was given up because a row that it encoded proved wrong: encode earlier rows again."""
        return self._learned is not None and self._learned.doubtful

    def __getstate__(self) -> dict[str, object]:
        """Leave out what was counted and learned, so that `datasets` finds an encoder unchanged after its use."""
        state = vars(self).copy()
        del state["counts"], state["_learned"], state["_lock"]
        return state

    def __setstate__(self, state: Mapping[str, object]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __call__(self, rows: Any, indices: Sequence[int] | int | None = None) -> Any:  # of the shape of `rows`
        """Encode one conversation, one row, or a batch of rows or columns.

        Args:
            rows: A row of any known shape, a list of messages, a list of rows, a mapping of columns, or a
                `pyarrow.Table`.
            indices: The rows' numbers in the dataset for the error messages (`dataset.map(..., with_indices=True)`).
                Without them rows are named by their place in the batch.

        Returns:
            A mapping of `input_ids` and `labels`: lists of ints for one row, lists of such lists for a batch, in which
            dropped rows leave no place. A table for a table.

        Raises:
            PadfixError: A row is refused (see `on_error`), or a single row leaves nothing to train on.
        """
        if is_table(rows):
            first = indices if isinstance(indices, int) else next(iter(indices or ()), 0)
            return self.encode_table(rows, first)
        batch = split_batch(rows)
        if batch is None:
            number = indices if isinstance(indices, int) or indices is None else indices[0]
            columns, counts = self._encode_rows([rows], [number])
            if not counts.kept:
                raise PadfixError(f"The row leaves nothing to train on ({counts}). Raise max_length, or drop the row.")
            if counts.pieces:
                raise PadfixError(
                    f"The text has more than max_length={self.max_length} tokens and becomes {counts.pieces} rows. "
                    "Pass it in a list, which gives them all: encoder([row]), encoder.encode_rows([row]), or "
                    "dataset.map(encoder, batched=True)"
                )
            return {name: column[0] for name, column in columns.items()}
        if indices is not None:
            return self.encode_rows(batch, indices)[0]
        return self._encode_rows(batch, range(len(batch)), of_batch=True)[0]

    def encode_rows(
        self, rows: Iterable[object], numbers: Sequence[int] | int = 0, *, strict: bool = False
    ) -> tuple[_Columns, Counts]:
        """Encode rows into columns, and return what became of them beside.

        The counts are also added to `self.counts`; when an error is raised, nothing is added.

        Args:
            rows: Rows of any known shape.
            numbers: The rows' numbers for the error messages, or the number of the first one.
            strict: See `encode_chunk`.

        Returns:
            The columns `input_ids` and `labels`, in which dropped rows leave no place and a split text has one for
            each piece, and the counts.

        Raises:
            PadfixError: A row is refused (see `on_error`).
        """
        rows = list(rows)
        named = range(numbers, numbers + len(rows)) if isinstance(numbers, int) else list(numbers)
        return self._encode_rows(rows, named, strict=strict)

    def encode_table(
        self, table: pa.Table | pa.RecordBatch, first_row: int = 0, *, carry: Sequence[str] = ()
    ) -> pa.Table:
        """Encode an Arrow table of rows into one of `input_ids` and `labels`, lists of int32.

        `encoder.counts` adds up what became of the rows.

        Args:
            table: A `pyarrow.Table` or `RecordBatch`.
            first_row: The number of the table's first row, for the error messages.
            carry: Columns (an id) that go along with the rows that are kept, and with each piece of a split text.
                Dropped rows leave no place.

        Raises:
            PadfixError: A row is refused (see `on_error`), or a column to carry is not there.
        """
        return self.encode_chunk(table, first_row, carry=carry)[0]

    def encode_chunk(
        self, table: pa.Table | pa.RecordBatch, first_row: int = 0, *, carry: Sequence[str] = (), strict: bool = False
    ) -> tuple[pa.Table, Counts]:
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
        with self._lock:
            parts = self._learn().encode_table(table, first_row, carry, strict)
            counts = sum((batch.counts for _, batch in parts), Counts())
            self.counts = self.counts + counts
        return pyarrow.concat_tables([part for part, _ in parts]), counts

    def _encode_rows(
        self, rows: Sequence[object], numbers: Sequence[int | None], of_batch: bool = False, strict: bool = False
    ) -> tuple[_Columns, Counts]:
        with self._lock:
            batch = self._learn().encode_rows(rows, numbers, of_batch, strict)
            self.counts = self.counts + batch.counts
        edges = [*pairwise(batch.bounds.tolist())]
        columns = {
            name: [flat[start:end] for start, end in edges]
            for name, flat in (("input_ids", batch.input_ids.tolist()), ("labels", batch.labels.tolist()))
        }
        return columns, batch.counts

    def _learn(self) -> Learned:
        """Return what was learned for the tokenizer and settings of now; nothing yet where they are others."""
        learned, key = self._learned, find_key(self.tokenizer, self.settings, self.engine)
        if learned is None or learned.key != key:
            row_encoder = RowEncoder(self.tokenizer, self.settings, self.text_end_id)
            learned = self._learned = Learned(key, row_encoder, self.engine, gave_up=self.doubtful)
        learned.row_encoder.settings = self.settings
        return learned


_encoders: weakref.WeakSet[ChatEncoder] = weakref.WeakSet()


def _renew_encoders() -> None:
    for encoder in list(_encoders):
        encoder._renew_after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_renew_encoders)
