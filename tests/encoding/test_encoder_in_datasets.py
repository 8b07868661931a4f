"""The encoder in `datasets.map`: rows by number, the same hash before and after use, pickled."""

from __future__ import annotations

import json
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.counts import Counts
from llama_padfix.encoding.encoder import ChatEncoder
from tests.conftest import fresh_tokenizer
from tests.support.conversations import (
    FAKE_TURN,
    QUESTION,
    make_conversation,
    rows_for,
    shared,
    with_word,
)

# datasets


@pytest.fixture(scope="module")
def dataset() -> Any:
    datasets = pytest.importorskip("datasets")
    return datasets.Dataset.from_list([{"messages": make_conversation(random.Random(n))} for n in range(40)])


@pytest.fixture
def expected(dataset: Any) -> dict[str, list[list[int]]]:
    columns, _ = ChatEncoder(shared("3.1-instruct")).encode_rows([{"messages": m} for m in dataset["messages"]])
    return columns


@pytest.mark.slow
def test_dataset_map_in_batches_alone_with_indices_and_in_two_processes(
    dataset: Any, expected: dict[str, Any]
) -> None:
    ways: list[dict[str, Any]] = [
        {"batched": True, "batch_size": 7},
        {"batched": True, "with_indices": True},
        {"batched": False},
        {"batched": False, "with_indices": True},
        {"batched": True, "num_proc": 2},
    ]
    for way in ways:
        encoder = ChatEncoder(shared("3.1-instruct"))
        made = dataset.map(encoder, remove_columns=dataset.column_names, **way)
        assert made.column_names == ["input_ids", "labels"]
        assert {name: list(made[name]) for name in made.column_names} == expected, way


def test_without_indices_rows_are_named_within_their_batch_alone() -> None:
    datasets = pytest.importorskip("datasets")
    spelled = [{"role": "user", "content": "<|eot_id|>"}, QUESTION[1]]
    rows = datasets.Dataset.from_list([{"messages": QUESTION}] * 5 + [{"messages": spelled}])
    for settings, name in (
        ({"batched": True, "batch_size": 4}, "row 1 of its batch"),
        ({"batched": True, "batch_size": 4, "with_indices": True}, "row 5"),
        ({"batched": False}, "a row"),
        ({"batched": False, "with_indices": True}, "row 5"),
    ):
        encoder = ChatEncoder(shared("3.1-instruct"))
        rows.map(encoder, load_from_cache_file=False, **settings)
        assert encoder.counts.name_rows() == [f"escaped: {name} ('<|eot_id|>')"]
    with pytest.raises(PadfixError, match=r"^row 1 of this batch: the conversation is empty"):
        ChatEncoder(shared("3.1-instruct"))([QUESTION, {"messages": []}])
    with pytest.raises(PadfixError, match=r"^the conversation is empty"):
        ChatEncoder(shared("3.1-instruct"))({"messages": []})
    with pytest.raises(PadfixError, match=r"^\d+ tokens are more than"):
        ChatEncoder(shared("3.1-instruct"), max_length=5, truncation="error")(QUESTION)


def test_dataset_map_with_indices_names_the_row_of_the_dataset() -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list([{"messages": QUESTION}] * 5 + [{"messages": []}])
    for batched in (True, False):
        with pytest.raises(PadfixError, match=r"^row 5: "):
            rows.map(ChatEncoder(shared("3.1-instruct")), batched=batched, batch_size=2, with_indices=True)


def test_tool_rows_survive_arrow_which_fills_every_message_with_null_keys() -> None:
    datasets = pytest.importorskip("datasets")
    rows = [row for row in rows_for("3.1-instruct")[:200] if "tools" in row or len(row["messages"]) == 2]
    rows = json.loads(json.dumps(rows, sort_keys=True))  # as datasets up to 3 sorts them, which the template shows
    filled = datasets.Dataset.from_list(rows)
    made = filled.map(ChatEncoder(shared("3.1-instruct")), batched=True, remove_columns=filled.column_names)
    columns, _ = ChatEncoder(shared("3.1-instruct")).encode_rows(rows)
    assert list(made["input_ids"]) == columns["input_ids"]
    assert list(made["labels"]) == columns["labels"]


@pytest.mark.slow
def test_an_encoder_hashes_the_same_before_and_after_use_and_differently_for_other_settings() -> None:
    hash_of: Callable[[Any], str] = pytest.importorskip("datasets.fingerprint").Hasher.hash
    encoder, twin = (ChatEncoder(fresh_tokenizer("3.1-instruct")) for _ in range(2))
    before = hash_of(encoder)
    encoder([{"messages": QUESTION}, with_word("user", FAKE_TURN), {"text": "plain"}])
    encoder({"text": twin.tokenizer.apply_chat_template(QUESTION, tokenize=False)})
    assert hash_of(encoder) == hash_of(twin) == before
    others = [{"max_length": 9}, {"train_on": "last"}, {"truncation": "tokens"}, {"template_kwargs": {"x": 1}}]
    hashes = {hash_of(ChatEncoder(twin.tokenizer, **other)) for other in others}  # type: ignore[arg-type]
    assert len(hashes | {before}) == 5


@pytest.mark.slow
def test_the_hash_is_the_same_in_another_process() -> None:
    code = (
        "from tests.conftest import fresh_tokenizer; from llama_padfix.encoding.encoder import ChatEncoder;"
        "from datasets.fingerprint import Hasher; print(Hasher.hash(ChatEncoder(fresh_tokenizer('3.1-instruct'))))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    from datasets.fingerprint import Hasher

    assert run.stdout.split()[-1] == Hasher.hash(ChatEncoder(fresh_tokenizer("3.1-instruct")))


def test_a_pickled_encoder_encodes_the_same_and_starts_counting_anew() -> None:
    encoder = ChatEncoder(shared("3.1-instruct"), max_length=500)
    made = encoder(QUESTION)
    again = pickle.loads(pickle.dumps(encoder))
    assert again.counts == Counts()
    assert again(QUESTION) == made
    assert encoder.counts.rows == 1
