"""A report's dict (`Report.to_dict`) as an HTML page, or as a notebook's output: no script, everything escaped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_padfix.core.html import escape, html_table
from llama_padfix.doctor.report_formats import fold_codes, list_read, list_skipped, summarize

if TYPE_CHECKING:
    from llama_padfix.core.types import JsonObject

_CHANGE_COLUMNS = ("target", "before", "after", "why", "safety")

_STYLE = """
.padfix { font: 15px/1.5 system-ui, sans-serif; }
.padfix article { border-left: 4px solid #888; margin: 1rem 0; padding: .1rem 1rem; }
.padfix h2 { font-size: 1rem; margin: .4rem 0; } .padfix p { margin: .4rem 0; }
.padfix .error { border-color: #c62828; } .padfix .warning { border-color: #ef9400; }
.padfix .note { border-color: #1769aa; }
.padfix table { border-collapse: collapse; }
.padfix.padfix :is(td, th) { border: 1px solid #8886; padding: .2rem .5rem; text-align: left; }
.padfix td { overflow-wrap: break-word; } .padfix code { overflow-wrap: anywhere; white-space: pre-wrap; }
.padfix mark { background: #3fb95044; color: inherit; border-bottom: 2px solid #2da44e; }
"""
_PAGE_STYLE = """
body { margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd; } }
"""


def as_html(document: JsonObject) -> str:
    """Return a page that stands alone: no script, no address, every character of a finding escaped."""
    made_by = escape(f"{document['tool']['name']} {document['tool']['version']}")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{made_by}: report</title><style>{_PAGE_STYLE}</style></head><body>"
        f"<h1>{made_by}</h1>{as_notebook(document)}</body></html>\n"
    )


def as_notebook(document: JsonObject) -> str:
    """Return what the page holds, for a notebook: the style names no element outside of it."""
    lines = list_read(document)
    skipped = "".join(f"<li>{escape(line)}</li>" for line in list_skipped(document))
    passed = escape(fold_codes(document["passed"]) or "none")
    return (
        f'<div class="padfix"><style>{_STYLE}</style><p><strong>{escape(summarize(document))}</strong></p>'
        + "".join(f"<p>{escape(line)}</p>" for line in lines)
        + "".join(map(_article, document["findings"]))
        + f"<details><summary>{len(document['passed'])} passed</summary>{passed}</details>"
        + f"<details><summary>{len(document['skipped'])} skipped</summary><ul>{skipped}</ul></details></div>"
    )


def _article(finding: JsonObject) -> str:
    places = "".join(
        f"<tr><td>{place['row']}</td><td>{place['start']}:{place['end']}</td>"
        f"<td><code>{_draw(place)}</code></td><td>{escape(place['remark'])}</td></tr>"
        for place in finding["evidence"]
    )
    changes = [[change[column] for column in _CHANGE_COLUMNS] for change in finding["changes"]]
    return (
        f'<article class="{finding["severity"]}"><h2>{finding["severity"]} {escape(finding["code"])} '
        f"{escape(finding['name'])}</h2><p>{escape(finding['message'])}</p>"
        + (f"<table><tr><th>row</th><th>tokens</th><th>text</th><th></th></tr>{places}</table>" if places else "")
        + (html_table(_CHANGE_COLUMNS, changes) if changes else "")
        + f"<p>fix: <code>{escape(finding['fix'])}</code></p><p>page: {escape(finding['page'])}</p></article>"
    )


def _draw(place: JsonObject) -> str:
    """Return the tokens of a row as the viewer draws them: what is trained is marked."""
    parts = place["runs"] or [(place["text"], False)]
    return "".join(f"<mark>{escape(text)}</mark>" if trained else escape(text) for text, trained in parts)
