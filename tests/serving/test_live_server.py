"""A server that runs, on the loopback: the protocols of llama-server, vLLM and SGLang as their sources have them."""

from __future__ import annotations

import datetime
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llama_padfix import PadfixError, check_serving, cli
from llama_padfix.serving.engines.llama_cpp import QUIRKS
from llama_padfix.serving.folder import read_served_folder
from llama_padfix.serving.live.http import KEY_VARIABLE, Server, ServerError
from llama_padfix.serving.live.servers import request_of
from llama_padfix.serving.rendering.chat import Chat
from llama_padfix.serving.rendering.render import render_chat
from tests.support.small_llama import shared_small, small_tokenizer

ROWS = [
    {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "Yes"}]}
    for text in ("Hi?", "And?", "\u00a0So?")
]
Answer = Callable[[str, dict[str, Any]], object]


class RefusalError(Exception):
    """What a fake server answers with an error status."""

    def __init__(self, status: int, body: object) -> None:
        super().__init__(status)
        self.status, self.body = status, body


@contextmanager
def serving(answer: Answer) -> Iterator[str]:
    """Run a server on the loopback whose answers are JSON, and yield its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply({})

        def do_POST(self) -> None:
            self._reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _reply(self, question: dict[str, Any]) -> None:
            status = 200
            try:
                body = answer(self.path, {**question, "key": self.headers.get("Authorization")})
            except RefusalError as refusal:
                status, body = refusal.status, refusal.body
            text = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "http://127.0.0.1:9/")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *given: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("served")
    small_tokenizer(template=shared_small().chat_template).save_pretrained(str(place))
    return place


def models(owner: str) -> dict[str, Any]:
    return {"object": "list", "data": [{"id": "tiny", "object": "model", "owned_by": owner}]}


def chat_of(question: dict[str, Any]) -> Chat:
    tokenizer = shared_small()
    tokens = {"bos_token": tokenizer.bos_token, "eos_token": tokenizer.eos_token}
    return Chat(question["messages"], question.get("tools"), source=tokenizer.chat_template, tokens=tokens)


def llama_server(path: str, question: dict[str, Any]) -> object:
    tokenizer = shared_small()
    if path == "/v1/models":
        return models("llamacpp")
    if path == "/props":
        return {"build_info": "b9999-abc", "chat_template": tokenizer.chat_template}
    if path == "/apply-template":
        return {"prompt": render_chat(chat_of(question), QUIRKS)}
    if path == "/tokenize":
        assert question["add_special"] and question["parse_special"]
        return {"tokens": tokenizer(question["content"], add_special_tokens=False)["input_ids"]}
    if path == "/v1/chat/completions":
        assert question["temperature"] == 0 and question["max_tokens"] == 256
        ended = "So" not in question["messages"][0]["content"]
        return {"choices": [{"index": 0, "message": {}, "finish_reason": "stop" if ended else "length"}]}
    raise RefusalError(404, {"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}})


def test_the_prompts_of_llama_server_are_compared_and_its_stops_seen(folder: Path) -> None:
    with serving(llama_server) as url:
        report = check_serving(folder, ROWS, url=f"{url}/v1")
    [engine] = report.engines
    assert engine.name == f"llama.cpp at {url}" and engine.version == "llama-server b9999-abc, live"
    assert engine.points == 3 and engine.causes == {"date": 3, "white space": 1}
    assert engine.notes == ("2 of 3 answers end by themselves within 256 tokens (its end of text 2)",)
    assert engine.template_source == "what the server holds"
    assert "SRV001" in {finding.code for finding in report.findings}


def test_a_bos_that_llama_server_cuts_from_the_text_and_adds_to_the_ids_is_the_trained_one(folder: Path) -> None:
    tokenizer = shared_small()

    def cutting(path: str, question: dict[str, Any]) -> object:
        answer: Any = llama_server(path, question)
        if path == "/props":
            return {**answer, "bos_token": tokenizer.bos_token}
        if path == "/apply-template":
            return {"prompt": answer["prompt"].removeprefix(tokenizer.bos_token)}
        return {"tokens": [tokenizer.bos_token_id, *answer["tokens"]]} if path == "/tokenize" else answer

    with serving(cutting) as url:
        [engine] = check_serving(folder, ROWS, url=url).engines
    assert engine.bos == (1,) and engine.causes == {"date": 3, "white space": 1}


def test_arguments_of_calls_are_sent_as_text() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"a": [1.0, "é"]}}}
    odd = {"role": "assistant", "content": "", "tool_calls": [call, {"function": {"arguments": "{}"}}, "x"]}
    [sent] = request_of(Chat([odd]))["messages"]
    assert sent["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a": [1.0, "é"]}'}
    assert sent["tool_calls"][1:] == odd["tool_calls"][1:]
    assert call["function"]["arguments"] == {"a": [1.0, "é"]}  # type: ignore[index]


def make_id_server(kind: str, ids_of: Callable[[list[int]], object]) -> Answer:
    """vLLM tells the ids of the answer, SGLang those of each choice; both only where a request asks for them."""
    switch = {"vllm": "return_token_ids", "sglang": "return_prompt_token_ids"}[kind]

    def answer(path: str, question: dict[str, Any]) -> object:
        if path == "/v1/models":
            return models(kind)
        if path == {"vllm": "/version", "sglang": "/get_server_info"}[kind]:
            return {"version": "0.33.1"}
        if path == "/server_info":  # of a newer SGLang
            raise RefusalError(404, {"detail": "Not Found"})
        assert path == "/v1/chat/completions" and question["model"] == "tiny"
        messages, asked = question["messages"], question.get(switch)
        if "And" in messages[0]["content"] and not asked:
            raise RefusalError(400, {"error": {"message": "too long", "type": "BadRequestError", "code": 400}})
        text = render_chat(chat_of(question))
        ids = {"prompt_token_ids": ids_of(shared_small()(text, add_special_tokens=False)["input_ids"])}
        choice = {"index": 0, "message": {}, "finish_reason": "stop"}
        if kind == "vllm":
            choice = {**choice, "stop_reason": 261, "token_ids": [1]}
            return {"choices": [choice], **ids}
        return {"choices": [{**choice, "matched_stop": 261, **(ids if asked else {})}]}

    return answer


@pytest.mark.parametrize(("kind", "name"), [("vllm", "vLLM"), ("sglang", "SGLang")])
def test_the_ids_of_a_server_are_the_trained_ones_or_named(folder: Path, kind: str, name: str) -> None:
    with serving(make_id_server(kind, lambda ids: ids)) as url:
        report = check_serving(folder, ROWS, url=url, engines=["transformers"])
    by_rules, live = report.engines
    assert by_rules.name == "transformers" and live.version == f"{name} 0.33.1, live"
    assert live.name == f"{kind} at {url}" and live.points == 3 and live.differing == 0 and live.bos == (1,)
    end = shared_small().convert_ids_to_tokens(261)
    assert live.notes[0] == f"2 of 2 answers end by themselves within 256 tokens ({end} 2)"
    assert "too long" in live.notes[1]

    with serving(make_id_server(kind, lambda ids: [ids[0], *ids])) as url:
        [live] = check_serving(folder, ROWS, url=url).engines
    assert live.differing == 3 and live.bos == (2,)
    with serving(make_id_server(kind, lambda ids: None)) as url, pytest.raises(PadfixError, match=f"Update {name}"):
        check_serving(folder, ROWS, url=url)


def test_a_day_is_that_of_today(folder: Path) -> None:
    assert read_served_folder(folder).day > datetime.date.today()
    seen = []

    def noting(path: str, question: dict[str, Any]) -> object:
        seen.append(path)
        return llama_server(path, question)

    with serving(noting) as url:
        report = check_serving(folder, ROWS[:1], url=url)
    assert "unknown" not in report.engines[0].causes and set(seen) <= {
        *("/v1/models", "/props", "/apply-template", "/tokenize", "/v1/chat/completions")
    }


def test_servers_that_tell_no_ids_or_are_none_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PadfixError, match="no address of a server"):
        check_serving(folder, ROWS, url="file:///etc/passwd")
    with pytest.raises(PadfixError, match="does not answer"):
        check_serving(folder, ROWS, url="http://127.0.0.1:9")
    with serving(lambda path, question: models("library")) as url, pytest.raises(PadfixError, match="'library'"):
        check_serving(folder, ROWS, url=url)
    with serving(lambda path, question: [1]) as url, pytest.raises(PadfixError, match="'nobody'"):
        check_serving(folder, ROWS, url=url)
    with serving(lambda path, question: b"<html>") as url, pytest.raises(PadfixError, match="no JSON"):
        check_serving(folder, ROWS, url=url)

    def strict(path: str, question: dict[str, Any]) -> object:
        if question["key"] != "Bearer secret":
            raise RefusalError(401, {"error": "Invalid API Key"})
        raise RefusalError(302, {})

    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with serving(strict) as url:
        with pytest.raises(ServerError, match="Invalid API Key"):
            Server(url).ask("/v1/models")
        monkeypatch.setenv(KEY_VARIABLE, "secret")
        with pytest.raises(ServerError, match="HTTP 302"):  # no other address is asked
            Server(url).ask("/v1/models")


def test_the_command_asks_a_server(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(map(json.dumps, ROWS)))
    with serving(llama_server) as url:
        assert cli.main(["serving", str(folder), str(data), "--url", url]) == 1
    assert "2 of 3 answers end by themselves" in capsys.readouterr().out
