"""The examples of docs/labels.md, docs/rollouts.md and docs/design.md do what the pages say."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

from llama_padfix import Counts
from tests.conftest import fresh_tokenizer

DOCS = Path(__file__).parents[1] / "docs"
LABELS, DESIGN, ROLLOUTS = DOCS / "labels.md", DOCS / "design.md", DOCS / "rollouts.md"
PREFERENCE = DOCS / "preference.md"


def run_examples(text: str, name: str = LABELS.name, release: str = "3.2-instruct") -> doctest.TestResults:
    without_fences = "\n".join("" if line.startswith("```") else line for line in text.splitlines())
    names = {"tokenizer": fresh_tokenizer(release)}
    test = doctest.DocTestParser().get_doctest(without_fences, names, name, name, 0)
    return doctest.DocTestRunner().run(test)


@pytest.mark.parametrize(
    ("page", "release", "fewest"),
    [
        (LABELS, "3.2-instruct", 20),
        (DESIGN, "3.1-instruct", 20),
        (ROLLOUTS, "3.2-instruct", 10),
        (PREFERENCE, "3.1-instruct", 3),
    ],
)
def test_the_examples_give_what_the_page_shows(page: Path, release: str, fewest: int) -> None:
    text = page.read_text(encoding="utf-8")
    failed, tried = run_examples(text, page.name, release)
    assert failed == 0
    assert tried == sum(line.startswith(">>>") for line in text.splitlines()) > fewest


def test_an_example_that_is_wrong_is_found() -> None:
    text = LABELS.read_text(encoding="utf-8")
    assert run_examples(text.replace("'26 Jul 2024'", "'27 Jul 2024'")).failed == 1


def test_the_design_names_every_room_and_every_path_exists() -> None:
    text = DESIGN.read_text(encoding="utf-8")
    package = DOCS.parent / "llama_padfix"
    rooms = {path.parent.name for path in package.glob("*/__init__.py")}
    assert {room for room in rooms if f"`{room}`" not in text} == set()
    named = {word for word in text.replace("\n", " ").split("`")[1::2] if "/" in word and " " not in word}
    assert len(named) > 15
    missing = [word for word in named if not (package / word).exists() and not (DOCS.parent / word).exists()]
    assert missing == []


def test_the_page_names_every_kind_of_row_that_is_counted_apart() -> None:
    text = LABELS.read_text(encoding="utf-8")
    names = (
        "disagreeing",
        "unstopped",
        "unreasoned",
        "quoted",
        "empty",
        "nulls",
        "media_marks",
        "unparsed",
        "lossy",
        "empty_reasoning",
    )
    lost = ("lost_reasoning", "lost_text", "lost_message", "lost_tools")
    assert all(f"`{name}`" in text for name in (*names, *lost, "dropped_invalid", "dropped_untrained"))
    assert {*names, *lost} <= set(Counts.__dataclass_fields__)
