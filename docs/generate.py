"""Writes docs/checks from the catalog; `--check` fails where a page is stale."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from llama_padfix.doctor.check_pages import index_page, page
from llama_padfix.doctor.runner import load_checks
from llama_padfix.serving import faults

ROOT = Path(__file__).resolve().parent.parent


def wanted_files(root: Path = ROOT) -> dict[Path, str]:
    """Every generated file with what it should hold."""
    pages = (*load_checks(), *load_checks(faults))
    folder = root / "docs" / "checks"
    return {**{folder / f"{check.code}.md": page(check) for check in pages}, folder / "README.md": index_page(pages)}


def stale_files(root: Path = ROOT) -> list[str]:
    """The generated files that are missing, old, or left from a check that is gone."""
    files = wanted_files(root)
    old = [path for path in (root / "docs" / "checks").glob("*.md") if path not in files]
    changed = [path for path, text in files.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    return sorted(path.relative_to(root).as_posix() for path in [*old, *changed])


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Write the files, or with `--check` only say which are stale; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, and exit 1 where a file is stale")
    options = parser.parse_args(arguments)
    stale = stale_files(root)
    if options.check:
        if stale:
            sys.stderr.write(f"stale: {', '.join(stale)}. Run: make docs\n")
        return int(bool(stale))
    files = wanted_files(root)
    (root / "docs" / "checks").mkdir(parents=True, exist_ok=True)
    for name in stale:
        if root / name in files:
            (root / name).write_text(files[root / name], encoding="utf-8")
        else:
            (root / name).unlink()
    sys.stdout.write(f"{len(stale)} of {len(files)} files written.\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
