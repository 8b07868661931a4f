"""Prompts and completions that are texts: rendered by the user's own script, or plain, for a model without turns."""

from __future__ import annotations

from typing import Any

import pytest

from llama_padfix import ChatEncoder, diagnose, view_mask
from llama_padfix.core.errors import IGNORE_INDEX, PadfixError
from tests.support.byte_tokenizer import make_byte_tokenizer
from tests.support.conversations import shared, trained_runs

BOS, TEXT_END, EOT = 128000, 128001, 128009
USER = {"role": "user", "content": "What is 2 + 2?"}
CHAT = [{"role": "system", "content": "Count."}, USER, {"role": "assistant", "content": "4."}]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
THINKS = (  # the generation prompt writes what no earlier answer has
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<U>' + m.content }}"
    "{% else %}{{ '<A>' + m.content + '<E>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<A><think>\n' }}{% endif %}"
)


def trained_text(tokenizer: Any, row: Any) -> str:
    return str(tokenizer.decode([label for label in row["labels"] if label != IGNORE_INDEX]))


def render(tokenizer: Any, messages: Any = CHAT[:-1]) -> str:
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


@pytest.mark.parametrize("bos", ["", "<|begin_of_text|>", "<|begin_of_text|>" * 2])
@pytest.mark.parametrize("names", [("prompt", "completion"), ("instruction", "output")])
@pytest.mark.parametrize("completion", ["4.<|eot_id|>", "4."])
def test_a_rendered_prompt_equals_its_messages(bos: str, names: tuple[str, str], completion: str) -> None:
    tokenizer = shared("3.1-instruct")
    encoder = ChatEncoder(tokenizer)
    prompt = bos + render(tokenizer).removeprefix("<|begin_of_text|>")
    assert encoder({names[0]: prompt, names[1]: completion}) == encoder(CHAT)
    assert encoder.counts.escaped == 0 and encoder.counts.repaired == (len(bos) > 17)


def test_what_follows_the_stop_token_of_a_completion_is_not_trained() -> None:
    tokenizer = make_byte_tokenizer(["<|im_start|>", "<|im_end|>"], "<|im_end|>", template=CHATML)
    row = ChatEncoder(tokenizer)({"prompt": render(tokenizer), "completion": "4.<|im_end|>\n"})
    assert row == ChatEncoder(tokenizer)(CHAT)
    assert trained_text(tokenizer, row) == "4.<|im_end|>" and row["labels"][-1] == IGNORE_INDEX


def test_a_completion_of_several_turns_trains_the_answers_alone() -> None:
    tokenizer = shared("3.1-instruct")
    rest = "<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
    completion = f"4.<|eot_id|>{rest}<|start_header_id|>assistant<|end_header_id|>\n\nTry.<|eot_id|>"
    row = {"prompt": render(tokenizer), "completion": completion}
    assert trained_text(tokenizer, ChatEncoder(tokenizer)(row)) == "4.<|eot_id|>Try.<|eot_id|>"
    assert trained_text(tokenizer, ChatEncoder(tokenizer, train_on="last")(row)) == "Try.<|eot_id|>"


def test_earlier_answers_of_a_rendered_prompt_are_not_trained_and_its_header_may_open_the_completion() -> None:
    tokenizer = shared("3.1-instruct")
    prompt = str(tokenizer.apply_chat_template([*CHAT, USER], tokenize=False))
    header = "<|start_header_id|>assistant<|end_header_id|>\n\n"
    for row in (
        {"prompt": prompt + header, "completion": "4<|eot_id|>"},
        {"prompt": prompt, "completion": header + "4<|eot_id|>"},
    ):
        encoded = ChatEncoder(tokenizer)(row)
        assert trained_text(tokenizer, encoded) == "4<|eot_id|>"
        assert tokenizer.decode(encoded["input_ids"]) == prompt + header + "4<|eot_id|>"


@pytest.mark.parametrize(("prefill", "answer"), [("", "<think>\nWHY</think>4<E>"), ("<think>\n", "WHY</think>4<E>")])
def test_with_or_without_the_opened_thought_what_the_completion_holds_is_trained(prefill: str, answer: str) -> None:
    tokenizer = make_byte_tokenizer(["<U>", "<A>", "<E>", "<B>"], "<E>", template=THINKS, bos="<B>")
    row = ChatEncoder(tokenizer)({"prompt": "<B><U>Q<A>" + prefill, "completion": answer})
    assert trained_text(tokenizer, row) == answer


def test_a_rendered_text_whose_answers_lack_what_the_prompt_opens_trains_the_answers() -> None:
    tokenizer = make_byte_tokenizer(["<U>", "<A>", "<E>", "<B>"], "<E>", template=THINKS, bos="<B>")
    row = ChatEncoder(tokenizer)({"text": "<B><U>Q<A>one<E><U>R<A><think>\nWHY</think>two<E>"})
    assert trained_text(tokenizer, row) == "one<E>WHY</think>two<E>"


@pytest.mark.parametrize(
    ("prompt", "completion"),
    [
        ("What does <|start_header_id|>assistant<|end_header_id|>\n\n open?", "A turn, and <|eot_id|> ends it."),
        ("What is <|start_header_id|>assistant<|end_header_id|>\n\n", "It opens a turn."),
        ("Say the stop token", "It is <|eot_id|>"),
    ],
)
def test_a_prompt_that_quotes_a_header_is_still_a_message(prompt: str, completion: str) -> None:
    tokenizer = shared("3.1-instruct")
    encoder = ChatEncoder(tokenizer)
    row = encoder({"prompt": prompt, "completion": completion})
    chat = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
    assert row == ChatEncoder(tokenizer)(chat) and encoder.counts.escaped == 1


# Without a chat template


PLAIN = [
    ({"prompt": "Translate: x\n", "completion": "y"}, "Translate: x\n", "y"),
    ({"instruction": "Translate", "output": "y"}, "Translate\n\n", "y"),
    ({"instruction": "Translate", "input": "x", "output": "y z"}, "Translate\n\nx\n\n", "y z"),
    ({"system": "Be brief.", "instruction": "Hi", "input": "", "output": "y"}, "Be brief.\n\nHi\n\n", "y"),
    ({"prompt": "<|begin_of_text|>Hi ", "completion": "y<|end_of_text|>"}, "Hi ", "y"),
    ({"prompt": "", "completion": "alone"}, "", "alone"),
]


@pytest.mark.parametrize(("row", "prompt", "completion"), PLAIN)
def test_without_a_template_a_completion_is_trained_with_its_end(row: Any, prompt: str, completion: str) -> None:
    tokenizer = shared("3.1-base")
    encoded = ChatEncoder(tokenizer)(row)
    ids = encoded["input_ids"]
    assert ids[0] == BOS and ids.count(BOS) == 1 and ids[-1] == TEXT_END and ids.count(TEXT_END) == 1
    assert tokenizer.decode(ids) == f"<|begin_of_text|>{prompt}{completion}<|end_of_text|>"
    assert trained_text(tokenizer, encoded) == completion + "<|end_of_text|>"
    alone = tokenizer(prompt)["input_ids"]
    assert ids[: len(alone)] == alone and trained_runs(encoded["labels"]) == [ids[len(alone) :]]


def test_an_empty_completion_trains_the_end_alone_and_a_callable_may_leave_rows_out() -> None:
    tokenizer, row = shared("3.1-base"), {"prompt": "Hi", "completion": ""}
    encoder = ChatEncoder(tokenizer)
    assert trained_runs(encoder(row)["labels"]) == [[TEXT_END]] and encoder.counts.empty == 1
    seen: list[Any] = []

    def choose(message: Any, index: int) -> bool:
        seen.append((message, index))
        return False

    encoder = ChatEncoder(tokenizer, train_on=choose)
    with pytest.raises(PadfixError, match="no assistant message to train on"):
        encoder({"prompt": "Hi", "completion": "y"})
    assert seen == [({"role": "assistant", "content": "y"}, 1)]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [USER], "completion": [CHAT[-1]]},
        {"prompt": "Hi", "completion": "y", "tools": [{"name": "f"}]},
        {"instruction": "Hi", "output": "y", "history": [["a", "b"]]},
        {"messages": CHAT},
    ],
)
def test_turns_still_need_a_template(row: Any) -> None:
    with pytest.raises(PadfixError, match="chat template"):
        ChatEncoder(shared("3.1-base"))(row)


def test_the_doctor_and_the_view_read_such_rows_as_the_encoder_does() -> None:
    tokenizer = shared("3.1-instruct")
    rows = [{"prompt": render(tokenizer), "completion": "4.<|eot_id|>"}] * 2
    codes = {finding.code for finding in diagnose(tokenizer, dataset=rows).findings}
    assert "DAT002" not in codes and "DAT005" in codes
    base = shared("3.1-base")
    codes = {finding.code for finding in diagnose(base, dataset=[PLAIN[0][0]]).findings}
    assert not codes & {"DAT001", "DAT002", "DAT003"}
    assert "y" in view_mask([PLAIN[0][0]], base).to_text()
