"""The record of how a dataset was encoded: it gives the same ids tomorrow, and it stays with the dataset."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import Dataset, DatasetDict, IterableDataset, load_from_disk
from transformers.utils import chat_template_utils

from llama_padfix import ChatEncoder, PadfixError, __version__, prepare, read_encoding, write_encoding
from llama_padfix.encoding.dataset.encode import encode_dataset
from llama_padfix.encoding.record import Encoding, hash_template, hash_tokenizer
from llama_padfix.tokens.calls import copy_tokenizer
from tests.conftest import fresh_tokenizer
from tests.support.conversations import shared
from tests.support.families import family_tokenizer, originals

ROWS = [
    {"messages": [{"role": "user", "content": f"Question {n}?"}, {"role": "assistant", "content": f"Answer {n}."}]}
    for n in range(3)
]
RECORD = Encoding(template_kwargs={"date_string": "03 Feb 2019"}, max_length=64, allowed_tokens=("<|python_tag|>",))


def set_clock(monkeypatch: pytest.MonkeyPatch, day: datetime.date) -> None:
    """Let it be that day, for the library and for the templates that transformers renders."""

    class Day(datetime.date):
        @classmethod
        def today(cls) -> datetime.date:  # type: ignore[override]
            return Day(day.year, day.month, day.day)

    class Moment(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime.datetime:  # type: ignore[override]
            return datetime.datetime.combine(day, datetime.time(9))

    monkeypatch.setattr("llama_padfix.chat.dates.datetime.date", Day)
    monkeypatch.setattr(chat_template_utils, "datetime", Moment)


def ids_of(dataset: Any) -> list[list[int]]:
    return [list(ids) for ids in dataset["input_ids"]]


def clocked_tokenizer(name: str) -> Any:
    if name == "3.2-instruct":
        return shared(name)
    return family_tokenizer(next(path for path in originals() if path.stem == name))


@pytest.mark.parametrize("name", ["3.2-instruct", "gptoss"])
@pytest.mark.slow
def test_a_second_run_on_another_day_gives_the_same_ids_with_the_record_and_others_without(
    name: str, tmp_path: Path
) -> None:
    tokenizer, monday = clocked_tokenizer(name), datetime.date(2025, 6, 2)
    with pytest.MonkeyPatch.context() as patch:
        set_clock(patch, monday)
        encoder = ChatEncoder(tokenizer)
        encode_dataset(encoder, ROWS, progress=False).save_to_disk(tmp_path / "encoded")
        plain = tokenizer.apply_chat_template(ROWS[0]["messages"], tokenize=True)["input_ids"]
        assert encoder(ROWS[0])["input_ids"] == plain
    first = load_from_disk(tmp_path / "encoded")
    with pytest.MonkeyPatch.context() as patch:
        set_clock(patch, monday + datetime.timedelta(days=1))
        assert tokenizer.apply_chat_template(ROWS[0]["messages"], tokenize=True)["input_ids"] != plain
        without = encode_dataset(ChatEncoder(tokenizer), ROWS, progress=False)
        same_encoder = encode_dataset(encoder, ROWS, progress=False)
        record = read_encoding(first)
        again = encode_dataset(ChatEncoder(tokenizer, **record.arguments()), ROWS, progress=False)
        prepared = prepare(copy_tokenizer(tokenizer), device="cpu", **record.arguments()).encode(ROWS, progress=False)
    assert ids_of(again) == ids_of(prepared) == ids_of(same_encoder) == ids_of(first) != ids_of(without)
    assert list(again["labels"]) == list(first["labels"])
    assert read_encoding(again) == record and record.date in ("02 Jun 2025", "2025-06-02")
    changed = read_encoding(without).find_differences(record)
    assert changed == ("template_kwargs",)


def test_a_date_can_be_given() -> None:
    tokenizer = shared("3.2-instruct")
    encoder = ChatEncoder(tokenizer, date="2019-02-03")
    assert "Today Date: 03 Feb 2019" in tokenizer.decode(encoder(ROWS[0])["input_ids"])
    assert encoder.encoding.date == "03 Feb 2019"
    prepared = prepare(copy_tokenizer(tokenizer), date=datetime.date(2019, 2, 3), device="cpu")
    assert prepared.encoder(ROWS[0]) == encoder(ROWS[0])
    assert ChatEncoder(shared("3.1-instruct")).encoding.date is None
    with pytest.raises(PadfixError, match="is no date"):
        ChatEncoder(tokenizer, date="soon")


def recorded() -> Dataset:
    made = Dataset.from_dict({"input_ids": [[1], [2], [3, 4]], "labels": [[1], [2], [3, 4]]})
    write_encoding(made, RECORD)
    return made


def saved(dataset: Any, folder: Path) -> Any:
    dataset.save_to_disk(folder)
    return load_from_disk(folder)


CHANGES: dict[str, Callable[[Dataset, Path], Any]] = {
    "save_to_disk": saved,
    "save_to_disk of splits": lambda made, folder: saved(DatasetDict(train=made, test=made), folder),
    "map": lambda made, _: made.map(lambda row: {"length": len(row["input_ids"])}),
    "filter": lambda made, _: made.filter(lambda row: len(row["input_ids"]) > 1),
    "select": lambda made, _: made.select([2]),
    "shuffle": lambda made, _: made.shuffle(seed=1),
    "train_test_split": lambda made, _: made.train_test_split(0.5, seed=1),
    "concatenate": lambda made, _: datasets.concatenate_datasets([made, made.select([0])]),
    "concatenate with others": lambda made, _: datasets.concatenate_datasets([made, described("Somebody's words")]),
    "remove_columns": lambda made, _: made.remove_columns("labels"),
    "with_format": lambda made, _: made.with_format("numpy"),
    "written twice": lambda made, _: written_again(made),
}


def written_again(made: Dataset) -> Dataset:
    write_encoding(made, Encoding())
    write_encoding(made, RECORD)
    return made


def described(text: str) -> Dataset:
    other = Dataset.from_dict({"input_ids": [[9]], "labels": [[9]]})
    other.info.description = text
    return other


@pytest.mark.parametrize("change", CHANGES)
def test_the_record_stays_with_the_dataset(change: str, tmp_path: Path) -> None:
    assert read_encoding(CHANGES[change](recorded(), tmp_path / "made")) == RECORD


def test_what_was_in_the_description_stays() -> None:
    other = described("Somebody's words\nin two lines")
    write_encoding(other, RECORD)
    write_encoding(other, Encoding())
    assert other.info.description.startswith("Somebody's words\nin two lines\n")
    assert read_encoding(other) == Encoding()


def test_streams_and_splits_carry_the_record() -> None:
    encoder = ChatEncoder(shared("3.1-instruct"), max_length=99)

    def read() -> Iterator[Any]:
        yield from ROWS

    stream = encode_dataset(encoder, IterableDataset.from_generator(read), progress=False)
    assert read_encoding(stream) == encoder.encoding
    assert read_encoding(stream.take(1).map(lambda row: row)).max_length == 99
    splits = encode_dataset(encoder, {"train": ROWS, "test": ROWS[:1]}, progress=False)
    assert read_encoding(splits) == encoder.encoding == read_encoding(splits["test"])


def test_rows_encoded_in_two_ways_have_no_one_record() -> None:
    tokenizer = shared("3.1-instruct")
    encoders = ChatEncoder(tokenizer), ChatEncoder(tokenizer, max_length=99, train_on="last")
    parts = [encode_dataset(encoder, ROWS, progress=False) for encoder in encoders]
    with pytest.raises(PadfixError, match="in several ways: max_length, train_on differ"):
        read_encoding(datasets.concatenate_datasets(parts))


def test_no_record_no_dataset_and_a_damaged_record_are_errors() -> None:
    with pytest.raises(PadfixError, match="holds no record"):
        read_encoding(described("words"))
    nothings: list[Any] = [ROWS, {}, None]
    for nothing in nothings:
        with pytest.raises(PadfixError, match="has no place for a record"):
            read_encoding(nothing)
    for damaged in ("{", "[]", "{}", '{"allowed_tokens": [], "unrecorded": [], "of_tomorrow": 1}'):
        with pytest.raises(PadfixError, match="is no record of an encoding"):
            Encoding.from_json(damaged)


def test_every_setting_of_the_encoder_is_recorded() -> None:
    given: dict[str, Any] = {
        "max_length": 77,
        "train_on": {"roles": ["assistant"]},
        "truncation": "tokens",
        "on_error": "drop",
        "on_loss": "error",
        "template_kwargs": {"date_string": "1 May", "deep": {"list": [1, None, "é"]}},
        "special_tokens": "allow",
        "allowed_tokens": ("<|python_tag|>",),
        "keep_reasoning": False,
    }
    encoder = ChatEncoder(shared("3.1-instruct"), **given)
    record = Encoding.from_json(encoder.encoding.to_json())
    assert record == encoder.encoding and record.arguments() == given
    assert ChatEncoder(shared("3.1-instruct"), **record.arguments()).encoding == record
    assert record.arguments(max_length=5, template_kwargs={"more": 1}) == {
        **given,
        "max_length": 5,
        "template_kwargs": {**given["template_kwargs"], "more": 1},
    }
    assert all(character.isascii() for character in record.to_json()) and "\n" not in record.to_json()
    assert json.loads(record.to_json())["version"] == __version__


def is_long(message: Any, index: int) -> bool:
    return len(message["content"]) > 3


def test_what_cannot_be_recorded_is_asked_for_again() -> None:
    kwargs = {"now": datetime.date(2019, 2, 3), "flag": True}
    encoder = ChatEncoder(shared("3.1-instruct"), train_on=is_long, template_kwargs=kwargs)
    record = Encoding.from_json(encoder.encoding.to_json())
    assert record.unrecorded == ("template_kwargs.now", "train_on") and record.train_on == "is_long"
    assert Encoding.from_json(record.to_json()) == record
    with pytest.raises(PadfixError, match=r"holds no template_kwargs.now, train_on.*arguments\(template_kwargs="):
        record.arguments()
    with pytest.raises(PadfixError, match=r"holds no train_on.*arguments\(train_on="):
        record.arguments(template_kwargs=kwargs)
    again = ChatEncoder(shared("3.1-instruct"), **record.arguments(train_on=is_long, template_kwargs=kwargs))
    assert again.encoding.find_differences(record) == ()
    assert again(ROWS[0]) == encoder(ROWS[0])


def test_the_hashes_tell_templates_and_vocabularies_apart_and_nothing_else() -> None:
    one, two = fresh_tokenizer("3.1-instruct"), fresh_tokenizer("3.1-instruct")
    before = hash_template(one), hash_tokenizer(one)
    prepare(two, device="cpu")  # touches the post-processor and settings only
    two.backend_tokenizer.enable_truncation(5)
    assert (hash_template(two), hash_tokenizer(two)) == before
    two.chat_template += " "
    two.add_tokens(["<|mine|>"])
    assert hash_template(two) != before[0] and hash_tokenizer(two) != before[1]
    named = fresh_tokenizer("3.1-instruct")
    named.chat_template = {"default": one.chat_template, "tool_use": "x"}
    assert hash_template(named) not in ("", before[0])
    named.chat_template = None
    assert hash_template(named) == ""
    assert hash_tokenizer(fresh_tokenizer("3.1-instruct-early")) != before[1]


def test_the_record_notices_tokens_that_were_added_after_it_was_read() -> None:
    tokenizer = fresh_tokenizer("3.1-instruct")
    encoder = ChatEncoder(tokenizer)
    before = encoder.encoding.tokenizer_hash
    tokenizer.add_tokens(["<new>"])
    assert encoder.encoding.tokenizer_hash == hash_tokenizer(tokenizer) != before


def test_the_record_is_of_the_template_that_the_tokenizer_has_now() -> None:
    tokenizer = fresh_tokenizer("3.1-instruct")
    encoder = ChatEncoder(tokenizer, template_kwargs={"date_string": "26 Jul 2024"})
    before = encoder.encoding
    tokenizer.chat_template += " "
    assert encoder.encoding.find_differences(before) == ("template_hash",)
    assert encoder.encoding.template_hash == hash_template(tokenizer)


def test_the_hash_of_a_vocabulary_changes_with_a_merge() -> None:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    def tokenizer(merges: list[Any]) -> Any:
        model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "ba": 3}, "merges": merges}
        return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps({"model": model})))

    hashes = [hash_tokenizer(tokenizer(merges)) for merges in ([["a", "b"]], [["b", "a"]], [["a", "b"]])]
    assert hashes[0] == hashes[2] != hashes[1]
