"""The picture as one self-contained HTML page, and as a notebook's output without a script.

Rows may hold anything. What is static is escaped; what the page's script draws travels as JSON in ASCII, in which no
character has a meaning to HTML, and becomes text of the page. The Content-Security-Policy allows the page's own script
and style by their hashes and nothing else: no address, no image, no form, no HTML made of strings.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from llama_padfix.core.errors import IGNORE_INDEX, PadfixError
from llama_padfix.core.files import write_whole
from llama_padfix.core.text import printable
from llama_padfix.core.version import library_info
from llama_padfix.doctor.runner import load_checks
from llama_padfix.view.document import MaskDocument, MaskRow
from llama_padfix.view.pieces import Piece
from llama_padfix.view.terminal import (
    count_tokens,
    describe_findings,
    describe_problem,
    describe_row,
    describe_view,
    share,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_SCRIPTS = ("data.js", "draw.js", "navigate.js", "search.js", "start.js")
_TRAINED, _PADDING = 1, 2  # as in page/data.js
_NOTEBOOK_ROWS, _NOTEBOOK_TOKENS = 10, 2000
_LEGEND = (
    ("x", "trained", "trained"),
    ("", "context", "context"),
    ("p", "padding", "padding"),
    ("s", "control token", "special"),
    ("s x", "control token, trained", "trained special"),
)


def as_page(view: MaskDocument) -> str:
    """Return the page as HTML."""
    script, style = _read_source(*_SCRIPTS), _read_source("page.css")
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; base-uri 'none'; "
        "form-action 'none'; require-trusted-types-for 'script'"
    )
    made_by = _static(f"{library_info()['name']} {library_info()['version']}")
    title = _static(view.title)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="referrer" content="no-referrer"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{style}</style></head>
<body><div class="top">
<div><h1>{title}</h1><span class="sum">{_static(describe_view(view))} · {made_by}</span></div>
<ul class="legend" aria-label="Legend">{_legend(view)}</ul>
<div class="tools">
<span class="group"><label class="sr" for="query">Search</label><input id="query" type="search" placeholder="Search">
<label class="sr" for="kind">Search in</label><select id="kind"><option value="text">in text</option>\
<option value="id">token id</option></select>
<button id="last-hit" type="button" aria-label="Previous hit">↑</button>\
<button id="next-hit" type="button" aria-label="Next hit">↓</button>\
<output id="found" aria-live="polite"></output></span>
<span class="group"><button id="last-problem" type="button" aria-label="Previous problem">↑</button>\
<button id="next-problem" type="button">Next problem ↓</button>\
<output id="problem" aria-live="polite"></output></span>
<label><input id="spaces" type="checkbox"> show spaces</label>
<label><input id="pads" type="checkbox"> every padding token</label>
<label><input id="only" type="checkbox"> only rows with problems</label>
<label title="j, k: row. n, p: problem. /: search. Arrow keys in a row: token and turn. Esc: close.">\
<input id="keys" type="checkbox" checked> keys <kbd>j</kbd> <kbd>k</kbd> <kbd>n</kbd> <kbd>p</kbd> <kbd>/</kbd></label>
</div></div>
<div class="page"><nav aria-label="Rows"><ol id="index"></ol></nav>
<main><noscript><p>The rows are drawn by the script in this page, which your browser does not run.</p></noscript>
<section class="findings" aria-label="Findings">{_findings(view)}</section><div id="rows"></div></main></div>
<div id="card" role="tooltip" hidden></div><div id="live" class="sr" role="status"></div>
<script type="application/json" id="data">{_embed(_data(view))}</script>
<script>{script}</script></body></html>
"""


def save_page(view: MaskDocument, path: Path) -> Path:
    """Write the page to a file, whole or not at all, and return the path."""
    if path.is_dir():
        raise PadfixError(f"{str(path)!r} is a folder. Name a file in it, such as {str(path / 'mask.html')!r}.")
    try:
        write_whole(path, as_page(view).encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise PadfixError(
            f"{str(path)!r} cannot be written: {error.strerror or error}. Name a file in a folder that is there."
        ) from error
    return path


@lru_cache
def _read_source(*names: str) -> str:
    """Return files of the folder `page` as one text: the page holds one script and one style."""
    return "\n".join((Path(__file__).parent / "page" / name).read_text(encoding="utf-8") for name in names)


def _hash(source: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode("utf-8")).digest()).decode("ascii")


def _static(text: object) -> str:
    return html.escape(printable(text))


def _embed(value: object) -> str:
    """Return JSON that cannot end a script or start a comment: ASCII, without <, > and &."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _legend(view: MaskDocument) -> str:
    counts = count_tokens(view)
    items = []
    for names, label, key in _LEGEND:
        number = f"{counts[key]:,}" + (f" ({share(counts)})" if key == "trained" else "")
        items.append(f'<li><span class="t {names}">{label}</span>{number}</li>')
    return "".join(items)


def _findings(view: MaskDocument) -> str:
    checks = {check.code: check for check in load_checks()}
    parts = []
    for finding in view.report.findings:
        explanation = html.escape(checks[finding.code].explanation.strip() if finding.code in checks else "")
        level = _static(finding.severity)
        parts.append(
            f'<details class="finding {level}"><summary><span class="level {level}">{level}</span> '
            f"{_static(finding.code)} {_static(finding.name)}: {_static(finding.message)}</summary>"
            f"<pre>{explanation}</pre></details>"
        )
    if not parts:
        parts.append(f"<p>{_static(describe_findings(view)[0])}</p>")
    if view.report.skipped:
        reasons = "; ".join(f"{code}: {reason}" for code, reason in view.report.skipped.items())
        count = len(view.report.skipped)
        parts.append(
            f'<details class="muted"><summary>{count} check{"s" if count > 1 else ""} could not look</summary>'
            f"{_static(reasons)}</details>"
        )
    return "".join(parts)


def _data(view: MaskDocument) -> dict[str, object]:
    """Return the rows as page/data.js reads them: ids as indices into a list of the ids that occur, by frequency."""
    import numpy as np

    ids = sorted(view.pieces)
    wide = len(ids) > 0xFFFF
    table = np.asarray(ids, dtype=np.int64)
    pieces = [view.pieces[token_id] for token_id in ids]
    faces = {at: printable(piece.text, keep="\n\t") for at, piece in enumerate(pieces)}
    return {
        "wide": wide,
        "ids": ids,
        "texts": [piece.text for piece in pieces],
        "faces": {at: face for at, face in faces.items() if face != pieces[at].text},
        "parts": {at: piece.part.hex(" ").upper() for at, piece in enumerate(pieces) if piece.part},
        "special": [at for at, piece in enumerate(pieces) if piece.is_special],
        "unknown": [at for at, piece in enumerate(pieces) if not piece.is_known],
        "rows": [_row_data(row, table, "<u4" if wide else "<u2", view) for row in view.rows],
    }


def _row_data(row: MaskRow, table: npt.NDArray[np.int64], dtype: str, view: MaskDocument) -> dict[str, object]:
    import numpy as np

    names = {finding.code: finding.name for finding in view.report.findings}
    trained = row.trained
    modes = trained * _TRAINED + row.padding * _PADDING
    starts = [0, *((modes[1:] != modes[:-1]).nonzero()[0] + 1).tolist()] if len(row) else []
    runs = [(int(modes[a]), b - a) for a, b in zip(starts, [*starts[1:], len(row)], strict=True)] if starts else []
    differing = {}
    if row.labels is not None:
        differing = {at: int(row.labels[at]) for at in (trained & (row.labels != row.input_ids)).nonzero()[0].tolist()}
    characters = {}
    for at, (count, text) in row.characters.items():
        face = printable(text, keep="\n\t")
        characters[at] = (count, text) if face == text else (count, text, face)
    return {
        "number": row.number,
        "summary": printable(describe_row(row)),
        "share": float(trained.sum() / max((~row.padding | trained).sum(), 1)),
        "labeled": row.labels is not None,
        "tokens": base64.b64encode(np.searchsorted(table, row.input_ids).astype(dtype).tobytes()).decode("ascii"),
        "modes": [number for run in runs for number in run],
        "turns": [(at, printable(role)) for at, role in row.turns],
        "characters": characters,
        "differing": differing,
        "problems": [
            (p.severity, p.start, p.end, describe_problem(p, names).removeprefix(p.severity).lstrip(": "))
            for p in row.problems
        ],
    }


_NOTEBOOK_STYLE = """
.padfix-mask { font: 13px/1.7 ui-monospace, Menlo, Consolas, monospace; }
.padfix-mask h4 { font: 600 14px/1.5 system-ui, sans-serif; margin: .8em 0 .2em; }
.padfix-mask p { font: 13px/1.5 system-ui, sans-serif; margin: .2em 0; }
.padfix-mask div { white-space: pre-wrap; overflow-wrap: anywhere; }
.padfix-mask span { unicode-bidi: isolate; }
.padfix-mask mark { background: #3fb95044; color: inherit; border-bottom: 2px solid #2da44e; unicode-bidi: isolate; }
.padfix-mask .s { border: 1px solid #8c959f; border-radius: 3px; }
.padfix-mask .p { opacity: .6; border-bottom: 1px dashed; }
.padfix-mask mark.p { opacity: 1; border-bottom: 3px double #cf222e; }
.padfix-mask .r { color: #8c959f; }
"""


def as_notebook(view: MaskDocument) -> str:
    """Return the first rows as static HTML without a script; it names what is left out, and `title` holds details."""
    names = {finding.code: finding.name for finding in view.report.findings}
    parts = [f'<div class="padfix-mask"><style>{_NOTEBOOK_STYLE}</style><p>{_static(describe_view(view))}</p>']
    parts.append('<p><mark>trained</mark> · context · <span class="s">control token</span> · ')
    parts.append('<span class="p">padding</span>; hover shows id, position and role</p>')
    left, rows = _NOTEBOOK_TOKENS, 0
    for row in view.rows[:_NOTEBOOK_ROWS]:
        if rows and not left:
            break
        rows += 1
        parts.append(f"<h4>row {row.number}: {_static(describe_row(row))}</h4>")
        parts += [f"<p><b>{_static(describe_problem(problem, names))}</b></p>" for problem in row.problems]
        end = min(len(row), left)
        parts.append(f"<div>{_static_tokens(row, view.pieces, end)}</div>")
        if end < len(row):
            parts.append(f"<p>… {len(row) - end:,} more tokens of this row are left out.</p>")
        left -= end
    if rows < len(view.rows):
        parts.append(f"<p>… {len(view.rows) - rows} more rows are left out. All: view.save('mask.html')</p>")
    parts += [f"<p>{html.escape(line)}</p>" for line in describe_findings(view)]
    return "".join(parts) + "</div>"


def _static_tokens(row: MaskRow, pieces: Mapping[int, Piece], end: int) -> str:
    starts = dict(row.turns)
    trained, role, parts, covered = row.trained, "", [], 0
    at = 0
    while at < end:
        if at in starts:
            role = starts[at]
            parts.append(("\n" if at else "") + f'<b class="r">{_static(role) or "–"}</b> ')
        token_id, run = int(row.input_ids[at]), 1
        piece = pieces[token_id]
        is_padding = bool(row.padding[at]) and not trained[at]
        while is_padding and at + run < end and row.input_ids[at + run] == token_id and at + run not in starts:
            run += 1
        count, text = row.characters.get(at, (1, piece.text))
        covered = max(covered, at + count if count > 1 else 0)
        face = "⁺" if at < covered and at not in row.characters else printable(text, keep="\n\t")
        face = re.sub(r"\n+", lambda breaks: "⏎" * len(breaks[0]) + "\n", html.escape(face))
        label = int(row.labels[at]) if row.labels is not None else IGNORE_INDEX
        state = "trained" if trained[at] else "padding" if is_padding else "not trained"
        differs = f", label {label}" if trained[at] and label != token_id else ""
        title = html.escape(printable(f"id {token_id}, position {at}, {role or 'no role'}, {state}{differs}"))
        names = " ".join(filter(None, ("s" * piece.is_special, "p" * bool(row.padding[at]))))
        tag = "mark" if trained[at] else "span"
        times = f"{run} × " if run > 1 else ""
        parts.append(f'<{tag} class="{names}" title="{title}">{times}{face}</{tag}>')
        at += run
    return "".join(parts)
