"""The command line as a user types it."""

from __future__ import annotations

import subprocess
import sys

import pytest

import llama_padfix
from llama_padfix import cli


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llama_padfix", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_version_is_that_of_the_package() -> None:
    assert run("--version").stdout.strip() == f"llama-padfix {llama_padfix.__version__}"


def test_no_command_says_which_there_are() -> None:
    result = run()
    assert result.returncode == 2
    assert "COMMAND" in result.stderr


@pytest.mark.parametrize("steps", ["0", "-1", "many", "1.5"])
def test_a_bad_number_of_steps_is_refused(steps: str) -> None:
    result = run("demo", f"--steps={steps}")
    assert result.returncode == 2
    assert "whole number above 0" in result.stderr


def test_demo_without_its_packages_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main(["demo"]) == 2
    assert "pip install 'llama-padfix[demo]'" in capsys.readouterr().err


def test_demo_prints_its_table_without_a_terminal() -> None:
    result = run("demo", "--steps=2")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert any(line.startswith("rows that start with a doubled BOS") for line in lines)
    assert "\x1b" not in result.stdout
