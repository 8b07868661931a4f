"""What a notebook shows of a record: a table in which nothing acts, of every public record and of hostile values."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import llama_padfix
from llama_padfix import Change, Choice, CountedRow, Counts, Incident, MemoryEstimate, Plan, StopReport
from llama_padfix.core.html import html_bar, html_block, html_table
from llama_padfix.core.records import record_html
from llama_padfix.doctor.findings import Report
from llama_padfix.doctor.generation.answers import GeneratedAnswer
from llama_padfix.training.guard.incident import Cause

RECORDS = re.findall(r"^record (\w+)", (Path(__file__).parents[1] / "public_api.txt").read_text(), re.MULTILINE)
NO_PICTURE = {"PadCollator", "PairCollator"}  # they are called, and hold two settings
HOSTILE = '</td></table><script>alert(1)</script><img src=x onerror="alert(2)">\u202e\x1b[31m\n<|eot_id|>'


class Tags(HTMLParser):
    """The tags, attributes and words of markup; fails where a tag is not closed by its own."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.names: set[str] = set()
        self.words = ""
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.names |= {name for name, _ in attrs}
        self.open += [tag] * (tag != "br")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data * ("style" not in self.open)


def shown(record: Any) -> str:
    """Return the words that a notebook shows, after a check that nothing acts."""
    seen = Tags(record._repr_html_())
    assert not seen.tags & {"script", "img", "a", "link", "iframe"}
    assert seen.names <= {"class", "style"}
    assert all(char.isprintable() or char == "\n" for char in seen.words)
    return seen.words


@pytest.mark.parametrize("name", sorted({*RECORDS} - NO_PICTURE))
def test_every_public_record_has_a_picture(name: str) -> None:
    assert callable(getattr(getattr(llama_padfix, name), "_repr_html_", None))


@dataclasses.dataclass(frozen=True)
class Record:
    text: str
    share: float = 0.0
    many: tuple[object, ...] = ()
    named: dict[str, object] = dataclasses.field(default_factory=dict)

    _repr_html_ = record_html


def test_a_record_shows_what_is_not_at_its_default_in_lines() -> None:
    words = shown(Record("first\nsecond", 0.1 + 0.2, tuple(f"line {n}" for n in range(20)), {"a": "b"}))
    assert words == "Recordtextfirstsecondshare0.3many" + "".join(f"line {n}" for n in range(8)) + (
        "and 12 morenameda: 'b'"
    )
    assert shown(Record("x")) == "Recordtextx"
    assert len(shown(Record("x" * 10, many=([1] * 10_000,)))) < 200


@pytest.mark.parametrize(
    "record",
    [
        Record(HOSTILE, many=(HOSTILE, [HOSTILE]), named={HOSTILE: HOSTILE}),
        Choice(HOSTILE, HOSTILE, HOSTILE),
        Change(HOSTILE, HOSTILE, HOSTILE, HOSTILE, code=HOSTILE),
        Plan((Change(HOSTILE, HOSTILE, HOSTILE, HOSTILE),), left=(HOSTILE,)),
        CountedRow(3, "escaped", HOSTILE),
        Counts(rows=2, kept=2, escaped=1, examples=(CountedRow(1, "escaped", HOSTILE),), unread_columns=(HOSTILE,)),
        Incident("zero-loss", 3, HOSTILE, Cause("GRD001", "a", HOSTILE, HOSTILE), folder=HOSTILE),
        StopReport(
            (GeneratedAnswer(0, 5, 4, 4, None, False, None, tail=HOSTILE),), {1: HOSTILE}, Report(), {7: HOSTILE}
        ),
    ],
    ids=lambda record: type(record).__name__,
)
def test_nothing_in_a_record_acts(record: Any) -> None:
    words = shown(record)
    assert "<script>alert(1)</script>" in words and "<|eot_id|>" in words, "it is shown as text"


def test_counts_are_a_table_with_the_rows_by_name() -> None:
    counts = Counts(rows=3, kept=2, dropped_untrained=1, tokens=10, trained_tokens=5, unread_columns=("id",))
    assert shown(counts) == (
        "Counts3rows: 2 kept1dropped without one trained tokencolumnsthat are not read: id10tokens, 5 trained (50%)"
    )


def test_answers_are_a_table_of_the_first_ones() -> None:
    ended = GeneratedAnswer(0, 5, 3, 9, 1, True, None, tail="Yes")
    at_string = GeneratedAnswer(1, 5, 3, 9, None, True, None)
    missed = GeneratedAnswer(2, 5, 9, 9, None, False, None, as_text="<|eot_id|>")
    words = shown(StopReport((ended, at_string, *[missed] * 30), {1: "</s>"}, Report()))
    assert "and 12 more answers" in words
    page = StopReport((ended, at_string, missed), {1: "</s>"}, Report())._repr_html_()
    assert "<td>&lt;/s&gt;</td><td></td><td>Yes</td>" in page
    assert "<td>a stop string</td>" in page and "<td>-</td><td>as text</td>" in page


def test_memory_is_a_table_with_a_bar_for_each_share() -> None:
    sizes = {"weights": 2 << 30, "logits": 1 << 30, "activations": 1 << 30, "paged": 1 << 29, "phase": "backward"}
    names = {field.name: 0 for field in dataclasses.fields(MemoryEstimate)}
    plan = SimpleNamespace(
        config=SimpleNamespace(model_type="llama"),
        quantization="nf4",
        lora=None,
        gradient_checkpointing=True,
        optimizer="adamw",
        dtype="float32",
        batch=1,
        length=64,
    )
    given: Any = {**names, **sizes, "assumed": ("full rows",), "plan": plan}
    estimate = MemoryEstimate(**given)
    words, page = shown(estimate), estimate._repr_html_()
    assert words.startswith("llama, nf4 + checkpointing, adamw, batch 1 x 64 tokens: 4.00 GiB at the peak (backward)")
    assert "2.00 GiB50 %" in words and words.endswith(
        "and 0.50 GiB of optimizer state in paged memoryassumed: full rows"
    )
    assert page.count('class="bar"') == 3


def test_numbers_stand_to_the_right_and_a_bar_has_a_width() -> None:
    assert html_table(("a",), [(1, True, "b")], "<c>") == (
        "<table><caption>&lt;c&gt;</caption><thead><tr><th>a</th></tr></thead>"
        '<tbody><tr><td class="number">1</td><td>True</td><td>b</td></tr></tbody></table>'
    )
    assert [html_bar(share).partition("width:")[2] for share in (-1, 0.5, 9)] == [
        f'{width}em"></span>' for width in ("0.00", "6.00", "12.00")
    ]
    assert html_block("x").endswith("</style>x</div>")
