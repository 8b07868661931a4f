"""Lays out what the site is built from: a copy of the pages, and a configuration with their navigation.

The navigation is that of the tables of docs/README.md: each link to a page is an entry, a link to the README of a
folder is a section with the links of that page, and a heading above a table is a section.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TypeAlias

ROOT = Path(__file__).resolve().parents[2]
START, INDEX = "README.md", "docs/README.md"
# What is laid out: the pages, and the scripts that they link to.
PARTS = (START, "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE", "docs", "examples", "findings")
_LINK = re.compile(r"\]\(([^)#\s:]+\.md)\)")

Nav: TypeAlias = "list[str | dict[str, Nav]]"


def read_links(page: str, root: Path = ROOT) -> Iterator[tuple[str, str]]:
    """Yield the heading above each link of a page's tables, and the page that the link leads to, from the root."""
    heading = ""
    for line in (root / page).read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ")
        elif line.startswith("|"):
            for link in _LINK.findall(line):
                path = (root / page).parent.joinpath(link).resolve()
                yield heading, path.relative_to(root).as_posix()


def read_nav(page: str = INDEX, root: Path = ROOT, seen: set[str] | None = None) -> Nav:
    """Return the navigation that begins at a page; a page stands where it is linked first."""
    seen = {START} if seen is None else seen
    seen.add(page)
    nav: Nav = [page]
    sections: dict[str, Nav] = {"": nav}
    for heading, target in read_links(page, root):
        if target in seen:
            continue
        seen.add(target)
        if heading not in sections:
            sections[heading] = []
            nav.append({heading: sections[heading]})
        if PurePosixPath(target).name == "README.md":
            below = read_nav(target, root, seen)
            title = (root / target).read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
            sections[heading].append({title: below} if len(below) > 1 else target)
        else:
            sections[heading].append(target)
    return nav


def copy_file(source: str, target: str) -> str:
    r"""Copy a file; in the tables of a page `\|` within code becomes `|`, which Python-Markdown expects there."""
    if not source.endswith(".md"):
        return shutil.copy(source, target)
    lines = Path(source).read_text(encoding="utf-8").splitlines(keepends=True)
    code = re.compile("`[^`]+`")
    plain = [code.sub(lambda m: m[0].replace(r"\|", "|"), s) if s.startswith("|") else s for s in lines]
    Path(target).write_text("".join(plain), encoding="utf-8")
    return target


def main(target: Path) -> None:
    """Write the folder `pages` and the file `mkdocs.yml` in the target."""
    pages = target / "pages"
    shutil.rmtree(pages, ignore_errors=True)
    pages.mkdir(parents=True)
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, pages / part, copy_function=copy_file)
        else:
            copy_file(str(ROOT / part), str(pages / part))
    config = {
        "INHERIT": str(Path(__file__).with_name("mkdocs.yml")),
        "docs_dir": "pages",
        "site_dir": "site",
        "nav": [{"Home": START}, *read_nav()],
    }
    (target / "mkdocs.yml").write_text(json.dumps(config, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
