"""A folder of a stranger: refused with a clear error, or read, within limits; nothing of it runs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llama_padfix import PadfixError, check_serving, export_for_serving
from llama_padfix.cli import main
from llama_padfix.serving.rendering import environment
from tests.serving.test_check_serving import ROWS
from tests.support.served import read_template, save_folder

CHATML = read_template("qwen2_5")
LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
TREE = "{% macro a(n) %}{% if n %}{{ a(n - 1) }}{{ a(n - 1) }}{% endif %}{% endmacro %}{{ a(60) }}"
DOUBLE = "{% set n = namespace(x='x' * 64) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}"
DEEP = '{"a":' + "[" * 100_000 + "]" * 100_000 + "}"
WITHOUT_LIMITS = pytest.mark.skipif(sys.platform == "win32", reason="there are no pipes and devices of that kind")

TEMPLATES = {
    "a loop": LOOP,
    "a loop for other texts than those of the rows": "{% if messages[0].content not in ('Hi', '2 + 2?') %}"
    + LOOP
    + "{% endif %}",
    "a loop in prompts": "{% if add_generation_prompt %}" + LOOP + "{% endif %}",
    "a loop in whole chats": "{% if not add_generation_prompt %}" + LOOP + "{% endif %}",
    "a tree of macros": TREE,
    "a product": "{{ 'x' * 999999999999 }}",
    "a doubled text": DOUBLE,
    "a list": "{{ ([0] * 9999999999) | length }}",
    "an old format": "{{ '%999999999d' % 1 }}",
    "an old format with a star": "{{ '%*d' % (9999999999, 1) }}",
    "an old format by name": "{{ '%(a)9999999999d' % {'a': 1} }}",
    "a format": "{{ '{:>9999999999}'.format('x') }}",
    "a nested format": "{{ '{:>{w}}'.format('x', w=9999999999) }}",
    "padding": "{{ 'x'.ljust(9999999999) }}",
    "a replaced text": "{{ ('x' * 100000).replace('x', 'y' * 1000000) }}",
    "a batch": "{{ [1] | batch(999999999, 'x') | list | length }}",
    "slices": "{{ [1] | slice(999999999, 'x') | list | length }}",
    "wrapped words": "{{ ('x' * 1000000) | wordwrap(1, true, 'y' * 1000000) | length }}",
    "wide JSON": "{{ [[1]] | tojson(indent=999999999) }}",
    "a power": "{{ 9 ** 999999999 }}",
    "deep brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "deep blocks": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(environment, "MOST_STEPS", 10_000)
    return save_folder(tmp_path / "strange", CHATML, everywhere=False)


def refuse(folder: Path, message: str) -> None:
    """Both functions and the command line refuse the folder, and write nothing."""
    out = folder.parent / "out"
    calls: list[Callable[[], object]] = [
        lambda: check_serving(folder, ROWS),
        lambda: export_for_serving(folder, out, ROWS),
    ]
    for call in calls:
        with pytest.raises(PadfixError, match=message) as caught:
            call()
        assert len(str(caught.value)) < 500
    assert main(["serving", str(folder), "--engine", "vllm"]) == 2
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_without_an_end_or_of_huge_values_is_stopped(folder: Path, name: str) -> None:
    (folder / "chat_template.jinja").write_text(TEMPLATES[name] + CHATML)
    refuse(folder, "The chat template was stopped: it .* Look at what wrote the template of strange")


def test_a_template_in_the_other_file_is_stopped_too(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": LOOP + CHATML}))
    refuse(folder, "was stopped")


@pytest.mark.parametrize(
    "name",
    [
        *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
        *("config.json", "generation_config.json", "adapter_config.json", "model.safetensors.index.json"),
        *("chat_template.jinja", "additional_chat_templates/more.jinja", "tokenizer.model", "merges.txt"),
    ],
)
def test_a_huge_file_is_not_read(folder: Path, name: str) -> None:
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    with file.open("wb") as out:
        out.truncate(2**30)  # a hole: it takes no place on the disk
    refuse(folder, f"{file.name} has 1024 MB, and none needs more than")


@WITHOUT_LIMITS
@pytest.mark.parametrize("name", ["tokenizer.json", "added_tokens.json", "chat_template.jinja", "model.safetensors"])
def test_what_is_no_file_is_not_read(folder: Path, name: str) -> None:
    makes: tuple[Callable[[Path], Any], ...] = (
        os.mkfifo,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to(path.name),
        Path.mkdir,
    )
    for make in makes:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)
        refuse(folder, f"{name} (is no regular file|points to nothing), so it is not read")


@pytest.mark.parametrize(
    "name",
    ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json", "adapter_config.json"],
)
def test_deep_json_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_text(DEEP)
    refuse(folder, "nested too deeply|does not load|is no JSON")


@WITHOUT_LIMITS
def test_a_link_out_of_the_folder_is_not_copied(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "secrets.json").write_text('{"key": 1}')
    (folder / "secrets.json").symlink_to(other / "secrets.json")
    with pytest.raises(PadfixError, match=r"secrets\.json is a link to a file outside of the folder"):
        export_for_serving(folder, folder.parent / "out", ROWS, engines=["vllm"])
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@WITHOUT_LIMITS
def test_a_folder_of_the_cache_of_the_hub_is_copied(folder: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "models--x" / "blobs", tmp_path / "models--x" / "snapshots" / "1"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for file in folder.iterdir():
        file.rename(blobs / file.name)
        (snapshot / file.name).symlink_to(Path("..", "..", "blobs", file.name))
    export_for_serving(snapshot, tmp_path / "out", ROWS, engines=["vllm"])
    copied = tmp_path / "out" / "tokenizer.json"
    assert copied.is_file() and not copied.is_symlink()


def test_names_that_are_paths_and_code_do_nothing(folder: Path) -> None:
    mark = folder.parent / "mark"
    code = f"open({str(mark)!r}, 'w')"
    (folder / "evil.py").write_text(code)
    path = folder / "tokenizer_config.json"
    held = {"tokenizer_file": "../../x", "vocab_file": "/etc/passwd", "name_or_path": "../../x"}
    held["chat_template"] = [{"name": f"../../{mark.name}", "template": "x"}, {"name": "default", "template": CHATML}]  # type: ignore[assignment]  # as a stranger may write
    path.write_text(json.dumps({**json.loads(path.read_text()), **held}))
    (folder / "config.json").write_text(
        json.dumps({"model_type": "evil", "auto_map": {"AutoTokenizer": ["evil.E", None], "AutoConfig": "evil.C"}})
    )
    index = {"weight_map": {"model.embed_tokens.weight": "../../../../dev/zero", "b": "/etc/passwd"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    report = export_for_serving(folder, folder.parent / "out", ROWS, engines=["vllm", "ollama"])
    assert report.points == 3 and sorted(one.name for one in folder.parent.iterdir()) == ["out", "strange"]
    assert not (folder.parent / "out" / "evil.py").exists()


def test_nobody_is_asked_whether_code_may_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def answer(*given: object) -> str:
        asked.append(given)
        return "y"

    monkeypatch.setattr("builtins.input", answer)
    (folder / "tokenizer_config.json").unlink()
    (folder / "evil.py").write_text("raise SystemExit(3)")
    auto_map = {"AutoTokenizer": ["evil.E", None], "AutoConfig": "evil.C"}
    (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": auto_map}))
    assert main(["serving", str(folder), "--engine", "vllm"]) in (0, 1, 2)
    assert asked == []


def test_values_of_a_wrong_type_stop_nothing(folder: Path) -> None:
    (folder / "config.json").write_text('{"eos_token_id": NaN, "vocab_size": 1e999}')
    (folder / "generation_config.json").write_text('{"eos_token_id": {"a": [1.5]}}')
    assert export_for_serving(folder, folder.parent / "out", ROWS, engines=["vllm"]).points == 3


def test_texts_with_numbers_are_formatted() -> None:
    from llama_padfix.serving.rendering.chat import Chat
    from llama_padfix.serving.rendering.render import render_chat

    source = "{{ '{} 20260101123456 {:>5}'.format(12345678901, 'x') }}{{ 'a b' | wordwrap(1) }}"
    source += "{{ [1, 2] | batch(2) | list }}{{ ' 20260101123456 %(a)5s%%' % {'a': 12345678901} }}"
    assert (
        render_chat(Chat([], source=source))
        == "12345678901 20260101123456     xa\nb[[1, 2]] 20260101123456 12345678901%"
    )
