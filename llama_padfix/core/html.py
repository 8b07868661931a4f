"""What a notebook shows: tables without a script, every character escaped, in the notebook's own colors."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from llama_padfix.core.text import printable

# A class twice outweighs Jupyter's own rule, which aligns every cell to the right.
_STYLE = """
.padfix-record { font: 14px/1.5 system-ui, sans-serif; margin: .4rem 0; overflow-x: auto; }
.padfix-record table { border-collapse: collapse; margin: .2rem 0; }
.padfix-record caption { text-align: left; font-weight: 600; white-space: nowrap; }
.padfix-record.padfix-record :is(td, th) { border: 1px solid #8886; padding: .15rem .5rem; text-align: left;
  vertical-align: top; overflow-wrap: break-word; max-width: 46rem; }
.padfix-record p { margin: .2rem 0; }
.padfix-record.padfix-record .number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.padfix-record .bar { display: inline-block; height: .7em; background: #4c8bf5; }
"""


class Markup(str):
    """Text that is markup already, for a cell."""

    __slots__ = ()


def escape(value: object) -> str:
    """Return a value as text in which no character is markup and none acts."""
    return html.escape(printable(value))


def html_table(header: Sequence[str], rows: Iterable[Iterable[object]], caption: str = "") -> str:
    """Return a table whose cells are escaped, numbers to the right; an empty header or caption is left out."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{title}{f'<thead><tr>{head}</tr></thead>' if head else ''}<tbody>{body}</tbody></table>"


def html_block(inner: str) -> str:
    """Return markup in a block of its own; the style names no element outside of it."""
    return f'<div class="padfix-record"><style>{_STYLE}</style>{inner}</div>'


def html_lines(lines: Iterable[object]) -> str:
    """Return lines of text as paragraphs."""
    return "".join(f"<p>{escape(line)}</p>" for line in lines)


def html_bar(share: float) -> Markup:
    """Return a bar, as long as a share from 0 to 1 says."""
    return Markup(f'<span class="bar" style="width:{max(0.0, min(share, 1.0)) * 12:.2f}em"></span>')


def _cell(value: object) -> str:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return f'<td class="number">{escape(value)}</td>' if number else f"<td>{_markup(value)}</td>"


def _markup(value: object) -> str:
    return value if isinstance(value, Markup) else escape(value)
