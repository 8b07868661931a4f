"""`check_serving`: rows as they were trained against what engines feed, with every difference named."""

from __future__ import annotations

import functools
import html
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from llama_padfix import ChatEncoder, PadfixError, check_serving, export_for_serving
from llama_padfix.cli import main
from llama_padfix.serving.causes import CAUSES, UNKNOWN
from llama_padfix.serving.folder import read_served_folder
from llama_padfix.serving.rendering import environment
from tests.support.families import originals
from tests.support.served import read_template, save_folder

CHATML = read_template("qwen2_5")
RULES = ("transformers", "vllm", "sglang", "mlx-lm")
HAS_MINIJINJA = importlib.util.find_spec("minijinja") is not None
needs_minijinja = pytest.mark.skipif(
    not HAS_MINIJINJA, reason='minijinja is missing: pip install "llama-padfix[serving]"'
)


def chat(*contents: str, **more: Any) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[n % 2], "content": text} for n, text in enumerate(contents)], **more}


ROWS = [chat("Hi", "Hello."), chat("2 + 2?", "4", "3 + 3?", "6")]


def causes(report: Any) -> dict[str, dict[str, int]]:
    return {engine.name: dict(engine.causes) for engine in report.engines if engine.causes}


def codes(report: Any) -> list[str]:
    return [finding.code for finding in report.findings]


@pytest.fixture(scope="module")
def chatml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chatml")
    return save_folder(folder, CHATML, eos="<|im_end|>", generation={"eos_token_id": None}, more=("<|im_end|>",))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every engine finds everything."""
    folder = save_folder(tmp_path_factory.mktemp("whole"), CHATML, eos="<|im_end|>")
    end = read_served_folder(folder).tokenizer.convert_tokens_to_ids("<|im_end|>")
    return save_folder(folder, CHATML, eos="<|im_end|>", generation={"eos_token_id": [end]})


def test_nothing_differs_where_nothing_does(whole: Path) -> None:
    report = check_serving(whole, ROWS)
    assert report.findings == () and causes(report) == {}
    assert [engine.points for engine in report.engines if engine.name in RULES] == [3] * 4
    assert report.rows == 2 and report.points == 3 and report.left_out == {}
    assert all(engine.stops == ("<|im_end|>",) for engine in report.engines if engine.name in RULES)


def test_a_date_that_was_pinned_is_not_served(tmp_path: Path) -> None:
    save_folder(tmp_path, read_template("llama3_2"))
    encoder = ChatEncoder(read_served_folder(tmp_path).tokenizer, date="2024-07-26")
    report = check_serving(tmp_path, ROWS, engines=RULES, encoder=encoder)
    assert causes(report) == {name: {"date": 3} for name in RULES}
    [finding] = [one for one in report.findings if one.code == "SRV001"]
    assert "26 Jul 2024" in finding.evidence[0].text and finding.rows == 2 and finding.count == 12
    assert "date" in causes(check_serving(tmp_path, ROWS, engines=["vllm"]))["vllm"], "the day of training passes too"


def test_arguments_of_the_training_are_not_served(tmp_path: Path) -> None:
    source = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
    source += "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    folder = save_folder(tmp_path, "{{ tone | default('plain') }}" + source, eos="<|im_end|>")
    encoder = ChatEncoder(read_served_folder(folder).tokenizer, template_kwargs={"tone": "kind"})
    report = check_serving(folder, ROWS, engines=["vllm"], encoder=encoder)
    assert causes(report) == {"vllm": {"arguments": 3}} and "SRV005" in codes(report)
    row = {**ROWS[0], "chat_template_kwargs": {"tone": "kind"}}
    assert causes(check_serving(folder, [row], engines=["vllm"])) == {"vllm": {"arguments": 1}}


def test_rows_that_were_trained_with_another_template_are_named(whole: Path) -> None:
    other = CHATML.replace("You are Qwen", "You are Somebody")
    encoder = ChatEncoder(read_served_folder(whole).tokenizer, template=other)
    assert causes(check_serving(whole, ROWS, engines=["vllm"], encoder=encoder)) == {"vllm": {"template": 3}}


def test_an_old_template_in_the_other_file_is_what_some_engines_read(tmp_path: Path) -> None:
    save_folder(tmp_path, CHATML, eos="<|im_end|>", everywhere=False)
    path = tmp_path / "tokenizer_config.json"
    old = CHATML.replace("You are Qwen", "You are Somebody")
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": old}))
    if HAS_MINIJINJA:
        assert causes(check_serving(tmp_path, ROWS, engines=["tgi"]))["tgi"]["template"] == 3
    assert causes(check_serving(tmp_path, ROWS, engines=["vllm"])) == {}
    del old
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "chat_template"}))
    assert "SRV002" in codes(check_serving(tmp_path, ROWS, engines=["ollama"]))


def test_an_end_at_which_nobody_stops(tmp_path: Path) -> None:
    save_folder(tmp_path, CHATML, eos="<|end|>")
    report = check_serving(tmp_path, ROWS, engines=["vllm", "mlx-lm"])
    [finding] = report.findings
    assert finding.code == "SRV003" and "3 trained turns end with <|im_end|>" in finding.message
    assert "vllm, mlx-lm would not stop" in finding.message


def test_a_stop_inside_of_an_answer(tmp_path: Path) -> None:
    folder = save_folder(tmp_path, CHATML, eos="<|im_end|>", more=("<|eom_id|>",))
    encoder = ChatEncoder(read_served_folder(folder).tokenizer, special_tokens="allow")
    rows = [*ROWS, chat("Run it", "a<|eom_id|>b")]
    report = check_serving(folder, rows, engines=["sglang", "vllm"], encoder=encoder)
    [finding] = [one for one in report.findings if one.code == "SRV004"]
    assert "1 rows hold <|eom_id|>" in finding.message and "where sglang would stop" in finding.message
    assert [place.row for place in finding.evidence] == [2]


def test_a_control_token_in_a_question_is_a_control_token_in_a_server(whole: Path) -> None:
    report = check_serving(whole, [chat("What is <|im_end|>?", "A token.")], engines=RULES)
    assert causes(report) == {name: {"spelled control token": 1} for name in RULES} and codes(report) == ["SRV010"]


def test_a_prompt_that_goes_on_into_the_trained_answer_is_the_same(tmp_path: Path) -> None:
    source = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    source += "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
    save_folder(tmp_path, source, eos="<|im_end|>")
    same = chat("2 + 2?", "<think>\nTwo.\n</think>\n\n4")
    assert causes(check_serving(tmp_path, [same], engines=["vllm"])) == {}
    other = check_serving(tmp_path, [chat("2 + 2?", "4")], engines=["vllm"])
    assert causes(other) == {"vllm": {"generation prompt": 1}} and "SRV012" in codes(other)


@needs_minijinja
def test_a_training_template_does_not_run_in_minijinja(tmp_path: Path) -> None:
    save_folder(tmp_path, read_template("qwen3_training"), eos="<|im_end|>")
    report = check_serving(tmp_path, ROWS, engines=["minijinja", "tgi", "vllm"])
    assert set(causes(report)) == {"minijinja", "tgi"} and "SRV007" in codes(report)
    [finding] = [one for one in report.findings if one.code == "SRV007"]
    assert "unknown statement generation" in finding.evidence[0].remark


@needs_minijinja
def test_white_space_json_and_numbers_in_minijinja(tmp_path: Path) -> None:
    save_folder(tmp_path, read_template("llama3_1"), eos="<|eot_id|>")
    tool = {"type": "function", "function": {"name": "look", "description": "It's", "parameters": {"least": 1e-07}}}
    rows = [chat("\x1cHi", "Hello."), chat("Hi", "Hello.", tools=[tool])]
    found = causes(check_serving(tmp_path, rows, engines=["minijinja"]))["minijinja"]
    assert found == {"white space": 1, "escaped JSON": 1, "numbers": 1}


@pytest.mark.parametrize("path", originals()[::6], ids=lambda path: path.stem)
def test_every_difference_of_a_template_has_a_name(tmp_path: Path, path: Path) -> None:
    report = check_serving(save_folder(tmp_path, path.read_text(encoding="utf-8")))
    assert report.points > 1
    for engine in report.engines:
        assert UNKNOWN not in engine.causes, engine
        assert (engine.differing > 0) == bool(engine.causes)
        assert set(engine.causes) <= set(CAUSES)


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", [path for path in originals() if path not in originals()[::6]], ids=lambda path: path.stem
)
def test_every_difference_of_other_templates_has_a_name(tmp_path: Path, path: Path) -> None:
    test_every_difference_of_a_template_has_a_name(tmp_path, path)


def test_rows_without_a_point_are_counted_by_reason(whole: Path) -> None:
    report = check_serving(whole, [*ROWS, {"text": "plain"}, {"text": "more"}, 3], engines=["vllm"])
    assert (
        sum(report.left_out.values()) == 3 and report.left_out["the row is plain text, which no server renders"] == 2
    )
    with pytest.raises(PadfixError, match="No row has an answer to compare"):
        check_serving(whole, [{"text": "plain"}])
    with pytest.raises(PadfixError, match="rows=0 reads nothing"):
        check_serving(whole, ROWS, rows=0)
    assert check_serving(whole, ROWS, rows=1, engines=["vllm"]).rows == 1


def test_without_rows_the_library_has_chats_of_its_own(whole: Path) -> None:
    report = check_serving(whole, engines=["vllm"])
    assert report.source == "chats of its own" and report.points > 20


def test_the_forms_of_a_report(tmp_path: Path) -> None:
    save_folder(tmp_path, CHATML, eos="<|end|>")
    report = check_serving(tmp_path, [chat("<script>\x1b[31m<|im_end|>", "Hello.")], engines=["vllm"])
    document = json.loads(report.to_json())
    assert document["engines"][0]["stops"] == ["<|end|>"] and document["summary"] == {
        "error": 1,
        "warning": 1,
        "note": 0,
    }
    page = report.to_html()
    assert "<script>" not in page and html.escape("<|im_end|>") in page and "\x1b" not in str(report) + page
    assert str(report).count("engine") >= 1 and "SRV010" in str(report) and repr(report).startswith("ServingReport(1 ")


def test_the_command_line(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert main(["serving", str(whole), str(rows), "--engine", "vllm,sglang"]) == 0
    assert "0 of 3" in capsys.readouterr().out
    page = tmp_path / "page.html"
    bad = save_folder(tmp_path / "bad", CHATML, eos="<|end|>")
    assert main(["serving", str(bad), str(rows), "--engine", "vllm", "--format", "github", "--html", str(page)]) == 1
    assert "::error title=SRV003 stop-missing::" in capsys.readouterr().out and page.exists()
    assert main(["serving", str(bad), str(rows), "--engine", "vllm", "--json", "--date", "2024-07-26"]) == 1
    assert json.loads(capsys.readouterr().out)["points"] == 3
    assert main(["serving", str(tmp_path / "none")]) == 2
    assert main(["serving", str(bad), "--engine", "nobody"]) == 2
    assert main(["serving", str(bad), "--template-kwargs", "[]"]) == 2
    assert main(["explain", "SRV003"]) == 0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "chat_template.jinja",
            "{% for i in range(9999) %}{% for j in range(9999) %}x{% endfor %}{% endfor %}",
            "stopped",
        ),
        ("chat_template.jinja", "x" * (5 * 2**20), "none needs more than 4"),
        (
            "tokenizer_config.json",
            '{"auto_map": {"AutoTokenizer": ["evil.Evil", null]}}',
            "nothing in a folder is executed",
        ),
        ("tokenizer_config.json", "[" * 100_000, "is no JSON"),
        ("tokenizer_config.json", "[]", "holds no JSON object"),
        ("tokenizer.json", "{}", "does not load"),
    ],
)
def test_a_hostile_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str, message: str
) -> None:
    save_folder(tmp_path, CHATML, everywhere=False)
    (tmp_path / name).write_text(content)
    monkeypatch.setattr(environment, "MOST_STEPS", 10_000)
    with pytest.raises(PadfixError, match=message):
        check_serving(tmp_path, ROWS)


def test_the_newest_checkpoint_is_read(tmp_path: Path) -> None:
    save_folder(tmp_path / "checkpoint-2", CHATML, eos="<|im_end|>")
    save_folder(tmp_path / "checkpoint-10", CHATML, eos="<|end|>")
    assert check_serving(tmp_path, ROWS, engines=["vllm"]).engines[0].stops == ("<|end|>",)


def test_code_beside_a_tokenizer_is_not_run(tmp_path: Path) -> None:
    save_folder(tmp_path, CHATML)
    (tmp_path / "tokenization_evil.py").write_text("raise SystemExit(3)")
    with pytest.raises(PadfixError, match="nothing in a folder is executed"):
        check_serving(tmp_path, ROWS)


def test_an_older_transformers_reads_one_key_of_a_thought(tmp_path: Path) -> None:
    from llama_padfix.chat.traced_render import aliases_reasoning

    source = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.thinking }}{{ m.content }}<|im_end|>{% endfor %}"
    source += "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    save_folder(tmp_path, source, eos="<|im_end|>")
    row = chat("Hi", "Hello.", "And?", "So.")
    row["messages"][1]["reasoning_content"] = "A greeting."
    report = check_serving(tmp_path, [row], engines=["transformers", "transformers-5.20", "vllm"])
    expected = {"transformers-5.20": {"thought key": 1}, "vllm": {"thought key": 1}}
    assert causes(report) == (expected if aliases_reasoning() else {})


@pytest.mark.parametrize("rows", [{"train": ROWS}, "rows.jsonl"])
def test_what_holds_no_rows_is_refused(whole: Path, rows: Any) -> None:
    with pytest.raises(PadfixError, match="where rows are needed"):
        check_serving(whole, rows)


def test_real_rows_of_llama_in_every_engine(tmp_path: Path, make_tokenizer: Any) -> None:
    tokenizer = make_tokenizer("3.2-instruct")
    tokenizer.save_pretrained(tmp_path)
    encoder = ChatEncoder(tokenizer, date="2024-07-26")
    report = check_serving(tmp_path, ROWS, engines=RULES, encoder=encoder)
    assert causes(report) == {name: {"date": 3} for name in RULES}
    assert {engine.name: engine.bos for engine in report.engines} == dict.fromkeys(RULES, (1,))
    sglang = next(engine for engine in report.engines if engine.name == "sglang")
    assert set(sglang.stops) == {"<|eot_id|>", "<|eom_id|>"}


def test_a_folder_without_a_template_is_refused_with_the_line(tmp_path: Path) -> None:
    save_folder(tmp_path, CHATML, everywhere=False)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(PadfixError, match="no chat template, so no server"):
        check_serving(tmp_path, ROWS)


@pytest.mark.parametrize("held", ["x", {"a": 1}, [None, "1"], 10**9, True, -3])
def test_stops_that_are_no_ids_are_left_out(tmp_path: Path, held: Any) -> None:
    entry = {"eos_token_id": held}
    save_folder(tmp_path, CHATML, eos="<|im_end|>", generation=entry, config=entry)
    report = check_serving(tmp_path, ROWS[:1], engines=[*RULES, "ollama"])
    assert codes(report) == ["SRV003"] and report.points == 1


def test_the_line_of_a_missing_stop_names_the_tokens_of_the_folder(chatml: Path) -> None:
    [found] = (one for one in check_serving(chatml, ROWS, engines=["transformers"]).findings if one.code == "SRV003")
    end = read_served_folder(chatml).tokenizer.convert_tokens_to_ids("<|im_end|>")
    expected = f"tokenizer.eos_token = '<|im_end|>'; model.generation_config.eos_token_id = [{end}]"
    assert found.advice == expected


def test_arguments_of_another_kind_get_the_line_that_helps(whole: Path, tmp_path: Path) -> None:
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        (None, {}, "output_dir"),
        (whole, {"dataset": 5}, "where rows are needed"),
        (whole, {"rows": "5"}, "rows='5' reads nothing"),
        (whole, {"rows": 2.5}, "rows=2.5 reads nothing"),
        (whole, {"encoder": whole}, "where an encoder is needed"),
    ]
    for folder, given, line in wrong:
        for call in (check_serving, functools.partial(export_for_serving, out=tmp_path / "copy")):
            with pytest.raises(PadfixError, match=line):
                call(folder, **{"dataset": ROWS, **given})
    with pytest.raises(PadfixError, match="where rows are needed"):
        export_for_serving(whole, tmp_path / "copy", {"train": ROWS})


def test_named_templates_without_a_default_are_refused(tmp_path: Path) -> None:
    folder = save_folder(tmp_path, CHATML, everywhere=False)
    (folder / "chat_template.jinja").unlink()
    held = json.loads((folder / "tokenizer_config.json").read_text())
    held["chat_template"] = [{"name": "rag", "template": CHATML}, {"name": "other", "template": CHATML}]
    (folder / "tokenizer_config.json").write_text(json.dumps(held))
    with pytest.raises(PadfixError, match="no template for the row"):
        check_serving(folder, ROWS)
