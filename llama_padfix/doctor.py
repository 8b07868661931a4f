"""Runs the catalogue of checks over facts; a check that is skipped or that raises is listed, never hidden."""

from __future__ import annotations

import importlib
import pkgutil
from functools import lru_cache

from llama_padfix import checks
from llama_padfix.records import Check, Facts, Finding, PadfixError, Report

__all__ = ["examine", "load_checks"]


@lru_cache(maxsize=1)
def load_checks() -> tuple[Check, ...]:
    """Return every check of the catalogue, in the order of their codes: a new check is one new file."""
    found = []
    for module in pkgutil.iter_modules(checks.__path__):
        value = getattr(importlib.import_module(f"{checks.__name__}.{module.name}"), "CHECK", None)
        if not isinstance(value, Check):
            raise PadfixError(
                f"checks/{module.name}.py holds no CHECK. Each file there must define one `CHECK = Check(...)`."
            )
        found.append(value)
    return tuple(sorted(found, key=lambda check: check.code))


def examine(facts: Facts) -> Report:
    """Return what every check says of the facts."""
    present = {"tokenizer", *(["template"] if facts.template else []), *(["model"] if facts.model else [])}
    findings: list[Finding] = []
    passed: list[str] = []
    skipped: dict[str, str] = {}
    for check in load_checks():
        missing = [need for need in check.needs if need not in present]
        if missing:
            skipped[check.code] = f"no {' and no '.join(missing)} to look at"
            continue
        try:
            seen = tuple(check.find(facts))
        except Exception as error:  # one broken check must not hide what the others see
            skipped[check.code] = f"the check itself raised {type(error).__name__}: {error}"
            continue
        findings += seen
        if not seen:
            passed.append(check.code)
    return Report(tuple(findings), tuple(passed), skipped)
