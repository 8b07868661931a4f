"""`llama-padfix doctor CONFIG`: check training configs and scripts by their keywords."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from llama_padfix import PadfixError
from llama_padfix.cli.environment import check_environment
from llama_padfix.doctor.configs.check_file import SUFFIXES, check_file
from llama_padfix.doctor.configs.drawing import as_github, as_json, as_text


def check_without_folder(options: argparse.Namespace) -> int | None:
    """Return the exit status of a look at the environment or at configs; None where a folder is meant."""
    if options.environment:
        return check_environment(options)
    return check_configs(options) if any(is_config(target) for target in options.targets) else None


def is_config(target: str) -> bool:
    """Return whether a target is named like a config or a script; a folder may be too."""
    return target.endswith(SUFFIXES) and not Path(target).is_dir()


def check_configs(options: argparse.Namespace) -> int:
    """Print the faults of the files with their lines; return the exit status."""
    given = [name for name in ("data", "html", "fix", "unsafe", "generate") if getattr(options, name)]
    others = [target for target in options.targets if not is_config(target)]
    if given or others:
        named = f"--{given[0]}" if given else repr(others[0])
        raise PadfixError(
            f"A config is read by its keywords alone, so {named} has no meaning beside it. "
            f"Run: llama-padfix doctor {next(filter(is_config, options.targets))}"
        )
    files = [check_file(Path(target), options.select, options.ignore) for target in options.targets]
    faults = [fault for file in files for fault in file.faults]
    if options.format == "json":
        print(json.dumps(as_json(files), indent=2))
        return int(any(fault.severity != "note" for fault in faults))
    draw = as_github if options.format == "github" else as_text
    for file in files:
        print(*draw(file), sep="\n", end="\n" if file.faults else "")
    unknown = [file.path for file in files if not file.tool]
    if unknown:
        print(f"no training config of Axolotl, LLaMA-Factory or ms-swift: {', '.join(unknown)}")
    count = len(files) - len(unknown)
    print(f"{len(faults)} findings in {count} file{'' if count == 1 else 's'}, from keywords alone; nothing was run")
    return int(any(fault.severity != "note" for fault in faults))
