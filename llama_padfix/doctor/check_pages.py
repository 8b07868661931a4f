"""The catalog as pages: what `llama-padfix explain` and docs/checks are made of."""

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
    "TOK": "tokenizers of a run",
    "SAV": "saved folder",
    "PKG": "versions",
    "SRV": "serving",
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


def table(checks: Sequence[Check]) -> str:
    """Return the catalog as a Markdown table; the codes link to their pages."""
    rows = (f"| [{c.code}]({c.code}.md) | {c.name.replace('-', ' ')} | {c.severity} |\n" for c in checks)
    return "| check | finds | severity |\n|---|---|---|\n" + "".join(rows)


def index_page(checks: Sequence[Check]) -> str:
    """Return the first page of docs/checks: the table, family by family."""
    families: dict[str, list[Check]] = {prefix: [] for prefix in _FAMILIES}
    for check in checks:
        families.setdefault(check.code[:3], []).append(check)
    intro = (
        f"# The checks\n\n{len(checks)} checks, made from the catalog by `make docs`. "
        "`llama-padfix explain CODE` prints the same pages.\n"
    )
    parts = (f"## {name}: {_FAMILIES.get(name, name)}\n\n{table(some)}" for name, some in families.items() if some)
    return "\n".join([intro, *parts])


def describe_check(check: Check) -> JsonObject:
    """Return a check as plain values for JSON."""
    names = ("code", "name", "severity", "explanation", "bad", "good")
    return {name: getattr(check, name) for name in names} | {"needs": list(check.needs), "traps": list(check.traps)}
