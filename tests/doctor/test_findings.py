"""The records read well, and hold what is put into them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import llama_padfix
from llama_padfix import Change, Conversation, Counts, Finding, PadfixError, Plan, Precision, Report
from llama_padfix.core.errors import describe
from llama_padfix.core.records import short_repr
from llama_padfix.doctor import facts, findings, row_facts

RECORDS = re.findall(r"^record (\w+)", (Path(__file__).parents[1] / "public_api.txt").read_text(), re.MULTILINE)

CHANGE = Change("tokenizer.pad_token", None, "<|end_of_text|>", "it ends a text", code="PAD001")


def test_plan_reads_well() -> None:
    assert str(Plan()) == "Nothing to change."
    assert "<p>Nothing to change.</p>" in Plan()._repr_html_()
    assert not Plan()
    plan = Plan((CHANGE,))
    assert plan
    assert (len(plan), list(plan)) == (1, [CHANGE])
    assert str(plan).splitlines() == [
        "1 change:",
        "  tokenizer.pad_token: None -> '<|end_of_text|>'",
        "      it ends a text [PAD001]",
    ]
    assert str(Plan((CHANGE, CHANGE))).startswith("2 changes:")
    assert "<td>&#x27;&lt;|end_of_text|&gt;&#x27;</td>" in plan._repr_html_(), "a token is text, not a tag"
    assert str(CHANGE) == "tokenizer.pad_token: None -> '<|end_of_text|>'  (it ends a text)"


def test_report_hides_nothing() -> None:
    error, note = Finding("A001", "a-b", "error", "5 < 6"), Finding("B001", "c-d", "note", "so be it")
    report = Report((error, note), ("C001",), {"D001": "no model to look at"}, looked_at=("tokenizer",))
    assert str(report).splitlines() == [
        "error A001 a-b: 5 < 6",
        "    fix: llama-padfix explain A001   page: docs/checks/A001.md, llama-padfix explain A001",
        "note B001 c-d: so be it",
        "    fix: llama-padfix explain B001   page: docs/checks/B001.md, llama-padfix explain B001",
        "Looked at: tokenizer.",
        "passed: C001",
        "skipped: D001 (no model to look at)",
    ]
    html = report._repr_html_()
    assert "<p>5 &lt; 6</p>" in html
    assert "skipped: D001 (no model to look at)" in html
    with pytest.raises(PadfixError, match=r"^error A001 a-b: 5 < 6\nFix: llama-padfix explain A001$"):
        report.raise_for_errors()
    Report((note,)).raise_for_errors()
    assert str(Report()).splitlines() == ["No findings: no check had anything to look at.", "passed: none"]


def test_counts_add_up() -> None:
    one = Counts(rows=5, kept=2, dropped_untrained=1, dropped_too_long=1, dropped_invalid=1, cut=1, tokens=10)
    two = dataclasses.replace(one, trained_tokens=5, repaired=1, escaped=2)
    both = one + two
    assert all(
        getattr(both, f.name) == getattr(one, f.name) + getattr(two, f.name) for f in dataclasses.fields(Counts)
    )
    assert (both.dropped, both.kept + both.dropped) == (6, both.rows)
    assert str(both) == (
        "10 rows: 4 kept; 2 dropped without one trained token; 2 dropped whose first trained turn does not fit; "
        "2 dropped that could not be read; 2 cut to max_length; 1 with a doubled BOS repaired; "
        "2 with control tokens in their text, encoded as text; 20 tokens, 5 trained (25%)"
    )
    assert str(Counts()) == "0 rows: 0 kept; 0 tokens, 0 trained (0%)"


def test_precision_says_why() -> None:
    assert str(Precision(torch.bfloat16, True, False, 1.0, "real bf16")) == "bfloat16: real bf16"


def test_describe_is_short() -> None:
    assert describe("ab") == "'ab'"
    assert len(describe("a" * 500)) == 80
    assert describe("a" * 500).endswith("...")


@pytest.mark.parametrize("name", RECORDS)
def test_every_public_record_has_a_short_repr(name: str) -> None:
    kind = getattr(llama_padfix, name)
    own = ("LoadPlan", "PadCollator", "Plan", "Report", "ServingReport", "TurnMarkers")
    assert kind.__repr__ is short_repr or name in own


def test_a_repr_is_one_short_line_whatever_is_held() -> None:
    change = Change("tokenizer.pad_token", None, "a\n" * 500, "because " * 200, code="PAD001")
    finding = Finding("A001", "a-b", "error", "m" * 900, (change,) * 50, rows=3)
    report = Report((finding,) * 90, ("C001",) * 90, {"D001": "no model"})
    plan = Plan((change,) * 2, left=("row",))
    row = Conversation(messages=[{"role": "user"}] * 99, text=None, shape="messages")
    for record in (change, finding, report, plan, Counts(), row):
        assert len(repr(record)) <= 160 and repr(record).isprintable()
    assert repr(report) == "Report(90 errors, 0 warnings, 0 notes; 90 passed, 1 skipped)"
    assert (repr(plan), repr(Plan())) == ("Plan(2 changes, 1 left)", "Plan(0 changes)")
    assert repr(Change("a.b", 1, 2, "so")) == "Change(target='a.b', before=1, after=2, why='so')"


def _dataclasses() -> list[Any]:
    modules = (findings, facts, row_facts)
    values = {value for module in modules for value in vars(module).values() if dataclasses.is_dataclass(value)}
    return sorted(values, key=lambda value: str(value.__name__))


@pytest.mark.parametrize("record", _dataclasses(), ids=lambda record: record.__name__)
def test_every_record_is_frozen(record: Any) -> None:
    assert record.__dataclass_params__.frozen


def test_there_are_records() -> None:
    assert len(_dataclasses()) >= 10
