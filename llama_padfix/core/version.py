"""The version of this library, as reports and files carry it, and those of the packages around it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import metadata


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
