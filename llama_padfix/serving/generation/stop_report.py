"""The report of `check_stops`: every answer, and what the doctor's check of them finds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from llama_padfix.core.html import html_block, html_lines, html_table
from llama_padfix.core.records import as_json, short_repr
from llama_padfix.doctor.findings import Finding, Report
from llama_padfix.doctor.generation.answers import GeneratedAnswer
from llama_padfix.doctor.report_formats import LEVELS

if TYPE_CHECKING:
    from llama_padfix.core.types import JsonObject

CODE = "GEN009"
"""The check that reads the answers."""
_MOST = 20  # answers in a notebook's table


@dataclass(frozen=True)
class StopReport:
    """Which answers ended, where, and why the others did not."""

    answers: tuple[GeneratedAnswer, ...]
    """One for each prompt that was generated from."""

    stops: Mapping[int, str]
    """The ids at which generation stops by the saved settings, with their tokens."""

    report: Report = field(repr=False)
    """The same as findings, in the doctor's forms: text, JSON, HTML."""

    left_out: Mapping[int, str] = field(default_factory=dict)
    """By number, why a prompt was not generated from."""

    __repr__ = short_repr

    @property
    def stopped(self) -> int:
        """How many answers ended by themselves, at the first end that they generated."""
        return sum(answer.miss is None for answer in self.answers)

    @property
    def stopped_at(self) -> dict[int | None, int]:
        """How many ended at which id; None for those that ended at a stop string."""
        return dict(Counter(answer.stopped_at for answer in self.answers if answer.miss is None))

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is wrong."""
        return self.report.findings

    def __str__(self) -> str:
        return str(self.report)

    def _repr_html_(self) -> str:
        rows = [
            (one.prompt, one.new_tokens, self._name_end(one), one.miss or "", one.tail) for one in self.answers[:_MOST]
        ]
        table = html_table(("prompt", "tokens", "stopped at", "why not", "the answer ends with"), rows)
        more = [f"and {len(self.answers) - _MOST} more answers"] * (len(self.answers) > _MOST)
        more += [f"prompt {number} was left out: {why}" for number, why in self.left_out.items()]
        return html_block(table + html_lines(more)) + self.report._repr_html_()

    def _name_end(self, answer: GeneratedAnswer) -> str:
        if not answer.ended:
            return "-"
        return "a stop string" if answer.stopped_at is None else self.stops.get(answer.stopped_at, "?")

    def to_dict(self) -> JsonObject:
        """Return the doctor's dict with every answer in it, under "generated"."""
        return {**self.report.to_dict(), "generated": self.describe()}

    def to_json(self, indent: int | None = 2) -> str:
        """Return `to_dict` as JSON in ASCII."""
        return json.dumps(self.to_dict(), indent=indent)

    def describe(self) -> JsonObject:
        """Return counts and answers as values that JSON knows."""
        return {
            "stopped": self.stopped,
            "prompts": len(self.answers),
            "stops": {str(token_id): token for token_id, token in self.stops.items()},
            "left_out": {str(number): why for number, why in self.left_out.items()},
            "answers": [{**as_dict(answer), "miss": answer.miss} for answer in self.answers],
        }

    def add_to(self, report: Report) -> Report:
        """Return a report of the doctor with these findings in it."""
        findings = sorted(
            (*report.findings, *self.report.findings), key=lambda each: (LEVELS.index(each.severity), -each.rows)
        )
        return replace(
            report,
            findings=tuple(findings),
            passed=tuple(sorted({*report.passed, *self.report.passed})),
            skipped={code: why for code, why in report.skipped.items() if code != CODE},
            looked_at=tuple(dict.fromkeys((*report.looked_at, *self.report.looked_at))),
            notes=(*report.notes, *self.report.notes),
        )


def as_dict(answer: GeneratedAnswer) -> JsonObject:
    """Return an answer as values that JSON knows."""
    held = as_json(answer)
    assert isinstance(held, dict)
    return held


def say_stopped(answers: tuple[GeneratedAnswer, ...], names: Mapping[int, str]) -> str:
    """Return "17 of 20 answers end by themselves: <|eot_id|> (128009) 17."."""
    ended = Counter(answer.stopped_at for answer in answers if answer.miss is None)
    places = [
        f"{names.get(token_id, '?')} ({token_id}) {count}" if token_id is not None else f"a stop string {count}"
        for token_id, count in ended.most_common()
    ]
    where = f": {', '.join(places)}" if places else ""
    return f"{sum(ended.values())} of {len(answers)} answers end by themselves{where}."
