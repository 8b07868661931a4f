"""A report in each of its forms: complete, counted, and harmless whatever stands in the rows."""

from __future__ import annotations

import contextlib
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

import llama_padfix
from llama_padfix import Change, Finding, PadfixError, Report
from llama_padfix.doctor import report_formats as render
from llama_padfix.doctor.facts import SampleFacts
from llama_padfix.doctor.findings import Evidence

HOSTILE = "</td><script>alert(1)</script>\x1b[31m\n::error title=x::forged\r\u202e[red]%0A\ud800 <img src=x onerror=y>"
CHANGE = Change("tokenizer.pad_token", None, ("a", 1), "because, " + HOSTILE, code="A001")
FINDING = Finding(
    "A001",
    "bad-thing",
    "error",
    "saw " + HOSTILE,
    (CHANGE,),
    where="dataset",
    rows=3,
    seen=64,
    count=4,
    evidence=(Evidence(17, 2, 5, HOSTILE, "remark " + HOSTILE, (("a" + HOSTILE, False), ("b" + HOSTILE, True))),),
)
NOTE = Finding("B001", "so-be-it", "note", "50% done, a:b")
REPORT = Report(
    (FINDING, NOTE),
    ("C001",),
    {"D001": "no model to look at", "D002": "no model to look at", "E001": HOSTILE},
    (SampleFacts("dataset", 64, 380, ("input_ids",)), SampleFacts("stream", 5, None)),
)


def test_the_dict_is_versioned_and_complete() -> None:
    document = REPORT.to_dict()
    assert document["schema"] == render.SCHEMA == 1
    assert document["tool"] == {"name": "llama-padfix", "version": llama_padfix.__version__}
    assert document["summary"] == {"error": 1, "warning": 0, "note": 1}
    read = {"source": "dataset", "seen": 64, "total": 380, "columns": ["input_ids"]}
    assert document["samples"][0] == {**read, "not_drawn": None}
    assert document["passed"] == ["C001"] and document["skipped"]["D001"] == "no model to look at"
    finding = document["findings"][0]
    assert {"code", "name", "severity", "message", "where", "rows", "seen", "count"} <= set(finding)
    assert (finding["where"], finding["rows"], finding["seen"], finding["count"]) == ("dataset", 3, 64, 4)
    [place] = finding["evidence"]
    given = {"row": 17, "start": 2, "end": 5, "text": HOSTILE, "remark": "remark " + HOSTILE}
    assert place == {**given, "runs": [["a" + HOSTILE, False], ["b" + HOSTILE, True]]}
    [change] = finding["changes"]
    assert {"target", "before", "after", "why", "safety"} <= set(change)
    assert (change["before"], change["after"], change["safety"]) == (None, ["a", 1], "safe")


def test_json_is_ascii_and_says_the_same() -> None:
    text = REPORT.to_json()
    assert text.isascii()
    assert json.loads(text) == REPORT.to_dict()
    odd = Report((Finding("A001", "a-b", "note", "", (Change("t", float("nan"), object, "w"),)),))
    [change] = json.loads(odd.to_json())["findings"][0]["changes"]
    assert change["before"] == "nan" and "object" in change["after"]


def test_text_is_one_printable_line_each() -> None:
    text = str(REPORT)
    assert all(line.isprintable() for line in text.split("\n"))
    assert "\x1b" not in text and not re.search(r"^::", text, re.M)
    lines = text.split("\n")
    assert lines[0].startswith("error A001 bad-thing: saw </td>")
    assert "row 17 [2:5]" in lines[1]
    assert "safe fix: tokenizer.pad_token: None -> ['a', 1]" in lines[2]
    assert "looked at 64 of 380 rows (dataset)" in lines
    assert "looked at 5 of a stream of rows (stream)" in lines
    assert "skipped: D001, D002 (no model to look at)" in lines
    assert render.summarize(REPORT.to_dict()) == "1 error, 0 warnings, 1 note; 1 passed, 3 skipped"


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.names: set[str] = set()
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.names |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.mark.parametrize("page", [REPORT.to_html(), REPORT._repr_html_()])
def test_html_runs_nothing(page: str) -> None:
    seen = Tags(page)
    assert not {"script", "img"} & seen.tags
    assert not [name for name in seen.names if name.startswith("on") or name in ("src", "href")]
    assert "<script>alert(1)</script>" in seen.words, "it is shown as text"


def test_the_page_has_everything() -> None:
    words = Tags(REPORT.to_html()).words
    for text in ("A001 bad-thing", "looked at 64 of 380 rows", "17", "2:5", "['a', 1]", "D001, D002", "C001"):
        assert text in words
    REPORT.to_html().encode("utf-8", "xmlcharrefreplace")


def unescape(text: str) -> str:
    return text.replace("%0A", "\n").replace("%0D", "\r").replace("%3A", ":").replace("%2C", ",").replace("%25", "%")


def test_github_annotations_cannot_be_forged() -> None:
    lines = render.as_github(REPORT.to_dict()).split("\n")
    commands = [line for line in lines if line.startswith("::")]
    assert len(commands) == 2, "one a finding"
    assert commands[0].startswith("::error title=A001 bad-thing::saw </td>")
    assert commands[1].startswith("::notice title=B001 so-be-it::50%25 done, a:b%0Afix: llama-padfix explain B001")
    assert all(line.isprintable() for line in lines)
    assert "row 17" in unescape(commands[0])
    warning = Report((Finding("A,1", "x:y", "warning", "m"),))
    assert render.as_github(warning.to_dict()).startswith("::warning title=A%2C1 x%3Ay::m%0Afix: ")


def test_rich_takes_markup_for_text(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    monkeypatch.setenv("COLUMNS", "200")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        render.print_rich(REPORT.to_dict())
    text: Any = out.getvalue()
    assert "[red]" in text and "\x1b[31m" not in text
    assert "looked at 64 of 380 rows (dataset)" in text and "1 error, 0 warnings, 1 note" in text


def test_nothing_found_says_what_was_looked_at() -> None:
    clear = Report((), ("A001",), samples=REPORT.samples[:1], looked_at=("tokenizer", "model"))
    said = "All clear: 1 check passed. Looked at: tokenizer, model, 64 rows (dataset)."
    assert str(clear).split("\n") == [said, "looked at 64 of 380 rows (dataset)", "passed: A001"]
    assert said in clear.to_html() and said in clear._repr_html_()
    noted = Report((NOTE,), ("A001",), looked_at=("tokenizer",))
    assert "All clear but for 1 note: 1 check passed. Looked at: tokenizer." in str(noted)
    assert "All clear" not in str(REPORT), "there is an error"
    unread = Report((), ("A001",), samples=(*clear.samples, SampleFacts("eval batch", 0, 9, (), "it is read once")))
    assert "All clear" not in str(unread)
    said = "Nothing is wrong in what was looked at: 1 check passed. Looked at: 64 rows (dataset). Not looked at: "
    assert f"{said}a tokenizer (none was given or found), eval batch." in str(unread)
    rows = Report((), ("A001",), {"B001": render.NO_LABELS}, REPORT.samples[:1], ("tokenizer",))
    assert "Not looked at: what is trained (the rows have no labels)." in str(rows) and "All clear" not in str(rows)
    assert "All clear" in str(replace(rows, looked_at=("tokenizer", "trainer")))  # which says where it needs labels
    nothing = "No findings: no check had anything to look at."
    assert nothing in Report().to_html()
    counted = "0 errors, 0 warnings, 0 notes; 0 passed, 0 skipped"
    assert render.as_github(Report().to_dict()).split("\n") == [nothing, counted]


def test_the_tokens_of_a_row_are_drawn_as_in_the_viewer(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = (("<|eot_id|>\nHi ", False), ("You\x1b[31m", True))
    report = Report((Finding("A001", "a-b", "error", "m", evidence=(Evidence(3, 0, 2, "text", runs=runs),)),))
    assert "row 3 [0:2] <|eot_id|>⏎Hi ⟦You\\x1b[31m⟧" in str(report)
    for page in (report.to_html(), report._repr_html_()):
        assert "<mark>You\\x1b[31m</mark>" in page
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert "row 3 [0:2] <|eot_id|>\\nHi [[You\\x1b[31m]]" in str(report)


def test_long_lists_are_folded() -> None:
    places = tuple(Evidence(row, 0, 0, "x") for row in range(5))
    finding = Finding("A001", "a-b", "error", "m", rows=40, evidence=places)
    report = Report(
        (finding,),
        ("BBB001", "BBB002", "CCC001", "CCC002", "CCC003", "DDD009"),
        dict.fromkeys(["E001", "E002"], "why"),
    )
    text = str(report).split("\n")
    assert [line.strip() for line in text[1:5]] == [*(f"row {n} 'x'" for n in range(3)), "... and 37 more rows"]
    assert "passed: BBB001, BBB002, CCC001-CCC003, DDD009" in text and "skipped: E001, E002 (why)" in text
    assert len(report.to_dict()["findings"][0]["evidence"]) == 5


CHANGES = {
    "diagnose(trainer).fix()": ("safe", ("trainer",)),
    "diagnose((tokenizer, model)).fix()": ("safe", ("tokenizer", "model")),
    'diagnose(tokenizer).fix("unsafe")': ("unsafe", ("tokenizer",)),
    "llama-padfix doctor FOLDER --fix OUT --unsafe": ("unsafe", ("folder",)),
    "by hand: t = 2": ("manual", ("trainer",)),
    "good line": ("", ()),
}


@pytest.mark.parametrize("line", CHANGES)
def test_every_finding_ends_with_its_fix_and_its_page(line: str) -> None:
    safety: Any
    safety, parts = CHANGES[line]
    changes = (Change("t", 1, 2, "w", safety),) if safety else ()
    finding = Finding("A001", "a-b", "error", "m", changes, advice="good line\nmore")
    report = Report((finding,), looked_at=parts)
    for form in (str(report), Tags(report.to_html()).words, Tags(report._repr_html_()).words):
        assert line in form and "docs/checks/A001.md, llama-padfix explain A001" in form
    with pytest.raises(PadfixError) as raised:
        report.raise_for_errors()
    assert str(raised.value).split("\n") == ["error A001 a-b: m", f"Fix: {line}"]
