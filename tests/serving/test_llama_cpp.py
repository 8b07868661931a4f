"""llama.cpp: the rules against its compiled chat layer, and its own tokenizer where it is installed."""

from __future__ import annotations

import datetime
import importlib.util
import json
import os
import shutil
from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken
from tokenizers.processors import TemplateProcessing

from llama_padfix.demo import reference
from llama_padfix.serving.causes import CAUSES, Explainer
from llama_padfix.serving.engines.javascript.bridge import FOLDER_VARIABLE
from llama_padfix.serving.engines.llama_cpp import QUIRKS, open_engine
from llama_padfix.serving.engines.llamacpp.run_vocabulary import NODE_LLAMA
from llama_padfix.serving.engines.llamacpp.special_tokens import find_bos, find_stops, open_encoder
from llama_padfix.serving.engines.llamacpp.values import show_float, write_float
from llama_padfix.serving.engines.llamacpp.vocabulary import PATTERNS, find_pre_tokenizer
from llama_padfix.serving.folder import ServedFolder, read_served_folder
from llama_padfix.serving.rendering.chat import Chat, RenderRefusedError
from llama_padfix.serving.rendering.render import render_chat
from llama_padfix.serving.trained import Point
from llama_padfix.tokens.calls import copy_tokenizer
from tests.conftest import fresh_tokenizer
from tests.serving.engine_chats import pairs, short_hash
from tests.serving.record_javascript import DAY
from tests.serving.record_llama_cpp import FILE, Layer, without_dates
from tests.support.small_llama import shared_small, small_tokenizer

RECORDED = json.loads(FILE.read_text(encoding="utf-8"))
LAYER = "LLAMA_PADFIX_CHAT_LAYER"
_NODE_PACKAGE = Path(os.environ.get(FOLDER_VARIABLE, "/nowhere"), "node_modules", NODE_LLAMA.rpartition("@")[0])


def test_rules_give_the_texts_that_the_compiled_layer_gave() -> None:
    wrong, seen = [], 0
    for name, chat in pairs(RECORDED["texts"]):
        recorded = RECORDED["texts"].get(name)
        assert recorded is not None, f"{name} is new. Run: python -m tests.serving.record_llama_cpp LAYER"
        text = render_chat(replace(chat, day=DAY), QUIRKS)
        seen += 1
        if short_hash(without_dates(text, DAY)) != recorded:
            wrong.append((name, text[-200:]))
    assert wrong == [] and seen > 500


def test_every_rule_names_a_cause_and_numbers_are_those_of_a_stream() -> None:
    assert {quirk.cause for quirk in QUIRKS} <= set(CAUSES)
    numbers = (1.0, 1e-07, 0.1, 1234567.89, 1e22, -0.5)
    assert [write_float(number) for number in numbers] == ["1", "1e-07", "0.1", "1.23457e+06", "1e+22", "-0.5"]
    assert [show_float(number) for number in numbers[:4]] == ["1.0", "0.0", "0.1", "1234567.89"]


def save_folder(folder: Path, tokenizer: Any, **in_config: Any) -> ServedFolder:
    tokenizer.save_pretrained(str(folder))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2]}))
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | in_config))
    return read_served_folder(folder)


def test_stops_are_one_eos_and_the_tokens_that_are_known_by_name(tmp_path: Path) -> None:
    tokenizer = small_tokenizer(template=shared_small().chat_template)
    folder = save_folder(tmp_path, tokenizer)
    names = ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"]
    assert find_stops(folder) == tuple(sorted(tokenizer.convert_tokens_to_ids(names)))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|end|>", "<|return|>", "<|call|>", "<|file_sep|>"]})
    folder = save_folder(tmp_path, tokenizer)
    names += ["<|return|>", "<|call|>", "<|file_sep|>"]  # and not <|end|>, which parts the messages of gpt-oss
    assert find_stops(folder) == tuple(sorted(tokenizer.convert_tokens_to_ids(names)))


def test_the_template_in_the_config_goes_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    folder = save_folder(tmp_path, small_tokenizer(template="new"), chat_template="old")
    engine = open_engine(folder)
    assert (engine.template, engine.template_source) == ("old", "tokenizer_config.json")
    assert "install node" in engine.notes[-1] and "read, not run" in engine.version
    assert engine.run is not None
    assert engine.run(Chat([{"role": "user", "content": "Hi"}], source="{{ messages[0].content }}")) == "Hi"


def test_a_prompt_gets_one_bos_where_the_file_or_its_kind_asks_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    tokenizer = small_tokenizer(template="{{ messages[0].content }}")  # its post-processor adds a BOS
    bos = tokenizer.bos_token_id
    folder = save_folder(tmp_path / "adds", tokenizer)
    engine, explainer = open_engine(folder), Explainer(folder)
    explainer.begin(Point(0, 0, Chat([], source=""), "", array("i"), 0, 0, 0), ())
    ids = tuple(tokenizer("Hi", add_special_tokens=False)["input_ids"])
    assert explainer.encode(engine, "Hi") == (bos, *ids) == explainer.encode(engine, f"{tokenizer.bos_token}Hi")
    assert find_bos(save_folder(tmp_path / "says not", tokenizer, add_bos_token=False)) is None
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing("$A", "$A $B", [])
    assert find_bos(save_folder(tmp_path / "none", tokenizer)) is None
    assert find_bos(save_folder(tmp_path / "says so", tokenizer, add_bos_token=True)) == bos


def add_flagged(tokenizer: Any) -> Any:
    """Return a tokenizer with added tokens that have flags."""
    flagged = [AddedToken("<|x|>", lstrip=True, rstrip=True, special=True, normalized=False)]
    flagged.append(AddedToken("<|w|>", single_word=True, special=True, normalized=False))
    tokenizer.add_special_tokens({"additional_special_tokens": flagged})
    tokenizer.add_tokens([AddedToken("<think>", rstrip=True, normalized=True)])
    return tokenizer


FLAGGED = (
    "a <|x|> b",
    "a\n<|x|>\n\nb",
    "x<|w|>y",
    "<|w|>",
    "<think> \n hi",
    "e\u0301 caf\u00e9",
    "  <|x|>  <|eot_id|>",
)


def test_flags_of_added_tokens_and_normalizers_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    tokenizer = small_tokenizer(template="{{ messages[0].content }}")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing("$A", "$A $B", [])
    plain = copy_tokenizer(tokenizer)
    plain.add_special_tokens({"additional_special_tokens": ["<|x|>", "<|w|>"]})
    engine = open_engine(save_folder(tmp_path, add_flagged(tokenizer), add_bos_token=False))
    assert engine.encode is not None
    for text in FLAGGED[:4]:
        assert engine.encode(text) == plain(text, add_special_tokens=False)["input_ids"]
    assert tokenizer("a <|x|> b", add_special_tokens=False)["input_ids"] != engine.encode("a <|x|> b")


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ({"role": "tool", "content": {"a": 1}}, "Invalid 'content' type"),
        ({"role": "user", "content": [{"type": "image"}]}, "Unsupported content part"),
        ({"role": "user", "content": ["text"]}, "Unsupported content part"),
        ({"role": "assistant"}, "Expected 'content' or 'tool_calls'"),
        ({"role": "assistant", "tool_calls": ["x"]}, "Missing tool call"),
        ({"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f"}}]}, "Missing tool call"),
    ],
)
def test_requests_that_the_server_refuses_are_refused(
    message: dict[str, Any], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    engine = open_engine(save_folder(tmp_path, small_tokenizer(template="{{ messages }}")))
    chat = Chat([message], source="{{ messages }}")
    assert engine.run is not None
    with pytest.raises(RenderRefusedError, match=why):
        engine.run(chat)
    render_chat(chat, QUIRKS)  # the rules alone refuse nothing: they name causes


def test_a_pre_tokenizer_is_named_by_its_regex_or_not_at_all() -> None:
    split = {"type": "Split", "pattern": {"Regex": reference._PATTERN}}
    splitter: dict[str, Any] = {"type": "Sequence", "pretokenizers": [split, {"type": "ByteLevel"}]}
    document: dict[str, Any] = {"model": {"type": "BPE"}, "pre_tokenizer": splitter}
    assert find_pre_tokenizer(document) == "llama-bpe" and len(set(PATTERNS.values())) == len(PATTERNS)
    split["pattern"] = {"Regex": f"{reference._PATTERN}|x"}
    assert find_pre_tokenizer(document) is None
    assert find_pre_tokenizer({"model": {"type": "Unigram"}, "pre_tokenizer": None}) is None


@pytest.mark.skipif(
    shutil.which("node") is None or not _NODE_PACKAGE.is_dir() or importlib.util.find_spec("gguf") is None,
    reason=f"needs node, gguf, and {NODE_LLAMA} in the folder that {FOLDER_VARIABLE} names",
)
@pytest.mark.slow
def test_llama_cpps_own_tokenizer_gives_the_ids_and_the_rules_its_stops(tmp_path: Path) -> None:
    folder = save_folder(tmp_path, fresh_tokenizer("3.1-instruct"))
    engine = open_engine(folder)
    assert engine.encode is not None and engine.close is not None and "run" in engine.version
    try:
        assert engine.stops is not None and engine.stops.ids == find_stops(folder) == (128001, 128008, 128009)
        for text in ("Hi<|eot_id|> é 12345", "e\u0301 it's\n\n\n x\t", "\u0627\u0644 🙂\u200d我们"):
            ids = folder.tokenizer(text, add_special_tokens=False)["input_ids"]
            assert engine.encode(text) == [128000, *ids]
            assert engine.encode(f"<|begin_of_text|>{text}") == [128000, *ids]
    finally:
        engine.close()
    flagged = save_folder(tmp_path / "flagged", add_flagged(fresh_tokenizer("3.1-instruct")))
    engine, by_rules = open_engine(flagged), open_encoder(flagged, find_bos(flagged))
    assert engine.encode is not None and engine.close is not None and by_rules is not None
    try:
        assert [engine.encode(text) for text in FLAGGED] == [by_rules(text) for text in FLAGGED]
    finally:
        engine.close()


@pytest.mark.skipif(LAYER not in os.environ, reason=f"{LAYER} names no program that compiled/build.py has built")
@pytest.mark.slow
def test_the_compiled_layer_still_gives_the_recorded_texts() -> None:
    today = datetime.date.today()
    with Layer(os.environ[LAYER]) as layer:
        for name, chat in list(pairs(RECORDED["texts"]))[::10]:
            given = short_hash(without_dates(layer.render(chat)["prompt"], today))
            assert given == RECORDED["texts"][name], name
