"""A real llama-server on the loopback, with a model of one layer on the vocabulary of Llama 3.1.

Runs where `LLAMA_PADFIX_LLAMA_SERVER` names the program or it is on the PATH (`make llama-server` builds it), and gguf
is installed.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llama_padfix import ChatEncoder, check_serving
from llama_padfix.serving.engines.llama_cpp import open_engine
from llama_padfix.serving.folder import read_served_folder
from llama_padfix.serving.live import open_server
from llama_padfix.serving.live.http import Server, ServerError
from llama_padfix.serving.live.servers import find_server
from llama_padfix.serving.rendering.chat import Chat, RenderRefusedError
from tests.conftest import fresh_tokenizer
from tests.serving.engine_chats import CHATS

PROGRAM = os.environ.get("LLAMA_PADFIX_LLAMA_SERVER") or shutil.which("llama-server")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="no llama-server: make llama-server"),
    pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="gguf is missing: pip install gguf"),
]
ROWS = [
    {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "Yes"}]}
    for text in ("Hi?", "And 12345?", "\u00a0So e\u0301 <|eot_id|> 🙂?")
]


@contextmanager
def serving(file: Path, *arguments: str) -> Iterator[str]:
    """Run llama-server on a free port of the loopback, and yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = ["--host", "127.0.0.1", "--port", str(port)]
    size = ["-c", "1024", "-t", "1", "-np", "1", "--no-warmup", "--offline"]
    log = file.with_suffix(".log")
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(PROGRAM), "-m", str(file), *place, *size, *arguments], stdout=out, stderr=subprocess.STDOUT
        )
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(600):
                try:
                    assert process.poll() is None, log.read_text(errors="replace")[-2000:]
                    if Server(url, seconds=5).ask("/health")["status"] == "ok":
                        break
                except (ServerError, OSError, ValueError):
                    time.sleep(0.1)
            yield url
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("served")
    tokenizer = fresh_tokenizer("3.1-instruct")
    tokenizer.save_pretrained(str(place))
    return place


def write(folder: Path, end: str) -> Path:
    from tests.support.tiny_gguf import write_model

    file = folder.parent / f"{end.strip('<|>')}.gguf"
    write_model(folder, file, fresh_tokenizer("3.1-instruct"), end)
    return file


def test_the_prompts_of_a_real_server_are_compared_and_its_stops_seen(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_server, "LONGEST", 8)
    encoder = ChatEncoder(fresh_tokenizer("3.1-instruct"), template_kwargs={"date_string": "26 Jul 2024"})
    with serving(write(folder, "<|eot_id|>")) as url:
        report = check_serving(folder, ROWS, url=url, encoder=encoder)
        [engine] = report.engines
        assert engine.version.startswith("llama-server ") and engine.version.endswith(", live")
        assert engine.points == 3 and engine.bos == (1,) and engine.template_source == "what the server holds"
        assert engine.causes["date"] == 3 and "unknown" not in engine.causes, engine.causes
        assert engine.notes == ("3 of 3 answers end by themselves within 8 tokens (its end of text 3)",)
        compare_rules(url, folder)
    with serving(write(folder, "Yes")) as url:
        [engine] = check_serving(folder, ROWS, url=url, encoder=encoder).engines
        assert engine.notes == ("0 of 3 answers end by themselves within 8 tokens",)


def compare_rules(url: str, folder: Path) -> None:
    """Compare the rules' text and ids with the server's, chat by chat, and what both refuse."""
    served = read_served_folder(folder, today=True)
    _, live = find_server(url, served.tokenizer.decode)
    engine = open_engine(served)
    assert engine.encode is not None
    seen = 0
    try:
        for name, given in CHATS.items():
            source = served.template or ""
            chat = Chat(given["messages"], given.get("tools"), source=source, tokens=served.tokens, day=served.day)
            try:
                text = live.render(chat)
            except RenderRefusedError:
                with pytest.raises(RenderRefusedError):
                    engine.render(chat)
                continue
            assert text == engine.render(chat), name
            assert live.encode(text) == list(engine.encode(text)), name
            seen += 1
    finally:
        if engine.close is not None:
            engine.close()
    assert seen > 12
