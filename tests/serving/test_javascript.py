"""transformers.js: its rules against what its packages made, the bridge to node, and the packages where they are."""

from __future__ import annotations

import datetime
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llama_padfix.serving.causes import CAUSES
from llama_padfix.serving.engines.engine import EngineMissingError
from llama_padfix.serving.engines.javascript.bridge import FOLDER_VARIABLE, BridgeError, NodeBridge, open_bridge
from llama_padfix.serving.engines.javascript.quirks import QUIRKS, write_number
from llama_padfix.serving.engines.transformers_js import (
    JINJA,
    PACKAGES,
    REQUEST,
    TOKENIZERS,
    JavaScriptClient,
    open_engine,
)
from llama_padfix.serving.folder import ServedFolder, read_served_folder
from llama_padfix.serving.rendering.chat import Chat, RenderRefusedError
from llama_padfix.serving.rendering.render import render_chat
from tests.serving.engine_chats import pairs, short_hash
from tests.serving.record_javascript import DAY, FILE
from tests.support.small_llama import shared_small, small_tokenizer

RECORDED = json.loads(FILE.read_text(encoding="utf-8"))
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
_MODULES = Path(os.environ.get(FOLDER_VARIABLE, "/nowhere"), "node_modules")
needs_packages = pytest.mark.skipif(
    not all((_MODULES / name).is_dir() for name in (JINJA, TOKENIZERS)),
    reason=f"{FOLDER_VARIABLE} names no folder with {' and '.join(PACKAGES)}",
)


def test_rules_give_the_texts_that_the_package_gave() -> None:
    wrong, seen = [], 0
    for name, chat in pairs(RECORDED["texts"]):
        recorded = RECORDED["texts"].get(name)
        assert recorded is not None, f"{name} is new. Run: python -m tests.serving.record_javascript"
        if recorded.startswith("error: "):
            continue
        seen += 1
        text = render_chat(replace(chat, day=DAY), (*REQUEST, *QUIRKS))
        if short_hash(text) != recorded:
            wrong.append((name, text[-200:]))
    assert wrong == [] and seen > 450


def test_what_the_package_refuses_is_no_syntax_that_it_knows() -> None:
    errors = {text for text in RECORDED["texts"].values() if text.startswith("error: ")}
    assert any("Cannot apply filter" in error for error in errors)
    assert {quirk.cause for quirk in QUIRKS} <= set(CAUSES)


def test_numbers_are_written_as_javascript_writes_them() -> None:
    wrote = {text: write_number(float(text)) for text in RECORDED["numbers"]}
    assert wrote == RECORDED["numbers"]


def make_packages(folder: Path, jinja: str) -> Path:
    """Write packages of the real names, whose Jinja is a few lines."""
    for name, code in ((JINJA, jinja), (TOKENIZERS, "exports.Tokenizer = class { encode() { return {ids: [7]} } }")):
        place = folder / "node_modules" / name
        place.mkdir(parents=True)
        (place / "package.json").write_text(json.dumps({"name": name, "version": "9.9.9", "main": "main.js"}))
        (place / "main.js").write_text(code)
    return folder


ECHO = """
exports.Template = class {
    constructor(source) { if (source === "bad") throw new Error("Unexpected bad"); this.source = source }
    render(context) {
        if (this.source === "loop") for (;;);
        return this.source + context.messages[0].content + new Date().getFullYear() + (context.eos_token ?? "")
    }
}
"""


def chat_of(source: str, **more: Any) -> Chat:
    return Chat([{"role": "user", "content": "é\ud800"}], source=source, **more)


@needs_node
def test_the_bridge_survives_what_a_template_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(make_packages(tmp_path / "packages", ECHO) / "node_modules"))
    monkeypatch.setenv("NODE_OPTIONS", "--require /nowhere.js")
    bridge = open_bridge(PACKAGES, never_in=tmp_path / "model")
    bridge.seconds = 3.0
    client = JavaScriptClient(bridge, tmp_path / "tokenizer.json", {"eos_token": "<eos>"})
    assert bridge.ask("versions", names=[JINJA]) == {JINJA: "9.9.9"}
    first, today = datetime.date(2031, 5, 6), str(datetime.date.today().year)
    assert client.render(chat_of("a", day=first)) == "aé\ud8002031<eos>"
    assert client.render(chat_of("a")) == f"aé\ud800{today}<eos>"
    with pytest.raises(RenderRefusedError, match="Error: Unexpected bad"):
        client.render(chat_of("bad"))
    assert bridge.start() == 1
    with pytest.raises(RenderRefusedError, match="needed more than 3 s"):
        client.render(chat_of("loop"))
    assert client.render(chat_of("a")) == f"aé\ud800{today}<eos>" and bridge.start() == 2
    with pytest.raises(RenderRefusedError, match="ENOENT"):
        client.encode("x")
    (tmp_path / "tokenizer.json").write_text("{}")
    assert client.encode("x") == [7]
    bridge.close()
    bridge.close()


@needs_node
def test_a_token_that_the_package_refuses_is_named(tmp_path: Path) -> None:
    bridge = NodeBridge("node", make_packages(tmp_path, ECHO))
    client = JavaScriptClient(bridge, tmp_path / "none", {"eos_token": {"content": "<eos>"}})
    with pytest.raises(RenderRefusedError, match="Unknown token"):
        client.render(chat_of("a"))
    client = JavaScriptClient(bridge, tmp_path / "none", {"eos_token": {"content": "<e>", "__type": "AddedToken"}})
    assert client.render(chat_of("a", day=DAY)).endswith("2026<e>")
    with pytest.raises(BridgeError, match="TypeError"):
        bridge.ask("nothing")
    bridge.close()


def test_what_is_missing_is_one_line_that_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    monkeypatch.delenv("NODE_PATH", raising=False)
    monkeypatch.chdir(make_packages(tmp_path, ECHO))
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/node")
    open_bridge(PACKAGES, never_in=tmp_path / "model")  # finds the current folder's packages, and starts nothing
    with pytest.raises(EngineMissingError, match=r"npm install @huggingface/jinja@0\.5\.11"):
        open_bridge(PACKAGES, never_in=tmp_path)  # the folder that is looked at brings none
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(EngineMissingError, match="install node"):
        open_bridge(PACKAGES, never_in=tmp_path / "model")


def save_folder(folder: Path, *, in_config: bool) -> ServedFolder:
    tokenizer = small_tokenizer(template=shared_small().chat_template)
    tokenizer.save_pretrained(str(folder))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2], "temperature": 0.6}))
    if in_config:
        file = folder / "tokenizer_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": tokenizer.chat_template}))
    return read_served_folder(folder)


@needs_node
def test_the_template_is_looked_for_where_the_engine_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(make_packages(tmp_path / "packages", ECHO)))
    without = open_engine(save_folder(tmp_path / "as saved", in_config=False))
    assert without.template is None and "no chat_template" in without.template_source
    assert without.stops is not None and without.stops.ids == (1, 2) and without.sampling == {"temperature": 0.6}
    held = open_engine(save_folder(tmp_path / "in config", in_config=True))
    assert held.template == shared_small().chat_template and "9.9.9, run" in held.version
    for engine in (without, held):
        assert engine.close is not None
        engine.close()


@needs_node
@needs_packages
@pytest.mark.slow
def test_the_real_packages_agree_with_the_rules_and_the_tokenizer(tmp_path: Path) -> None:
    folder = save_folder(tmp_path, in_config=True)
    engine = open_engine(folder)
    assert engine.run is not None and engine.encode is not None and engine.close is not None
    try:
        for name, chat in list(pairs(RECORDED["texts"]))[::5]:
            expected = RECORDED["texts"][name]
            try:
                text = engine.run(replace(chat, day=DAY))
            except RenderRefusedError as error:
                assert expected == f"error: {error}"
                continue
            # The tokens of this folder are others than the recorded ones.
            tokens = dict.fromkeys(folder.tokens, "") | folder.tokens
            assert text == render_chat(replace(chat, day=DAY, tokens=tokens), (*REQUEST, *QUIRKS)), name
            assert engine.encode(text) == folder.tokenizer(text, add_special_tokens=False)["input_ids"], name
    finally:
        engine.close()
