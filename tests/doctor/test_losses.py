"""Rows of tokens in a batch of any loss, and rows of pairs that are not encoded."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llama_padfix import PadfixError, diagnose, prepare, view_mask
from llama_padfix.doctor.observe.losses.rollouts import describe_rollouts, find_prompts
from llama_padfix.doctor.observe.rows import holds_rows, rows_of_batch, rows_of_dataset
from llama_padfix.encoding.row_formats import read_row
from llama_padfix.training.guard.batch_report import count_trained
from llama_padfix.view.batch_text import show_batch

IDS = torch.tensor([[1, 5, 6, 9], [1, 7, 9, 0], [1, 5, 8, 9], [1, 7, 8, 9]])
SHOWN = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1]])
ANSWERS = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 0], [0, 0, 1, 1], [0, 0, 1, 1]])
LABELS = [[-100, -100, 6, 9], [-100, -100, 9, -100], [-100, -100, 8, 9], [-100, -100, 8, 9]]
DPO = {"input_ids": IDS, "attention_mask": SHOWN, "completion_mask": ANSWERS}
BY_NAME = {
    f"{name}_{column}": held[at]
    for name, at in (("chosen", slice(0, 2)), ("rejected", slice(2, 4)))
    for column, held in (("input_ids", IDS), ("attention_mask", SHOWN), ("labels", torch.tensor(LABELS)))
}
LATE = {  # prompts padded on the left, answers on the right
    "prompt_input_ids": torch.tensor([[0, 1, 5], [1, 7, 7]]),
    "prompt_attention_mask": torch.tensor([[0, 1, 1], [1, 1, 1]]),
    "chosen_input_ids": torch.tensor([[6, 9], [9, 0]]),
    "chosen_attention_mask": torch.tensor([[1, 1], [1, 0]]),
    "rejected_input_ids": torch.tensor([[8, 9], [8, 9]]),
    "rejected_attention_mask": torch.tensor([[1, 1], [1, 1]]),
}
ROLLOUTS = {
    "prompt_ids": torch.tensor([[0, 1, 5]]),
    "prompt_mask": torch.tensor([[0, 1, 1]]),
    "completion_ids": torch.tensor([[6, 7, 9, 0]]),
    "completion_mask": torch.tensor([[1, 1, 1, 0]]),
}


def read(batch: Any, **given: Any) -> list[tuple[str, int, list[int], list[int] | None]]:
    rows = rows_of_batch(batch, "batch", **given)
    return [
        (row.source, row.number, row.input_ids.tolist(), None if row.labels is None else row.labels.tolist())
        for row in rows
    ]


@pytest.mark.parametrize("batch", [DPO, BY_NAME, {f"concatenated_{name}": held for name, held in DPO.items()}])
def test_pairs_are_chosen_and_rejected_rows_in_turn(batch: Any) -> None:
    found = read(batch)
    assert [(source, number) for source, number, _, _ in found] == [
        ("batch, chosen", 0),
        ("batch, rejected", 0),
        ("batch, chosen", 1),
        ("batch, rejected", 1),
    ]
    assert [ids for _, _, ids, _ in found] == [IDS[at].tolist() for at in (0, 2, 1, 3)]
    assert [labels for *_, labels in found] == [LABELS[at] for at in (0, 2, 1, 3)]


def test_rows_of_a_reward_model_are_pairs_without_labels() -> None:
    batch = {"input_ids": IDS, "attention_mask": SHOWN}
    assert [source for source, *_ in read(batch)] == ["batch"] * 4  # nothing in the batch shows the pairs
    assert [(source, labels) for source, _, _, labels in read(batch, blocks=("chosen", "rejected"))][:2] == [
        ("batch, chosen", None),
        ("batch, rejected", None),
    ]
    old = {"input_ids_chosen": IDS[:2], "attention_mask_chosen": SHOWN[:2], "input_ids_rejected": IDS[2:]}
    assert [source for source, *_ in read(old)] == ["batch, chosen", "batch, rejected"] * 2


def test_rows_of_three_answers_are_named() -> None:
    batch = {name: torch.cat([held, held[:2]]) for name, held in DPO.items()}
    found = read(batch, blocks=("chosen", "rejected", "reference"))
    assert [source for source, *_ in found] == ["batch, chosen", "batch, rejected", "batch, reference"] * 2
    assert [ids for _, _, ids, _ in found] == [IDS[at].tolist() for at in (0, 2, 0, 1, 3, 1)]


def test_rows_of_kto_are_no_pairs() -> None:
    found = read({**DPO, "KL_input_ids": IDS, "label": torch.tensor([True, False, True, False])})
    assert [source for source, *_ in found] == ["batch"] * 4
    assert [labels for *_, labels in found] == LABELS
    assert [source for source, *_ in read({**DPO, "input_ids": IDS + torch.arange(4)[:, None]})] == ["batch"] * 4


def test_prompts_and_answers_that_are_padded_apart_are_joined_without_padding() -> None:
    found = read(LATE)
    assert [(source, ids) for source, _, ids, _ in found] == [
        ("batch, chosen", [1, 5, 6, 9]),
        ("batch, rejected", [1, 5, 8, 9]),
        ("batch, chosen", [1, 7, 7, 9]),
        ("batch, rejected", [1, 7, 7, 8, 9]),
    ]
    assert found[0][3] == [-100, -100, 6, 9]


def test_what_a_tool_wrote_in_a_rollout_is_not_trained() -> None:
    assert read(ROLLOUTS) == [("batch", 0, [1, 5, 6, 7, 9], [-100, -100, 6, 7, 9])]
    with_tool = {**ROLLOUTS, "tool_mask": torch.tensor([[1, 0, 1, 1]])}
    assert read(with_tool)[0][3] == [-100, -100, 6, -100, 9]


def test_prompts_alone_are_rows_without_labels() -> None:
    batch = {name: LATE[name] for name in ("prompt_input_ids", "prompt_attention_mask")}
    assert [(source, labels) for source, _, _, labels in read(batch)] == [("batch, prompt", None)] * 2


def test_labels_of_a_classifier_are_not_those_of_tokens() -> None:
    [row] = rows_of_batch({"input_ids": IDS[:1], "labels": torch.tensor([1])}, "batch")
    assert row.labels is None
    assert not holds_rows({"pixel_values": torch.ones(1, 3)}) and not holds_rows([1]) and not holds_rows({})


def test_labels_of_encoded_rows_are_made_of_their_masks_as_trainers_make_them() -> None:
    row = {"input_ids": [1, 2, 3], "completion_mask": [0, 1, 1], "assistant_masks": [0, 0, 1]}
    [facts] = rows_of_dataset([row], "dataset")
    assert facts.labels.tolist() == [-100, -100, 3]
    [facts] = rows_of_dataset([{**row, "labels": [1, 2, 3]}], "dataset")
    assert facts.labels.tolist() == [1, 2, 3]
    [finding] = diagnose([{**row, "completion_mask": [0, 0, 0]}], select=["LBL001"]).findings
    assert finding.rows == 1


def test_the_checks_and_the_view_read_what_is_trained_in_pairs(shared_tokenizer: Any) -> None:
    tokenizer = shared_tokenizer
    chat = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "two"}]
    ids = tokenizer.apply_chat_template(chat)["input_ids"]
    mask = [0] * (len(ids) - 2) + [1, 0]  # the answer without its stop token
    batch = {name: torch.tensor([held] * 2) for name, held in (("input_ids", ids), ("completion_mask", mask))}
    report = diagnose(tokenizer, dataset=batch, select=["LBL001", "LBL002"])
    assert [(finding.code, finding.where) for finding in report.findings] == [
        ("LBL002", "batch, chosen"),
        ("LBL002", "batch, rejected"),
    ]
    view = view_mask(batch, tokenizer)
    assert [(row.number, row.note, int(row.trained.sum())) for row in view.rows] == [
        (0, "chosen", 1),
        (1, "rejected", 1),
    ]
    assert show_batch(batch, tokenizer).startswith(f"row 0 (chosen): {len(ids)} positions, 1 trained, 0 padding")
    assert count_trained(batch) == 2 and count_trained({"input_ids": batch["input_ids"]}) is None


# ---- rows that are not encoded

ASK = [{"role": "user", "content": "1+1?"}]
TWO, NONE = [{"role": "assistant", "content": "two"}], [{"role": "assistant", "content": "no idea"}]
PAIR = {"prompt": ASK, "chosen": TWO, "rejected": NONE}


@pytest.mark.parametrize(
    "row",
    [
        PAIR,
        {"chosen": ASK + TWO, "rejected": ASK + NONE},
        {"prompt": "1+1?", "chosen": " two", "rejected": " no idea"},
        {"chosen": "1+1? two", "rejected": "1+1? no idea"},
        {"conversations": [{"from": "human", "value": "1+1?"}], "chosen": TWO[0], "rejected": NONE[0]},
        {"prompt": "1+1?", "chosen": ASK + TWO, "rejected": ASK + NONE, "messages": ASK + TWO},
        {
            "instruction": "1+1?",
            "completions": [{"response": "two", "overall_score": 9}, {"response": "no", "score": 1}],
        },
        {"prompt": ASK, "completion": TWO, "label": True},
        {"prompt": ASK, "completion": NONE, "label": False},
        {"prompt": "1+1?", "completion": " no idea", "label": False},
    ],
)
def test_rows_of_preferences_are_no_fault(row: dict[str, Any], shared_tokenizer: Any) -> None:
    report = diagnose(shared_tokenizer, dataset=[row] * 3, select=["DAT"])
    assert [finding.code for finding in report.findings] == []
    assert "DAT001" in report.passed


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({**PAIR, "rejected": None}, "rejected is null"),
        ({**PAIR, "rejected": [{"role": "narrator", "content": "x"}]}, "of the rejected answer: completion"),
    ],
)
def test_a_pair_that_cannot_be_read_is_named(row: dict[str, Any], said: str, shared_tokenizer: Any) -> None:
    [finding] = diagnose(shared_tokenizer, dataset=[PAIR, row], select=["DAT001"]).findings
    assert "row 1" in finding.message and said in finding.message


def test_a_bos_and_control_tokens_in_a_pair_are_seen(shared_tokenizer: Any) -> None:
    rendered = shared_tokenizer.apply_chat_template(ASK, tokenize=False, add_generation_prompt=True)
    rows = [{"prompt": rendered, "chosen": "two<|eot_id|>", "rejected": "no<|eot_id|>"}] * 4
    [finding] = diagnose(shared_tokenizer, dataset=rows, select=["DAT"]).findings
    assert (finding.code, finding.rows) == ("DAT005", 4)
    plain = {"prompt": "<|begin_of_text|>1+1?", "chosen": " two", "rejected": " no"}
    [finding] = diagnose(shared_tokenizer, dataset=[plain] * 2, select=["DAT005"]).findings
    assert finding.rows == 2
    spelled = {**PAIR, "rejected": [{"role": "assistant", "content": "<|eot_id|>"}]}
    [finding] = diagnose(shared_tokenizer, dataset=[PAIR, spelled], select=["DAT"]).findings
    assert (finding.code, finding.rows) == ("DAT002", 1)


@pytest.mark.parametrize(
    ("row", "column"),
    [
        (PAIR, "completion"),
        ({"chosen": ASK + TWO, "rejected": ASK + NONE}, "messages"),
        ({"chosen": "a", "rejected": "b"}, "text"),
    ],
)
def test_encoding_a_pair_says_what_to_do(row: dict[str, Any], column: str, shared_tokenizer: Any) -> None:
    with pytest.raises(PadfixError, match=f'rename_column\\("chosen", "{column}"\\)') as raised:
        prepare(shared_tokenizer).encode([row], progress=False)
    assert "DPOTrainer" in str(raised.value)
    read_row({column: "x"} if column == "text" else {"prompt": ASK, column: row["chosen"]})


# ---- what was not looked at


def test_rollouts_of_code_of_ones_own_may_be_encoded_again() -> None:
    trainer: Any = type("GRPOTrainer", (), {"__module__": "trl.trainer.grpo_trainer"})()
    assert "none is encoded again" in describe_rollouts(trainer)
    trainer.rollout_func = print
    assert "a rollout_func may train other ids than were sampled" in describe_rollouts(trainer)
    own: Any = type("Mine", (type(trainer),), {"__module__": "mine"})()
    assert "the class Mine may train other ids than were sampled" in describe_rollouts(own)


def test_prompts_are_found_in_rows_and_in_columns() -> None:
    assert find_prompts([{"prompt": "a"}, {"prompt": ASK}]) == ["a", ASK]
    assert find_prompts({"prompt": ["a", ASK]}) == ["a", ASK]
    for batch in ([{"prompt": "a"}, {"text": "b"}], [], None, {"prompt": ["a"], "chosen_input_ids": IDS}, [1]):
        assert find_prompts(batch) == []


def test_a_report_can_be_asked_to_have_looked(shared_tokenizer: Any) -> None:
    row = {"input_ids": [128000, 1, 128009], "labels": [-100, 1, 128009]}
    report = diagnose([row], select=["LBL001", "LBL002"])
    report.raise_for_errors()
    report.raise_for_errors(require=("rows", "LBL001"))
    with pytest.raises(PadfixError, match=r"not looked at: LBL002 \(no markers to look at\)"):
        report.raise_for_errors(require=("LBL002",))
    with pytest.raises(PadfixError, match=r"not looked at: rows \(none were given\)"):
        diagnose(shared_tokenizer, select=["PAD001"]).raise_for_errors(require=("rows",))
