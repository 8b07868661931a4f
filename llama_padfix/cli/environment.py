"""`llama-padfix doctor --environment`: check the installed versions alone."""

from __future__ import annotations

import argparse
import json

from llama_padfix import PadfixError
from llama_padfix.cli.arguments import status_of
from llama_padfix.core.text import printable
from llama_padfix.doctor.facts import Facts
from llama_padfix.doctor.observe.environment import observe_environment
from llama_padfix.doctor.report_formats import as_github
from llama_padfix.doctor.runner import run_checks, select_checks


def check_environment(options: argparse.Namespace) -> int:
    """Print the installed versions and the combinations known to break; return the exit status."""
    given = ("targets", "data", "html", "fix", "unsafe", "select", "ignore")
    named = [name for name in given if getattr(options, name)]
    if named:
        seen = named[0].removesuffix("s")
        raise PadfixError(
            f"--environment looks at the installed versions alone, so {seen} has no meaning beside it. "
            "Run: llama-padfix doctor --environment"
        )
    environment = observe_environment()
    report = run_checks(Facts(environment=environment), select_checks(["PKG001"], None))
    versions = dict(environment.versions)
    if options.format == "json":
        print(json.dumps({"versions": versions, **report.to_dict()}, indent=2))
    elif options.format == "github":
        print(as_github(report.to_dict()))
    else:
        width = max(map(len, versions), default=0)
        lines = [f"{name:<{width}}  {version}" for name, version in versions.items()]
        lines += [printable(finding) for finding in report.findings] or ["No combination of these is known to break."]
        print(*lines, sep="\n")
    return status_of(report.findings)
