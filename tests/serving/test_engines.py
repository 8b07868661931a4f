"""What each engine reads of a folder: template, stops, sampling, and what it makes of messages."""

from __future__ import annotations

import importlib.util
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from llama_padfix.core.errors import PadfixError
from llama_padfix.serving.causes import CAUSES
from llama_padfix.serving.engines.catalogue import ENGINES, choose_engines, open_engines
from llama_padfix.serving.engines.engine import Engine
from llama_padfix.serving.engines.tgi import REPLACED
from llama_padfix.serving.folder import read_served_folder
from llama_padfix.serving.rendering.chat import Chat, RenderRefusedError
from tests.support.served import read_template, save_folder

CHATML = read_template("qwen2_5")
MORE = ("<|a|>", "<|b|>", "<|eom_id|>")
needs_minijinja = pytest.mark.skipif(
    importlib.util.find_spec("minijinja") is None, reason='minijinja is missing: pip install "llama-padfix[serving]"'
)


def open_one(name: str, folder: Path) -> Any:
    [engine], _ = open_engines([name], read_served_folder(folder), ExitStack())
    return engine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """T is <|im_end|>, C <|a|>, G <|b|> and <|im_end|>."""
    made = save_folder(tmp_path_factory.mktemp("f") / "f", CHATML, eos="<|im_end|>", more=MORE)
    vocabulary = read_served_folder(made).tokenizer.get_vocab()
    return save_folder(
        made,
        CHATML,
        eos="<|im_end|>",
        more=MORE,
        config={"eos_token_id": vocabulary["<|a|>"]},
        generation={"eos_token_id": [vocabulary["<|b|>"], vocabulary["<|im_end|>"]], "temperature": 0.6, "top_k": 20},
    )


@pytest.mark.parametrize(
    ("name", "stops"),
    [
        ("transformers", {"<|b|>", "<|im_end|>"}),
        ("vllm", {"<|b|>", "<|im_end|>"}),
        ("sglang", {"<|a|>", "<|b|>", "<|im_end|>", "<|eom_id|>"}),
        ("mlx-lm", {"<|b|>", "<|im_end|>"}),
        ("ollama", {"<|b|>", "<|im_end|>"}),
        pytest.param("tgi", {"<|b|>", "<|im_end|>"}, marks=needs_minijinja),
    ],
)
def test_stops_come_from_the_files_that_an_engine_reads(folder: Path, name: str, stops: set[str]) -> None:
    engine = open_one(name, folder)
    assert set(read_served_folder(folder).name_ids(engine.stops.ids)) == stops


@pytest.mark.parametrize(
    ("name", "stops"),
    [
        ("transformers", {"<|a|>"}),
        ("vllm", {"<|im_end|>", "<|a|>"}),
        ("mlx-lm", {"<|im_end|>", "<|a|>"}),
        ("ollama", {"<|im_end|>"}),
        pytest.param("tgi", {"<|im_end|>"}, marks=needs_minijinja),
    ],
)
def test_stops_without_a_generation_config(folder: Path, tmp_path: Path, name: str, stops: set[str]) -> None:
    copied = save_folder(tmp_path / "g", CHATML, eos="<|im_end|>", more=MORE)
    (copied / "config.json").write_text((folder / "config.json").read_text())
    engine = open_one(name, copied)
    assert set(read_served_folder(copied).name_ids(engine.stops.ids)) == stops


def test_an_eos_of_0_is_not_seen_by_mlx(tmp_path: Path) -> None:
    made = save_folder(tmp_path, CHATML, eos="<|im_end|>", config={"eos_token_id": 7}, generation={"eos_token_id": 0})
    end = read_served_folder(made).tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert open_one("mlx-lm", made).stops.ids == (end, 7)


def test_sampling_is_taken_whatever_do_sample_says(folder: Path) -> None:
    assert open_one("vllm", folder).sampling == {"temperature": 0.6, "top_k": 20}


def test_a_template_in_a_file_of_its_own_is_not_found_by_all(tmp_path: Path) -> None:
    made = save_folder(tmp_path, CHATML, everywhere=False)
    assert open_one("vllm", made).template == CHATML
    assert open_one("ollama", made).template is None


TOOL = {"type": "function", "function": {"parameters": {"type": "object"}, "name": "look", "strict": True}}
CALL = {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
SHOW = "{% for m in messages %}{{ m|tojson }}\n{% endfor %}{{ tools|tojson }}"


def show(name: str, folder: Path, message: dict[str, Any], tools: list[Any] | None = None) -> list[str]:
    """What the template gets of a message and of tools, by an engine's rules."""
    text: str = open_one(name, folder).render(Chat([message], tools, source=SHOW))
    return text.split("\n")


def test_vllm_types_messages_and_tools(folder: Path) -> None:
    message = {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning": "R", "mood": "good"}
    seen, tools = show("vllm", folder, message, [TOOL])
    assert '"content": ""' in seen and '"arguments": {"at": 1}' in seen and "mood" not in seen
    assert '"reasoning_content": "R"' in seen and '"thinking"' not in seen
    assert tools.startswith('[{"type": "function", "function": {"name": "look", "description": null, "parameters"')
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert '"content": "a\\nb"' in show("vllm", folder, {"role": "user", "content": parts})[0]


def test_sglang_types_messages_and_tools(folder: Path) -> None:
    seen, tools = show("sglang", folder, {"role": "assistant", "content": None, "tool_calls": [CALL]}, [TOOL])
    assert '"index": null' in seen and '"arguments": {"at": 1}' in seen and '"content": ""' in seen
    assert tools.startswith('[{"type": "function", "function": {"parameters": {"type": "object"}, "name": "look"')
    assert tools.endswith('"strict": true, "description": null}, "defer_loading": null}]')
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert '"content": "a b"' in show("sglang", folder, {"role": "user", "content": parts, "name": "Ann"})[0]


def test_mlx_switches_thinking_by_the_vocabulary(tmp_path: Path) -> None:
    source = "{{ enable_thinking is defined }} {{ enable_thinking }}<think></think>"
    with_tags, without = save_folder(tmp_path / "a", source), save_folder(tmp_path / "b", CHATML)
    chat = Chat([{"role": "user", "content": "Hi"}], source=source)
    assert open_one("mlx-lm", with_tags).render(chat).startswith("True True")
    assert open_one("mlx-lm", without).render(chat).startswith("True False")


@needs_minijinja
def test_minijinja_renders_with_its_own_json(folder: Path) -> None:
    engine = open_one("minijinja", folder)
    assert "\\u0027" in engine.render(Chat([{"role": "user", "content": "it's"}], source=SHOW))
    with pytest.raises(RenderRefusedError, match="no hello"):
        engine.render(Chat([{"role": "user", "content": ""}], source="{{ raise_exception('no hello') }}"))
    with pytest.raises(RenderRefusedError, match="fuel"):
        loop = "{% for i in range(9999) %}{% for j in range(9999) %}x{% endfor %}{% endfor %}"
        engine.render(Chat([{"role": "user", "content": ""}], source=loop))


@needs_minijinja
def test_tgi_keeps_line_breaks_and_replaces_texts(folder: Path) -> None:
    engine = open_one("tgi", folder)
    chat = Chat(
        [{"role": "user", "content": "Hi", "name": "Ann"}], source="{% if true %}\n{{ messages[0] }}{% endif %}"
    )
    assert engine.render(chat) == "\n{'role': 'user', 'content': 'Hi'}"
    assert engine.render(Chat(chat.messages, source="{% generation %}a{% endgeneration %}")) == "a"
    assert all(old not in new for old, new in REPLACED)


def test_engines_are_chosen_by_name() -> None:
    assert choose_engines(None) == tuple(ENGINES)
    assert choose_engines(["vllm", "vllm"]) == ("vllm",)
    for wrong in (["vlm"], []):
        with pytest.raises(PadfixError, match="not known"):
            choose_engines(wrong)


def test_an_engine_that_is_missing_names_the_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "minijinja", None)
    engines, missing = open_engines(["minijinja", "tgi", "vllm"], read_served_folder(folder), ExitStack())
    assert [engine.name for engine in engines] == ["vllm"]
    assert missing == dict.fromkeys(("minijinja", "tgi"), 'pip install "llama-padfix[serving]"')


def test_the_page_names_every_engine_and_every_cause_of_its_table() -> None:
    text = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    assert [name for name in ENGINES if f"| `{name}` |" not in text] == []
    table = text.partition("| cause |")[2].partition("| points that differ")[0].splitlines()[2:]
    assert len(table) > 8 and {line.split("|")[1].strip() for line in table if line} <= set(CAUSES)


def test_an_engine_is_closed_where_a_later_one_raises(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []

    def open_first(served: Any) -> Engine:
        return Engine("vllm", "of this test", None, "none", close=lambda: closed.append("vllm"))

    def refuse(served: Any) -> Engine:
        raise PadfixError("no such file")

    monkeypatch.setattr("llama_padfix.serving.engines.vllm.open_engine", open_first)
    monkeypatch.setattr("llama_padfix.serving.engines.sglang.open_engine", refuse)
    with pytest.raises(PadfixError, match="no such file"), ExitStack() as stack:
        open_engines(["vllm", "sglang"], read_served_folder(folder), stack)
    assert closed == ["vllm"]
