"""The catalogue as pages: what `llama-padfix explain`, docs/checks and the README's table are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from llama_padfix.doctor.findings import Check

if TYPE_CHECKING:
    from llama_padfix.core.types import JsonObject

_FAMILIES: Mapping[str, str] = {
    "PAD": "padding",
    "BOS": "beginning of text",
    "TPL": "chat template",
    "GEN": "stop tokens",
    "DAT": "rows that are not encoded yet",
    "LBL": "labels",
    "TRN": "truncation",
    "PCK": "packing",
    "EMB": "embedding",
    "PRC": "precision",
    "LOD": "loading",
    "SAV": "saved folder",
    "PKG": "versions",
}


def page(check: Check) -> str:
    """Return the page of one check as Markdown."""
    traps = ", ".join(map(str, check.traps))
    return (
        f"# {check.code}: {check.name}\n\n"
        f"Severity: {check.severity}. Looks at: {', '.join(check.needs)}."
        + (f" Traps: {traps}." if traps else "")
        + f"\n\n{check.explanation.strip()}\n\n"
        f"Bad:\n\n```\n{check.bad.strip()}\n```\n\nGood:\n\n```\n{check.good.strip()}\n```\n"
    )


def table(checks: Sequence[Check], folder: str = "") -> str:
    """Return the catalogue as a Markdown table; the codes link to their pages in `folder`."""
    lines = ["| check | finds | severity |", "|---|---|---|"]
    for check in checks:
        link = f"[{check.code}]({folder}{check.code}.md)"
        lines.append(f"| {link} | {check.name.replace('-', ' ')} | {check.severity} |")
    return "\n".join(lines) + "\n"


def index_page(checks: Sequence[Check]) -> str:
    """Return the first page of docs/checks: the table, family by family."""
    prefixes = list(dict.fromkeys([*_FAMILIES, *(check.code[:3] for check in checks)]))
    parts = [
        "# The checks\n",
        f"{len(checks)} checks, made from the catalogue by `make docs`. "
        "`llama-padfix explain CODE` prints the same pages.\n",
    ]
    for prefix in prefixes:
        family = [check for check in checks if check.code.startswith(prefix)]
        if family:
            parts.append(f"## {prefix}: {_FAMILIES.get(prefix, prefix)}\n\n{table(family)}")
    return "\n".join(parts)


def describe_check(check: Check) -> JsonObject:
    """Return a check as plain values for JSON."""
    names = ("code", "name", "severity", "explanation", "bad", "good")
    return {
        **{name: getattr(check, name) for name in names},
        "needs": list(check.needs),
        "traps": list(check.traps),
    }
