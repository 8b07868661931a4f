"""What became of the rows that went into an encoder: sums, and the first few rows of each kind by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from llama_padfix.core.html import html_block, html_lines, html_table
from llama_padfix.core.records import record_html, short_repr
from llama_padfix.core.text import printable

_EXAMPLES = 5  # rows named of each kind, however many there are
_MOST_COLUMNS = 50  # named, however many there are

# The kinds of rows that a line about counts lists, in its order.
_KINDS = {
    "dropped_untrained": "dropped without one trained token",
    "dropped_too_long": "dropped whose first trained turn does not fit",
    "dropped_invalid": "dropped that could not be read",
    "dropped_equal": "dropped whose answers are equal",
    "dropped_empty": "dropped with an empty answer",
    "dropped_prompts": "dropped whose answers stand behind different prompt tokens",
    "dropped_tied": "dropped whose answers have the same score",
    "cut": "cut to max_length",
    "split": "texts longer than max_length, split into {pieces} rows",
    "repaired": "with a doubled BOS repaired",
    "escaped": "with control tokens in their text, encoded as text",
    "allowed": "with control tokens in their text, left in as allowed",
    "unstopped": "with a trained turn that the template leaves without a stop token",
    "disagreeing": "in which {% generation %} marks other text than is trained",
    "unreasoned": "whose reasoning the template leaves out of a trained turn",
    "quoted": "whose tool arguments are JSON text that the template quotes again",
    "empty_reasoning": "with an empty thought that the template adds and that is trained",
    "lossy": "of which the template loses a part (a thought, a text, a message, a tool, or text parts)",
    "lost_reasoning": "whose thoughts the template leaves out",
    "lost_text": "of which a text or a part of it is left out",
    "lost_message": "of which a whole message is left out",
    "lost_tools": "of which a tool or a tool call is left out",
    "empty": "with an empty answer, which trains its end alone",
    "media_marks": "that speak of an image, a video or a sound which is not there",
    "unparsed": "whose tool arguments are text that is no JSON",
    "nulls": "whose tool arguments or schemas lose null keys, since Arrow may have filled them in",
}
_SUMS = ("lossy", "unreasoned")  # of rows that are named under the `lost_` kinds


@dataclass(frozen=True)
class CountedRow:
    """One row by its number: the field of `Counts` that counts it, and the detail (spelled tokens, the error).

    `row` is None where a row came alone and without its number; with `of_batch` it counts within its batch only.
    """

    row: int | None
    kind: str
    detail: str = ""
    of_batch: bool = False

    __repr__ = short_repr
    _repr_html_ = record_html

    @property
    def name(self) -> str:
        """What the row is called in a line about it."""
        if self.row is None:
            return "a row"
        return f"row {self.row} of its batch" if self.of_batch else f"row {self.row}"


@dataclass(frozen=True)
class Counts:
    """What became of the rows that went into an encoder; `kept` plus every kind of loss equals `rows`.

    A row that is kept may be counted in several of the fields from `cut` to `nulls`.
    """

    rows: int = 0
    kept: int = 0
    dropped_untrained: int = 0
    """Rows without a trained token: nobody answers, or no answer is to be trained."""
    dropped_too_long: int = 0
    """Rows of which no trained turn fits into `max_length`."""
    dropped_invalid: int = 0
    """Rows that could not be read, with `on_error="drop"`."""
    dropped_equal: int = 0
    """Pairs whose answers are equal, or become equal where both are cut."""
    dropped_empty: int = 0
    """Preferences of which an answer holds nothing."""
    dropped_prompts: int = 0
    """Pairs whose answers do not stand behind the same prompt tokens."""
    dropped_tied: int = 0
    """Pairs whose answers have the same score."""
    cut: int = 0
    """They lost turns, or tokens, to `max_length`."""
    split: int = 0
    """Plain texts that became several rows of at most `max_length` tokens; nothing of them is lost."""
    pieces: int = 0
    """The rows that those texts became: `kept - split + pieces` rows leave the encoder."""
    repaired: int = 0
    """Rendered texts with a doubled BOS, of which one was removed."""
    escaped: int = 0
    """A message spells a control token, which was encoded as text."""
    allowed: int = 0
    """A message spells a control token, which stayed one, by `allowed_tokens`."""
    unstopped: int = 0
    """The chat template leaves a trained turn without a stop token."""
    disagreeing: int = 0
    """`{% generation %}` marks other text than is trained."""
    unreasoned: int = 0
    """The template leaves out the thoughts of a trained message: those rows of `lost_reasoning`."""
    quoted: int = 0
    """The template writes arguments that are JSON text as a JSON string."""
    lossy: int = 0
    """The template loses something: all rows of the `lost_` fields, and those with parts written as Python code."""
    lost_reasoning: int = 0
    """The template leaves out thoughts, in whatever key or in the content, of a message that is trained or not."""
    lost_text: int = 0
    """The template leaves out an assistant's text (beside a tool call, for one), or a part of any message's text."""
    lost_message: int = 0
    """The template writes nothing of a message that is not the assistant's."""
    lost_tools: int = 0
    """The template leaves out a part of the tools' schemas, or a tool call."""
    empty_reasoning: int = 0
    """The template writes an empty thought into a trained turn, whose message says nothing of thoughts."""
    empty: int = 0
    """A trained message holds neither text nor a call, so that its stop token alone is trained."""
    media_marks: int = 0
    """`<image>`, `<video>` or `<audio>` stands in a message that is not the assistant's, and is encoded as text."""
    unparsed: int = 0
    """The arguments of a tool call are text that is no JSON, and the template writes them as they are."""
    nulls: int = 0
    """Null keys of tool arguments or schemas were left out, since Arrow may have filled them in."""
    tokens: int = 0
    """Of the kept rows."""
    trained_tokens: int = 0
    """Tokens whose label is their id."""
    examples: tuple[CountedRow, ...] = field(default=(), compare=False)
    """The first few rows of each kind. They are not compared."""
    unread_columns: tuple[str, ...] = field(default=(), compare=False)
    """The columns that hold something and that no row is made of. They are not compared."""

    __repr__ = short_repr

    def __add__(self, other: Counts) -> Counts:
        mine, theirs = vars(self), vars(other)
        sums = {name: mine[name] + theirs[name] for name in mine if name not in ("examples", "unread_columns")}
        unread = tuple(dict.fromkeys(self.unread_columns + other.unread_columns))[:_MOST_COLUMNS]
        examples = self.examples
        for example in other.examples:
            if sum(known.kind == example.kind for known in examples) < _EXAMPLES:
                examples = (*examples, example)
        return Counts(**sums, examples=examples, unread_columns=unread)

    @property
    def remarkable(self) -> bool:
        """True if a row was lost or changed, or trains something else than its author may expect."""
        return any(getattr(self, kind) for kind in _KINDS if kind not in ("allowed", "nulls"))

    @property
    def dropped(self) -> int:
        """Rows that did not leave the encoder, for whatever reason."""
        return sum(count for name, count in vars(self).items() if name.startswith("dropped_"))

    def __str__(self) -> str:
        return "; ".join(self._list_parts())

    def _repr_html_(self) -> str:
        rows = (part.partition(" ")[::2] for part in self._list_parts())
        return html_block(html_table((), rows, "Counts") + html_lines(self.name_rows()))

    def _list_parts(self) -> list[str]:
        parts = [f"{self.rows} rows: {self.kept} kept"]
        counted = [f"{count} {text}" for kind, text in _KINDS.items() if (count := getattr(self, kind))]
        parts += [part.replace("{pieces}", str(self.pieces)) for part in counted]
        unread = ", ".join(map(printable, self.unread_columns))
        parts += [f"columns that are not read: {unread}"] * bool(unread)
        share = self.trained_tokens / self.tokens if self.tokens else 0.0
        return [*parts, f"{self.tokens} tokens, {self.trained_tokens} trained ({share:.0%})"]

    def name_rows(self) -> list[str]:
        """Return one line for each kind of row that is named in `examples`: its first rows, and what was seen."""
        named: dict[str, list[str]] = {}
        for example in self.examples:
            detail = f" ({example.detail})" if example.detail else ""
            named.setdefault(example.kind, []).append(example.name + detail)
        return [
            f"{kind}: {', '.join(rows)}" + (", ..." if getattr(self, kind) > len(rows) else "")
            for kind, rows in named.items()
        ]


def count_rows(rows: Sequence[tuple[int | None, int, int, Mapping[str, str]]], *, of_batch: bool = False) -> Counts:
    """Return the counts of rows, each given as its number, its tokens (0 when dropped), the trained ones, and notes.

    Notes are the fields of `Counts` that count the row beside `rows` and `kept`, each with the detail to show.
    """
    sums: dict[str, int] = {}
    examples: list[CountedRow] = []
    for number, _, _, notes in rows:
        has_names = any(kind.startswith("lost_") for kind in notes)
        for kind, detail in notes.items():
            sums[kind] = sums.get(kind, 0) + 1
            if sums[kind] <= _EXAMPLES and not (has_names and kind in _SUMS):
                examples.append(CountedRow(number, kind, detail, of_batch))
    return Counts(
        rows=len(rows),
        kept=sum(tokens > 0 for _, tokens, _, _ in rows),
        tokens=sum(tokens for _, tokens, _, _ in rows),
        trained_tokens=sum(trained for _, _, trained, _ in rows),
        examples=tuple(examples),
        unread_columns=(),
        **sums,
    )
