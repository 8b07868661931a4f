"""The command line as a user types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import llama_padfix
from llama_padfix import cli, patch_tokenizer
from llama_padfix.doctor.runner import load_checks
from tests.support.saved import read, save, small_model, small_tokenizer

HOSTILE = "\x1b[31m\n::error title=x::forged\n<script>alert(1)</script>"


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llama_padfix", *arguments]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=env)


def write_rows(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A healthy folder: the only finding is a note."""
    tokenizer = small_tokenizer()
    model = small_model(tokenizer)
    patch_tokenizer(tokenizer, model)
    return str(save(tmp_path_factory.mktemp("clean") / "run", tokenizer, model))


@pytest.fixture(scope="module")
def ill(tmp_path_factory: pytest.TempPathFactory) -> str:
    tokenizer = small_tokenizer()
    return str(save(tmp_path_factory.mktemp("ill") / "run", tokenizer, small_model(tokenizer)))


CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}


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
    assert 'pip install "llama-padfix[demo]"' in capsys.readouterr().err


@pytest.mark.slow
def test_demo_prints_its_table_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "--steps=2"]) == 0
    printed = capsys.readouterr().out
    assert any(line.startswith("rows that start with a doubled BOS") for line in printed.splitlines())
    assert "\x1b" not in printed


# ---- doctor, in processes of its own


@pytest.mark.slow
def test_a_clean_folder_exits_0(clean: str) -> None:
    result = run("doctor", clean, NO_COLOR="1")
    assert result.returncode == 0, result.stderr
    assert "note SAV003" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("0 errors, 0 warnings, 1 note; ")
    assert "\x1b" not in result.stdout


@pytest.mark.slow
def test_findings_exit_1_and_json_is_nothing_but_json(ill: str, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", [CHAT, {"conversations": [{"from": HOSTILE, "value": "x"}]}])
    result = run("doctor", ill, "--json", "--data", data, "--html", str(tmp_path / "page.html"))
    assert result.returncode == 1, result.stderr
    document = json.loads(result.stdout)
    assert document["schema"] == 1
    assert {"PAD001", "BOS001", "DAT001"} <= {finding["code"] for finding in document["findings"]}
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;script&gt;" in page


@pytest.mark.slow
def test_github_format_is_one_command_a_finding(ill: str, tmp_path: Path) -> None:
    rows = [{"messages": [{"role": HOSTILE, "content": ""}]}]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    result = run(
        "doctor", ill, "--format", "github", "--data", data, "--select", "DAT,PAD001", PYTHONIOENCODING="ascii"
    )
    assert result.returncode == 1, result.stderr
    commands = [line for line in result.stdout.splitlines() if line.startswith("::")]
    assert [line.split("::")[1] for line in commands] == [
        "error title=DAT001 unreadable-rows",
        "error title=PAD001 missing-pad-token",
    ]


def test_what_could_not_run_exits_2(tmp_path: Path) -> None:
    result = run("doctor", "nobody/nothing")
    assert result.returncode == 2
    assert result.stdout == ""
    assert "is not a folder, and the hub gives none of that name" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_fault_of_our_own_exits_2(clean: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(cli.doctor, "diagnose", lambda *a, **k: 1 // 0)
    assert cli.main(["doctor", clean]) == 2
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_reader_that_leaves_is_no_fault() -> None:
    command = f"{sys.executable} -m llama_padfix checks | true"  # gone long before the first line is written
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert result.stderr == ""


# ---- doctor, in this process


def test_fix_writes_a_new_folder_and_says_what(ill: str, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "healed"
    assert cli.main(["doctor", ill, "--fix", str(out)]) == 0
    said = capsys.readouterr().out
    assert "tokenizer.pad_token: None -> '<|end_of_text|>'" in said
    assert f"written to {out}: chat_template.jinja, config.json" in said
    assert "left: note SAV003" in said
    assert read(out / "tokenizer_config.json")["pad_token"] == "<|end_of_text|>"
    before = (out / "config.json").read_bytes()
    assert cli.main(["doctor", ill, "--fix", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert (out / "config.json").read_bytes() == before
    assert cli.main(["doctor", str(out)]) == 0


def test_fix_heals_only_what_is_selected(ill: str, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "healed"
    assert cli.main(["doctor", ill, "--select", "BOS", "--json", "--fix", str(out)]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["findings"][0]["code"] == "BOS001"
    assert "tokenizer.adds_bos: True -> False" in captured.err
    assert read(out / "tokenizer_config.json").get("pad_token") is None


def test_unsafe_needs_fix(ill: str, tmp_path: Path, capsys: Any) -> None:
    assert cli.main(["doctor", ill, "--unsafe"]) == 2
    assert "goes with --fix" in capsys.readouterr().err
    assert cli.main(["doctor", ill, "--fix", str(tmp_path / "o"), "--unsafe"]) == 0
    assert read(tmp_path / "o" / "tokenizer_config.json")["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_select_and_ignore(ill: str, capsys: Any) -> None:
    assert cli.main(["doctor", ill, "--select", "PAD,double-bos", "--ignore", "PAD001,PAD004"]) == 1
    assert "BOS001" in capsys.readouterr().out
    assert cli.main(["doctor", ill, "--select", "PAD", "--ignore", "PAD001,PAD004"]) == 0
    assert cli.main(["doctor", ill, "--select", "PADD"]) == 2
    assert "No check is called 'PADD'" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_raw_rows_of_each_kind_of_file(clean: str, tmp_path: Path, kind: str, capsys: Any) -> None:
    rows: list[Any] = [CHAT] * 3 + [{"messages": [{"role": "user", "content": "Hi"}]}] * 2
    path = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=2)
    else:
        path.write_text("\n\n".join(map(json.dumps, rows)) if kind == "jsonl" else json.dumps(rows))
    assert cli.main(["doctor", clean, "--data", str(path), "--max-rows", "all", "--json"]) == 1
    [finding] = [f for f in json.loads(capsys.readouterr().out)["findings"] if f["code"] == "DAT003"]
    assert (finding["rows"], finding["seen"]) == (2, 5)
    assert [place["row"] for place in finding["evidence"]] == [3, 4]


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_encoded_rows_are_looked_at_as_rows(clean: str, tmp_path: Path, kind: str, capsys: Any) -> None:
    rows = [{"input_ids": [1, 2, 3], "labels": [-100, -100, -100]}] * 4
    path = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("\n".join(map(json.dumps, rows)) if kind == "jsonl" else json.dumps(rows))
    assert cli.main(["doctor", clean, "--data", str(path), "--select", "LBL001", "--max-rows", "3"]) == 1
    said = capsys.readouterr().out
    assert "3 of 3 rows (dataset) have no trained token" in said
    assert "looked at 3 of 4 rows (dataset)" in said


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("rows.xlsx", b"PK", "of no kind that is read here"),
        ("rows.csv", b"a,b", "holds no rows"),
        ("rows.jsonl", b"\n", "holds no rows"),
        ("rows.json", b"{", "not valid JSON"),
        ("rows.json", b'{"a": 1}', "not a list of rows"),
        ("rows.parquet", b"PAR1", "not a parquet file"),
        (None, b"", "There is no file"),
    ],
)
def test_data_that_cannot_be_read(
    clean: str, tmp_path: Path, name: str | None, content: bytes, says: str, capsys: Any
) -> None:
    path = tmp_path / (name or "nothing.jsonl")
    if name is not None:
        path.write_bytes(content)
    assert cli.main(["doctor", clean, "--data", str(path)]) == 2
    assert says in capsys.readouterr().err


def test_a_line_that_is_no_json_is_one_bad_row(clean: str, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps(CHAT).encode() + b"\nnot json \xff\n" + json.dumps(CHAT).encode())
    assert cli.main(["doctor", clean, "--data", str(path)]) == 1
    assert "1 of 3 rows (dataset) cannot be read, the first is row 1" in capsys.readouterr().out


@pytest.mark.parametrize("rows", ["0", "-3", "some"])
def test_a_bad_number_of_rows_is_refused(rows: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["doctor", ".", f"--max-rows={rows}"])
    assert exit_.value.code == 2


def test_a_terminal_gets_a_table(ill: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    pytest.importorskip("rich")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    assert cli.main(["doctor", ill, "--select", "PAD001"]) == 1
    assert "┃" in capsys.readouterr().out
    monkeypatch.setenv("TERM", "dumb")
    assert cli.main(["doctor", ill, "--select", "PAD001"]) == 1
    assert "┃" not in capsys.readouterr().out


# ---- mask

CHATS = [
    {"messages": [{"role": "user", "content": f"Hi {n}"}, {"role": "assistant", "content": f"Hello {n}."}]}
    for n in range(9)
]


def test_mask_prints_the_first_rows(clean: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["mask", clean, write_rows(tmp_path / "rows.jsonl", CHATS)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("5 of 9 rows (dataset): ")
    assert "⟦Hello 0.<|eot_id|>⟧" in printed and "\nrow 4: " in printed
    assert printed.splitlines()[-1] == "the first 5 of 9 rows; others: --rows 5-8"
    assert "\x1b" not in printed


@pytest.mark.parametrize(("asked", "numbers"), [("7", [7]), ("0-2", [0, 1, 2]), ("8,1,3-4", [8, 1, 3, 4])])
def test_mask_prints_the_rows_that_are_asked_for(
    clean: str, tmp_path: Path, asked: str, numbers: list[int], capsys: Any
) -> None:
    assert cli.main(["mask", clean, write_rows(tmp_path / "rows.jsonl", CHATS), "--rows", asked]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [int(line.split()[1].rstrip(":")) for line in lines if line.startswith("row ")] == numbers
    assert not lines[-1].startswith("the first")


@pytest.mark.parametrize("asked", ["", "a", "3-1", "-1", "1-", "1,,2", "1.5"])
def test_mask_refuses_what_is_no_row_number(clean: str, tmp_path: Path, asked: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["mask", clean, write_rows(tmp_path / "rows.jsonl", CHATS), f"--rows={asked}"])
    assert exit_.value.code == 2


@pytest.mark.parametrize("asked", ["9", "0-999999999999", "0,12"])
def test_mask_says_which_rows_there_are(clean: str, tmp_path: Path, asked: str, capsys: Any) -> None:
    assert cli.main(["mask", clean, write_rows(tmp_path / "rows.jsonl", CHATS), f"--rows={asked}"]) == 2
    assert "holds the rows 0 to 8" in capsys.readouterr().err


def test_mask_writes_a_page_and_replaces_an_old_one(clean: str, tmp_path: Path, capsys: Any) -> None:
    page = tmp_path / "mask.html"
    page.write_text("old")
    data = write_rows(tmp_path / "rows.jsonl", CHATS)
    assert cli.main(["mask", clean, data, "--html", str(page)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("9 rows (dataset): ") and f"written to {page}" in said and "⟦" not in said
    assert "<title>rows.jsonl: what is trained</title>" in page.read_text(encoding="utf-8")
    assert cli.main(["mask", clean, data, "--html", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err


def test_mask_exits_1_for_findings_and_for_rows_that_cannot_be_encoded(
    clean: str, tmp_path: Path, capsys: Any
) -> None:
    encoded = [{"input_ids": [1, 2, 3], "labels": [-100, -100, -100]}]
    assert cli.main(["mask", clean, write_rows(tmp_path / "a.jsonl", encoded)]) == 1
    assert "error LBL001" in capsys.readouterr().out
    broken = tmp_path / "b.jsonl"
    broken.write_bytes(json.dumps(CHAT).encode() + b"\nnot json \xff\n")
    assert cli.main(["mask", clean, str(broken)]) == 1
    said = capsys.readouterr().out
    assert "not valid JSON" in said and "⟦Hello.<|eot_id|>⟧" in said
    assert cli.main(["mask", clean, str(broken), "--rows", "0"]) == 0


def test_mask_needs_a_tokenizer_and_data(clean: str, tmp_path: Path, capsys: Any) -> None:
    data = write_rows(tmp_path / "rows.jsonl", CHATS)
    (tmp_path / "empty").mkdir()
    assert cli.main(["mask", str(tmp_path / "empty"), data]) == 2
    assert "gives no tokenizer: there is no tokenizer in it" in capsys.readouterr().err
    assert cli.main(["mask", clean, str(tmp_path / "none.jsonl")]) == 2
    assert "There is no file" in capsys.readouterr().err


def test_mask_in_a_terminal_is_colored(
    clean: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    data = write_rows(
        tmp_path / "rows.jsonl", [{"messages": [*CHAT["messages"][:1], {"role": "assistant", "content": HOSTILE}]}]
    )
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert cli.main(["mask", clean, data]) == 0
    said = capsys.readouterr().out
    assert "\x1b[32m" in said and "\x1b[31m" not in said and "\\x1b[31m" in said
    monkeypatch.setenv("NO_COLOR", "1")
    assert cli.main(["mask", clean, data]) == 0
    assert "\x1b" not in capsys.readouterr().out


# ---- explain and checks


@pytest.mark.parametrize("name", ["PAD002", "pad002", "pad-token-must-be-learned"])
def test_explain_prints_the_page(name: str, capsys: Any) -> None:
    assert cli.main(["explain", name]) == 0
    said = capsys.readouterr().out
    assert said.startswith("# PAD002: pad-token-must-be-learned") and "Good:" in said


def test_explain_refuses_what_it_does_not_know(capsys: Any) -> None:
    assert cli.main(["explain", "PAD"]) == 2
    assert "No check is called 'PAD'" in capsys.readouterr().err


def test_checks_are_listed(capsys: Any) -> None:
    assert cli.main(["checks"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(load_checks())
    assert cli.main(["checks", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [check["code"] for check in listed] == [check.code for check in load_checks()]
    assert all(check["explanation"] and check["needs"] for check in listed)


def test_the_environment_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from importlib import metadata

    import transformers

    assert cli.main(["doctor", "--environment"]) in (0, 1)
    assert f"transformers  {transformers.__version__}" in capsys.readouterr().out
    installed = {"transformers": "5.23.0", "torch": "2.13.0", "trl": "0.9.6"}

    def version(name: str) -> str:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(metadata, "version", version)
    assert cli.main(["doctor", "--environment", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["versions"] == installed
    assert any("trl 0.9.6 beside transformers 5.23.0" in finding["message"] for finding in told["findings"])
    installed = {"transformers": "5.23.0", "trl": "1.16.0"}
    assert cli.main(["doctor", "--environment"]) == 0
    assert capsys.readouterr().out.endswith("No combination of these is known to break.\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["doctor"], "Nothing is named to look at"),
        (["doctor", "out", "--environment"], "target has no meaning beside it"),
        (["doctor", "--environment", "--select", "PAD"], "select has no meaning beside it"),
    ],
)
def test_what_goes_with_the_environment(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    assert words in capsys.readouterr().err


# ---- hostile input ends with its name, never in "a fault of llama-padfix"

DEEP = "[" * 100_000 + "]" * 100_000
HOSTILE_ROWS = {
    "a line of nested lists": DEEP,
    "a line of nested objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "ids that are text": '{"input_ids": "abc"}',
    "ids beyond 64 bits": '{"input_ids": [1, 99999999999999999999999]}',
    "ids of null": '{"input_ids": [1, null]}',
    "nested ids": '{"input_ids": [[1, 2], [3]]}',
    "one id": '{"input_ids": 5}',
    "labels of an object": '{"input_ids": [1, 2], "labels": {"a": 1}}',
    "binary": "\x00\x01\x7f" * 50,
}


def run_here(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Return what the command says of an error, having checked that it is no fault of the library."""
    status = cli.main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    assert status in (1, 2)
    assert "fault of llama-padfix" not in said.err and "Traceback" not in said.err
    return said.err + said.out


@pytest.mark.parametrize("kind", HOSTILE_ROWS)
@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_hostile_rows_are_named(kind: str, suffix: str, clean: str, tmp_path: Path, capsys: Any) -> None:
    text = HOSTILE_ROWS[kind]
    data = tmp_path / f"rows.{suffix}"
    data.write_text(text if suffix == "jsonl" else f"[{text}]", encoding="utf-8")
    for command in (["doctor", clean, "--data", data], ["mask", clean, data]):
        said = run_here(capsys, *command)
        assert "row 0" in said or str(data) in said or "DAT001" in said


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"])
@pytest.mark.parametrize("text", [DEEP, "", "5", "\x00\x7f", "{"])
def test_hostile_files_of_a_folder_are_named(name: str, text: str, clean: str, tmp_path: Path, capsys: Any) -> None:
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(clean, folder)
    (folder / name).write_text(text)
    for command in (["doctor", folder], ["memory", folder], ["doctor", folder, "--fix", tmp_path / "out"]):
        assert cli.main([str(argument) for argument in command]) in (0, 1, 2)
        assert "fault of llama-padfix" not in capsys.readouterr().err


def test_files_that_cannot_be_read_or_written_are_named(clean: str, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "file").write_text("")
    long = "a" * 300
    for command in (
        ["doctor", clean, "--fix", "/proc/x"],
        ["doctor", clean, "--fix", tmp_path / "file" / "x"],
        ["doctor", clean, "--html", tmp_path / "none" / "page.html"],
        ["doctor", clean, "--html", tmp_path],
        ["doctor", clean, "--data", long],
        ["doctor", long],
        ["mask", clean, long],
    ):
        said = run_here(capsys, *command)
        assert "/proc/" in said or str(tmp_path) in said or long in said


@pytest.mark.parametrize("size", ["nan", "inf", "-1", "0", "1e400", "much"])
def test_the_memory_of_a_gpu_is_a_finite_size(size: str, clean: str, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        cli.main(["memory", clean, f"--gpu={size}"])
    assert "is not a number above 0" in capsys.readouterr().err


@pytest.mark.parametrize("setting", [{"attention_dropout": None}, {"num_attention_heads": 0}, {"hidden_size": "x"}])
def test_settings_that_no_model_computes_with_are_named(setting: Any, clean: str, tmp_path: Path, capsys: Any) -> None:
    config = {**json.loads((Path(clean) / "config.json").read_text()), **setting}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "config" in run_here(capsys, "memory", tmp_path)


def test_a_tokenizer_that_loads_and_cannot_be_saved_is_named(ill: str, tmp_path: Path, capsys: Any) -> None:
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(ill, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template_name": "\ud800"}))
    assert cli.main(["doctor", str(folder), "--fix", str(tmp_path / "out")]) in (0, 1, 2)
    assert "fault of llama-padfix" not in capsys.readouterr().err
