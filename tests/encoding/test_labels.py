from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_padfix.core.errors import IGNORE_INDEX, PadfixError
from llama_padfix.encoding.encoded_rows import label_tokens
from llama_padfix.encoding.encoder import ChatEncoder
from llama_padfix.encoding.masking.labels import find_markers, mask_labels
from llama_padfix.encoding.masking.turns_in_ids import TurnMarkers
from llama_padfix.tokens.offsets import place_spans
from tests.conftest import INSTRUCT, fresh_tokenizer
from tests.support.conversations import encoded_rows, rows_for, shared, trained_runs

BOS, TEXT_END, START, EOM, EOT = 128000, 128001, 128006, 128008, 128009
HEADER = [START, 78191, 128007, 271]
USER = [START, 882, 128007, 271, 15339, EOT]
LLAMA = TurnMarkers(tuple(HEADER), (EOT, EOM, TEXT_END), (START, BOS))
X = IGNORE_INDEX


def test_llama_markers_are_learned_from_the_template() -> None:
    assert find_markers(shared("3.1-instruct")) == LLAMA
    early = find_markers(shared("3-instruct-early"))
    assert early == TurnMarkers(tuple(HEADER), (EOT, TEXT_END), (START, BOS))


def test_finding_markers_leaves_the_tokenizer_as_it_was() -> None:
    tokenizer = fresh_tokenizer("3.1-instruct")
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=99)
    before = tokenizer.backend_tokenizer.to_str()
    assert find_markers(tokenizer) == LLAMA
    assert tokenizer.backend_tokenizer.to_str() == before


@pytest.mark.parametrize("release", INSTRUCT)
@pytest.mark.parametrize("train_on", ["assistant", "last"])
@pytest.mark.slow
def test_masked_ids_equal_the_encoders_labels_on_every_conversation(release: str, train_on: Any) -> None:
    markers, columns = find_markers(shared(release)), encoded_rows(release)
    if train_on == "last":
        columns = ChatEncoder(shared(release), train_on="last").encode_rows(rows_for(release)[:300])[0]
    assert mask_labels(columns["input_ids"], markers, train_on=train_on) == columns["labels"]


@pytest.mark.parametrize("release", INSTRUCT)
@pytest.mark.slow
def test_masked_ids_of_cut_rows_equal_the_cut_labels(release: str) -> None:
    markers, columns = find_markers(shared(release)), encoded_rows(release)
    for ids, labels in zip(columns["input_ids"][:100], columns["labels"], strict=False):
        for end in range(1, len(ids), 13):
            assert mask_labels(ids[:end], markers) == labels[:end]


def test_a_tokenizer_without_a_template_has_no_markers() -> None:
    with pytest.raises(PadfixError, match="no chat template"):
        find_markers(shared("3-base"))


def test_a_template_that_cannot_be_read_says_why() -> None:
    tokenizer = fresh_tokenizer("3.1-instruct")
    tokenizer.chat_template = "{{ raise_exception('never') }}"
    with pytest.raises(PadfixError, match="never"):
        find_markers(tokenizer)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role + ': ' + m.content }}\n{% endfor %}"
    with pytest.raises(PadfixError, match="without a token of its own"):
        find_markers(tokenizer)


def test_a_header_that_melts_into_the_answer_is_refused() -> None:
    tokenizer = fresh_tokenizer("3.1-instruct")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role + ':' + m.content + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    with pytest.raises(PadfixError, match="melts into the answer"):
        find_markers(tokenizer)


@pytest.mark.parametrize("end", [TEXT_END, EOM])
def test_an_end_appended_after_an_empty_header_is_not_trained(end: int) -> None:
    ids = [BOS, *USER, *HEADER, 1, EOT, *HEADER, end]
    assert mask_labels(ids, LLAMA) == [X] * 11 + [1, EOT] + [X] * 5
    assert mask_labels([BOS, *USER, *HEADER, end], LLAMA) == [X] * 12


def test_an_empty_answer_trains_its_stop_token_alone() -> None:
    assert mask_labels([BOS, *USER, *HEADER, EOT], LLAMA) == [X] * 11 + [EOT]


def test_a_turn_without_a_stop_token_ends_before_the_next_turn_or_document() -> None:
    assert mask_labels([*HEADER, 1, 2, *USER], LLAMA) == [X] * 4 + [1, 2] + [X] * 6
    assert mask_labels([*HEADER, 1, 2, BOS, *USER], LLAMA) == [X] * 4 + [1, 2] + [X] * 7


def test_nothing_is_trained_without_a_header() -> None:
    assert mask_labels([BOS, *USER], LLAMA) == [X] * 7
    assert mask_labels([], LLAMA) == []


def test_what_follows_the_stop_token_is_not_trained() -> None:
    assert mask_labels([*HEADER, 1, EOT, TEXT_END, 7], LLAMA) == [X] * 4 + [1, EOT, X, X]


@pytest.mark.parametrize("pad", [EOT, TEXT_END, 5])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_told_by_the_mask_though_it_equals_a_stop_token(pad: int, side: str) -> None:
    ids = [BOS, *USER, *HEADER, 1, 2]  # cut inside the answer
    padding, zeros = [pad] * 3, [0] * 3
    ones, labels = [1] * len(ids), [X] * 11 + [1, 2]
    left = side == "left"
    row, mask = (padding + ids, zeros + ones) if left else (ids + padding, ones + zeros)
    expected = [X] * 3 + labels if left else labels + [X] * 3
    assert mask_labels(row, LLAMA, attention_mask=mask) == expected
    assert mask_labels([row, row], LLAMA, attention_mask=[mask, mask]) == [expected, expected]
    tensor = mask_labels(torch.tensor([row]), LLAMA, attention_mask=torch.tensor([mask]))
    assert tensor.tolist() == [expected]


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_arrays_and_tensors_keep_their_kind_type_and_shape(dtype: str) -> None:
    ids = [BOS, *USER, *HEADER, 1, EOT]
    expected = [X] * 11 + [1, EOT]
    for value, target in ((ids, expected), ([ids, ids], [expected, expected])):
        array = numpy.array(value, dtype=dtype)
        made = mask_labels(array, LLAMA)
        assert isinstance(made, numpy.ndarray) and made.dtype == array.dtype and made.tolist() == target
        tensor = torch.tensor(value, dtype=getattr(torch, dtype))
        labels = mask_labels(tensor, LLAMA)
        assert isinstance(labels, torch.Tensor) and labels.dtype == tensor.dtype and labels.tolist() == target
        assert tensor.tolist() == value and array.tolist() == value


def test_lists_of_numpy_integers_arrays_and_tensors_are_read() -> None:
    ids = [BOS, *USER, *HEADER, 1, EOT]
    expected = [X] * 11 + [1, EOT]
    assert mask_labels(list(numpy.array(ids)), LLAMA) == expected
    assert mask_labels(tuple(ids), LLAMA) == expected
    for rows in ([numpy.array(ids), numpy.array(ids[:-1])], [torch.tensor(ids), torch.tensor(ids[:-1])]):
        assert [row.tolist() for row in mask_labels(rows, LLAMA)] == [expected, expected[:-1]]
    unsigned = mask_labels(numpy.array(ids, dtype="uint32"), LLAMA)
    assert unsigned.dtype == numpy.int64 and unsigned.tolist() == expected


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(PadfixError, match="train_on='all'"):
        mask_labels([1], LLAMA, train_on="all")
    with pytest.raises(PadfixError, match="no header_ids"):
        mask_labels([1], TurnMarkers((), (EOT,)))


# Ids of a small world, so that headers, stops and cuts meet often.
tokens = st.sampled_from([1, 2, 3, BOS, TEXT_END, START, EOT, EOM])
texts = st.lists(st.integers(1, 9), max_size=5)
turns = st.lists(st.tuples(st.booleans(), texts), max_size=6)


@given(turns, st.integers(0, 60), st.integers(0, 4))
@settings(max_examples=200, deadline=None)
def test_any_conversation_cut_anywhere_and_padded_is_labelled_as_it_was_built(
    spoken: list[tuple[bool, list[int]]], cut: int, pads: int
) -> None:
    ids, labels = [BOS], [X]
    for by_assistant, content in spoken:
        header = HEADER if by_assistant else USER[:4]
        ids += [*header, *content, EOT]
        labels += [X] * 4 + ([*content, EOT] if by_assistant else [X] * (len(content) + 1))
    ids, labels = ids[: cut or None], labels[: cut or None]
    assert mask_labels(ids, LLAMA) == labels
    mask = [1] * len(ids) + [0] * pads
    assert mask_labels(ids + [EOT] * pads, LLAMA, attention_mask=mask) == labels + [X] * pads
    runs = trained_runs(mask_labels(ids, LLAMA, train_on="last"))
    assert runs == trained_runs(labels)[-1:]


@given(st.lists(st.one_of(tokens.map(lambda i: [i]), st.just(HEADER)), max_size=20))
@settings(max_examples=200, deadline=None)
def test_whatever_the_ids_only_what_stands_behind_a_header_is_trained(pieces: list[list[int]]) -> None:
    ids = [token_id for piece in pieces for token_id in piece]
    labels = mask_labels(ids, LLAMA)
    assert len(labels) == len(ids)
    for place, (token_id, label) in enumerate(zip(ids, labels, strict=True)):
        assert label in (X, token_id)
        if label == X:
            continue
        assert token_id not in (START, BOS)
        assert labels[place - 1] not in LLAMA.stop_ids  # nothing is trained behind a stop token
        assert labels[place - 1] != X or ids[place - 4 : place] == HEADER


@given(st.lists(st.integers(1, 4), min_size=1, max_size=12), st.lists(st.integers(0, 40), max_size=6, unique=True))
@settings(max_examples=200, deadline=None)
def test_spans_train_exactly_the_tokens_that_lie_inside_one(widths: list[int], edges: list[int]) -> None:
    edges = sorted(edges)
    spans = list(zip(edges[::2], edges[1::2], strict=False))
    ends = [sum(widths[: n + 1]) for n in range(len(widths))]
    offsets = [(end - width, end) for end, width in zip(ends, widths, strict=True)]
    ids = list(range(100, 100 + len(widths)))
    inside = [any(a <= left and right <= b for a, b in spans) for left, right in offsets]
    expected = [i if n and inside[n] else X for n, i in enumerate(ids)]
    assert label_tokens(ids, place_spans(ids, offsets, spans).places) == expected
