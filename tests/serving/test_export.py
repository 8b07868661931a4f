"""`export_for_serving`: a copy whose prompts are the trained ones, as far as files can make them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from llama_padfix import ChatEncoder, PadfixError, check_serving, export_for_serving
from llama_padfix.cli import main
from llama_padfix.serving.export.rewrites import (
    drop_ascii,
    pin_arguments,
    spell_out_space,
    strip_generation,
)
from llama_padfix.serving.export.rewrites import (
    test_null as spell_null,
)
from llama_padfix.serving.export.template import rewrite_template
from llama_padfix.serving.folder import read_served_folder
from llama_padfix.serving.rendering.chat import Chat
from llama_padfix.serving.rendering.render import render_chat
from tests.serving.test_check_serving import ROWS, causes
from tests.support.served import read_template, save_folder

RULES = ("transformers", "vllm", "mlx-lm")
HAS_MINIJINJA = importlib.util.find_spec("minijinja") is not None
needs_minijinja = pytest.mark.skipif(
    not HAS_MINIJINJA, reason='minijinja is missing: pip install "llama-padfix[serving]"'
)


def read_files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def test_the_date_of_the_training_is_in_the_copy(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "a", read_template("llama3_2"), everywhere=False, config={"eos_token_id": 1})
    (folder / "model.safetensors").write_bytes(b"weights")
    before = read_files(folder)
    encoder = ChatEncoder(read_served_folder(folder).tokenizer, date="2024-07-26")
    assert causes(check_serving(folder, ROWS, engines=RULES, encoder=encoder)).keys() == set(RULES)
    report = export_for_serving(folder, tmp_path / "b", ROWS, engines=[*RULES, "ollama"], encoder=encoder)
    assert causes(report) == {} and report.findings == ()
    assert read_files(folder) == before, "the original stays as it is"
    copy = read_served_folder(tmp_path / "b")
    assert copy.template_in_config == copy.template_file != before["chat_template.jinja"].decode()
    assert (tmp_path / "b" / "model.safetensors").read_bytes() == b"weights"
    [end] = {end for end in copy.generation_config["eos_token_id"] if copy.name_ids([end]) == ("<|eot_id|>",)}
    assert end in copy.config["eos_token_id"] and copy.id_of("eos_token") == end
    assert 'Modelfile: PARAMETER stop "<|eot_id|>"' in report.commands
    assert any("eos_token = <|eot_id|>" in change for change in report.changes)


def test_arguments_of_the_training_become_defaults(tmp_path: Path) -> None:
    source = "{{ tone | default('plain') }}" + read_template("qwen2_5")
    folder = save_folder(tmp_path / "a", source, eos="<|im_end|>")
    kwargs = {"tone": 'ki"nd {{ 1 }}', "flag": True, "none": None, "not a name": 1}
    encoder = ChatEncoder(read_served_folder(folder).tokenizer, template_kwargs=kwargs)
    assert causes(check_serving(folder, ROWS, engines=["vllm"], encoder=encoder)) == {"vllm": {"arguments": 3}}
    report = export_for_serving(folder, tmp_path / "b", ROWS, engines=["vllm"], encoder=encoder)
    assert causes(report) == {}
    rendered = read_served_folder(tmp_path / "b").tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, tone="other"
    )
    assert rendered.startswith("other"), "a request may still name its own"


def test_the_template_of_the_training_is_what_is_saved(tmp_path: Path) -> None:
    source = read_template("qwen2_5")
    folder = save_folder(tmp_path / "a", source, eos="<|im_end|>")
    encoder = ChatEncoder(
        read_served_folder(folder).tokenizer, template=source.replace("You are Qwen", "You are Somebody")
    )
    report = export_for_serving(folder, tmp_path / "b", ROWS, engines=["vllm"], encoder=encoder)
    assert causes(report) == {} and "Somebody" in str(read_served_folder(tmp_path / "b").template)


def test_arguments_of_other_rows_are_left_to_their_requests(tmp_path: Path) -> None:
    source = "{{ tone | default('plain') }}" + read_template("qwen2_5")
    folder = save_folder(tmp_path / "a", source, eos="<|im_end|>")
    dry, kind = ({**ROWS[0], "chat_template_kwargs": {"tone": tone}} for tone in ("dry", "kind"))
    report = export_for_serving(folder, tmp_path / "b", [dry, dry, kind], engines=["vllm"])
    assert 'default("dry")' in str(read_served_folder(tmp_path / "b").template), "those of most rows"
    assert causes(report) == {"vllm": {"arguments": 1}}
    assert [line for line in report.beyond_files if line.startswith("vllm: arguments, 1 of 3 points")]
    assert 'requests like 1 rows: "chat_template_kwargs": {"tone": "kind"}' in report.commands
    mixed = export_for_serving(folder, tmp_path / "c", [dry, dry, ROWS[0]], engines=["vllm"])
    assert str(read_served_folder(tmp_path / "c").template).startswith("{{ tone"), "no request can say: without a tone"
    assert 'requests like 2 rows: "chat_template_kwargs": {"tone": "dry"}' in mixed.commands


def test_dates_of_rows_are_left_to_their_requests(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "a", read_template("llama3_1"), config={"eos_token_id": 1})
    rows = [{**ROWS[0], "chat_template_kwargs": {"date_string": date}} for date in ("1 May 2024", "2 May 2024")]
    report = export_for_serving(folder, tmp_path / "b", rows, engines=["vllm"])
    assert sum("date_string" in command for command in report.commands) == 2


def test_rows_of_different_templates_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    chats = [Chat(ROWS[0]["messages"], source=read_template(name)) for name in ("qwen2_5", "qwen3")]
    with pytest.raises(PadfixError, match="different templates"):
        rewrite_template(chats)
    folder = save_folder(tmp_path / "a", read_template("qwen2_5"), eos="<|im_end|>")
    with pytest.raises(PadfixError, match="exists already"):
        export_for_serving(folder, folder, ROWS)


@needs_minijinja
@pytest.mark.parametrize("name", ["qwen3_training", "llama3_training", "glm4moe"])
def test_a_copy_renders_where_the_original_does_not(tmp_path: Path, name: str) -> None:
    folder = save_folder(tmp_path / "a", read_template(name))
    engines = ["minijinja", "tgi"]
    before = causes(check_serving(folder, ROWS, engines=engines))
    after = export_for_serving(folder, tmp_path / "b", ROWS, engines=engines)
    assert sum(before["tgi"].values()) >= 3 and causes(after) == {}, (before, causes(after))


def test_a_copy_by_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_folder(tmp_path / "a", read_template("qwen2_5"), eos="<|end|>")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert main(["serving", str(folder), str(rows), "--engine", "vllm", "--export", str(tmp_path / "b")]) == 0
    assert "changed: tokenizer_config.json: eos_token = <|im_end|>" in capsys.readouterr().out
    assert main(["serving", str(folder), str(rows), "--export", str(tmp_path / "b")]) == 2


@pytest.mark.parametrize(
    "source",
    [
        "{% if true %}\n a\n  {% for i in [1, 2] %}\n\n{{ i }}\n  {% endfor %}\n{% endif %}\n\nend\n",
        "{# note #}\n\n  {%- set x = 1 -%}\n  {{ x }}  {% if x %} y {% endif %}\n{% raw %}\n{% a %}\n{% endraw %}\n",
        "  {% if true %}x{%+ if true %} z{% endif +%}\n w{% endif %}",
    ],
)
def test_white_space_is_spelled_out(source: str) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    plain, spelled = (render_chat(Chat(messages, source=one)) for one in (source, spell_out_space(source)))
    assert plain == spelled


def test_rewrites_of_a_source() -> None:
    assert strip_generation("{%- generation -%}a{% endgeneration %}") == "{%- if true -%}a{% endif %}"
    assert drop_ascii("x | tojson(ensure_ascii=False) y|tojson(ensure_ascii=false, indent=2)") == (
        "x | tojson y|tojson(indent=2)"
    )
    assert spell_null("m.content is iterable") == "(m.content is iterable and m.content is not none)"
    assert spell_null("a is not iterable") == "(not (a is iterable and a is not none))"
    kwargs: dict[str, Any] = {"date_string": "26 Jul 2024", "a": None, "b": False, "c": 1}
    assert pin_arguments("{{ a ~ b ~ c }}", {**kwargs, "unread": 1}) == (
        '{% set date_string = "26 Jul 2024" %}{% set a = a | default(none) %}{% set b = b | default(false) %}'
        "{% set c = c | default(1) %}{{ a ~ b ~ c }}"
    )
