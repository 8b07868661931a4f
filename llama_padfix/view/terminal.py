"""Rows for a terminal: trained text is in double brackets, and nothing in a row can move the cursor."""

from __future__ import annotations

import re
import sys
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate

from llama_padfix.core.text import printable
from llama_padfix.view.document import MaskDocument, MaskRow
from llama_padfix.view.pieces import Piece
from llama_padfix.view.problems import Problem

OPEN, CLOSE = "⟦", "⟧"
_MARKS = {"open": OPEN, "close": CLOSE, "newline": "⏎", "bar": "│", "times": "×"}
_ASCII_MARKS = {"open": "[[", "close": "]]", "newline": "\\n", "bar": "|", "times": "x"}
_LOOKS_LIKE_CONTROL = r"<\|[^|\s]{1,40}\|>"
_RESET = "\x1b[0m"
# Trained is green, a control token bold, padding and roles faint; a problem red, a warning yellow.
_SGR = {"trained": "32", "special": "1", "trained special": "1;32", "padding": "2", "role": "36", "faint": "2"}
_SGR |= {"error": "31", "warning": "33", "note": "36", "head": "1"}
_WIDEST_ROLE = 12


def describe_view(view: MaskDocument) -> str:
    """Return "3 of 380 rows (dataset): 812 tokens, 96 trained (12%), 40 padding, 35 control tokens (9 trained)"."""
    counts = count_tokens(view)
    of = "" if view.total is None or view.total == len(view.rows) else f" of {view.total}"
    rows = f"{len(view.rows)}{of} row{'s' if view.total != 1 else ''} ({view.source})"
    parts = [f"{counts['tokens']:,} tokens", f"{counts['trained']:,} trained ({share(counts)})"]
    parts += [f"{counts['padding']:,} padding"] if counts["padding"] else []
    parts.append(f"{counts['special']:,} control tokens ({counts['trained special']:,} trained)")
    return f"{rows}: {', '.join(parts)}"


def count_tokens(view: MaskDocument) -> dict[str, int]:
    """Return how many tokens of each kind all the rows hold; padding is no control token."""
    counts = dict.fromkeys(("tokens", "trained", "context", "padding", "special", "trained special"), 0)
    special = [token_id for token_id, piece in view.pieces.items() if piece.is_special]
    for row in view.rows:
        trained, padding = row.trained, row.padding
        control = row.input_ids != row.input_ids
        for token_id in special:
            control = control | (row.input_ids == token_id)
        counts["tokens"] += len(row)
        counts["trained"] += int(trained.sum())
        counts["padding"] += int((padding & ~trained).sum())
        counts["context"] += int((~padding & ~trained).sum())
        counts["special"] += int((control & ~(padding & ~trained)).sum())
        counts["trained special"] += int((control & trained).sum())
    return counts


def share(counts: Mapping[str, int]) -> str:
    """Return the share of trained tokens among those that are no padding."""
    real = counts["tokens"] - counts["padding"]
    return f"{counts['trained'] / real:.0%}" if real else "0%"


def describe_row(row: MaskRow) -> str:
    """Return "57 tokens, 12 trained (21%), 8 padding; labels made of assistant_masks"."""
    if not len(row):
        return "not encoded"
    trained, padding = int(row.trained.sum()), int((row.padding & ~row.trained).sum())
    counts = {"tokens": len(row), "trained": trained, "padding": padding}
    text = f"{len(row):,} tokens" + ("" if row.labels is None else f", {trained:,} trained ({share(counts)})")
    text += f", {padding:,} padding" if padding else ""
    return text + (f"; {row.note}" if row.note else "")


def describe_problem(problem: Problem, names: Mapping[str, str]) -> str:
    """Return "error BOS003 double-bos-in-rows at 0-1, 2 times (remark)" as one printable line."""
    named = " ".join(part for part in (problem.severity, problem.code, names.get(problem.code, "")) if part)
    last = problem.end - 1
    where = f" at {problem.start}" + (f"-{last}" if last > problem.start else "") if problem.end else ""
    times = f", {problem.count} times in the row" if problem.count > 1 else ""
    remark = problem.remark if not problem.code else f"({problem.remark})" if problem.remark else ""
    return printable(f"{named}{where}{times}{':' if remark and not problem.code else ''} {remark}").strip()


def describe_findings(view: MaskDocument) -> list[str]:
    """Return a line for each finding of the checks, and one for the checks that were skipped."""
    lines = [printable(finding) for finding in view.report.findings]
    lines = lines or [f"No findings: {len(view.report.passed)} checks of rows passed."]
    if view.report.skipped:
        lines.append(printable(f"skipped: {', '.join(view.report.skipped)}"))
    return lines


def as_terminal(view: MaskDocument, *, color: bool, max_rows: int | None, max_tokens: int | None) -> str:
    """Return the rows as lines of printable characters; the only control sequences are those of the colors."""
    names = {finding.code: finding.name for finding in view.report.findings}
    paint, marks = (_paint if color else _no_paint), _choose_marks()
    lines = [
        paint(describe_view(view), "head"),
        f"{marks['open']}trained{marks['close']} is what the loss asks for",
        "",
    ]
    printer = _RowPrinter(view.pieces, color, marks)
    for row in view.rows[:max_rows]:
        lines.append(paint(f"row {row.number}: {describe_row(row)}", "head"))
        lines += [paint(f"  ! {describe_problem(problem, names)}", problem.severity) for problem in row.problems]
        lines += printer.format_row(row, max_tokens)
        lines.append("")
    left = len(view.rows) - len(view.rows[:max_rows])
    if left:
        lines += [f"... {left} more rows; view.save('mask.html') writes a page with all", ""]
    return "\n".join([*lines, *describe_findings(view)])


def _choose_marks() -> Mapping[str, str]:
    try:
        "".join(_MARKS.values()).encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return _ASCII_MARKS
    return _MARKS


@dataclass(frozen=True)
class _RowPrinter:
    """Formats rows: each turn starts a line, with its role before it, and so does what follows a line break."""

    pieces: Mapping[int, Piece]
    color: bool
    marks: Mapping[str, str]

    def format_row(self, row: MaskRow, max_tokens: int | None) -> Iterator[str]:
        """Yield the lines of a row; beyond `max_tokens` the middle is left out."""
        length, bar = len(row), self.marks["bar"]
        head = tail = length
        if max_tokens is not None and length > max_tokens:
            head, tail = max_tokens * 3 // 4, length - max_tokens // 4
        ends = [*(start for start, _ in row.turns[1:]), length][: len(row.turns)]
        paint = _paint if self.color else _no_paint
        spelled = self._find_spelled(row)
        for (start, role), end in zip(row.turns, ends, strict=True):
            label = printable(role)[:_WIDEST_ROLE]
            for first, last in ((start, min(end, head)), (max(start, tail), end)):
                if first >= last:
                    continue
                for text in self._format_turn(row, first, last, spelled):
                    yield f"  {paint(label.rjust(_WIDEST_ROLE), 'role')} {bar} {text}"
                    label = ""
            if start < head <= end and head < tail:
                yield f"  {'':{_WIDEST_ROLE}} {bar} {paint(f'... {tail - head:,} tokens are left out ...', 'faint')}"

    def _format_turn(self, row: MaskRow, start: int, end: int, spelled: frozenset[int]) -> Iterator[str]:
        """Yield the lines of a part of a turn."""
        trained, marks = row.trained, self.marks
        line, kind_before, inside, at = "", "", False, start
        while at < end:
            text, kind, step = self._format_token(row, at, end, at in spelled)
            if bool(trained[at]) != inside:
                inside = not inside
                line += self._switch_color(kind_before, "") + marks["open" if inside else "close"]
                kind_before = ""
            *parts, rest = text.split("\n")
            line += self._switch_color(kind_before, kind) + "".join(part + marks["newline"] for part in parts)
            if parts:  # several line breaks in one token are one
                after = at + step
                if inside and not rest and (after >= end or not trained[after]):
                    line, inside, kind = line + self._switch_color(kind, "") + marks["close"], False, ""
                yield line + self._switch_color(kind, "")
                line = self._switch_color("", kind)
            line, kind_before, at = line + rest, kind, at + step
        if inside:
            line += self._switch_color(kind_before, "") + marks["close"]
            kind_before = ""
        if rest or inside or not line.endswith(marks["newline"]):
            yield line + self._switch_color(kind_before, "")

    def _format_token(self, row: MaskRow, at: int, end: int, spells: bool) -> tuple[str, str, int]:
        """Return the text of what starts at a position, its kind, and its number of tokens."""
        token_id, trained = int(row.input_ids[at]), row.trained
        piece = self.pieces[token_id]
        if row.padding[at]:
            run = at
            while run < end and row.padding[run] and trained[run] == trained[at] and row.input_ids[run] == token_id:
                run += 1
            text = f"{run - at} {self.marks['times']} {_escape(piece.text)}"
            return text, "error" if trained[at] else "padding", run - at
        kind = " ".join(filter(None, ("trained" * bool(trained[at]), "special" * piece.is_special)))
        count, text = row.characters.get(at, (1, piece.text))
        same = trained[at : at + count]
        if at + count > end or not bool((same == same[0]).all()):
            count, text = 1, piece.text  # the character is trained in part
        if spells:
            before, mark, after = text.partition("<")
            return f"{_escape(before)}\\x3c{_escape(after)}" if mark else _escape(text), kind, count
        return _escape(text), kind, count

    def _find_spelled(self, row: MaskRow) -> frozenset[int]:
        """Return the positions where ordinary tokens start to spell a control token."""
        texts = ["\0" if self.pieces[i].is_special else self.pieces[i].text for i in row.input_ids.tolist()]
        starts = [0, *accumulate(map(len, texts))]
        found = re.finditer(_LOOKS_LIKE_CONTROL, "".join(texts))
        return frozenset(bisect_right(starts, match.start()) - 1 for match in found)

    def _switch_color(self, before: str, after: str) -> str:
        """Return what changes the color of one kind of token to that of another."""
        old, new = _SGR.get(before, ""), _SGR.get(after, "")
        if not self.color or old == new:
            return ""
        return (_RESET if old else "") + (f"\x1b[{new}m" if new else "")


def _escape(text: str) -> str:
    """Return a text with its line breaks; the marks of this module and what is not printable are escaped."""
    lines = "\n".join(printable(line) for line in text.split("\n"))
    for mark in (OPEN, CLOSE, _MARKS["newline"]):
        lines = lines.replace(mark, f"\\u{ord(mark):04x}")
    return lines


def _paint(text: str, kind: str) -> str:
    return f"\x1b[{_SGR[kind]}m{text}{_RESET}"


def _no_paint(text: str, kind: str) -> str:
    return text
