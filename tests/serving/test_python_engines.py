"""vLLM, SGLang and mlx-lm: the rules against what their own code made, and that code where it is installed."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from llama_padfix.serving.engines import mlx_lm, sglang, vllm
from llama_padfix.serving.engines.catalogue import open_engines
from llama_padfix.serving.folder import read_served_folder
from llama_padfix.serving.rendering.render import render_chat
from tests.serving.odd_chats import ODD_CHATS
from tests.serving.record_python import ENGINES, FILE, all_chats, hash_texts, record
from tests.support.served import read_template, save_folder

RECORDED: dict[str, dict[str, dict[str, Any]]] = json.loads(FILE.read_text(encoding="utf-8"))["engines"]
INSTALLED = "LLAMA_PADFIX_PYTHON_ENGINES"
QUIRKS = {"vllm": vllm.QUIRKS, "sglang": sglang.QUIRKS, "mlx-lm": (*mlx_lm.QUIRKS, mlx_lm.OFF)}


@pytest.mark.parametrize("engine", ENGINES)
def test_rules_give_the_texts_that_the_engines_own_code_gave(engine: str) -> None:
    wrong = []
    for name, chats in all_chats():
        known = RECORDED[engine].get(name)
        assert known is not None, f"{name} is new. Run: make python-engines"
        numbers = set(known["refused"])
        refused = [number in numbers for number in range(max(len(ODD_CHATS), 100))]
        if hash_texts(chats, lambda chat: render_chat(chat, QUIRKS[engine]), refused) != known["texts"]:
            wrong.append(name)
    assert wrong == [] and len(RECORDED[engine]) > 40
    assert sum(len(known["refused"]) for known in RECORDED[engine].values()) <= 6


@pytest.mark.skipif(INSTALLED not in os.environ, reason=f"{INSTALLED} names no folder: make python-engines")
@pytest.mark.slow
def test_the_engines_own_code_still_gives_the_recorded_texts() -> None:
    assert record(Path(os.environ[INSTALLED])) == RECORDED


@pytest.mark.skipif(INSTALLED not in os.environ, reason=f"{INSTALLED} names no folder: make python-engines")
@pytest.mark.slow
@pytest.mark.parametrize("generation", [None, {"eos_token_id": 0}, {"eos_token_id": [3, 4]}, {"eos_token_id": 3}])
@pytest.mark.parametrize("config", [{"eos_token_id": 5}, {"eos_token_id": [5, 6]}, {}])
@pytest.mark.parametrize("thoughts", [(), ("<think>", "</think>"), ("<think>",), ("<|think:start|>", "<|think:end|>")])
def test_mlx_loads_the_stops_and_thinks_as_the_rules_say(
    tmp_path: Path, generation: dict[str, Any] | None, config: dict[str, Any], thoughts: tuple[str, ...]
) -> None:
    from tests.serving.real.mlx_lm import open_tokenizer

    template = read_template("qwen3")
    saved = save_folder(tmp_path, template, eos="<|im_end|>", more=thoughts, config=config, generation=generation)
    real = open_tokenizer(Path(os.environ[INSTALLED]), saved)
    [engine], _ = open_engines(["mlx-lm"], read_served_folder(saved), ExitStack())
    assert engine.stops is not None and set(engine.stops.ids) == real.eos_token_ids
    assert (mlx_lm.ON in engine.quirks) == real.has_thinking
