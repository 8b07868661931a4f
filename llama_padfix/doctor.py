"""Runs the catalogue of checks over facts; a check that is skipped or that raises is listed, never hidden."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from functools import lru_cache
from types import ModuleType

from llama_padfix import checks
from llama_padfix.records import Check, Facts, Finding, PadfixError, Report

__all__ = ["examine", "load_checks"]


@lru_cache
def load_checks(package: ModuleType = checks) -> tuple[Check, ...]:
    """Return every check of the catalogue, in the order of their codes: a new check is one new file.

    Raises `PadfixError` for a file without a `CHECK`, and for a code that two files claim.
    """
    found: dict[str, Check] = {}
    for module in pkgutil.iter_modules(package.__path__):
        check = getattr(importlib.import_module(f"{package.__name__}.{module.name}"), "CHECK", None)
        if not isinstance(check, Check):
            raise PadfixError(
                f"checks/{module.name}.py holds no CHECK. Each file there must define one `CHECK = Check(...)`."
            )
        if check.code in found:
            raise PadfixError(f"checks/{module.name}.py claims {check.code}, which is taken. Give it a free code.")
        found[check.code] = check
    return tuple(found[code] for code in sorted(found))


def examine(facts: Facts, catalogue: Sequence[Check] | None = None) -> Report:
    """Return what every check of the catalogue says of the facts."""
    present = {"tokenizer", *(["template"] if facts.template else []), *(["model"] if facts.model else [])}
    findings: list[Finding] = []
    passed: list[str] = []
    skipped: dict[str, str] = {}
    for check in load_checks() if catalogue is None else catalogue:
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
