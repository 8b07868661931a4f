"""What the site is built from: each page is found from docs/README.md, each public name from the API reference."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import llama_padfix

ROOT = Path(__file__).parents[1]
API = ROOT / "docs" / "api"
stage: Any = SimpleNamespace(**runpy.run_path(str(ROOT / "docs" / "site" / "stage.py")))


def flatten(nav: list[Any]) -> Iterator[str]:
    for entry in nav:
        if isinstance(entry, str):
            yield entry
        else:
            for below in entry.values():
                yield from flatten(below)


def test_every_page_is_found_from_the_index_of_the_docs_once() -> None:
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")}
    pages |= {"CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "findings/README.md"}
    assert sorted(flatten(stage.read_nav())) == sorted(pages)


def test_the_navigation_has_the_sections_of_the_index() -> None:
    nav = stage.read_nav()
    assert nav[0] == "docs/README.md"
    assert [next(iter(section)) for section in nav[1:]] == [
        "When a run went wrong",
        "Data and labels",
        "Models and training",
        "Reference",
    ]
    symptoms = nav[1]["When a run went wrong"][0]
    assert symptoms["Pages by symptom"][:2] == ["docs/symptoms/README.md", "docs/symptoms/never_stops.md"]


def test_a_page_that_no_table_links_is_not_in_the_navigation(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    index = "# Docs\n\n[b](b.md)\n\n## Some\n\n| page |\n|---|\n| [a](a.md#part) |\n| [c](c.md), [c](c.md) |\n"
    (tmp_path / "docs" / "README.md").write_text(index)
    for name in "abc":
        (tmp_path / "docs" / f"{name}.md").write_text(f"# {name}\n")
    assert stage.read_nav(root=tmp_path) == ["docs/README.md", {"Some": ["docs/c.md"]}]


def test_the_api_reference_has_each_public_name_once_and_its_index_lists_the_same() -> None:
    found = {
        path.name: re.findall(r"^::: llama_padfix\.(\w+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        for path in API.glob("[!R]*.md")
    }
    names = sorted(name for names in found.values() for name in names)
    assert names == sorted(set(llama_padfix.__all__) - {"__version__"})
    index = (API / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[.*\]\((\w+\.md)\) \| (.*) \|$", index, re.MULTILINE)
    assert {page: re.findall(r"`(\w+)`", listed) for page, listed in rows} == found


def test_a_bar_in_a_table_is_written_as_the_site_reads_it(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("| a | `<\\|eot_id\\|>`, x \\| y |\n`a\\|b`\n")
    stage.copy_file(str(page), str(tmp_path / "copy.md"))
    assert (tmp_path / "copy.md").read_text() == "| a | `<|eot_id|>`, x \\| y |\n`a\\|b`\n"


def test_what_is_laid_out(tmp_path: Path) -> None:
    stage.main(tmp_path)
    config = json.loads((tmp_path / "mkdocs.yml").read_text(encoding="utf-8"))
    assert set(flatten(config["nav"][1:])) <= {
        path.relative_to(tmp_path / "pages").as_posix() for path in (tmp_path / "pages").rglob("*.md")
    }
    stage.main(tmp_path)  # again, over what is there
