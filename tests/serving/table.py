"""Engine x cause on the chat templates that TRL ships, times the library's own chats: the table of docs/serving.md.

python -m tests.serving.table            prints it
python -m tests.serving.table --write    puts it into the page
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from llama_padfix import PadfixError, ServingReport, check_serving
from tests.support.families import originals
from tests.support.served import save_folder

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"
MARK = "python -m tests.serving.table --write"
END = "<!-- end of table -->\n"


def compare_all() -> list[ServingReport]:
    """Return a report for each template that renders a chat."""
    reports = []
    for path in originals():
        with tempfile.TemporaryDirectory() as folder:
            try:
                reports.append(check_serving(save_folder(Path(folder), path.read_text(encoding="utf-8"))))
            except PadfixError as error:
                sys.stderr.write(f"{path.stem}: {error}\n")
    return reports


def make_table(reports: list[ServingReport]) -> str:
    """Return the table in Markdown: points that differ, by cause; the most frequent cause first."""
    sums: dict[str, Counter[str]] = {}
    ours, differing, points = Counter[str](), Counter[str](), Counter[str]()
    for report in reports:
        for engine in report.engines:
            sums.setdefault(engine.name, Counter()).update(engine.causes)
            differing[engine.name] += engine.differing
            points[engine.name] += engine.points
            ours.update(engine.causes)
    names = [name for name in sums if points[name]]
    causes = [cause for cause, _ in ours.most_common()]
    counts = ", ".join(dict.fromkeys(str(points[name]) for name in names))
    lines = [
        f"{len(reports)} templates, {counts} generation points for each engine.\n",
        f"| cause | {' | '.join(names)} |",
        f"|---|{'---|' * len(names)}",
        *(f"| {cause} | {' | '.join(str(sums[name][cause] or '') for name in names)} |" for cause in causes),
        f"| points that differ | {' | '.join(str(differing[name]) for name in names)} |",
    ]
    return "\n".join(lines) + "\n"


def write_into(mark: str, table: str) -> None:
    """Write a table into the page, behind the comment that names its command."""
    begin = f"<!-- table: {mark} -->\n"
    before, found, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    assert found, f"{PAGE.name} has no place for the table of {mark}"
    PAGE.write_text(f"{before}{begin}\n{table}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Print the table, or write it into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(arguments)
    table = make_table(compare_all())
    if options.write:
        write_into(MARK, table)
    else:
        sys.stdout.write(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
