"""Plain frozen data that flows through the library: no torch, no transformers, nothing that acts."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = [
    "IGNORE_INDEX",
    "Change",
    "Check",
    "Counts",
    "Facts",
    "Finding",
    "ModelFacts",
    "PadfixError",
    "Plan",
    "Precision",
    "Report",
    "Safety",
    "Severity",
    "TemplateFacts",
    "TurnMarkers",
]

IGNORE_INDEX = -100
"""The label that `torch.nn.functional.cross_entropy` leaves out of the loss (its `ignore_index`)."""

Safety = Literal["safe", "unsafe", "manual"]
"""`safe`: settings only. `unsafe`: a template, ids or weights. `manual`: shown, never run."""

Severity = Literal["error", "warning", "note"]


class PadfixError(ValueError):
    """What was seen, why the library stops there, and the one line that mends it."""


@dataclass(frozen=True)
class Change:
    """One assignment that heals a fault, as data.

    `target` is a dotted path such as `model.generation_config.eos_token_id`; `before` and `after` are plain
    values; `why` is one sentence for the person who reads the plan; `code` names the check that asked for it.
    """

    target: str
    before: object
    after: object
    why: str
    safety: Safety = "safe"
    code: str = ""

    def __str__(self) -> str:
        return f"{self.target}: {self.before!r} -> {self.after!r}  ({self.why})"


@dataclass(frozen=True)
class Plan:
    """The changes that a tokenizer and its model need, in the order in which they apply. Falsy when empty."""

    changes: tuple[Change, ...] = ()

    def __len__(self) -> int:
        return len(self.changes)

    def __iter__(self) -> Iterator[Change]:
        return iter(self.changes)

    def __str__(self) -> str:
        if not self.changes:
            return "Nothing to change."
        count = len(self.changes)
        lines = [f"{count} change{'s' if count > 1 else ''}:"]
        for change in self.changes:
            lines.append(f"  {change.target}: {change.before!r} -> {change.after!r}")
            lines.append(f"      {change.why}" + (f" [{change.code}]" if change.code else ""))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        if not self.changes:
            return "<p>Nothing to change.</p>"
        rows = [
            (change.target, repr(change.before), repr(change.after), change.why, change.code)
            for change in self.changes
        ]
        return _html_table(("setting", "before", "after", "why", "check"), rows)


@dataclass(frozen=True)
class TurnMarkers:
    """What stands around an assistant turn in a row of ids, learned by rendering and encoding the template.

    `header_ids` open the turn (the generation prompt), `stop_ids` are the ids one of which ends it, and
    `turn_start_ids` are control ids that begin any turn, so that a turn without a stop token ends before them.
    """

    header_ids: tuple[int, ...]
    stop_ids: tuple[int, ...]
    turn_start_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class TemplateFacts:
    """What stands around an assistant turn in a chat template, learned by rendering probes.

    `header` is the text that opens the turn (the generation prompt); it is found again before the answers of a
    conversation when `header_in_history`, and cannot be forged by text when `header_has_control` (it holds a
    control token). `stop_token` is the first special token after the answer. `leading_bos` counts the BOS ids
    that a rendered conversation starts with. `always_opens_turn`: the template ends every conversation with
    the header, asked or not. `error` says why nothing could be learned.
    """

    header: str = ""
    header_in_history: bool = False
    header_has_control: bool = False
    stop_token: str | None = None
    stop_token_id: int | None = None
    always_opens_turn: bool = False
    leading_bos: int = 0
    error: str | None = None


@dataclass(frozen=True)
class ModelFacts:
    """The settings of a model that must agree with its tokenizer, as they are held (an id, a tuple or None)."""

    embedding_rows: int | None = None
    config_pad_token_id: int | None = None
    config_eos_token_id: int | tuple[int, ...] | None = None
    has_generation_config: bool = False
    generation_pad_token_id: int | None = None
    generation_eos_token_id: int | tuple[int, ...] | None = None


@dataclass(frozen=True)
class Facts:
    """What a tokenizer (and its model) really does, found by encoding and rendering.

    `vocabulary` maps every token to its id and `special_ids` the special ones; `pad_token_id` is looked up there,
    so it is None for a pad token that the vocabulary lacks. `bos_added` and `eos_added` count what encoding a
    plain text puts before and after it. `template` is None without a chat template, `model` without a model.
    """

    vocab_size: int
    vocabulary: Mapping[str, int] = field(repr=False)
    special_ids: Mapping[str, int] = field(repr=False)
    bos_token: str | None
    bos_token_id: int | None
    eos_token: str | None
    eos_token_id: int | None
    pad_token: str | None
    pad_token_id: int | None
    unk_token_id: int | None
    padding_side: str
    bos_added: int
    eos_added: int
    template: TemplateFacts | None = None
    requested_pad_token: str | None = None
    model: ModelFacts | None = None


@dataclass(frozen=True)
class Finding:
    """One fault that was seen: which, how bad, the evidence in numbers, and the changes that would heal it."""

    code: str
    name: str
    severity: Severity
    message: str
    changes: tuple[Change, ...] = ()

    def __str__(self) -> str:
        return f"{self.severity} {self.code} {self.name}: {self.message}"


@dataclass(frozen=True)
class Check:
    """One trap: a pure function from `Facts` to findings, and the page that explains it.

    `needs` names the facts without which it is skipped ("tokenizer", "template", "model"); `bad` and `good`
    are short examples.
    """

    code: str
    name: str
    severity: Severity
    needs: tuple[str, ...]
    explanation: str
    bad: str
    good: str
    find: Callable[[Facts], Iterator[Finding]]

    def found(self, message: str, changes: tuple[Change, ...] = ()) -> Finding:
        """Return a finding of this check."""
        return Finding(self.code, self.name, self.severity, message, changes)


@dataclass(frozen=True)
class Report:
    """What the catalogue of checks said of one set of facts; a skipped check is listed with its reason."""

    findings: tuple[Finding, ...] = ()
    passed: tuple[str, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)

    def raise_for_errors(self) -> None:
        """Raise `PadfixError` listing every finding of severity error; do nothing when there is none."""
        errors = [str(finding) for finding in self.findings if finding.severity == "error"]
        if errors:
            raise PadfixError("\n".join(errors))

    def __str__(self) -> str:
        lines = [str(finding) for finding in self.findings] or ["No findings."]
        lines.append(f"passed: {', '.join(self.passed) or 'none'}")
        lines += [f"skipped: {code} ({reason})" for code, reason in self.skipped.items()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows: list[Sequence[str]] = [(f.severity, f.code, f.name, f.message) for f in self.findings]
        rows += [("skipped", code, "", reason) for code, reason in self.skipped.items()]
        return _html_table(("severity", "code", "name", "what was seen"), rows)


@dataclass(frozen=True)
class Precision:
    """The floating point type to train in, the two `TrainingArguments` switches that ask for it, and why.

    `dtype` is the `torch` name ("bfloat16", "float16", "float32") as a string, so that this record needs no
    torch; `max_grad_norm` is the gradient clipping that goes with it.
    """

    dtype: str
    bf16: bool
    fp16: bool
    max_grad_norm: float
    reason: str

    def __str__(self) -> str:
        return f"{self.dtype}: {self.reason}"


@dataclass(frozen=True)
class Counts:
    """What became of the rows that went into an encoder; `kept` plus every kind of loss equals `rows`.

    `cut` rows are among the kept ones (they lost turns to `max_length`); so are `repaired` ones (a doubled BOS
    in rendered text) and `escaped` ones (text of a message that spelled a control token, encoded as text).
    """

    rows: int = 0
    kept: int = 0
    dropped_untrained: int = 0
    dropped_too_long: int = 0
    dropped_invalid: int = 0
    cut: int = 0
    repaired: int = 0
    escaped: int = 0
    tokens: int = 0
    trained_tokens: int = 0

    def __add__(self, other: Counts) -> Counts:
        mine, theirs = vars(self), vars(other)
        return Counts(**{name: mine[name] + theirs[name] for name in mine})

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
        parts += [f"{count} {kind}" for count, kind in kinds if count]
        share = self.trained_tokens / self.tokens if self.tokens else 0.0
        parts.append(f"{self.tokens} tokens, {self.trained_tokens} trained ({share:.0%})")
        return "; ".join(parts)


def _html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def describe(value: Any, limit: int = 80) -> str:
    """Return a short `repr` of a user's value for an error message."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
