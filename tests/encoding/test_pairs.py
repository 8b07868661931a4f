"""Preferences: both answers behind the same prompt, exact labels, and a count for each row that is no pair."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from llama_padfix import IGNORE_INDEX, Counts, PadfixError, PairCollator, PairEncoder, encode_dataset, read_encoding
from llama_padfix.doctor.observe.rows import rows_of_batch
from tests.conftest import fresh_tokenizer

BOS, EOT, TEXT_END = 128000, 128009, 128001
SYSTEM = (
    "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
    "Today Date: 26 Jul 2024\n\n<|eot_id|>"
)
WORDS = (
    "tea",
    "it's 2 + 2",
    "ça va?",
    "<|eot_id|>",
    "\n\n",
    "日本",
    "<|begin_of_text|>",
    " end ",
    "<|start_header_id|>",
)


def say(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def oracle(tokenizer: Any, prompt: list[Any], answer: list[Any]) -> tuple[list[int], list[int]]:
    """Ids and labels of Llama 3.1, written token by token: the template trims each text, and no text is a token."""
    ids, labels = [BOS], [IGNORE_INDEX]

    def add(new: list[int], trained: bool = False) -> None:
        ids.extend(new)
        labels.extend(new if trained else [IGNORE_INDEX] * len(new))

    plain = {"add_special_tokens": False, "split_special_tokens": True}
    add(tokenizer.encode(SYSTEM, add_special_tokens=False))
    for place, message in enumerate([*prompt, *answer]):
        trained = place >= len(prompt) and message["role"] == "assistant"
        add([128006, *tokenizer.encode(message["role"], **plain), 128007])
        text = tokenizer.encode("\n\n" + message["content"].strip(), **plain)
        # The blank line is a token of its own, unless the text begins with spaces, and it is trimmed.
        assert text[0] == tokenizer.encode("\n\n", **plain)[0]
        add(text[:1])
        add([*text[1:], EOT], trained)
    return ids, labels


def decode(tokenizer: Any, labels: list[int]) -> str:
    return str(tokenizer.decode([label for label in labels if label != IGNORE_INDEX]))


@pytest.fixture(scope="module")
def pairs(shared_tokenizer: Any) -> PairEncoder:
    return PairEncoder(shared_tokenizer)


QUESTION = say("user", "Tea or coffee?")
GOOD, BAD = say("assistant", "Tea."), say("assistant", "No idea.")
SHAREGPT = {"from": "human", "value": "Tea or coffee?"}
EXPECTED = ([QUESTION], [GOOD], [BAD])
SHAPES: dict[str, dict[str, Any]] = {
    "text": {"prompt": "Tea or coffee?", "chosen": "Tea.", "rejected": "No idea."},
    "question": {"question": "Tea or coffee?", "chosen": "Tea.", "rejected": "No idea."},
    "messages": {"prompt": [QUESTION], "chosen": [GOOD], "rejected": [BAD]},
    "answers as text": {"prompt": [QUESTION], "chosen": "Tea.", "rejected": "No idea."},
    "implicit prompt": {"chosen": [QUESTION, GOOD], "rejected": [QUESTION, BAD]},
    "prompt twice": {"prompt": [QUESTION], "chosen": [QUESTION, GOOD], "rejected": [QUESTION, BAD]},
    "UltraFeedback, binarized": {
        "prompt": "Tea or coffee?",
        "chosen": [QUESTION, GOOD],
        "rejected": [QUESTION, BAD],
        "messages": [QUESTION, GOOD],
        "score_chosen": 8.0,
        "score_rejected": 2.5,
    },
    "LLaMA-Factory": {
        "conversations": [SHAREGPT],
        "chosen": {"from": "gpt", "value": "Tea."},
        "rejected": {"from": "gpt", "value": "No idea."},
    },
    "Alpaca": {"instruction": "Tea or coffee?", "input": "", "chosen": "Tea.", "rejected": "No idea."},
    "UltraFeedback": {
        "instruction": "Tea or coffee?",
        "completions": [
            {"response": "No idea.", "overall_score": 2.0},
            {"response": "Coffee.", "overall_score": 5.0},
            {"response": "Tea.", "overall_score": 8.5},
        ],
    },
    "ranks": {"prompt": "Tea or coffee?", "responses": ["No idea.", "Tea.", "Coffee."], "ranks": [3, 1, 2]},
    "scores as text": {"prompt": "Tea or coffee?", "responses": ["No idea.", "Tea."], "scores": ["9", "10"]},
    "prompt as one message": {"prompt": QUESTION, "chosen": GOOD, "rejected": BAD},
    "nulls": {"prompt": "Tea or coffee?", "chosen": "Tea.", "rejected": "No idea.", "messages": None, "label": None},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_gives_the_pair_that_its_text_says(shape: str, pairs: PairEncoder) -> None:
    prompt, chosen, rejected = EXPECTED
    expected = [*oracle(pairs.tokenizer, prompt, chosen), *oracle(pairs.tokenizer, prompt, rejected)]
    assert [*pairs(SHAPES[shape]).values()] == expected
    assert [*map(list, pairs.encode_rows([SHAPES[shape]] * 3)[0].values())] == [[one] * 3 for one in expected]


def test_pairs_of_any_text_equal_an_oracle_that_knows_it(pairs: PairEncoder) -> None:
    chance = random.Random(0)

    def text() -> str:
        return "a" + "".join(chance.choices(WORDS, k=chance.randint(1, 4))) + "z"

    rows, expected = [], []
    for _ in range(60):
        turns = chance.randint(0, 2)
        prompt = [say(role, text()) for role in ("user", "assistant") * turns] + [say("user", text())]
        chosen, rejected = (
            [say(role, text()) for role in ("assistant", "user", "assistant")[: chance.choice((1, 1, 3))]]
            for _ in range(2)
        )
        whole = chance.random() < 0.5
        both = {"chosen": prompt + chosen, "rejected": prompt + rejected}
        rows.append(both if whole else {"prompt": prompt, "chosen": chosen, "rejected": rejected})
        expected.append([*oracle(pairs.tokenizer, prompt, chosen), *oracle(pairs.tokenizer, prompt, rejected)])
    columns, counts = pairs.encode_rows(rows)
    assert counts.kept == len(rows) and counts.escaped > 10
    for row, *found in zip(expected, *columns.values(), strict=True):
        assert found == row
        for ids, labels in ((found[0], found[1]), (found[2], found[3])):
            assert ids.count(BOS) == 1 and ids[-1] == labels[-1] == EOT


def test_a_conversation_that_differs_before_its_last_answer_is_trained_from_there(pairs: PairEncoder) -> None:
    more = [say("user", "Why?"), say("assistant", "It is warm.")]
    row = pairs({"chosen": [QUESTION, GOOD, *more], "rejected": [QUESTION, BAD, say("user", "Well."), GOOD]})
    assert decode(pairs.tokenizer, row["labels_chosen"]) == "Tea.<|eot_id|>It is warm.<|eot_id|>"
    assert decode(pairs.tokenizer, row["labels_rejected"]) == "No idea.<|eot_id|>Tea.<|eot_id|>"
    shared = [QUESTION, GOOD, say("user", "Why?")]
    row = pairs({"chosen": [*shared, say("assistant", "a")], "rejected": [*shared, say("assistant", "b")]})
    assert decode(pairs.tokenizer, row["labels_chosen"]) == "a<|eot_id|>"


def test_an_answer_that_goes_on_where_the_other_ends_begins_with_it(pairs: PairEncoder) -> None:
    row = pairs({"chosen": [QUESTION, GOOD], "rejected": [QUESTION, GOOD, say("user", "?"), BAD]})
    assert decode(pairs.tokenizer, row["labels_chosen"]) == "Tea.<|eot_id|>"
    assert decode(pairs.tokenizer, row["labels_rejected"]) == "Tea.<|eot_id|>No idea.<|eot_id|>"


def test_rendered_texts_are_trained_from_the_answer_in_which_they_differ(pairs: PairEncoder) -> None:
    tokenizer = pairs.tokenizer
    first = [QUESTION, GOOD, say("user", "Why?")]
    chosen, rejected = ([*first, say("assistant", end)] for end in ("It is warm.", "It is cold."))
    texts = [tokenizer.apply_chat_template(messages, tokenize=False) for messages in (chosen, rejected)]
    row = pairs({"chosen": texts[0], "rejected": texts[1]})
    expected = [*oracle(tokenizer, first, chosen[-1:]), *oracle(tokenizer, first, rejected[-1:])]
    assert [*row.values()] == expected
    prompt = tokenizer.apply_chat_template(first, tokenize=False, add_generation_prompt=True)
    assert [*pairs({"prompt": prompt, "chosen": "It is warm.", "rejected": "It is cold."}).values()] == expected


def test_plain_texts_are_trained_from_the_first_token_that_differs(pairs: PairEncoder) -> None:
    row = pairs({"chosen": "Q: 2 + 2?\nA: it is 4", "rejected": "Q: 2 + 2?\nA: it is five"})
    ids = row["input_ids_chosen"]
    assert ids[0] == BOS and ids[-1] == TEXT_END and ids.count(BOS) == 1
    assert decode(pairs.tokenizer, row["labels_chosen"]) == " 4<|end_of_text|>"
    assert decode(pairs.tokenizer, row["labels_rejected"]) == " five<|end_of_text|>"


def test_without_a_template_prompt_and_answers_are_text() -> None:
    tokenizer = fresh_tokenizer("3-base")
    row = PairEncoder(tokenizer)({"prompt": "2 + 2 =", "chosen": " 4", "rejected": " 5"})
    assert tokenizer.decode(row["input_ids_chosen"]) == "<|begin_of_text|>2 + 2 = 4<|end_of_text|>"
    assert decode(tokenizer, row["labels_rejected"]) == " 5<|end_of_text|>"


# ---- rows that are no pair


def test_what_is_no_pair_is_dropped_and_counted(shared_tokenizer: Any) -> None:
    ask = {"prompt": [QUESTION]}
    long = say("assistant", "word " * 200)
    rows: list[dict[str, Any]] = [
        {**ask, "chosen": [GOOD], "rejected": [BAD], "source": "x"},
        {**ask, "chosen": [GOOD], "rejected": [GOOD]},
        {**ask, "chosen": [say("assistant", "Tea. ")], "rejected": [GOOD]},  # the template trims
        {**ask, "chosen": [GOOD], "rejected": [say("assistant", "")]},
        {**ask, "chosen": [GOOD], "rejected": [long]},
        {**ask, "chosen": [GOOD], "rejected": [BAD], "chosen_score": 3, "rejected_score": 3},
        {**ask, "chosen": [GOOD], "rejected": None},
        {**ask, "chosen": [say("assistant", "1"), QUESTION, long], "rejected": [say("assistant", "1"), QUESTION, BAD]},
        {"chosen": [QUESTION, GOOD], "rejected": [say("user", "Juice?"), BAD]},
        {**ask, "chosen": [{**GOOD, "train": False}], "rejected": [BAD]},
        {"prompt": "Tea?", "completions": ["a", "b"], "scores": [1, 1]},
    ]
    encoder = PairEncoder(shared_tokenizer, max_length=100, on_error="drop")
    columns, counts = encoder.encode_rows(rows)
    found = {name: held for name, held in vars(counts).items() if isinstance(held, int) and held}
    assert {name: held for name, held in found.items() if "tokens" not in name} == {
        "rows": 11,
        "kept": 2,
        "dropped_equal": 2,
        "dropped_empty": 1,
        "dropped_too_long": 1,
        "dropped_tied": 2,
        "dropped_invalid": 2,
        "dropped_untrained": 1,
        "cut": 1,
    }
    assert counts.kept + counts.dropped == counts.rows and counts.unread_columns == ("source",)
    assert counts.tokens == sum(len(row) for name in ("chosen", "rejected") for row in columns[f"input_ids_{name}"])
    assert "dropped_empty: row 3 (rejected: message 1)" in counts.name_rows()
    # The seventh row lost its second answer on one side, so that the pair differs in it.
    assert decode(shared_tokenizer, columns["labels_chosen"][1]) == "1<|eot_id|>"
    assert decode(shared_tokenizer, columns["labels_rejected"][1]) == "1<|eot_id|>No idea.<|eot_id|>"


def test_a_pair_becomes_equal_where_both_sides_lose_what_differs(shared_tokenizer: Any) -> None:
    ends = [say("assistant", f"word {at} " * 60) for at in range(2)]
    row = {"prompt": [QUESTION], **{name: [GOOD, QUESTION, end] for name, end in zip(("chosen", "rejected"), ends)}}  # noqa: B905
    _, counts = PairEncoder(shared_tokenizer, max_length=100).encode_rows([row])
    assert (counts.kept, counts.dropped_equal) == (0, 1)
    with pytest.raises(PadfixError, match="more than max_length=100"):
        PairEncoder(shared_tokenizer, max_length=100, truncation="error").encode_rows([row])


def test_a_prompt_that_whole_conversations_hold_is_not_written_twice(pairs: PairEncoder) -> None:
    """Their system message stands before it."""
    whole = {name: [say("system", "Be brief."), QUESTION, end] for name, end in (("chosen", GOOD), ("rejected", BAD))}
    assert pairs({"prompt": [QUESTION], **whole}) == pairs(whole)


def test_texts_of_pairs_are_not_split(shared_tokenizer: Any) -> None:
    encoder = PairEncoder(shared_tokenizer, max_length=20)
    _, counts = encoder.encode_rows([{"chosen": "word " * 50 + "a", "rejected": "word " * 50 + "b"}] * 2)
    assert (counts.kept, counts.dropped_too_long, counts.split) == (0, 2, 0)


def test_a_prompt_that_changes_with_the_answer_is_no_shared_prompt() -> None:
    tokenizer = fresh_tokenizer("3.1-instruct")
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>' }}"
        "{% if loop.index0 == 0 and messages | length > 2 %}{{ '(long) ' }}{% endif %}{{ m.content + '<|eot_id|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>' }}{% endif %}"
    )
    row = {"prompt": [QUESTION], "chosen": [GOOD], "rejected": [GOOD, QUESTION, BAD]}
    _, counts = PairEncoder(tokenizer).encode_rows([row])
    assert counts.dropped_prompts == 1


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"chosen": "a"}, "rejected is missing, so there is no pair"),
    ({"chosen": None, "rejected": "a"}, "chosen is null, so there is no pair"),
    ({"prompt": "a", "completion": "b", "label": True}, "task='kto'"),
    ({"chosen": [GOOD], "rejected": [BAD]}, "no column holds the prompt"),
    ({"prompt": [QUESTION, GOOD], "chosen": [GOOD], "rejected": [BAD]}, "prompt ends with a message of the assistant"),
    ({"prompt": "Hi", "chosen": [QUESTION, GOOD], "rejected": [QUESTION, BAD]}, "which one is the prompt"),
    ({"prompt": "Hi", "chosen": [GOOD], "rejected": "no"}, "both as texts"),
    ({"chosen": [QUESTION, GOOD], "rejected": [BAD]}, "the other does not"),
    ({"chosen": [QUESTION, GOOD], "rejected": [say("user", "x"), BAD]}, "share no message"),
    ({"prompt": "a", "chosen": "b", "rejected": "c", "score_chosen": 1, "score_rejected": 2}, "better one"),
    ({"prompt": "a", "completions": ["b", "c"]}, "one number for each"),
    ({"prompt": "a", "chosen": [{"role": "robot", "content": "b"}], "rejected": "c"}, "both as texts"),
    ({"chosen": [QUESTION, say("robot", "b")], "rejected": [QUESTION, BAD]}, r"chosen\[1\] has the role 'robot'"),
    ({"prompt": "a", "chosen": 1, "rejected": 2}, "neither a text nor a list"),
    ({"prompt": "a", "chosen": "b", "rejected": "c", "image": "x.png"}, "only text can be encoded"),
    ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": "big"}, "no number"),
    ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": float("inf")}, "no number"),
    ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": 10**400}, "no number"),
    ({"prompt": "a", "chosen": "b", "rejected": "c", "score_chosen": "3", "score_rejected": "9.5"}, "better one"),
    ({"prompt": "a", "completions": ["b", "c"], "scores": 3}, "scores is 3: "),
    ({"prompt": "a", "completions": ["b", None], "scores": [1, 2]}, "an answer of completions is NoneType"),
    ({"prompt": None, "chosen": "b", "rejected": "b c"}, "prompt is null"),
    ({"question": None, "chosen": "b", "rejected": "b c"}, "question is null"),
    ({"system": "Be brief.", "chosen": "b", "rejected": "b c"}, "system is 'Be brief.'"),
    ({"input": "a", "chosen": "yes", "rejected": "no"}, "begin with other characters"),
    ({"prompt": ["a"], "chosen": "b", "rejected": "c"}, r"prompt\[0\] is str 'a'"),
    (
        {"prompt": [say("user", "Hi")], "chosen": [QUESTION, GOOD], "rejected": [QUESTION, BAD]},
        "which one is the prompt",
    ),
]


@pytest.mark.parametrize(("row", "message"), BROKEN)
def test_a_row_of_which_the_pair_is_not_certain_is_refused(
    row: dict[str, Any], message: str, pairs: PairEncoder
) -> None:
    with pytest.raises(PadfixError, match=message) as told:
        pairs.encode_rows([SHAPES["text"], row])
    assert str(told.value).startswith("row 1: ")


def test_what_is_no_row_is_no_batch_either(pairs: PairEncoder) -> None:
    for wrong in (None, 5, "text"):
        with pytest.raises(PadfixError, match="expected a mapping of columns"):
            pairs(wrong)
        with pytest.raises(PadfixError, match="A batch is a sequence of rows"):
            PairCollator(TEXT_END)(wrong if wrong != "text" else {"text": 1})  # type: ignore[arg-type]
    with pytest.raises(PadfixError, match="no trained token"):
        PairCollator(TEXT_END, "kto")([{"input_ids": [1, 2], "labels": [IGNORE_INDEX] * 2, "label": True}])


@pytest.mark.parametrize("task", ["dpo", "reward", "kto", "orpo"])
def test_encoded_pairs_are_not_encoded_again(task: Any, shared_tokenizer: Any) -> None:
    rows = encode_dataset(PairEncoder(shared_tokenizer, task=task), [SHAPES["text"]], progress=False)
    with pytest.raises(PadfixError, match="encoded already"):
        encode_dataset(PairEncoder(shared_tokenizer, task=task), rows, progress=False)


# ---- KTO and reward models


def test_judged_answers_keep_their_verdict(shared_tokenizer: Any) -> None:
    encoder = PairEncoder(shared_tokenizer, task="kto")
    rows = [
        {"prompt": "Tea or coffee?", "completion": "Tea.", "label": True},
        {"prompt": [QUESTION], "completion": [BAD], "label": 0},
        {"messages": [QUESTION, BAD], "kto_tag": False},
        {"instruction": "Tea or coffee?", "output": "Tea.", "kto_tag": True},
        SHAPES["messages"],
        {"prompt": "Tea or coffee?", "completion": "", "label": False},
    ]
    columns, counts = encoder.encode_rows(rows)
    good, bad = (oracle(shared_tokenizer, [QUESTION], [one]) for one in (GOOD, BAD))
    found = [*zip(*columns.values(), strict=True)]
    assert found == [(*good, True), (*bad, False), (*bad, False), (*good, True), (*good, True), (*bad, False)]
    assert (counts.rows, counts.kept, counts.dropped_empty) == (6, 5, 1)
    several = [{"prompt": f"{at}?", "chosen": f"{at}", "rejected": "no"} for at in range(6)]
    rows_out = encoder.encode_rows(several)[0]
    prompts = [shared_tokenizer.decode(ids).rpartition("?")[0][-1] for ids in rows_out["input_ids"]]
    assert rows_out["label"] == [True, False] * 6, "batches of both"
    assert sorted(prompts) == sorted("001122334455") and all(one != two for one, two in pairwise(prompts))
    for row, message in (
        ({"prompt": "a", "completion": "b", "label": "good"}, "neither true nor false"),
        ({"prompt": "a", "completion": "b", "label": "good"}, r"dataset\.map\(lambda row: \{\"label\": row"),
        ({"prompt": "a", "completion": "b", "kto_tag": None}, "kto_tag is null"),
        ({"prompt": "a", "completion": "b"}, r"prompt \+ completion \+ label|completion \+ label"),
        ({"messages": [QUESTION], "label": True}, "does not end with an answer"),
        ({"completion": "b", "label": True}, "no prompt before it"),
        ({"prompt": "b", "label": True}, "judges an answer"),
    ):
        with pytest.raises(PadfixError, match=message):
            encoder(row)


def test_a_reward_model_gets_whole_conversations_and_a_margin(shared_tokenizer: Any) -> None:
    encoder = PairEncoder(shared_tokenizer, task="reward")
    columns, _ = encoder.encode_rows([{**SHAPES["messages"], "margin": 2}, SHAPES["implicit prompt"]])
    ids = [oracle(shared_tokenizer, [QUESTION], [one])[0] for one in (GOOD, BAD)]
    assert columns == {"chosen_ids": ids[:1] * 2, "rejected_ids": ids[1:] * 2, "margin": [2.0, 0.0]}
    expected = shared_tokenizer.apply_chat_template([QUESTION, GOOD], return_dict=False)
    assert columns["chosen_ids"][0] == expected
    batch = PairCollator(TEXT_END, "reward")(
        [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    )
    assert batch["margin"].tolist() == [2.0, 0.0] and batch["input_ids"].shape[0] == 4


# ---- whole datasets


def test_a_dataset_is_encoded_as_its_rows_are(shared_tokenizer: Any, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"{at}?", "chosen": f"yes {at}", "rejected": "no" if at % 7 else f"yes {at}"} for at in range(40)
    ]
    for task in ("kto", "reward", "dpo"):
        encoder = PairEncoder(shared_tokenizer, task=task)
        expected, counts = encoder.encode_rows(rows)
        assert counts.dropped_equal == 6
        for again in range(2):  # the second time from the file
            encoder = PairEncoder(shared_tokenizer, task=task)
            found = encode_dataset(encoder, rows, progress=False, cache_dir=tmp_path)
            assert found.to_dict() == expected and encoder.counts == counts, again
        assert read_encoding(found).task == task
        assert PairEncoder(shared_tokenizer, **read_encoding(found).arguments()).encoding == encoder.encoding
        lazy = encode_dataset(encoder, Dataset.from_list(rows).to_iterable_dataset(), progress=False)
        assert [*lazy] == found.to_list()
    mapped = Dataset.from_list(rows).map(encoder, batched=True, remove_columns=["prompt", "chosen", "rejected"])
    assert mapped.to_dict() == expected
    folder = encode_dataset(encoder, rows, progress=False, cache_dir=tmp_path, max_shard_size=1, num_proc=2)
    assert folder.to_dict() == expected and len(folder.cache_files) == 34  # a row each
    assert len({path.name for path in tmp_path.glob("cache-*.arrow")}) == 3


def test_one_row_and_columns_of_rows_are_told_apart(pairs: PairEncoder) -> None:
    for name in ("messages", "implicit prompt", "LLaMA-Factory", "text"):
        row = SHAPES[name]
        one = pairs(row)
        assert pairs({column: [value] * 2 for column, value in row.items()}) == {
            name: [held] * 2 for name, held in one.items()
        }
    with pytest.raises(PadfixError, match="becomes 0 rows"):
        pairs({"prompt": "a", "chosen": "b", "rejected": "b"})


def test_each_side_of_a_batch_trains_its_answer_alone(pairs: PairEncoder) -> None:
    rows = [pairs(SHAPES["text"]), pairs({"prompt": "Hi", "chosen": "Hello there!", "rejected": "?"})]
    batch = PairCollator(TEXT_END, pad_to_multiple_of=8)(rows)
    assert batch["input_ids"].shape == batch["completion_mask"].shape and batch["input_ids"].shape[1] % 8 == 0
    shown = [pairs.tokenizer.decode(ids[mask == 1]) for ids, mask in zip(batch["input_ids"], batch["completion_mask"])]  # noqa: B905
    assert shown == ["Tea.<|eot_id|>", "Hello there!<|eot_id|>", "No idea.<|eot_id|>", "?<|eot_id|>"]
    assert torch.equal(
        batch["attention_mask"].sum(1),
        torch.tensor([len(r[f"input_ids_{n}"]) for n in ("chosen", "rejected") for r in rows]),
    )
    with pytest.raises(PadfixError, match="has no labels_rejected"):
        PairCollator(TEXT_END)([{**rows[0], "labels_rejected": None}])
    with pytest.raises(PadfixError, match="task='sft' is not known"):
        PairEncoder(pairs.tokenizer, task="sft")  # type: ignore[arg-type]
    assert Counts(dropped_tied=1).remarkable


def _end_of(part: Any) -> int:
    return len(part.input_ids) if part.attention_mask is None else int((part.attention_mask != 0).sum())


@pytest.mark.parametrize("layout", ["joined", "named", "apart"])
def test_every_layout_of_a_batch_holds_the_same_answers(layout: Any, pairs: PairEncoder) -> None:
    rows = [pairs(SHAPES["text"]), pairs({"prompt": "Hi", "chosen": "Hello there!", "rejected": "?"})]
    found = rows_of_batch(PairCollator(TEXT_END, layout=layout)(rows), "batch", blocks=())
    shown = [(part.source, part.input_ids[: _end_of(part)].tolist(), part.labels) for part in found]
    expected = [(f"batch, {name}", row[f"input_ids_{name}"]) for row in rows for name in ("chosen", "rejected")]
    assert [(source, ids) for source, ids, _ in shown] == expected
    trained = [decode(pairs.tokenizer, labels.tolist()) for _, _, labels in shown if labels is not None]
    assert trained == ["Tea.<|eot_id|>", "No idea.<|eot_id|>", "Hello there!<|eot_id|>", "?<|eot_id|>"]


def test_a_layout_that_cannot_hide_a_part_of_an_answer_refuses_it(pairs: PairEncoder) -> None:
    more = [QUESTION, GOOD]
    row = pairs({"prompt": [QUESTION], "chosen": [GOOD, *more], "rejected": [BAD, *more]})
    with pytest.raises(PadfixError, match="An answer has several turns"):
        PairCollator(TEXT_END, layout="apart")([row])
    mask = PairCollator(TEXT_END)([row])["completion_mask"][0].tolist()
    assert mask == [int(label != IGNORE_INDEX) for label in row["labels_chosen"]] + [0] * (
        len(mask) - len(row["labels_chosen"])
    )


def test_each_judged_answer_stands_behind_another_prompt_too(shared_tokenizer: Any) -> None:
    encoder = PairEncoder(shared_tokenizer, task="kto")
    judged = [{"prompt": f"{at}?", "completion": "abc"[at], "label": at == 1} for at in range(3)]
    columns = encoder.encode_rows(judged)[0]
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    layouts: tuple[tuple[Any, str], ...] = (("joined", "KL_"), ("named", "KL_completion_"))
    for layout, name in layouts:
        batch = PairCollator(TEXT_END, "kto", layout=layout)(rows)
        ends = [
            shared_tokenizer.decode(row).partition("user<|end_header_id|>\n\n")[2] for row in batch[f"{name}input_ids"]
        ]
        answers = [end.partition("assistant<|end_header_id|>\n\n")[2][0] for end in ends]
        assert [end[0] for end in ends] == ["0", "1", "2"] and answers == ["c", "a", "b"]
        assert [*batch["label"]] == [False, True, False]
    assert decode(shared_tokenizer, batch["KL_completion_labels"][0].tolist()) == "c<|eot_id|>"
    short = PairCollator(TEXT_END, "kto", max_length=len(rows[0]["input_ids"]) - 1)(rows)
    assert short["KL_input_ids"].shape[1] == short["input_ids"].shape[1] - 1
