"""Whether answers end, found by generating: on tiny models that were trained to end, and on ones that were not."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from llama_padfix import ChatEncoder, Encoding, PadfixError, check_stops, cli, encode_dataset
from llama_padfix.doctor.generation.answers import GeneratedAnswer
from tests.support.small_llama import TEXT_END, TURN_END, shared_small, small_tokenizer

QUESTIONS = ("Hi?", "And?", "So?")
ROWS = [
    {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "Yes"}]} for text in QUESTIONS
]
DATE = {"date_string": "26 Jul 2024"}


def fresh_model(tokenizer: Any, stops: Any) -> Any:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=stops,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(bos_token_id=tokenizer.bos_token_id, eos_token_id=stops)
    return model


@cache
def trained_state(*, with_end: bool) -> Any:
    """The weights of a model that learned the rows by heart, with the end of each answer or without it."""
    tokenizer = shared_small()
    rows = [ChatEncoder(tokenizer, template_kwargs=DATE)(row) for row in ROWS]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = fresh_model(tokenizer, tokenizer.eos_token_id)
        step = torch.optim.AdamW(model.parameters(), lr=0.02)
        for _ in range(30):
            loss = torch.zeros(())
            for row in rows:
                labels = torch.tensor([row["labels"]])
                if not with_end:
                    labels[labels == tokenizer.eos_token_id] = tokenizer.convert_tokens_to_ids("Ġ")
                loss = loss + model(input_ids=torch.tensor([row["input_ids"]]), labels=labels).loss
            step.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            step.step()
    return model.state_dict()


def make_model(*, with_end: bool = True, stops: tuple[str, ...] = (TEXT_END, TURN_END)) -> Any:
    tokenizer = shared_small()
    ids = tokenizer.convert_tokens_to_ids(list(stops))
    model = fresh_model(tokenizer, ids if len(ids) > 1 else ids[0])
    model.load_state_dict(trained_state(with_end=with_end))
    return model


def record(**settings: Any) -> Encoding:
    return ChatEncoder(shared_small(), template_kwargs=DATE, **settings).encoding


def test_answers_of_a_model_that_was_trained_to_end_do() -> None:
    model, tokenizer = make_model(), shared_small()
    model.train()
    found = check_stops(model, tokenizer, ROWS, encoding=record(), max_new_tokens=12)
    end = tokenizer.convert_tokens_to_ids(TURN_END)
    assert found.stopped == 3 and found.stopped_at == {end: 3} and not found.findings
    assert [(answer.new_tokens, answer.end_trained) for answer in found.answers] == [(4, True)] * 3
    assert found.report.passed == ("GEN009",)
    assert f"3 of 3 answers end by themselves: {TURN_END} ({end}) 3." in str(found)
    assert all(module.training for module in model.modules()) and not model._forward_hooks


def test_an_end_that_is_no_stop_is_named_with_its_place_and_the_change() -> None:
    model, tokenizer = make_model(stops=(TEXT_END,)), shared_small()
    found = check_stops(model, tokenizer, ROWS, encoding=record(), max_new_tokens=12)
    end = tokenizer.convert_tokens_to_ids(TURN_END)
    (finding,) = found.findings
    assert found.stopped == 0 and finding.severity == "error"
    assert "3 of 3 answers run on behind an end that the model generated" in finding.message
    assert f"{TURN_END} ({end})" in finding.message
    assert {answer.passed for answer in found.answers} == {(3, end)}
    (change,) = finding.changes
    assert change.target == "model.generation_config.eos_token_id" and end in tuple(change.after)  # type: ignore[arg-type]
    assert change.safety == "safe" and finding.evidence[0].remark == f"12 tokens; {end} generated at token 3"


def test_a_model_that_never_saw_an_end_is_told_apart_by_the_record() -> None:
    model, tokenizer = make_model(with_end=False), shared_small()
    trained = check_stops(model, tokenizer, ROWS, encoding=record(), max_new_tokens=6)
    assert [answer.miss for answer in trained.answers] == ["never first"] * 3
    assert trained.findings[0].severity == "warning" and "the run trains one" in trained.findings[0].message

    unknown = check_stops(model, tokenizer, ROWS, max_new_tokens=6)
    assert {answer.end_trained for answer in unknown.answers} == {None}
    assert "encoding=read_encoding(dataset)" in unknown.findings[0].message

    encoded = [ChatEncoder(tokenizer, template_kwargs=DATE)(row) for row in ROWS]
    for row in encoded:
        row["labels"][-1] = -100
    untrained = check_stops(model, tokenizer, encoded, max_new_tokens=6)
    assert [answer.miss for answer in untrained.answers] == ["not trained"] * 3
    assert untrained.findings[0].severity == "error" and "train no end" in untrained.findings[0].message


def test_a_setting_that_holds_the_end_back_is_told_apart() -> None:
    model, tokenizer = make_model(), shared_small()
    model.generation_config.min_new_tokens = 6
    found = check_stops(model, tokenizer, ROWS, encoding=record(), max_new_tokens=6)
    assert [answer.miss for answer in found.answers] == ["held back"] * 3
    near = found.answers[0].nearest
    assert near is not None and (near.at, near.rank) == (3, 0) and near.probability > 0.5
    assert "min_new_tokens" in found.findings[0].message


def test_an_end_that_is_written_letter_by_letter_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = make_model(), shared_small()
    letters = tokenizer(TURN_END, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert len(letters) > 5
    made = lambda input_ids, **_: torch.cat([input_ids, torch.tensor([letters])], dim=1)  # noqa: E731
    monkeypatch.setattr(model, "generate", made)
    found = check_stops(model, tokenizer, ROWS[:1], max_new_tokens=len(letters))
    assert [(answer.miss, answer.as_text) for answer in found.answers] == [("as text", TURN_END)]


def test_prompts_of_every_shape_are_asked_as_they_were_trained() -> None:
    model, tokenizer = make_model(), shared_small()
    dataset = encode_dataset(ChatEncoder(tokenizer, template_kwargs=DATE), ROWS, progress=False)
    shapes: list[object] = [
        QUESTIONS[0],
        ROWS[0]["messages"],
        ROWS[0]["messages"][:1],
        {"prompt": ROWS[0]["messages"][:1]},
        {"prompt": QUESTIONS[0], "completion": "Other"},
        dataset[0],
        {"input_ids": dataset[0]["input_ids"][:-4]},
        {"messages": ROWS[0]["messages"][:1], "tools": None},
    ]
    found = check_stops(model, tokenizer, [*shapes, 5, {"text": "plain"}], encoding=record(), max_new_tokens=6)
    assert [answer.prompt for answer in found.answers] == list(range(len(shapes)))
    assert {answer.prompt_tokens for answer in found.answers} == {len(dataset[0]["input_ids"]) - 4}
    assert "is no prompt" in found.left_out[8] and "nothing stands in front" in found.left_out[9]
    assert "2 prompts were left out; the first is 8" in str(found)

    assert {answer.end_trained for answer in check_stops(model, tokenizer, dataset, max_new_tokens=5).answers} == {
        True
    }


def test_limits_hold_and_what_cannot_be_asked_is_refused() -> None:
    model, tokenizer = make_model(with_end=False), shared_small()
    model.generation_config.max_new_tokens = 2
    found = check_stops(model, tokenizer, [QUESTIONS[0], "x" * 600], max_new_tokens=5)
    assert [answer.new_tokens for answer in found.answers] == [2]
    assert found.left_out[1] == "the prompt fills all positions of the model"
    with pytest.raises(PadfixError, match="None of the prompts"):
        check_stops(model, tokenizer, ["x" * 600])
    with pytest.raises(PadfixError, match="max_new_tokens=0"):
        check_stops(model, tokenizer, max_new_tokens=0)
    with pytest.raises(PadfixError, match="where a model is needed"):
        check_stops(object(), tokenizer)


def test_saved_settings_of_sampling_beams_and_stop_strings_do_no_harm() -> None:
    model, tokenizer = make_model(), shared_small()
    held = model.generation_config
    held.do_sample, held.temperature, held.top_p, held.num_beams = True, 0.6, 0.9, 3
    first = check_stops(model, tokenizer, ROWS, max_new_tokens=6)
    assert first.stopped == 3 and held.temperature == 0.6 and held.num_beams == 3
    held.stop_strings = ["e"]
    second = check_stops(model, tokenizer, ROWS, max_new_tokens=6)
    assert second.stopped_at == {None: 3} and "a stop string 3" in str(second)


def test_another_template_than_the_recorded_one_is_noted() -> None:
    other = small_tokenizer(template=shared_small().chat_template + "{# changed #}")
    found = check_stops(make_model(), other, ROWS[:1], encoding=record(), max_new_tokens=5)
    assert "not the one that the record of the run names" in str(found)


def save_run(folder: Path, model: Any) -> Path:
    model.save_pretrained(str(folder))
    small_tokenizer(template=shared_small().chat_template).save_pretrained(str(folder))
    return folder


def test_the_doctor_generates_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_run(tmp_path / "out", make_model(stops=(TEXT_END,)))
    data = encode_dataset(ChatEncoder(shared_small(), template_kwargs=DATE), ROWS, progress=False)
    data.save_to_disk(str(tmp_path / "held"))
    command = ["doctor", str(folder), "--data", str(tmp_path / "held"), "--generate", "2", "--max-new-tokens", "6"]
    assert cli.main([*command, "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    found = [finding for finding in document["findings"] if finding["code"] == "GEN009"]
    assert len(found) == 1 and found[0]["rows"] == 2 and "GEN009" not in document["skipped"]
    assert document["generated"]["prompts"] == 2 and document["generated"]["stopped"] == 0
    assert [answer["miss"] for answer in document["generated"]["answers"]] == ["not a stop"] * 2
    assert [answer["end_trained"] for answer in document["generated"]["answers"]] == [True] * 2

    assert cli.main(["doctor", str(folder), "--generate", "1", "--max-new-tokens", "4", "--format", "github"]) == 1
    shown = capsys.readouterr().out
    assert "::error title=GEN009 answer-does-not-stop::" in shown and "generated answers" in shown


def test_a_folder_without_weights_cannot_be_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_tokenizer(template=shared_small().chat_template).save_pretrained(str(tmp_path))
    assert cli.main(["doctor", str(tmp_path), "--generate"]) == 2
    assert "holds no weights to generate with" in capsys.readouterr().err
    assert cli.main(["doctor", str(tmp_path), "--generate", "--fix", str(tmp_path / "new")]) == 2
    assert "Run one after the other" in capsys.readouterr().err


def test_an_answer_that_ended_behind_its_trained_end_counts_as_a_miss() -> None:
    answer = GeneratedAnswer(0, 5, 9, 20, 7, True, None, passed=(3, 8))
    assert answer.miss == "not a stop"


def test_a_module_that_does_not_generate_is_refused() -> None:
    with pytest.raises(PadfixError, match="A Linear does not generate"):
        check_stops(torch.nn.Linear(2, 2), shared_small())
