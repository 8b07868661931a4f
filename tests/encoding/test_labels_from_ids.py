"""Labels by comparing arrays equal those of the loop that they replace, whatever the ids and whatever holds them."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_padfix.core.errors import IGNORE_INDEX, PadfixError
from llama_padfix.encoding.masking import labels_from_ids as marking
from llama_padfix.encoding.masking.labels import mask_labels
from llama_padfix.encoding.masking.turns_in_ids import Turn, TurnMarkers, find_turns_in

X = IGNORE_INDEX
BOS, TEXT_END, START, EOM, EOT = 128000, 128001, 128006, 128008, 128009
HEADER = (START, 78191, 128007, 271)
LLAMA = TurnMarkers(HEADER, (EOT, EOM, TEXT_END), (START, BOS))
MARKERS = {
    "llama": LLAMA,
    "control ids at the low end": TurnMarkers((4,), (2,), (1,)),
    "control ids among the text": TurnMarkers((5000, 9), (5001,), (5000,)),
    "the header is plain text": TurnMarkers((7, 900, 8), (3,), ()),
    "the header meets itself": TurnMarkers((6, 6), (3,), (1,)),
    "the header holds a stop": TurnMarkers((6, 3, 5), (3,), (1, 6)),
    "nothing stops": TurnMarkers((6, 5), (), ()),
}


def find_slowly(ids: list[int], length: int, markers: TurnMarkers) -> list[Turn]:
    """The turns as a loop over the tokens finds them."""
    header, turns, place = list(markers.header_ids), [], 0
    while place + len(header) <= length:
        if ids[place : place + len(header)] != header:
            place += 1
            continue
        start = place + len(header)
        end = start
        while end < length and ids[end] >= 0 and ids[end] not in (*markers.stop_ids, *markers.turn_start_ids):
            end += 1
        stop = ids[end] if end < length and ids[end] in markers.stop_ids else None
        turns.append(Turn(place, start, end, stop, end == start and (stop is None or stop != markers.stop_ids[0])))
        place = end
    return turns


def mask_slowly(ids: list[int], markers: TurnMarkers, last_only: bool = False, mask: Any = None) -> list[int]:
    length = len(ids) if mask is None else max((k + 1 for k, bit in enumerate(mask) if bit), default=0)
    spans = [(t.start, t.end + (t.stop_id is not None)) for t in find_slowly(ids, length, markers) if not t.opened]
    labels = [X] * len(ids)
    for start, end in spans[-1:] if last_only else spans:
        labels[start:end] = ids[start:end]
    return labels


@st.composite
def worlds(draw: Any, smallest: int = 0) -> tuple[TurnMarkers, list[list[int]]]:
    """Markers, and rows in which headers, their parts, stops, text and ids that are no tokens meet often."""
    markers = MARKERS[draw(st.sampled_from(sorted(MARKERS)))]
    special = [*markers.header_ids, *markers.stop_ids, *markers.turn_start_ids]
    piece = st.one_of(
        st.just(list(markers.header_ids)),
        st.just([*markers.header_ids, *markers.stop_ids[:1]]),
        st.sampled_from(special).map(lambda token_id: [token_id]),
        st.lists(st.integers(10, 90), max_size=4),
        st.sampled_from([[-1], [-100], [-200], [128255], [0]]),
        st.integers(20, 400).map(lambda count: [11] * count),  # a long text, so that control ids are rare
    )
    row = st.lists(piece, max_size=8).map(lambda pieces: [token_id for piece in pieces for token_id in piece])
    return markers, draw(st.lists(row.filter(lambda ids: len(ids) >= smallest), max_size=6))


@given(worlds(), st.booleans(), st.sampled_from(["int32", "int64"]))
@settings(max_examples=200, deadline=None)
@pytest.mark.slow
def test_every_holder_gets_the_labels_of_the_loop(world: Any, last_only: bool, dtype: str) -> None:
    markers, rows = world
    train_on = "last" if last_only else "assistant"
    expected = [mask_slowly(row, markers, last_only) for row in rows]
    arrays = [numpy.array(row, dtype=dtype) for row in rows]
    flat = numpy.concatenate([*arrays, numpy.array([], dtype=dtype)])

    joined = mask_labels(flat, markers, train_on=train_on, lengths=[len(row) for row in rows])
    assert joined.dtype == dtype and joined.tolist() == [label for labels in expected for label in labels]
    assert mask_labels(rows, markers, train_on=train_on) == expected
    made = mask_labels(arrays, markers, train_on=train_on)
    assert [labels.tolist() for labels in made] == expected and all(labels.dtype == dtype for labels in made)
    for row, labels in zip(rows, expected, strict=True):
        assert mask_labels(row, markers, train_on=train_on) == labels
        assert mask_labels(torch.tensor(row, dtype=torch.int32), markers, train_on=train_on).tolist() == labels


@given(worlds(), st.integers(1, 40), st.booleans(), st.integers(0, 30))
@settings(max_examples=300, deadline=None)
@pytest.mark.slow
def test_turns_over_the_edges_of_blocks_get_the_labels_of_the_loop(
    world: Any, block: int, last_only: bool, pads: int
) -> None:
    """Long arrays are labeled block by block: no turn may be lost, cut or made where one ends."""
    markers, rows = world
    joined = [token_id for row in rows for token_id in row]
    flat, lengths = numpy.array(joined, dtype=numpy.int32), [len(row) for row in rows]
    train_on = "last" if last_only else "assistant"
    mask = [int(place < len(joined) - pads) for place in range(len(joined))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(marking, "_BLOCK", block)
        patch.setattr(marking, "_WINDOW", 3)
        by_rows = mask_labels(flat, markers, train_on=train_on, lengths=lengths).tolist()
        as_one = mask_labels(flat, markers, train_on=train_on).tolist()
        padded = mask_labels(flat, markers, train_on=train_on, attention_mask=numpy.array(mask)).tolist()
    assert by_rows == [label for row in rows for label in mask_slowly(row, markers, last_only)]
    assert as_one == mask_slowly(joined, markers, last_only)
    assert padded == mask_slowly(joined, markers, last_only, mask)


def test_an_array_of_many_blocks_gets_the_labels_of_the_loop() -> None:
    """At the true size of a block, with turns longer than one, and stop tokens around every edge."""
    draw = numpy.random.default_rng(0)
    texts = [draw.integers(0, 128000, size).tolist() for size in (5, 700, marking._BLOCK + 9, 3, 90_000, 40)]
    rows = [[BOS, *HEADER, *text, EOT, START, 882, 128007, 271, *text[:50], EOT] for text in texts] * 3
    flat = numpy.array([token_id for row in rows for token_id in row], dtype=numpy.int32)
    assert len(flat) > 4 * marking._BLOCK
    expected = numpy.array([label for row in rows for label in mask_slowly(row, LLAMA)], dtype=numpy.int32)
    assert (mask_labels(flat, LLAMA, lengths=[len(row) for row in rows]) == expected).all()
    assert (mask_labels(flat, LLAMA) == expected).all()


@given(worlds(), st.integers(0, 30))
@settings(max_examples=150, deadline=None)
@pytest.mark.slow
def test_turns_are_those_of_the_loop(world: Any, shorter: int) -> None:
    markers, rows = world
    for row in rows:
        length = max(len(row) - shorter, 0)
        turns = find_turns_in(numpy.array(row, dtype=numpy.int64), length, markers)
        assert turns == tuple(find_slowly(row, length, markers))
        assert all(type(value) in (int, bool, type(None)) for turn in turns for value in turn)


@given(worlds(smallest=1), st.integers(0, 9), st.sampled_from(["left", "right", "both"]), st.data())
@settings(max_examples=150, deadline=None)
@pytest.mark.slow
def test_padded_batches_get_the_labels_of_the_loop(world: Any, extra: int, side: str, data: Any) -> None:
    markers, rows = world
    width = max(map(len, rows), default=0) + extra
    pad = data.draw(st.sampled_from([*markers.stop_ids, *markers.turn_start_ids, 0]))
    ids, mask = [], []
    for row in rows:
        pads = width - len(row)
        left = {"left": pads, "right": 0, "both": pads // 2}[side]
        ids.append([pad] * left + row + [pad] * (pads - left))
        mask.append([0] * left + [1] * len(row) + [0] * (pads - left))
    expected = [mask_slowly(row, markers, mask=own) for row, own in zip(ids, mask, strict=True)]
    assert mask_labels(ids, markers, attention_mask=mask) == expected
    if rows:
        assert mask_labels(numpy.array(ids), markers, attention_mask=numpy.array(mask)).tolist() == expected
        unsigned = mask_labels(numpy.array(ids).astype("uint32"), markers, attention_mask=mask)
        assert unsigned.dtype == numpy.int64 and unsigned.tolist() == [
            mask_slowly([token_id % 2**32 for token_id in row], markers, mask=own)
            for row, own in zip(ids, mask, strict=True)
        ]
        tensor = mask_labels(torch.tensor(ids), markers, attention_mask=torch.tensor(mask))
        assert tensor.tolist() == expected and tensor.shape == (len(rows), width)
        cube = mask_labels(torch.tensor([ids, ids]), markers, attention_mask=torch.tensor([mask, mask]))
        assert cube.tolist() == [expected, expected]


def test_a_turn_that_is_cut_leaves_every_later_row_as_it_is() -> None:
    """Turns that never end, headers within turns and rows without BOS: a running sum of edges goes astray there."""
    cut = [BOS, *HEADER, 5, 6]
    opened = [BOS, *HEADER, 5, EOT, *HEADER]
    half = [8, 8, START, 78191]  # the rest of the header begins the next row
    rest = [128007, 271, 7, 7, EOT]
    whole = [9, *HEADER, 5, 6, EOT, 9]
    rows = [cut, cut, half, rest, opened, whole, cut, rest, whole] * 50
    expected = [label for row in rows for label in mask_slowly(row, LLAMA)]
    flat = numpy.array([token_id for row in rows for token_id in row], dtype=numpy.int32)
    assert mask_labels(flat, LLAMA, lengths=[len(row) for row in rows]).tolist() == expected

    # What a running sum makes of the same ids, so that these rows are known to be hard for it.
    steps = numpy.zeros(len(flat) + 1, dtype=numpy.int64)
    header = numpy.array([flat[k : k + 4].tolist() == list(HEADER) for k in range(len(flat))])
    steps[header.nonzero()[0] + 4] += 1
    steps[(flat == EOT).nonzero()[0] + 1] -= 1
    running = numpy.where(steps.cumsum()[:-1] > 0, flat, X).tolist()
    assert running[-len(whole) :] != expected[-len(whole) :]


def test_rows_that_begin_with_a_turn_need_no_lengths() -> None:
    rows = [[BOS, START, 882, 128007, 271, 5, EOT, *HEADER, 6, 7], [BOS, *HEADER, 5, EOT], [BOS, 11, *HEADER, 9]]
    flat = numpy.array([token_id for row in rows for token_id in row])
    assert mask_labels(flat, LLAMA).tolist() == [label for row in rows for label in mask_slowly(row, LLAMA)]


class Unlistable(numpy.ndarray):
    def tolist(self) -> Any:
        raise AssertionError("the ids pass through a list")


def test_arrays_do_not_pass_through_lists() -> None:
    ids = numpy.array([BOS, *HEADER, 5, EOT] * 300)
    labels = mask_labels(ids.view(Unlistable), LLAMA)
    assert numpy.asarray(labels).tolist() == mask_slowly(ids.tolist(), LLAMA)


def test_rows_of_unlike_lengths_in_an_array_of_objects() -> None:
    """What `dataset.with_format("numpy")[:2]["input_ids"]` is."""
    rows = [numpy.array([*HEADER, 5, EOT]), numpy.array([*HEADER, 5])]
    ids = numpy.empty(2, dtype=object)
    ids[:] = rows
    labels = mask_labels(ids, LLAMA)
    assert labels.dtype == object and [own.tolist() for own in labels] == [[X] * 4 + [5, EOT], [X] * 4 + [5]]
    mixed = mask_labels([rows[0], rows[1].astype("int32"), torch.tensor(rows[0])], LLAMA)
    assert [own.tolist() for own in mixed] == [[X] * 4 + [5, EOT], [X] * 4 + [5], [X] * 4 + [5, EOT]]
    assert mixed[1].dtype == numpy.int32 and mixed[2].dtype == torch.int64
    masks = [[1] * 6, [1] * 4 + [0]]
    assert [own.tolist() for own in mask_labels(rows, LLAMA, attention_mask=masks)] == [[X] * 4 + [5, EOT], [X] * 5]


def test_nothing_in_gives_nothing_out() -> None:
    assert mask_labels([], LLAMA) == [] and mask_labels([[], []], LLAMA) == [[], []]
    assert mask_labels(numpy.zeros((2, 0), dtype=numpy.int32), LLAMA).shape == (2, 0)
    assert mask_labels(torch.tensor([]), LLAMA).shape == (0,)
    assert mask_labels(numpy.array([1, 2]), LLAMA, attention_mask=[0, 0]).tolist() == [X, X]


@pytest.mark.parametrize(
    ("ids", "options", "words"),
    [
        (numpy.array([1.0]), {}, "float64.*Pass the tokenizer's ids"),
        (numpy.array(1), {}, "0 dimensions"),
        (numpy.array([1, 2]), {"lengths": [1]}, "add up to 1 and there are 2"),
        (numpy.array([1, 2]), {"lengths": [3, -1]}, "rows of a flat array"),
        (numpy.array([1, 2]), {"lengths": 2}, "rows of a flat array"),
        (numpy.array([[1, 2]]), {"lengths": [2]}, "2 dimensions"),
        ([1, 2], {"lengths": [2]}, "this is a list"),
        (numpy.array([[1, 2]]), {"attention_mask": [1, 1]}, r"shape \(2,\) and input_ids \(1, 2\)"),
        ([[1], [2]], {"attention_mask": [[1]]}, "1 rows and input_ids 2"),
    ],
)
def test_what_does_not_fit_is_refused(ids: Any, options: Any, words: str) -> None:
    with pytest.raises(PadfixError, match=words):
        mask_labels(ids, LLAMA, **options)
