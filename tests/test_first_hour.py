"""What a newcomer pastes runs: the code blocks of the README and of the pages, and their links lead somewhere."""

from __future__ import annotations

import functools
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from llama_padfix import __version__
from tests.support.code_blocks import require_lines, run_commands, run_page

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
TEXTS = [
    README,
    *(ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "llms.txt")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
_LINK = re.compile(r"\]\(([^)#\s]*)(#[^)\s]*)?\)")


@pytest.fixture
def only_train(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A working directory, in a process that lacks what the extra `train` does not install."""
    for package in ("llama_models", "fastokens", "bitsandbytes"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_readme_runs_when_pasted(only_train: Path) -> None:
    import trl

    small: Any = functools.partial(trl.SFTConfig, max_steps=1, use_cpu=True, report_to=[])
    names = {"SFTConfig": small, "SFTTrainer": trl.SFTTrainer}  # the script that the diff changes has them
    assert run_page(README, names) == 4


PAGES = sorted(path for folder in ("symptoms", "migrate") for path in (ROOT / "docs" / folder).glob("[!R]*.md"))


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_the_blocks_of_a_page_run_in_order(page: Path, only_train: Path) -> None:
    assert run_page(page) >= 3


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_a_page_has_its_parts_and_is_found_from_the_index_and_the_readme(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    index = (page.parent / "README.md").read_text(encoding="utf-8")
    assert f"]({page.name})" in index
    if page.parent.name == "symptoms":
        assert re.findall("^## (.*)", text, re.MULTILINE) == ["See it", "Why", "Fix", "Know that it is fixed"]
        assert f"](docs/symptoms/{page.name})" in README.read_text(encoding="utf-8")


def test_the_readme_has_the_words_that_people_search_for() -> None:
    text = README.read_text(encoding="utf-8").lower()
    words = (
        "never stops generating",
        "assistant-only",
        "completion-only",
        "packing",
        "loss 0.0",
        "device-side assert",
    )
    assert [word for word in words if word not in text] == []


@pytest.mark.parametrize("page", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_leads_to_a_file(page: Path) -> None:
    links = [link for link, _ in _LINK.findall(page.read_text(encoding="utf-8")) if link and "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_citation_names_this_version_and_license() -> None:
    import yaml

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (__version__, "Apache-2.0")


def test_a_block_that_prints_something_else_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nprint('a\\nb\\nc')\n```\n\n```text\na\n...\nc\n```\n```sh\nnot run\n```\n")
    assert run_page(page) == 2
    page.write_text(page.read_text().replace("...\n", ""))
    with pytest.raises(AssertionError, match=r"page\.md:5: not printed there: 'c'"):
        run_page(page)
    with pytest.raises(AssertionError, match="exit status"):
        run_commands("$ llama-padfix explain PAD001  # exit status 1\n", "page")
    with pytest.raises(AssertionError, match="not printed there"):
        require_lines("b\n...\na", "a\nb", "page")
