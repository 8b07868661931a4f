"""Loads some modules of a package that needs a GPU to be imported: its other modules are empty, and give any name."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock


class _Class:
    """Stands for a class of a module that is not loaded; pydantic takes any value for it."""

    def __init__(self, *given: object, **more: object) -> None:
        pass

    def __class_getitem__(cls, item: object) -> Any:
        return cls

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> object:
        from pydantic_core import core_schema

        return core_schema.any_schema()


class _Empty(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        is_class = name[:1].isupper() and not name.isupper()
        made = type(name, (_Class,), {}) if is_class else MagicMock(name=name)
        setattr(self, name, made)
        return made


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, folder: Path, real: Iterable[str], missing: Iterable[str]) -> None:
        self._folder, self._real, self._missing = folder, set(real), set(missing)
        self._packages = {name.partition(".")[0] for name in self._real}
        self._parents = {name.rsplit(".", n)[0] for name in self._real for n in range(1, name.count(".") + 1)}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        top = fullname.partition(".")[0]
        if top not in self._packages and top not in self._missing:
            return None
        if fullname in self._real:
            return importlib.machinery.PathFinder.find_spec(fullname, path)
        spec = importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        if fullname in self._parents:
            spec.submodule_search_locations = [str(self._folder.joinpath(*fullname.split(".")))]
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def find_modules(folder: Path, real: Iterable[str], missing: Iterable[str] = ()) -> None:
    """Let `real` modules be imported from a folder, and all others of their packages as empties.

    Args:
        folder: Where the packages were installed with `pip install --target`.
        real: The modules that run, by their full names.
        missing: Packages that are not there and stand empty.
    """
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # behind what is installed: only what is missing comes from there
    sys.meta_path.insert(0, _Finder(folder, real, missing))
