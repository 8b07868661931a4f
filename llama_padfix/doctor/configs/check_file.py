"""Read one file, and return the faults that its keywords show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llama_padfix.core.errors import PadfixError
from llama_padfix.doctor.configs import script_rules, yaml_rules
from llama_padfix.doctor.configs.read_yaml import read_yaml
from llama_padfix.doctor.configs.settings import Fault
from llama_padfix.doctor.runner import select_checks

SUFFIXES = (".yaml", ".yml", ".py")
_LARGEST = 1 << 20  # bytes of a config


@dataclass(frozen=True)
class CheckedFile:
    """What was found in a file."""

    path: str
    tool: str
    """The tool that it is for, "" where it is none that is known."""
    lines: tuple[str, ...]
    faults: tuple[Fault, ...]


def check_file(path: Path, select: Sequence[str] | None = None, ignore: Sequence[str] | None = None) -> CheckedFile:
    """Return what the keywords of a YAML file or a script show; nothing of it is run.

    Args:
        path: The file.
        select: Codes, beginnings of codes or names of the checks to report; all by default.
        ignore: Those to leave out.

    Raises:
        PadfixError: The file is too large, is not text, or cannot be parsed.
    """
    if path.stat().st_size > _LARGEST:
        raise PadfixError(f"{str(path)!r} is larger than 1 MiB, which no config is. Name a config or a script.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise PadfixError(f"{str(path)!r} is not text in UTF-8. Name a config or a script.") from error
    codes = {check.code for check in select_checks(select, ignore)}
    if path.suffix == ".py":
        tool, found = "script", list(script_rules.find_faults(text, str(path)))
    else:
        config = read_yaml(text, str(path))
        tool, found = (config.tool, list(yaml_rules.find_faults(config))) if config is not None else ("", [])
    faults = sorted((fault for fault in found if fault.code in codes), key=lambda f: (f.place.line, f.place.column))
    return CheckedFile(str(path), tool, tuple(text.splitlines()), tuple(faults))
