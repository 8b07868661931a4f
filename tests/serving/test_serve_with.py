"""`prepare(..., serve_with=...)`: rows that an engine feeds otherwise than they are trained, named before the run."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest

from llama_padfix import PadfixError, build_trainer, prepare
from llama_padfix.serving.before_training.rows_check import RowsCheck
from llama_padfix.serving.engines import minijinja
from llama_padfix.serving.engines.engine import EngineMissingError
from llama_padfix.serving.folder import as_served, read_served_folder
from tests.serving.test_check_serving import ROWS, chat, needs_minijinja
from tests.support.served import read_template, save_folder

CHATML = read_template("qwen2_5")
SWITCH = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKS = "{% if enable_thinking | default(false) %}think {% endif %}"  # off unless a request or an engine says so


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Any]:
    """Return the tokenizer of a template, as a run loads it."""

    def load(source: str, eos: str = "<|im_end|>") -> Any:
        return read_served_folder(save_folder(tmp_path, source, eos=eos, more=("<pad>",))).tokenizer

    return load


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "serve_with" in record.getMessage()]


def ids(encoded: Any) -> list[list[int]]:
    return [list(row["input_ids"]) for row in encoded]


def engines_that_differ(prepared: Any) -> dict[str, dict[str, int]]:
    return {engine.name: dict(engine.causes) for engine in prepared.serving.report.engines if engine.causes}


def test_a_date_is_named_and_the_template_that_holds_it_helps(
    make: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = make(read_template("llama3_2"), "<|eot_id|>")
    prepared = prepare(tokenizer, date="2024-07-26", serve_with=["vllm", "llama.cpp"])
    encoded = prepared.encode(ROWS, progress=False)
    assert prepared.serving is not None and prepared.serving.report is not None
    assert engines_that_differ(prepared) == {"vllm": {"date": 3}, "llama.cpp": {"date": 3}}
    [line] = said(caplog)
    assert (
        "vllm: 2 of 2 rows: date in 2 (row 0, 1)" in line
        and "proposals[0]: vllm: with tokenizer.chat_template = " in line
    )
    [first, second] = prepared.serving.report.proposals
    assert (first.engine, first.differing, first.left) == ("vllm", 3, 0) and second.left == 0

    tokenizer.chat_template = first.template
    again = prepare(tokenizer, serve_with=["vllm", "llama.cpp"])
    assert ids(again.encode(ROWS, progress=False)) == ids(encoded), "the trained texts stay"
    assert engines_that_differ(again) == {} and again.serving is not None
    assert again.serving.report is not None and again.serving.report.proposals == ()
    assert len(said(caplog)) == 1


def test_the_arguments_that_an_engine_passes_are_proposed(
    make: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = make(THINKS + SWITCH)
    prepared = prepare(tokenizer, serve_with="llama.cpp")
    prepared.encode(ROWS, progress=False)
    assert engines_that_differ(prepared) == {"llama.cpp": {"thinking switch": 3}}
    [proposal] = prepared.serving.report.proposals  # type: ignore[union-attr]  # both are there
    assert proposal.arguments == {"template_kwargs": {"enable_thinking": True}} and proposal.left == 0
    assert "with prepare(..., template_kwargs={'enable_thinking': True}) 0 of 3 points differ" in said(caplog)[0]
    again: Any = prepare(tokenizer, serve_with="llama.cpp", **proposal.arguments)  # arguments of `prepare`
    again.encode(ROWS, progress=False)
    assert engines_that_differ(again) == {}


def test_arguments_that_no_request_names_are_proposed_away(make: Callable[..., Any]) -> None:
    tokenizer = make(THINKS + SWITCH)
    prepared: Any = prepare(tokenizer, serve_with=["vllm", "sglang"], template_kwargs={"enable_thinking": True})
    prepared.encode(ROWS, progress=False)
    assert engines_that_differ(prepared) == {name: {"arguments": 3} for name in ("vllm", "sglang")}
    assert [dict(one.arguments) for one in prepared.serving.report.proposals] == [{"template_kwargs": {}}] * 2


def test_a_date_that_the_template_has_by_itself_is_proposed(make: Callable[..., Any]) -> None:
    tokenizer = make(read_template("llama3_1"), "<|eot_id|>")
    prepared: Any = prepare(tokenizer, serve_with="vllm", date="2025-01-01")
    prepared.encode(ROWS, progress=False)
    [proposal] = prepared.serving.report.proposals
    assert proposal.arguments == {"date": None} and (proposal.differing, proposal.left) == (3, 0)


def test_a_template_of_the_training_that_is_not_saved_is_proposed(make: Callable[..., Any]) -> None:
    tokenizer = make(CHATML)
    other = SWITCH.replace("{{ m.role }}", "{{ m.role | upper }}").replace("assistant", "ASSISTANT")
    prepared: Any = prepare(tokenizer, serve_with="vllm", template=other)
    prepared.encode(ROWS, progress=False)
    assert engines_that_differ(prepared) == {"vllm": {"template": 3}}
    [proposal] = prepared.serving.report.proposals
    assert proposal.template == other and proposal.left == 0 and "the template of the training" in str(proposal)


@needs_minijinja
def test_what_no_argument_changes_is_named_with_its_rows(
    make: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = make(read_template("llama3_1"), "<|eot_id|>")
    tool = {"type": "function", "function": {"name": "look", "description": "It's", "parameters": {"least": 1e-07}}}
    rows = [*ROWS, *(chat("Hi", "Hello.", tools=[tool]) for _ in range(4))]
    prepared: Any = prepare(tokenizer, serve_with="minijinja")
    prepared.encode(rows, progress=False)
    [line] = said(caplog)
    assert "minijinja: 4 of 6 rows: " in line and "escaped JSON in 4 (row 2, 3, 4, ...)" in line
    assert prepared.serving.report.proposals == () and "SRV006" in str(prepared.serving.report)
    document = json.loads(prepared.serving.report.to_json())
    assert document["proposals"] == [] and document["samples"][0]["source"] == "dataset"


def sources(tmp_path: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    yield "a generator", lambda: iter(ROWS)
    yield "a path", lambda: str(path)
    yield "a dataset", lambda: datasets.Dataset.from_list(ROWS)
    yield "splits", lambda: datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)})
    yield "splits of generators", lambda: {"test": iter(ROWS)}
    yield "a stream", lambda: datasets.IterableDataset.from_generator(lambda: iter(ROWS))


def test_what_is_encoded_stays_as_it_is(
    make: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = make(THINKS + SWITCH)
    datasets.disable_caching()
    try:
        for name, rows in sources(tmp_path):
            caplog.clear()
            plain, checked = (prepare(tokenizer, serve_with=engines) for engines in ((), "llama.cpp"))
            one, other = (each.encode(rows(), progress=False) for each in (plain, checked))
            if name.startswith("splits"):
                [one], [other] = one.values(), other.values()
            assert ids(one) == ids(other) and len(ids(one)) == 2, name
            [line] = said(caplog)
            assert ("was not compared" if name == "a stream" else "thinking switch in 2") in line, name
            assert plain.serving is None
    finally:
        datasets.enable_caching()


def test_a_stream_is_compared_by_its_first_rows(make: Callable[..., Any]) -> None:
    prepared: Any = prepare(make(THINKS + SWITCH), serve_with="llama.cpp")
    report = prepared.serving.check(list(datasets.IterableDataset.from_generator(lambda: iter(ROWS)).take(1)))
    assert report is prepared.serving.report and report.rows == 1 and report.engines[0].differing == 1


def test_it_is_said_once_and_of_the_first_rows_alone(
    make: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    prepared: Any = prepare(make(THINKS + SWITCH), serve_with="llama.cpp")
    prepared.serving.rows = 2
    for _ in range(2):
        prepared.encode([*ROWS, *ROWS], progress=False)
    assert len(said(caplog)) == 1 and prepared.serving.report.rows == 2
    assert "RowsCheck(engines=('llama.cpp',), rows=2" in repr(prepared.serving)


def test_preferences_and_a_trainer(
    make: Callable[..., Any], caplog: pytest.LogCaptureFixture, make_model: Callable[..., Any], tmp_path: Path
) -> None:
    tokenizer = make(THINKS + SWITCH)
    row = {"prompt": "Hi", "chosen": "Hello.", "rejected": "No."}
    prepared: Any = prepare(tokenizer, task="dpo", serve_with="llama.cpp")
    prepared.encode([row], progress=False)
    assert prepared.serving.report.kinds == {"preference": 1} and len(said(caplog)) == 1
    model = make_model(hidden_size=8, vocab_size=len(tokenizer))
    arguments = {"output_dir": str(tmp_path / "run"), "report_to": [], "use_cpu": True}
    build_trainer(model, tokenizer, ROWS, eval_dataset=ROWS[:1], serve_with="llama.cpp", **arguments)
    assert len(said(caplog)) == 3 and "first 1 rows of the eval_dataset" in said(caplog)[-1]


def test_rows_that_no_server_renders_are_no_failure(
    make: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    prepared: Any = prepare(make(CHATML), serve_with=["vllm", "ollama"])
    prepared.encode([{"text": "plain"}], progress=False)
    assert said(caplog) == [] and sum(prepared.serving.report.left_out.values()) == 1
    with pytest.raises(PadfixError, match="encoded already"):
        prepared.encode([{"input_ids": [1, 2]}], progress=False)


@pytest.mark.parametrize("wrong", ["vLLM", ["vllm", "nobody"], 5, [["vllm"]], [None], {"vllm": 1, "x": 2}])
def test_an_engine_that_is_not_known(make: Callable[..., Any], wrong: Any) -> None:
    tokenizer = make(CHATML)
    before = tokenizer.pad_token
    with pytest.raises(PadfixError, match=r"serve_with names .* not known\. Choose of: transformers, "):
        prepare(tokenizer, serve_with=wrong)
    assert tokenizer.pad_token == before


def test_what_is_missing_is_an_error_at_once(make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def load() -> None:
        raise EngineMissingError('pip install "llama-padfix[serving]"')

    monkeypatch.setattr(minijinja, "load_minijinja", load)
    with pytest.raises(PadfixError, match=r"serve_with='tgi' runs what is not installed\. Run: pip install"):
        prepare(make(CHATML), serve_with=["vllm", "tgi"])
    tokenizer = make(CHATML)
    tokenizer.chat_template = None
    with pytest.raises(PadfixError, match="no chat template, so no server"):
        prepare(tokenizer, serve_with="vllm")
    tokenizer.chat_template = {"rag": CHATML}
    with pytest.raises(PadfixError, match="no chat template, so no server"):
        as_served(tokenizer)


def test_rows_of_media_are_refused(make: Callable[..., Any]) -> None:
    class WithProcessor:
        tokenizer = make(CHATML)
        processor = object()

    encoder: Any = WithProcessor()
    with pytest.raises(PadfixError, match="have media"):
        RowsCheck(encoder, "vllm")


def test_an_error_in_the_comparison_does_not_stop_the_encoding(
    make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise PadfixError("the template does not end")

    prepared = prepare(make(CHATML), serve_with="vllm")
    monkeypatch.setattr("llama_padfix.serving.before_training.rows_check.read_trained", fail)
    assert len(prepared.encode(ROWS, progress=False)) == 2
    assert [record.levelno for record in caplog.records if "not compared" in record.getMessage()] == [logging.WARNING]
