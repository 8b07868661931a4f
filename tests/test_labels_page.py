"""The examples of docs/labels.md do what the page says."""

from __future__ import annotations

import doctest
from pathlib import Path

from llama_padfix import Counts
from tests.conftest import fresh_tokenizer

PAGE = Path(__file__).parent.parent / "docs" / "labels.md"


def run_examples(text: str) -> doctest.TestResults:
    without_fences = "\n".join("" if line.startswith("```") else line for line in text.splitlines())
    names = {"tokenizer": fresh_tokenizer("3.2-instruct")}
    test = doctest.DocTestParser().get_doctest(without_fences, names, PAGE.name, str(PAGE), 0)
    return doctest.DocTestRunner().run(test)


def test_the_examples_give_what_the_page_shows() -> None:
    text = PAGE.read_text(encoding="utf-8")
    failed, tried = run_examples(text)
    assert failed == 0
    assert tried == sum(line.startswith(">>>") for line in text.splitlines()) > 20


def test_an_example_that_is_wrong_is_found() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert run_examples(text.replace("'26 Jul 2024'", "'27 Jul 2024'")).failed == 1


def test_the_page_names_every_kind_of_row_that_is_counted_apart() -> None:
    text, names = PAGE.read_text(encoding="utf-8"), ("disagreeing", "unstopped", "unreasoned", "quoted")
    assert all(f"`{name}`" in text for name in (*names, "dropped_invalid"))
    assert set(names) <= set(Counts.__dataclass_fields__)
