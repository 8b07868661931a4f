"""`dedupe_bos` on batches of lists, arrays and tensors: each kind gives what a row by itself gives."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_padfix.core.errors import PadfixError
from llama_padfix.tokens.bos import dedupe_bos
from llama_padfix.tokens.doubled import arrow, lists

BOS, PAD = 1, 0
FILLS = {"input_ids": PAD, "labels": -100, "attention_mask": 0, "position_ids": 0, "special_tokens_mask": 1}


@st.composite
def batches(draw: Any, width: int | None = None) -> dict[str, list[list[int]]]:
    """Columns of rows that mostly start with two BOS and sometimes with anything else, all of one width if asked."""
    rows = []
    for _ in range(draw(st.integers(1, 5))):
        usual = draw(st.sampled_from([True, True, False]))
        left, count, right = (0, 2, 0) if usual else (draw(st.integers(0, 3)) for _ in range(3))
        body = draw(st.lists(st.integers(2, 4) if usual else st.integers(0, 4), min_size=int(usual), max_size=5))
        row = [PAD] * left + [BOS] * count + body + [PAD] * right
        rows.append(row if width is None else (row + [PAD] * width)[:width])
    return {
        "input_ids": rows,
        "labels": [[100 + k if token else -100 for k, token in enumerate(row)] for row in rows],
        "attention_mask": [[int(token != PAD) for token in row] for row in rows],
        "position_ids": [[*range(len(row))] for row in rows],
        "special_tokens_mask": [[int(token < 2) for token in row] for row in rows],
    }


def find_run(row: list[int]) -> tuple[int, int]:
    """Return where the tokens of a row start, and how many BOS are too many there."""
    start = next((k for k, token in enumerate(row) if token != PAD), len(row))
    end = next((k for k in range(start, len(row)) if row[k] != BOS), len(row))
    return start, max(0, end - start - 1)


def cut_alone(columns: dict[str, list[list[int]]], place: int) -> dict[str, list[int]]:
    start, surplus = find_run(columns["input_ids"][place])
    made = {}
    for name, rows in columns.items():
        at = len(rows[place]) - surplus if name == "position_ids" else start + 1
        made[name] = rows[place][:at] + rows[place][at + surplus :]
        if name == "labels" and surplus:
            made[name][start] = -100
    return made


def cut_rectangle(columns: dict[str, list[list[int]]], masked: bool) -> dict[str, list[list[int]]]:
    """Cut rows of one width one by one: refill each on its padding side, then trim what only the cut has padded."""
    ids, width = columns["input_ids"], len(columns["input_ids"][0])
    runs = [find_run(row) for row in ids]
    ends = [next((k for k in range(width) if row[-1 - k] != PAD), width) if masked else 0 for row in ids]
    some_left = any(0 < start < width for start, _ in runs)
    lefts = [start > 0 or (some_left and not end) for (start, _), end in zip(runs, ends, strict=True)]
    sides = [*zip(runs, ends, lefts, strict=True)]
    first = min(start + surplus * left for (start, surplus), _, left in sides) - min(start for start, _ in runs)
    last = width - min(end + surplus * (not left) for (_, surplus), end, left in sides) + min(ends)
    made: dict[str, list[list[int]]] = {name: [] for name in columns}
    for place, ((_, surplus), _, left) in enumerate(sides):
        for name, row in cut_alone(columns, place).items():
            fill = [FILLS[name]] * surplus
            made[name].append((fill + row if left else row + fill)[first:last])
    return made


@settings(max_examples=120, deadline=None)
@given(batches(), st.sets(st.sampled_from(sorted(FILLS))))
def test_lists_columns_and_rows_give_what_each_row_gives(columns: Any, names: set[str]) -> None:
    columns = {name: rows for name, rows in columns.items() if name in names | {"input_ids"}}
    # Positions that are no real count, in a row that is padded on the left, are tried in test_bos.
    if any(row[:1] == [PAD] or row.count(PAD) for row in columns["input_ids"]):
        columns.pop("position_ids", None)
    count = len(columns["input_ids"])
    expected = [cut_alone(columns, place) for place in range(count)]
    rows = [{name: values[place] for name, values in columns.items()} for place in range(count)]
    before = repr(columns)
    assert dedupe_bos(rows, bos_token_id=BOS, pad_token_id=PAD) == expected
    assert dedupe_bos(tuple(rows), bos_token_id=BOS, pad_token_id=PAD) == tuple(expected)
    found = dedupe_bos(columns, bos_token_id=BOS, pad_token_id=PAD)
    assert [{name: values[place] for name, values in found.items()} for place in range(count)] == expected
    ids = dedupe_bos(columns["input_ids"], bos_token_id=BOS, pad_token_id=PAD)
    assert ids == [row["input_ids"] for row in expected]
    for make in (np.array, torch.tensor):
        arrays = dedupe_bos([make(row) for row in columns["input_ids"]], bos_token_id=BOS, pad_token_id=PAD)
        assert [row.tolist() for row in arrays] == ids
    assert repr(columns) == before


@settings(max_examples=120, deadline=None)
@given(st.data(), st.booleans(), st.sampled_from(["numpy", "torch", "both"]))
def test_rectangles_are_those_of_rows_cut_one_by_one(data: Any, masked: bool, kind: str) -> None:
    columns = data.draw(batches(width=data.draw(st.integers(2, 8))))
    del columns["position_ids"]
    if not masked:
        del columns["attention_mask"]
    doubled = [surplus for _, surplus in map(find_run, columns["input_ids"]) if surplus]
    arrays: dict[str, Any] = {
        name: np.array(rows, np.int32 if name == "input_ids" else np.int64) for name, rows in columns.items()
    }
    if kind == "torch":
        arrays = {name: torch.from_numpy(array) for name, array in arrays.items()}
    elif kind == "both":
        arrays["labels"] = columns["labels"]
    before = repr(arrays)
    found = dedupe_bos(arrays, bos_token_id=BOS, pad_token_id=PAD)
    assert repr(arrays) == before
    if not doubled:
        assert found is arrays
        return
    expected = cut_rectangle(columns, masked)
    for name, value in found.items():
        assert type(value) is type(arrays[name]) and getattr(value, "dtype", 0) == getattr(arrays[name], "dtype", 0)
        assert (value if isinstance(value, list) else value.tolist()) == expected[name], name
    alone = dedupe_bos(arrays["input_ids"], bos_token_id=BOS, pad_token_id=PAD)
    assert alone.tolist() == cut_rectangle({"input_ids": columns["input_ids"]}, masked=False)["input_ids"]


def test_positions_of_a_rectangle_count_on() -> None:
    ids = np.array([[BOS, BOS, 5, 6], [0, BOS, BOS, 7]])
    positions = np.array([[0, 1, 0, 1], [0, 0, 1, 2]])  # two documents; padding on the left
    found = dedupe_bos({"input_ids": ids, "position_ids": positions}, bos_token_id=BOS, pad_token_id=PAD)
    assert found["input_ids"].tolist() == [[BOS, 5, 6], [0, BOS, 7]]
    assert found["position_ids"].tolist() == [[0, 0, 1], [0, 0, 1]]


def test_the_garbage_collector_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "_MANY", 4)  # two rows of two columns
    seen: list[bool] = []
    cut_doubled = lists._cut_doubled

    def look(name: str, rows: Any, cut: Any) -> Any:
        seen.append(gc.isenabled())
        if name == "labels" and rows[0][2] == 13:
            raise RuntimeError
        return cut_doubled(name, rows, cut)

    monkeypatch.setattr(lists, "_cut_doubled", look)
    columns = {"input_ids": [[BOS, BOS, 5]] * 2, "labels": [[1, 2, 3]] * 2}
    frozen = gc.get_freeze_count() > 0  # some of these may be freed meanwhile
    for enabled in (True, False):
        (gc.enable if enabled else gc.disable)()
        try:
            assert dedupe_bos(columns, bos_token_id=BOS)["labels"] == [[-100, 3]] * 2
            with pytest.raises(RuntimeError):
                dedupe_bos({**columns, "labels": [[1, 2, 13]] * 2}, bos_token_id=BOS)
            assert gc.isenabled() is enabled and bool(gc.get_freeze_count()) is frozen
        finally:
            gc.enable()
    assert seen == [False] * 4


def test_garbage_does_not_grow_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "_MANY", 2)

    class Node:
        ring: Any

    node = Node()
    node.ring, lives = node, weakref.ref(node)
    del node
    assert dedupe_bos([[BOS, BOS, 5]] * 2, bos_token_id=BOS) == [[BOS, 5]] * 2
    assert lives() is None


def test_objects_that_are_frozen_meanwhile_stay_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "_MANY", 2)
    was_frozen = gc.get_freeze_count()
    gc.unfreeze()

    class Frozen(list[int]):
        def __getitem__(self, place: Any) -> Any:
            gc.freeze()  # as another thread may
            return super().__getitem__(place)

    columns = {"input_ids": [[BOS, BOS, 5]] * 2, "labels": [[1, 2, 3], Frozen([1, 2, 3])]}
    try:
        assert dedupe_bos(columns, bos_token_id=BOS)["labels"] == [[-100, 3]] * 2
        assert gc.get_freeze_count()
    finally:
        (gc.freeze if was_frozen else gc.unfreeze)()


def test_only_rows_that_are_cut_are_new_lists() -> None:
    columns: dict[str, list[list[Any]]] = {
        "input_ids": [[1, 1, 5], [1, 5, 6], [1, 1, 5], [1, 1, 6], [], [1], [1, 1], [1, 1, 1], [0, 1, 1, 7], [1, 1, 8]],
        "attention_mask": [[1.0, 0.5 * 2, 1.0], [1, 1, 1], [1, 0, 1], [True, 1, 1], [], [1], [1, 1], [1, 1, 1]],
        "labels": [[-100, -100, 5], [1, 5, 6], [1, 1, 5], [1, 1, 6], [], [1], [1, 1], [1, 1, 1], [-100, 1, 1, 7]],
    }
    columns["attention_mask"] += [[0, 1, 1, 1], [0, 1, 1]]
    columns["labels"] += [[-100, 1, 8]]
    before, count = repr(columns), len(columns["input_ids"])
    rows = [{name: values[place] for name, values in columns.items()} for place in range(count)]
    alone = [dedupe_bos(row, bos_token_id=BOS, pad_token_id=PAD) for row in rows]
    found = dedupe_bos(columns, bos_token_id=BOS, pad_token_id=PAD)
    assert [*found] == [*columns] and repr(columns) == before
    assert dedupe_bos(rows, bos_token_id=BOS, pad_token_id=PAD) == alone
    for place, row in enumerate(rows):
        assert (alone[place] is row) is (place in {1, 2, 4, 5, 9})
        for name, values in found.items():
            assert repr(values[place]) == repr(alone[place][name])
            assert (values[place] is row[name]) is (alone[place] is row)


def test_rows_with_as_many_but_other_keys_are_cut_by_themselves() -> None:
    rows: list[dict[str, Any]] = [
        {"input_ids": [BOS, BOS, 5], "text": "a"},
        {"input_ids": [BOS, BOS, 6], "labels": [1, 2, 6]},
    ]
    found = dedupe_bos(rows, bos_token_id=BOS)
    assert found == [{"input_ids": [BOS, 5], "text": "a"}, {"input_ids": [BOS, 6], "labels": [-100, 6]}]
    with pytest.raises(PadfixError, match="seq_lengths"):
        dedupe_bos([*rows, {"input_ids": [BOS, BOS, 7], "seq_lengths": [3]}], bos_token_id=BOS)


def test_an_interrupted_dataset_leaves_no_file_and_a_second_call_reads_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    monkeypatch.setattr(arrow, "_BATCH_ROWS", 2)
    rows = [{"input_ids": [BOS, BOS, 5 + k]} for k in range(6)]
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path))
    dataset, before = datasets.load_from_disk(str(tmp_path)), sorted(tmp_path.iterdir())
    cut_table, calls = arrow.dedupe_table, []

    def stop(table: Any, *ids: Any) -> Any:
        calls.append(table.num_rows)
        if len(calls) == 4:  # the first looks for a row that needs a cut
            raise KeyboardInterrupt
        return cut_table(table, *ids)

    monkeypatch.setattr(arrow, "dedupe_table", stop)
    with pytest.raises(KeyboardInterrupt):
        dedupe_bos(dataset, bos_token_id=BOS)
    assert sorted(tmp_path.iterdir()) == before
    first = dedupe_bos(dataset, bos_token_id=BOS)
    calls.clear()
    again = dedupe_bos(dataset, bos_token_id=BOS)
    assert calls == [2] and again.cache_files == first.cache_files and len(first.cache_files) == 1
    assert first["input_ids"][:] == [[BOS, 5 + k] for k in range(6)]
