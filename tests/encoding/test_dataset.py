"""`encode_dataset`: every kind of dataset, row numbers across batches, and no row lost in silence."""

from __future__ import annotations

import copy
import logging
import pickle
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

from llama_padfix import ChatEncoder, Counts, PadfixError, prepare, read_encoding
from llama_padfix.encoding.dataset.encode import encode_dataset
from tests.support.small_llama import shared_small


def row(number: int) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": f"Question {number}?"},
            {"role": "assistant", "content": f"Answer {number}."},
        ]
    }


UNREADABLE: dict[str, Any] = {"messages": [{"role": "user", "content": None}, {"role": "assistant", "content": "Yes"}]}
ROWS = [row(number) for number in range(5)]


@pytest.fixture(scope="module")
def shared_tokenizer() -> Any:
    """A vocabulary of bytes: kinds of datasets do not depend on it."""
    return shared_small()


def plain(encoded: Any) -> list[dict[str, Any]]:
    return [{name: list(value) for name, value in item.items()} for item in encoded]


@pytest.fixture(scope="module")
def expected(shared_tokenizer: Any) -> list[dict[str, Any]]:
    one_by_one = ChatEncoder(shared_tokenizer)
    return [one_by_one(item) for item in ROWS]


def undeclared(rows: list[Any]) -> Any:
    def read() -> Iterator[Any]:
        yield from rows

    return IterableDataset.from_generator(read)


KINDS: dict[str, Callable[[list[Any]], Any]] = {
    "list": list,
    "tuple": tuple,
    "Dataset": Dataset.from_list,
    "torch format": lambda rows: Dataset.from_list(rows).with_format("torch"),
    "numpy format": lambda rows: Dataset.from_list(rows).with_format("numpy"),
    "declared stream": lambda rows: Dataset.from_list(rows).to_iterable_dataset(num_shards=2),
    "undeclared stream": undeclared,
    "transform": lambda rows: Dataset.from_dict({"place": list(range(len(rows)))}).with_transform(
        lambda batch: {"messages": [rows[place]["messages"] for place in batch["place"]]}
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_ids_and_labels_of_each_row_alone(
    kind: str, encoder: ChatEncoder, expected: list[dict[str, Any]]
) -> None:
    source = KINDS[kind](ROWS)
    encoded = encode_dataset(encoder, source, progress=False)
    assert isinstance(encoded, IterableDataset if "stream" in kind else Dataset)
    assert plain(encoded) == expected
    assert list(encoded.column_names) == ["input_ids", "labels"]
    assert all(str(feature.feature.dtype) == "int32" for feature in encoded.features.values())
    assert (encoder.counts.rows, encoder.counts.kept) == (5, 5)


def test_shuffled_selected_and_hidden_rows_are_encoded_as_the_user_sees_them(
    encoder: ChatEncoder, expected: list[dict[str, Any]]
) -> None:
    source = Dataset.from_list([{**item, "text": "not this"} for item in ROWS]).shuffle(seed=1).select([3, 0, 1])
    order = [int(messages[0]["content"][9]) for messages in source["messages"]]
    assert order != sorted(order)
    assert plain(encode_dataset(encoder, source, progress=False)) == [expected[place] for place in order]

    source.set_format(columns=["text"])  # the messages are hidden
    assert plain(encode_dataset(encoder, source, progress=False)) == [encoder({"text": "not this"})] * 3


def test_splits_stay_splits_and_an_error_names_the_split(encoder: ChatEncoder, expected: list[dict[str, Any]]) -> None:
    splits = DatasetDict(train=Dataset.from_list(ROWS[:3]), test=Dataset.from_list(ROWS[3:]))
    encoded = encode_dataset(encoder, splits, progress=False)
    assert type(encoded) is DatasetDict
    assert (plain(encoded["train"]), plain(encoded["test"])) == (expected[:3], expected[3:])

    streams = IterableDatasetDict(train=undeclared(ROWS[:3]), test=undeclared([*ROWS[3:], UNREADABLE]))
    encoded = encode_dataset(encoder, streams, progress=False)
    assert type(encoded) is IterableDatasetDict
    assert plain(encoded["train"]) == expected[:3]
    with pytest.raises(PadfixError, match=r"^split 'test', row 2: .*content"):
        list(encoded["test"])
    with pytest.raises(PadfixError, match=r"^split 'b', row 1: .*content"):
        encode_dataset(encoder, {"a": ROWS, "b": [ROWS[0], UNREADABLE]}, progress=False)


@pytest.mark.parametrize("kind", ["list", "Dataset", "declared stream", "undeclared stream"])
def test_a_bad_row_is_named_by_its_number_in_the_whole_dataset(kind: str, encoder: ChatEncoder) -> None:
    rows = [row(0)] * 1203
    rows[1201] = UNREADABLE
    source = Dataset.from_list(rows).to_iterable_dataset() if kind == "declared stream" else KINDS[kind](rows)
    with pytest.raises(PadfixError, match=r"^row 1201: .*content"):
        list(encode_dataset(encoder, source, progress=False))


def test_counts_add_up_over_batches_and_lost_rows_are_logged_once(
    shared_tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = ChatEncoder(shared_tokenizer, max_length=400, on_error="drop")
    long = row(0)
    long["messages"][1]["content"] = "word " * 100
    cut = {"messages": [*row(1)["messages"], *long["messages"]]}
    rows = [row(0)] * 1000 + [UNREADABLE, long, cut]
    with caplog.at_level(logging.INFO, "llama_padfix"):
        encoded = encode_dataset(encoder, rows, progress=False)
    counts = encoder.counts
    assert (counts.rows, counts.kept, counts.dropped_invalid, counts.dropped_too_long, counts.cut) == (
        1003,
        1001,
        1,
        1,
        1,
    )
    assert len(encoded) == counts.kept and counts.tokens == sum(len(ids) for ids in encoded["input_ids"])
    [record] = caplog.records
    assert record.levelno == logging.WARNING and f"dataset: {counts}" in record.getMessage()


def test_nothing_is_warned_of_when_nothing_is_lost(encoder: ChatEncoder, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "llama_padfix"):
        encode_dataset(encoder, ROWS, progress=False)
        list(encode_dataset(encoder, undeclared(ROWS), progress=False))
    assert [record.levelno for record in caplog.records] == [logging.INFO] * 2


def test_a_stream_logs_what_it_loses_while_it_is_read(shared_tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    encoder = ChatEncoder(shared_tokenizer, on_error="drop")
    encoded = encode_dataset(encoder, undeclared([*ROWS, UNREADABLE]), progress=False)
    assert encoder.counts == Counts() and not caplog.records
    assert len(list(encoded)) == 5
    [record] = caplog.records
    assert record.levelno == logging.WARNING and "rows 0 to 5: 6 rows: 5 kept; 1 dropped" in record.getMessage()


def test_a_stream_whose_rows_differ_in_their_columns_keeps_only_ours(shared_tokenizer: Any) -> None:
    encoder = ChatEncoder(shared_tokenizer, on_error="drop")
    mixed = [ROWS[0], {**ROWS[1], "source": "web"}, {"text": "Once", "labels": [1]}, {"neither": 1}]
    encoded = list(encode_dataset(encoder, undeclared(mixed), progress=False))
    assert [set(item) for item in encoded] == [{"input_ids", "labels"}] * 3
    assert encoded[2]["labels"] == encoder({"text": "Once"})["labels"]


def test_a_stream_that_can_be_read_once_loses_no_row(encoder: ChatEncoder, expected: list[dict[str, Any]]) -> None:
    once = iter(ROWS)
    encoded = encode_dataset(encoder, IterableDataset.from_generator(lambda: once), progress=False)
    assert plain(encoded) == expected


def test_what_a_stream_carries_to_its_workers_can_be_pickled(
    encoder: ChatEncoder, expected: list[dict[str, Any]]
) -> None:
    source = Dataset.from_list(ROWS).to_iterable_dataset()
    encoded = pickle.loads(pickle.dumps(encode_dataset(encoder, source, progress=False)))
    assert plain(encoded) == expected


def generator() -> Iterator[Any]:
    yield from ROWS


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (generator, r"generator is a function.*generator\(\)"),
        ("user/name", r"There is no file or folder 'user/name'.*load_dataset"),
        (None, "A NoneType is not a dataset"),
        ([], "holds no rows"),
        (Dataset.from_list([]), "holds no rows"),
        (Dataset.from_dict({"messages": []}), "holds no rows"),
        (Dataset.from_dict({"input_ids": [[1]], "labels": [[1]]}), "encoded already"),
        (Dataset.from_dict({"input_ids": [[1]]}).to_iterable_dataset(), "encoded already"),
        ([{"input_ids": [1], "labels": [1]}], "encoded already"),
    ],
)
def test_what_is_no_dataset_of_rows_gives_one_clear_line(bad: Any, said: str, encoder: ChatEncoder) -> None:
    with pytest.raises(PadfixError, match=said):
        encode_dataset(encoder, bad, progress=False)
    assert encoder.counts == Counts()


def test_an_encoded_stream_without_declared_columns_is_refused_when_read(encoder: ChatEncoder) -> None:
    encoded = encode_dataset(encoder, undeclared([{"input_ids": [1], "labels": [1]}]), progress=False)
    with pytest.raises(PadfixError, match="encoded already"):
        list(encoded)


def test_no_row_left_to_train_on_is_an_error_that_counts_them(shared_tokenizer: Any) -> None:
    encoder = ChatEncoder(shared_tokenizer, on_error="drop")
    with pytest.raises(PadfixError, match=r"No row of the dataset is left.*2 rows: 0 kept; 2 dropped"):
        encode_dataset(encoder, [UNREADABLE] * 2, progress=False)


def test_missing_datasets_package_gives_the_line_that_installs_it(
    encoder: ChatEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(PadfixError, match="pip install datasets"):
        encode_dataset(encoder, ROWS, progress=False)


SPELLED = {"messages": [{"role": "user", "content": "a <|eot_id|>"}, {"role": "assistant", "content": "Yes"}]}


@pytest.mark.parametrize("kind", ["list", "Dataset", "undeclared stream"])
def test_the_log_names_the_first_rows_of_each_kind_and_what_was_seen(
    kind: str, shared_tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = ChatEncoder(shared_tokenizer, on_error="drop")
    rows = [row(0)] * 1003 + [SPELLED, UNREADABLE] + [SPELLED] * 7
    list(encode_dataset(encoder, KINDS[kind](rows), progress=False))
    message = caplog.records[-1].getMessage()
    token = "('<|eot_id|>')"
    named = ", ".join(f"row {number} {token}" for number in (1003, 1005, 1006, 1007, 1008))
    assert f"\n  escaped: {named}, ..." in message
    assert "\n  dropped_invalid: row 1004 (messages[0] (user) has no content" in message
    assert message.count("row 1") == 6, message


@pytest.mark.parametrize("on_loss", ["count", "error"])
def test_what_a_template_loses_is_warned_of_with_the_rows_and_recorded(
    on_loss: Any, shared_tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    lost = {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, ROWS[0]["messages"][1]]}
    prepared = prepare(copy.deepcopy(shared_tokenizer), on_loss=on_loss)
    if on_loss == "error":
        with pytest.raises(PadfixError, match="row 5: The chat template knows no text parts"):
            prepared.encode([*ROWS, lost], progress=False)
        return
    encoded = prepared.encode([*ROWS, lost], progress=False)
    assert len(encoded) == 6 and read_encoding(encoded).on_loss == "count"
    [record] = [record for record in caplog.records if "dataset" in record.getMessage()]
    assert record.levelno == logging.WARNING
    assert "\n  lossy: row 5 (The chat template knows no text parts" in record.getMessage()


def test_what_a_template_does_to_its_turns_is_warned_of(
    shared_tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = copy.deepcopy(shared_tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}<|start_header_id|>{{ m.role }}\n{{ m.content }}"
        "{% if m.role == 'user' %}<|eot_id|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant\n{% endif %}"
    )
    encode_dataset(ChatEncoder(tokenizer), ROWS, progress=False)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "5 with a trained turn that the template leaves without a stop token" in record.getMessage()
    assert "\n  unstopped: row 0 (message 1), row 1 (message 1)" in record.getMessage()
