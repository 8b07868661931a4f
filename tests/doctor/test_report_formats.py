"""A report in each of its forms: complete, counted, and harmless whatever stands in the rows."""

from __future__ import annotations

import contextlib
import io
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

import llama_padfix
from llama_padfix import Change, Finding, Report
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
    evidence=(Evidence(17, 2, 5, HOSTILE, "remark " + HOSTILE),),
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
    assert place == {"row": 17, "start": 2, "end": 5, "text": HOSTILE, "remark": "remark " + HOSTILE}
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
    assert commands[1] == "::notice title=B001 so-be-it::50%25 done, a:b"
    assert all(line.isprintable() for line in lines)
    assert "row 17" in unescape(commands[0])
    warning = Report((Finding("A,1", "x:y", "warning", "m"),))
    assert render.as_github(warning.to_dict()).startswith("::warning title=A%2C1 x%3Ay::m\n")


def test_rich_takes_markup_for_text(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    monkeypatch.setenv("COLUMNS", "200")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        render.print_rich(REPORT.to_dict())
    text: Any = out.getvalue()
    assert "[red]" in text and "\x1b[31m" not in text
    assert "looked at 64 of 380 rows (dataset)" in text and "1 error, 0 warnings, 1 note" in text


def test_nothing_found_says_what_passed() -> None:
    assert str(Report((), ("A001",))).split("\n") == ["No findings.", "passed: A001"]
    assert "No findings." in Report().to_html()
    assert render.as_github(Report().to_dict()) == "0 errors, 0 warnings, 0 notes; 0 passed, 0 skipped"
