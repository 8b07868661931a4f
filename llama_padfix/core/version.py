"""The version of this library, as reports and files carry it, and those of the packages around it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from importlib import metadata
from types import ModuleType

from llama_padfix.core.errors import PadfixError


def library_info() -> dict[str, str]:
    """Return the `name` and `version` of this library."""
    return {"name": "llama-padfix", "version": str(sys.modules["llama_padfix"].__version__)}


def installed_versions(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed, by name; import none of them."""
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def import_package(name: str, missing: str) -> ModuleType:
    """Return a package that is no hard dependency, or raise `PadfixError` with the message `missing`."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise PadfixError(missing) from error
