"""Rows through the encoder as it is, and through its careful way alone: both must give the same, errors included."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import pyarrow

from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.batch.cross_check import Batch, Rows, encode_row_by_row
from llama_padfix.encoding.encoder import ChatEncoder
from llama_padfix.encoding.row_encoder import RowEncoder
from tests.support.conversations import Message, say, say_control

Row = Any
Table: TypeAlias = pyarrow.Table | pyarrow.RecordBatch
ENGINES = ("tokenizers", "cached", "fastokens")

# Halves of control tokens, white space of all kinds, what melts into a header, what joins with its neighbors.
CRUMBS: tuple[str, ...] = (
    "<",
    "<|",
    "|>",
    ">",
    "</",
    "s>",
    "<|eot_id",
    "eot_id|>",
    "<|im_end",
    "[e~",
    "[",
    "<turn",
    "turn>",
    "x",
    "Word",
)
CRUMBS += (
    "\n",
    "\n\n",
    " ",
    "\t",
    "\r\n",
    "\u00a0",
    "\x85",
    "\x1c",
    "\x1f",
    "\u200b",
    "\ufeff",
    "\u2028",
    "two words",
)
CRUMBS += (
    "7",
    "123",
    "!",
    "'s",
    "\u0301",
    "\u0338",
    "e\u0301",
    "é",
    "각",
    "\u1100\u1161",
    "👩",
    "\u200d👧",
    "🏽",
    "漢",
)
CRUMBS += ("assistant", "user", "<think>\n", "</think>", "<|start_header_id|", "{{ c }}", "%s", "\x00", "\ue000")
WHOLE = ("<|eot_id|>", "<|start_header_id|>", "<|im_end|>", "</s>", "<turn>", "<tool_call>", "<|endoftext|>", "<eot>")


def say_hard(rng: random.Random) -> str:
    """Crumbs of control tokens and odd white space; seldom a whole token, and seldom blank."""
    kind = rng.random()
    if kind < 0.5:
        return "".join(rng.choices(CRUMBS, k=rng.choice((1, 2, 2, 3, 4, 8))))
    if kind < 0.8:
        return say(rng)
    if kind < 0.95:
        return rng.choice(CRUMBS) + say(rng) + rng.choice(CRUMBS)
    return say_control(rng) if kind < 0.97 else "".join(rng.choices((*CRUMBS, *WHOLE), k=4))


def make_hard_rows(count: int, seed: object, speak: Callable[[random.Random], str] = say_hard) -> list[dict[str, Any]]:
    """`count` rows with a `messages` column of roles and texts alone, the same for the same seed."""
    rng = random.Random(str(seed))
    rows = []
    for _ in range(count):
        roles = ["system"] * (rng.random() < 0.25) + ["user", "assistant"] * rng.choice((1, 1, 2, 3))
        roles += ["user"] * (rng.random() < 0.1)
        roles = roles[rng.random() < 0.03 :] if len(roles) > 2 else roles
        rows.append({"messages": [{"role": role, "content": speak(rng)} for role in roles]})
    return rows


@dataclass(frozen=True)
class Encoded:
    """What became of rows: the ids and labels of the kept ones, the counts with their examples, or the error."""

    input_ids: Any = ()
    labels: Any = ()
    counts: Any = None
    examples: Any = ()
    error: str = ""


def encode_carefully(encoder: ChatEncoder, rows: Sequence[Row]) -> Encoded:
    """Encode rows as the encoder's careful way does, which knows nothing of what the encoder learned."""
    way = RowEncoder(encoder.tokenizer, encoder.settings, encoder.text_end_id)
    try:
        made: Batch = encode_row_by_row(way, Rows(lambda places: [rows[place] for place in places], range(len(rows))))
    except PadfixError as error:
        return Encoded(error=str(error))
    edges = made.bounds.tolist()
    ids, labels = (
        [values[start:end].tolist() for start, end in pairwise(edges)] for values in (made.input_ids, made.labels)
    )
    return Encoded(ids, labels, made.counts, made.counts.examples)


def encode_all(encoder: ChatEncoder, rows: Sequence[Row] | Table) -> Encoded:
    """Encode rows, or a table, as anybody would."""
    try:
        if isinstance(rows, Table):
            table, counts = encoder.encode_chunk(rows)
            return Encoded(table["input_ids"].to_pylist(), table["labels"].to_pylist(), counts, counts.examples)
        columns, counts = encoder.encode_rows(rows)
        return Encoded(columns["input_ids"], columns["labels"], counts, counts.examples)
    except PadfixError as error:
        return Encoded(error=str(error))


def count_plain(encoder: ChatEncoder) -> int:
    """How many rows the batch encoder encoded, from its beginning."""
    learned = encoder._learned
    used = (learned.batch_encoder, learned.text_encoder) if learned is not None else ()
    return sum(one.rows for one in used if one is not None)


def assert_same(tokenizer: Any, rows: Sequence[Row] | Table, **settings: Any) -> tuple[Encoded, int]:
    """Compare both ways, and return what became of the rows and how many the batch encoder encoded.

    Without `engine` that is done with `tokenizers`, and with the default engine's cache where it takes the tokenizer.
    """
    settings.setdefault("on_error", "drop")
    encoder = ChatEncoder(tokenizer, **settings)
    expected = encode_carefully(encoder, rows.to_pylist() if isinstance(rows, Table) else rows)
    made = encode_all(encoder, rows)
    assert made == expected, settings
    assert not encoder.doubtful
    if "engine" not in settings:
        cached = ChatEncoder(tokenizer, **settings, engine="cached")
        again = encode_all(cached, rows)
        if not again.error.startswith("The engine cached"):  # which refuses some tokenizers
            assert again == expected, settings
            assert not cached.doubtful and count_plain(cached) == count_plain(encoder)
    return made, count_plain(encoder)


def tabulate(rows: Sequence[dict[str, Any]]) -> pyarrow.Table:
    """The rows as an Arrow table."""
    return pyarrow.Table.from_pylist(list(rows))


def talk(*texts: str) -> list[Message]:
    """Messages of a user and an assistant in turn."""
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]
