"""A keyword of a training config with its place, and a fault that was found there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from llama_padfix.doctor.findings import Severity

Tool: TypeAlias = Literal["axolotl", "llama-factory", "ms-swift", "script"]


@dataclass(frozen=True)
class Place:
    """Where something stands in a file; lines and columns count from 1."""

    line: int
    column: int
    length: int
    """The characters of it that stand in that line."""


@dataclass(frozen=True)
class Setting:
    """A keyword with its value and the place of the value."""

    value: object
    place: Place


@dataclass(frozen=True)
class Config:
    """The keywords of a YAML file."""

    tool: Tool
    settings: Mapping[str, Setting] = field(repr=False)
    """By name; those of a nested mapping as `special_tokens.pad_token`, of a list's as `datasets[0].type`."""

    def value(self, name: str) -> object:
        """Return the value of a keyword, None where it is not set."""
        return self.settings[name].value if name in self.settings else None

    def text(self, name: str) -> str:
        """Return the value of a keyword if it is a text, else ""."""
        value = self.value(name)
        return value if isinstance(value, str) else ""


@dataclass(frozen=True)
class Fault:
    """What was found in a file, with the code of the check whose page explains it."""

    code: str
    severity: Severity
    message: str
    fix: str
    """The line that fixes it."""
    place: Place
