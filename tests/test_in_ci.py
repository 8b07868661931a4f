"""In other people's CI: the action and the hook run on a sample repository, and reports follow their schema."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from llama_padfix import cli, diagnose
from tests.doctor.configs.test_configs import AXOLOTL, PAD, SCRIPT
from tests.support.byte_tokenizer import make_byte_tokenizer

ROOT = Path(__file__).parents[1]
SCHEMA = json.loads((ROOT / "docs" / "report.schema.json").read_text(encoding="utf-8"))


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """A repository with a right config, a faulty one and a script; `pip` only notes what it is asked for."""
    repository, tools = tmp_path / "sample", tmp_path / "bin"
    (repository / "configs").mkdir(parents=True)
    tools.mkdir()
    (repository / "configs" / "right.yaml").write_text(AXOLOTL)
    (repository / "configs" / "pad.yaml").write_text(AXOLOTL + PAD)
    (repository / "train_sft.py").write_text(SCRIPT)
    (repository / "compose.yaml").write_text("services: {}\n")
    for name, line in (
        ("llama-padfix", f'exec "{sys.executable}" -m llama_padfix "$@"'),
        ("python", f'echo "$@" >> "{tmp_path}/asked"'),
    ):
        (tools / name).write_text(f"#!/bin/sh\n{line}\n")
        (tools / name).chmod(0o755)
    return repository


def run_action(sample: Path, **inputs: str) -> subprocess.CompletedProcess[str]:
    """Run the steps of action.yml as a runner does; return the last."""
    action = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    given = {name: inputs.get(name, spec.get("default", "")) for name, spec in action["inputs"].items()}
    assert action["runs"]["using"] == "composite"
    for step in action["runs"]["steps"]:
        assert step["shell"] == "bash" and "${{" not in step["run"], "an input is never part of a script's text"
        variables = {
            name: re.sub(r"\$\{\{ inputs\.(\w+) \}\}", lambda found: given[found[1]], value)
            for name, value in step["env"].items()
        }
        path = f"{sample.parent / 'bin'}{os.pathsep}{os.environ['PATH']}"
        place = {"PATH": path, "PYTHONPATH": str(ROOT), "GITHUB_ACTION_PATH": str(ROOT)}
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
        done = subprocess.run(
            command, cwd=sample, env={**os.environ, **place, **variables}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            break
    return done


def test_the_action_annotates_the_lines_of_a_repository(sample: Path) -> None:
    done = run_action(sample, targets="configs/*.yaml train_sft.py")
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("::warning file=configs/pad.yaml,line=9,col=14,endColumn=24,title=PAD002 ")
    assert "3 files" in done.stdout and done.stdout.count("::") == 2
    assert (sample.parent / "asked").read_text() == f"-m pip install --quiet {ROOT}\n"
    done = run_action(sample, targets="configs/*.yaml", arguments="--ignore PAD002", package="llama-padfix==0.1.0")
    assert done.returncode == 0, done.stderr
    assert "llama-padfix==0.1.0" in (sample.parent / "asked").read_text()


def test_the_hook_takes_the_files_that_it_asks_for(sample: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    [hook] = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    files = sorted(path.relative_to(sample).as_posix() for path in sample.rglob("*") if path.is_file())
    taken = [name for name in [*files, "src/model.py", "README.md"] if re.search(hook["files"], name)]
    assert taken == ["compose.yaml", "configs/pad.yaml", "configs/right.yaml", "train_sft.py"]
    monkeypatch.chdir(sample)
    program, *arguments = hook["entry"].split()
    assert (program, cli.main([*arguments, *taken])) == ("llama-padfix", 1)
    assert "no training config of Axolotl, LLaMA-Factory or ms-swift: compose.yaml" in capsys.readouterr().out


def breaks(value: Any, schema: Any) -> str:
    """Return where a value breaks a schema, "" where it does not; knows the keywords that the schema here uses."""
    if "$ref" in schema:
        return breaks(value, SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]])
    if "anyOf" in schema:
        found = [breaks(value, each) for each in schema["anyOf"]]
        return "" if "" in found else "; ".join(found)
    kinds = {"object": dict, "array": list, "string": str, "integer": int}
    if "type" in schema and (not isinstance(value, kinds[schema["type"]]) or isinstance(value, bool)):
        return f"{value!r} is no {schema['type']}"
    fits = ("enum" not in schema or value in schema["enum"]) and ("const" not in schema or value == schema["const"])
    if not fits or not re.search(schema.get("pattern", ""), value if isinstance(value, str) else ""):
        return f"{value!r} does not fit"
    if "minimum" in schema and value < schema["minimum"]:
        return f"{value!r} is below {schema['minimum']}"
    if isinstance(value, dict):
        missing = [name for name in schema.get("required", []) if name not in value]
        more = schema.get("additionalProperties", {})
        known = schema.get("properties", {})
        extra = [name for name in value if name not in known] if more is False else []
        inner = [breaks(each, known.get(name, more or {})) for name, each in value.items()]
        return "; ".join(
            [f"no {name}" for name in missing] + [f"unknown {name}" for name in extra] + [*filter(None, inner)]
        )
    return (
        "; ".join(filter(None, (breaks(each, schema.get("items", {})) for each in value)))
        if isinstance(value, list)
        else ""
    )


def test_both_kinds_of_reports_follow_the_schema(sample: Path, capsys: Any) -> None:
    assert cli.main(["doctor", str(sample / "configs" / "pad.yaml"), "--json"]) == 1
    of_config = json.loads(capsys.readouterr().out)
    tokenizer = make_byte_tokenizer(["<s>", "</s>"], "</s>", bos="<s>")
    rows = [{"input_ids": [1, 2, 3], "labels": [-100, -100, -100]}]
    of_rows = json.loads(diagnose(tokenizer, dataset=rows).to_json())
    assert of_config["findings"] and of_rows["findings"]
    assert [breaks(document, SCHEMA) for document in (of_config, of_rows)] == ["", ""]
    for document in (of_config, of_rows):
        document["findings"][0]["severity"] = "bad"
        assert "'bad' does not fit" in breaks(document, SCHEMA)
