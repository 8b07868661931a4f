"""Records as a notebook's output: tables without a script, every character escaped, in the notebook's own colors."""

from __future__ import annotations

import html
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llama_padfix.core.records import list_fields
from llama_padfix.core.text import printable

_STYLE = """
.padfix-record { font: 14px/1.5 system-ui, sans-serif; margin: .4rem 0; overflow-x: auto; }
.padfix-record table { border-collapse: collapse; margin: .2rem 0; }
.padfix-record caption { text-align: left; font-weight: 600; white-space: nowrap; }
.padfix-record td, .padfix-record th { border: 1px solid #8886; padding: .15rem .5rem; text-align: left;
  vertical-align: top; overflow-wrap: break-word; max-width: 46rem; }
.padfix-record p { margin: .2rem 0; }
.padfix-record .number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.padfix-record .bar { display: inline-block; height: .7em; background: #4c8bf5; }
"""
_LINES = 8  # of a value that is a sequence or a mapping
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 400
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 16


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


def record_html(record: Any) -> str:  # any dataclass
    """Return a record as a table of the fields that are not at their default.

    It is assigned in the class, beside `__repr__ = short_repr`: `_repr_html_ = record_html`.
    """
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{_text(value)}</td></tr>" for name, value in list_fields(record))
    return html_block(f"<table><caption>{escape(type(record).__name__)}</caption><tbody>{rows}</tbody></table>")


def _cell(value: object) -> str:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return f'<td class="number">{escape(value)}</td>' if number else f"<td>{_markup(value)}</td>"


def _markup(value: object) -> str:
    return value if isinstance(value, Markup) else escape(value)


def _text(value: object) -> str:
    """Return a value in lines: those of a sequence or mapping, as far as they are few."""
    if isinstance(value, str):
        return "<br>".join(escape(line) for line in value.split("\n"))
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        lines = [f"{key}: {_SHORT.repr(item)}" for key, item in value.items()]
    elif isinstance(value, (tuple, list)) and not all(isinstance(item, int) for item in value):
        lines = [item if isinstance(item, str) else _SHORT.repr(item) for item in value]
    else:
        lines = [_SHORT.repr(value)]
    more = [f"and {len(lines) - _LINES} more"] * (len(lines) > _LINES)
    return "<br>".join(map(escape, lines[:_LINES] + more))
