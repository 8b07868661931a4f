"""What became of the rows that went into an encoder: sums, and the first few rows of each kind by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["CountedRow", "Counts", "count_rows"]

_EXAMPLES = 5  # rows named of each kind, however many there are


@dataclass(frozen=True)
class CountedRow:
    """One row by its number: the field of `Counts` that counts it, and what was seen (spelled tokens, the error).

    `row` is None where a row came alone and without its number; with `of_batch` it counts within its batch only.
    """

    row: int | None
    kind: str
    detail: str = ""
    of_batch: bool = False

    @property
    def name(self) -> str:
        """What the row is called in a line about it."""
        if self.row is None:
            return "a row"
        return f"row {self.row} of its batch" if self.of_batch else f"row {self.row}"


@dataclass(frozen=True)
class Counts:
    """What became of the rows that went into an encoder; `kept` plus every kind of loss equals `rows`.

    Among the kept rows are `cut` (they lost turns to `max_length`), `repaired` (a doubled BOS in rendered text),
    `escaped` (a message spelled a control token, encoded as text), `allowed` (one that stayed a control token, as
    asked for), `unstopped` (the chat template leaves a trained turn without a stop token), `disagreeing`
    (`{% generation %}` marks other text than is trained), `unreasoned` (the template leaves out the reasoning of a
    trained message), `quoted` (it writes arguments that are JSON text as a JSON string) and `lossy` (it loses
    something else without a word: a tool call, a message's text, parts written as Python code). `examples` name
    the first few rows of each kind, and are not compared.
    """

    rows: int = 0
    kept: int = 0
    dropped_untrained: int = 0
    dropped_too_long: int = 0
    dropped_invalid: int = 0
    cut: int = 0
    repaired: int = 0
    escaped: int = 0
    allowed: int = 0
    unstopped: int = 0
    disagreeing: int = 0
    unreasoned: int = 0
    quoted: int = 0
    lossy: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    examples: tuple[CountedRow, ...] = field(default=(), compare=False)

    def __add__(self, other: Counts) -> Counts:
        mine, theirs = vars(self), vars(other)
        sums = {name: mine[name] + theirs[name] for name in mine if name != "examples"}
        examples = self.examples
        for example in other.examples:
            if sum(known.kind == example.kind for known in examples) < _EXAMPLES:
                examples = (*examples, example)
        return Counts(**sums, examples=examples)

    @property
    def remarkable(self) -> bool:
        """Whether a row was lost or changed, or is not quite what its author may think."""
        doubts = self.escaped + self.unstopped + self.disagreeing + self.unreasoned + self.quoted + self.lossy
        return self.dropped + self.cut + self.repaired + doubts > 0

    @property
    def dropped(self) -> int:
        """Rows that did not leave the encoder, for whatever reason."""
        return self.dropped_untrained + self.dropped_too_long + self.dropped_invalid

    def __str__(self) -> str:
        parts = [f"{self.rows} rows: {self.kept} kept"]
        reasons = [
            (self.dropped_untrained, "without one trained token"),
            (self.dropped_too_long, "whose first trained turn does not fit"),
            (self.dropped_invalid, "that could not be read"),
        ]
        parts += [f"{count} dropped {reason}" for count, reason in reasons if count]
        kinds = [(self.cut, "cut to max_length"), (self.repaired, "with a doubled BOS repaired")]
        kinds.append((self.escaped, "with control tokens in their text, encoded as text"))
        kinds.append((self.allowed, "with control tokens in their text, left in as allowed"))
        kinds.append((self.unstopped, "with a trained turn that the template leaves without a stop token"))
        kinds.append((self.disagreeing, "in which {% generation %} marks other text than is trained"))
        kinds.append((self.unreasoned, "whose reasoning the template leaves out of a trained turn"))
        kinds.append((self.quoted, "whose tool arguments are JSON text that the template quotes again"))
        kinds.append((self.lossy, "of which the template loses a part (a tool call, text, or text parts)"))
        parts += [f"{count} {kind}" for count, kind in kinds if count]
        share = self.trained_tokens / self.tokens if self.tokens else 0.0
        parts.append(f"{self.tokens} tokens, {self.trained_tokens} trained ({share:.0%})")
        return "; ".join(parts)

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
    """Return the counts of rows, each given as its number, its tokens (0 when dropped), the trained ones, and `seen`.

    `seen` holds the fields of `Counts` that count the row beside `rows` and `kept`, each with what was seen.
    """
    sums: dict[str, int] = {}
    examples: list[CountedRow] = []
    for number, _, _, seen in rows:
        for kind, detail in seen.items():
            sums[kind] = sums.get(kind, 0) + 1
            if sums[kind] <= _EXAMPLES:
                examples.append(CountedRow(number, kind, detail, of_batch))
    return Counts(
        rows=len(rows),
        kept=sum(tokens > 0 for _, tokens, _, _ in rows),
        tokens=sum(tokens for _, tokens, _, _ in rows),
        trained_tokens=sum(trained for _, _, trained, _ in rows),
        examples=tuple(examples),
        **sums,
    )
