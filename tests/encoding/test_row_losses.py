"""Rows that are cut, dropped, refused or named: too long, unreadable, or lossy in their template."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from tokenizers import normalizers, processors

from llama_padfix.core.errors import IGNORE_INDEX, PadfixError
from llama_padfix.encoding.counts import Counts
from llama_padfix.encoding.encoder import ChatEncoder
from tests.conftest import fresh_tokenizer
from tests.support.conversations import (
    QUESTION,
    encoded_rows,
    encoder_for,
    rows_for,
    shared,
    trained_runs,
    with_word,
)
from tests.support.versions import template_ids

EOT = 128009


# Truncation


@pytest.mark.parametrize("train_on", ["assistant", "last"])
@pytest.mark.parametrize("release", ["3-instruct-early", "3.1-instruct", "3.2-instruct"])  # those with other templates
@pytest.mark.slow
def test_a_cut_row_is_a_prefix_that_ends_a_trained_turn_with_its_stop_token(release: str, train_on: Any) -> None:
    rows, whole = rows_for(release)[:120], encoded_rows(release)
    for max_length in (2, 40, 80, 150, 400):
        encoder = ChatEncoder(shared(release), max_length=max_length, train_on=train_on, on_error="drop")
        kept = cut = 0
        for number, row in enumerate(rows):
            ids = whole["input_ids"][number]
            columns, counts = encoder.encode_rows([row])
            assert counts.rows == counts.kept + counts.dropped == 1
            if not counts.kept:
                assert counts.dropped_too_long == 1 and len(ids) > max_length
                continue
            [made], [labels] = columns["input_ids"], columns["labels"]
            kept, cut = kept + 1, cut + counts.cut
            assert len(made) <= max_length and made == ids[: len(made)]
            assert counts.cut == (len(made) < len(ids)) == (len(ids) > max_length)
            assert counts.trained_tokens == len(labels) - labels.count(IGNORE_INDEX) > 0
            if train_on == "assistant":
                assert labels == whole["labels"][number][: len(labels)]
            if counts.cut:
                assert labels[-1] == EOT == made[-1]
        assert (encoder.counts.rows, encoder.counts.kept, encoder.counts.cut) == (len(rows), kept, cut)
        assert kept + encoder.counts.dropped_too_long == len(rows)
        if max_length == 150 and train_on == "assistant":
            assert cut > 8


def test_whole_turns_that_fit_are_all_kept() -> None:
    rows, whole = rows_for("3.1-instruct")[:300], encoded_rows("3.1-instruct")
    columns, _ = ChatEncoder(shared("3.1-instruct"), max_length=200).encode_rows(rows)
    expected = []
    for ids, labels in zip(whole["input_ids"], whole["labels"], strict=True):
        ends = [n + 1 for n, label in enumerate(labels) if label == EOT and n < 200]
        expected.append(ids if len(ids) <= 200 else ids[: ends[-1]] if ends else None)
    assert columns["input_ids"] == [ids for ids in expected[:300] if ids is not None]


def test_truncation_by_tokens_cuts_at_the_length_and_forges_no_end() -> None:
    rows, whole = rows_for("3.1-instruct")[:300], encoded_rows("3.1-instruct")
    encoder = ChatEncoder(shared("3.1-instruct"), max_length=60, truncation="tokens")
    columns, counts = encoder.encode_rows(rows)
    cuts = [(ids[:60], labels[:60]) for ids, labels in zip(whole["input_ids"], whole["labels"], strict=True)][:300]
    kept = [(ids, labels) for ids, labels in cuts if any(label != IGNORE_INDEX for label in labels)]
    assert list(zip(columns["input_ids"], columns["labels"], strict=True)) == kept
    assert counts.dropped_too_long == 300 - len(kept) > 0
    assert counts.cut > 0


def test_truncation_error_names_the_row_and_the_length() -> None:
    encoder = ChatEncoder(shared("3.1-instruct"), max_length=10, truncation="error")
    with pytest.raises(PadfixError, match=r"row 1: \d+ tokens are more than max_length=10"):
        encoder.encode_rows([{"text": "short"}, QUESTION])
    assert encoder.counts == Counts()


def test_a_first_turn_that_does_not_fit_is_dropped_and_counted() -> None:
    encoder = ChatEncoder(shared("3.1-instruct"), max_length=5)
    assert encoder([QUESTION, QUESTION]) == {"input_ids": [], "labels": []}
    assert encoder.counts == Counts(rows=2, dropped_too_long=2)
    with pytest.raises(PadfixError, match="leaves nothing to train on"):
        encoder(QUESTION)


def test_counts_add_up_on_every_kind_of_row_at_once() -> None:
    tokenizer = shared("3.1-instruct")
    text = tokenizer.apply_chat_template(QUESTION, tokenize=False)
    spelled = [{"role": "user", "content": "<|eot_id|>"}, QUESTION[1]]
    cut = [*QUESTION, *QUESTION, *QUESTION]
    long = [{"role": "user", "content": "word " * 200}, QUESTION[1]]
    encoder = ChatEncoder(tokenizer, max_length=60, on_error="drop")
    _, counts = encoder.encode_rows([QUESTION, spelled, cut, long, [], {"text": "<|begin_of_text|>" + text}])
    expected = Counts(rows=6, kept=4, dropped_too_long=1, dropped_invalid=1, cut=1, repaired=1, escaped=1)
    assert counts == encoder.counts
    assert (counts.tokens, counts.trained_tokens) > (0, 0)
    assert dataclasses.replace(counts, tokens=0, trained_tokens=0) == expected
    assert [(example.row, example.kind) for example in counts.examples] == [
        (1, "escaped"),
        (2, "cut"),
        (3, "dropped_too_long"),
        (4, "dropped_invalid"),
        (5, "repaired"),
    ]
    assert counts.rows == counts.kept + counts.dropped


# Rows that cannot be read

BAD_ROWS: dict[str, Any] = {
    "an empty conversation": {"messages": []},
    "null content": {"messages": [QUESTION[0], {"role": "assistant", "content": None}]},
    "content that is a number": {"messages": [QUESTION[0], {"role": "assistant", "content": 4}]},
    "no list at all": {"messages": 7},
    "no conversation at all": 7,
    "an unknown role": {"messages": [{"role": "alien", "content": "x"}, QUESTION[1]]},
    "two calls where the template takes one": {
        "messages": [
            QUESTION[0],
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}] * 2},
        ]
    },
    "half a surrogate pair": {"messages": [{"role": "user", "content": "\ud83d"}, QUESTION[1]]},
    "half a surrogate pair in a text": {"text": "\ud83d"},
    "an empty text": {"text": ""},
}


@pytest.mark.parametrize("kind", list(BAD_ROWS))
def test_a_row_that_cannot_be_read_raises_with_its_number_and_counts_nothing(kind: str) -> None:
    encoder = ChatEncoder(shared("3.1-instruct"))
    with pytest.raises(PadfixError, match=r"^row 12: (?!row)"):
        encoder.encode_rows([{"messages": QUESTION}, {"text": "fine"}, BAD_ROWS[kind]], 10)
    with pytest.raises(PadfixError, match=r"^row 5: "):
        encoder([{"messages": QUESTION}, BAD_ROWS[kind]], [3, 5])
    assert encoder.counts == Counts()


@pytest.mark.parametrize("kind", list(BAD_ROWS))
def test_a_row_that_cannot_be_read_is_dropped_and_counted_by_choice(kind: str) -> None:
    encoder = ChatEncoder(shared("3.1-instruct"), on_error="drop")
    columns, counts = encoder.encode_rows([{"messages": QUESTION}, BAD_ROWS[kind], QUESTION])
    assert len(columns["input_ids"]) == counts.kept == 2
    assert counts.dropped_invalid == 1
    assert columns["input_ids"][0] == columns["input_ids"][1]


@pytest.mark.parametrize("row", [QUESTION[:1], [QUESTION[0], QUESTION[1] | {"weight": 0}]])
def test_a_row_without_an_answer_is_untrained_and_not_invalid(row: Any) -> None:
    with pytest.raises(PadfixError, match=r"^row 12: there is no assistant message to train on"):
        ChatEncoder(shared("3.1-instruct")).encode_rows([QUESTION, row], 11)
    _, counts = ChatEncoder(shared("3.1-instruct"), on_error="drop").encode_rows([QUESTION, row, QUESTION])
    assert (counts.kept, counts.dropped_untrained, counts.dropped_invalid) == (2, 1, 0)
    assert counts.name_rows()[0].startswith("dropped_untrained: row 1 (there is no assistant message to train on")


def test_a_row_whose_tokens_cannot_be_placed_is_named_or_dropped_alone() -> None:
    # The offsets leave out white space, and the normalizer makes other bytes of an accent that stands by itself.
    tokenizer = fresh_tokenizer("3.1-instruct")
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    fine, spelled, bad, both = (
        with_word("user", f"{word} now") for word in ("", "<|eot_id|>", "e\u0301", "<|eot_id|>e\u0301")
    )
    for rows, number in (([fine, spelled, bad, fine], 2), ([fine, both, bad], 1), ([fine, bad, both], 1)):
        with pytest.raises(PadfixError, match=f"^row {number}: The tokenizer .*tokens do not spell the text"):
            ChatEncoder(tokenizer).encode_rows(rows)
    columns, counts = ChatEncoder(tokenizer, on_error="drop").encode_rows([fine, spelled, bad, fine])
    assert (counts.kept, counts.dropped_invalid, counts.escaped) == (3, 1, 1)
    expected = ChatEncoder(shared("3.1-instruct")).encode_rows([fine, spelled, fine])[0]
    assert columns == expected


def test_a_row_given_alone_is_named_by_the_index_that_came_with_it() -> None:
    with pytest.raises(PadfixError, match=r"^row 41: "):
        ChatEncoder(shared("3.1-instruct"))({"messages": []}, 41)


def test_a_tokenizer_without_a_template_raises_though_bad_rows_are_dropped() -> None:
    encoder = ChatEncoder(shared("3-base"), on_error="drop")
    with pytest.raises(PadfixError, match="no chat template"):
        encoder.encode_rows([QUESTION])


# Rows of which the template loses a part

SILENT = "{{ '' if 'hush' in m.content else m.content }}<|eot_id|>"
LOSSES: dict[str, Any] = {
    # Llama 3's first template knows no tools and writes the missing content as "None".
    "a tool call": (
        "3-instruct-early",
        with_word("user", "hello"),
        "leaves out the tool call 'look' of message 2",
        "lost_tools",
    ),
    "text parts": (
        "3.1-instruct",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, QUESTION[1]]},
        "knows no text parts and writes those of message 0 as Python code",
        "lossy",
    ),
    "a text": (
        None,
        {"messages": [*QUESTION, {"role": "assistant", "content": "hush"}, *QUESTION]},
        "writes none of the text of message 2",
        "lost_text",
    ),
    "two texts": (
        None,
        {"messages": [*QUESTION, *[{"role": "assistant", "content": "hush"}] * 2]},
        "writes none of the text of message 2, and 1 more",
        "lost_text",
    ),
}


@pytest.mark.parametrize("kind", list(LOSSES))
def test_a_row_of_which_the_template_loses_a_part_is_encoded_as_rendered_and_named(kind: str) -> None:
    release, row, said, name = LOSSES[kind]
    encoder = ChatEncoder(shared(release)) if release else encoder_for(SILENT)
    columns, counts = encoder.encode_rows([QUESTION, row], 3)
    assert columns["input_ids"][1] == template_ids(encoder.tokenizer, row["messages"])
    text = encoder.tokenizer.apply_chat_template(row["messages"], tokenize=False)
    header = "<|start_header_id|>assistant<|end_header_id|>\n\n" if release else "<|start_header_id|>assistant\n"
    answers = [part.partition("<|eot_id|>")[0] + "<|eot_id|>" for part in text.split(header)[1:] if part]
    assert [encoder.tokenizer.decode(run) for run in trained_runs(columns["labels"][1])] == answers
    assert (counts.kept, counts.lossy, counts.remarkable) == (2, 1, True)
    assert (getattr(counts, name), counts.name_rows()) == (1, [f"{name}: row 4 (The chat template {said})"])
    assert "1 of which the template loses a part" in str(counts)


@pytest.mark.parametrize("kind", list(LOSSES))
def test_a_row_of_which_the_template_loses_a_part_is_an_error_by_choice(kind: str) -> None:
    release, row, said, _ = LOSSES[kind]
    for on_error in ("raise", "drop"):
        settings: Any = {"on_loss": "error", "on_error": on_error}
        encoder = ChatEncoder(shared(release), **settings) if release else encoder_for(SILENT, **settings)
        if on_error == "drop":
            _, counts = encoder.encode_rows([QUESTION, row])
            assert (counts.kept, counts.dropped_invalid, counts.lossy) == (1, 1, 0)
        else:
            with pytest.raises(PadfixError, match=f"^row 1: The chat template {said.partition(', and')[0]}"):
                encoder.encode_rows([QUESTION, row])


def test_a_tokenizer_without_offsets_is_refused_with_the_line_that_helps() -> None:
    tokenizer = fresh_tokenizer("3.1-instruct")

    class Slow(type(tokenizer)):  # type: ignore[misc]
        is_fast = False

    tokenizer.__class__ = Slow
    for row in (QUESTION, with_word("user", "<|eot_id|>")):
        with pytest.raises(PadfixError, match="use_fast=True"):
            ChatEncoder(tokenizer, on_error="drop")([row])


def test_user_data_is_not_changed() -> None:
    row = with_word("user", "<|eot_id|>")
    before = json.dumps(row)
    ChatEncoder(shared("3.1-instruct"))(row)
    assert json.dumps(row) == before
