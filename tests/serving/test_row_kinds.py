"""Rows of preferences and prompts without an answer, as `check_serving` and the export read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llama_padfix import ChatEncoder, PadfixError, PairEncoder, check_serving, export_for_serving
from llama_padfix.serving.folder import read_served_folder
from llama_padfix.serving.row_kinds import read_served_row
from llama_padfix.serving.trained import read_trained
from tests.support.served import read_template, save_folder

USER, GOOD, BAD = (
    {"role": role, "content": text} for role, text in (("user", "Hi"), ("assistant", "Hello."), ("assistant", "No."))
)
PREFERENCES: dict[str, dict[str, Any]] = {
    "a prompt beside": {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
    "whole conversations": {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
    "texts": {"prompt": "Hi", "chosen": "Hello.", "rejected": "No."},
    "scores": {"prompt": "Hi", "completions": ["No.", "Hello."], "scores": [1, 2]},
}
PROMPTS: dict[str, dict[str, Any]] = {
    "messages": {"prompt": [USER]},
    "a text": {"prompt": "Hi", "answer": "Hello."},
    "a conversation": {"messages": [USER]},
    "a null completion": {"prompt": [USER], "completion": None},
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_folder(tmp_path_factory.mktemp("llama"), read_template("llama3_2"), eos="<|eot_id|>")


@pytest.mark.parametrize("name", PREFERENCES)
def test_the_point_before_the_chosen_answer_is_compared(llama: Path, name: str) -> None:
    report = check_serving(llama, [PREFERENCES[name]], engines=["vllm"])
    assert report.left_out == {} and report.kinds == {"preference": 1}
    assert report.points == 1 and report.engines[0].causes == {"date": 1}
    assert "1 rows are preferences: compared before the chosen or judged answer" in str(report)
    assert report.to_dict()["kinds"] == {"preference": 1}


@pytest.mark.parametrize("name", PROMPTS)
def test_the_point_behind_a_prompt_is_compared(llama: Path, name: str) -> None:
    served = read_served_folder(llama)
    [point] = read_trained(served, [PROMPTS[name]], 1, ChatEncoder(served.tokenizer, date="2024-07-26")).points
    rendered = served.tokenizer.apply_chat_template(
        [USER], add_generation_prompt=True, tokenize=False, date_string="26 Jul 2024"
    )
    assert point.text == rendered and point.turn == 1 and point.answer == ""
    assert list(point.ids) == served.tokenizer(rendered, add_special_tokens=False)["input_ids"]
    report = check_serving(llama, [PROMPTS[name]], engines=["vllm"])
    assert report.kinds == {"prompt": 1} and report.engines[0].causes == {"date": 1} and report.findings[0].rows == 1


def test_rows_of_all_kinds_are_counted_in_their_order(llama: Path) -> None:
    rows = [
        PROMPTS["a text"],
        {"messages": [USER, GOOD]},
        PREFERENCES["texts"],
        {"text": "plain"},
        {"prompt": "Hi", "completion": "Hello.", "label": False},
        {"prompt": []},
        {"chosen": "a", "rejected": None},
    ]
    report = check_serving(llama, rows, engines=["vllm"])
    assert report.kinds == {"prompt": 1, "conversation": 1, "preference": 2} and report.points == 4
    assert sum(report.left_out.values()) == 3 and report.rows == 7
    [finding] = [one for one in report.findings if one.code == "SRV001"]
    assert [place.row for place in finding.evidence] == [0, 1, 2]
    assert "rows are" not in str(check_serving(llama, rows[1:2], engines=["vllm"])), "conversations need no word"


def test_the_encoder_of_preferences_is_one_of_the_training(llama: Path) -> None:
    encoder = PairEncoder(read_served_folder(llama).tokenizer, date="2024-07-26")
    report = check_serving(llama, [*PREFERENCES.values()], engines=["vllm"], encoder=encoder)
    assert report.kinds == {"preference": 4} and "26 Jul 2024" in report.findings[0].evidence[0].text


def test_a_copy_of_prompts_and_preferences(llama: Path, tmp_path: Path) -> None:
    report = export_for_serving(llama, tmp_path / "b", [*PREFERENCES.values(), *PROMPTS.values()], engines=["vllm"])
    assert report.engines[0].differing == 0 and report.points == 8


def test_a_prompt_that_the_template_refuses_is_counted(tmp_path: Path) -> None:
    source = "{% if messages[0].content == 'no' %}{{ raise_exception('no prompts') }}{% endif %}" + read_template(
        "qwen2_5"
    )
    folder = save_folder(tmp_path, source, eos="<|im_end|>")
    report = check_serving(folder, [{"prompt": "no"}, {"messages": [USER, GOOD]}], engines=["vllm"])
    assert list(report.left_out.values()) == [1] and "no prompts" in next(iter(report.left_out))


def test_what_is_no_row_keeps_its_error() -> None:
    with pytest.raises(PadfixError, match="make no known shape"):
        read_served_row({"question": "Hi"})
    with pytest.raises(PadfixError, match="expected"):
        read_served_row(3)
