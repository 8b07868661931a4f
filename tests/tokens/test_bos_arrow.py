"""`dedupe_bos` on Arrow tables, columns and datasets: the rows are those that each row gives by itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pyarrow as pa
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_padfix.core.errors import PadfixError
from llama_padfix.tokens.bos import dedupe_bos
from llama_padfix.tokens.doubled import arrow

BOS, PAD = 1, 0


@st.composite
def rows(draw: Any, masked: bool) -> dict[str, Any]:
    """A row of small ids, so that BOS, padding and text meet often, with any of the columns beside them."""
    left, count, right = (draw(st.integers(0, 3)) for _ in range(3))
    body = draw(st.lists(st.integers(1, 4), max_size=5))
    ids = [PAD] * left + [BOS] * count + body + [PAD] * right
    documents = [*range(left + count), *range(len(ids) - left - count)]
    row = {
        "input_ids": ids,
        "labels": draw(st.sampled_from([None, [100 + k for k in range(len(ids))]])),
        "position_ids": draw(st.sampled_from([None, [*range(len(ids))], documents])),
        "offset_mapping": [[k, k + 1] for k in range(len(ids))],
        "note": "a" * left,
        "scores": ids,  # as long, and not known to be per token
    }
    if masked:
        row["attention_mask"] = draw(st.sampled_from([None, [int(token != PAD) for token in ids]]))
    return row


def alone(row: dict[str, Any], pad: int | None) -> dict[str, Any]:
    made = dedupe_bos(row, bos_token_id=BOS, pad_token_id=pad)
    return {name: value.tolist() if hasattr(value, "tolist") else value for name, value in made.items()}


KINDS = {
    "list": pa.list_(pa.int64()),
    "int32": pa.list_(pa.int32()),
    "large": pa.large_list(pa.int64()),
}


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from([*KINDS]), st.booleans(), st.sampled_from([PAD, None]))
def test_a_table_gives_what_each_row_gives(data: Any, kind: str, masked: bool, pad: int | None) -> None:
    made = data.draw(st.lists(rows(masked), min_size=1, max_size=6))
    names = [name for name in made[0] if name not in ("offset_mapping", "note")]
    types = [(name, KINDS[kind]) for name in names]
    schema = pa.schema([*types, ("offset_mapping", pa.list_(pa.list_(pa.int32()))), ("note", pa.string())])
    table = pa.Table.from_pylist(made, schema)
    cut = data.draw(st.integers(0, len(made)))
    table = pa.concat_tables([table.slice(0, cut), table.slice(cut)])  # parts of longer arrays
    expected = [alone(row, pad) for row in made]
    found = dedupe_bos(table, bos_token_id=BOS, pad_token_id=pad)
    assert found.to_pylist() == expected and found.schema == table.schema
    assert (found is table) == (expected == made)
    assert table.to_pylist() == made
    batch = pa.RecordBatch.from_pylist(made, schema)
    assert dedupe_bos(batch, bos_token_id=BOS, pad_token_id=pad).to_pylist() == expected
    column = dedupe_bos(table["input_ids"], bos_token_id=BOS, pad_token_id=pad)
    assert column.to_pylist() == [dedupe_bos(row["input_ids"], bos_token_id=BOS, pad_token_id=pad) for row in made]
    # The same rows as a list, and as a batch of lists.
    assert dedupe_bos(made, bos_token_id=BOS, pad_token_id=pad) == expected
    lists = [row["input_ids"] for row in made]
    found = dedupe_bos(lists, bos_token_id=BOS, pad_token_id=pad)
    assert found == [dedupe_bos(ids, bos_token_id=BOS, pad_token_id=pad) for ids in lists]
    assert (found is lists) == (found == lists)
    assert all(new is old for new, old in zip(found, lists, strict=True) if new == old)


def test_rows_of_fixed_size_become_rows_of_any_size() -> None:
    made = [{"input_ids": [BOS, BOS, 5], "labels": [7, 8, 9]}, {"input_ids": [BOS, 5, 6], "labels": [1, 2, 3]}]
    fixed = pa.list_(pa.int32(), 3)
    schema = pa.schema([("input_ids", fixed), ("labels", fixed)])
    table = pa.Table.from_pylist([*made, {"input_ids": None, "labels": None}, *made], schema)
    assert dedupe_bos(table.slice(1, 2), bos_token_id=BOS).schema == table.schema  # nothing is cut
    found = dedupe_bos(table.slice(1), bos_token_id=BOS)
    assert found.schema.field("input_ids").type == found.schema.field("labels").type == pa.list_(pa.int32())
    first = {"input_ids": [BOS, 5], "labels": [-100, 9]}
    assert found.to_pylist() == [made[1], {"input_ids": None, "labels": None}, first, made[1]]


def test_memory_is_shared_where_nothing_is_cut() -> None:
    one = pa.table({"input_ids": [[BOS, 5], [BOS, 6]]})
    two = pa.table({"input_ids": [[BOS, BOS, 5]]})
    table = pa.concat_tables([one, two])
    found = dedupe_bos(table, bos_token_id=BOS)
    assert found.to_pylist() == [{"input_ids": ids} for ids in ([BOS, 5], [BOS, 6], [BOS, 5])]
    kept = found["input_ids"].chunk(0).values.buffers()[1]
    assert kept.address == one["input_ids"].chunk(0).values.buffers()[1].address


def test_null_rows_null_items_and_empty_columns() -> None:
    ids = pa.array([None, [BOS, BOS, None], [], [BOS, None, BOS]], pa.list_(pa.int64()))
    labels = pa.array([[1], None, [], [1, 2, 3]], pa.list_(pa.int64()))
    table = pa.table({"input_ids": ids, "labels": labels, "kind": [0, 1, 2, 3]})
    found = dedupe_bos(table, bos_token_id=BOS)
    assert found["input_ids"].to_pylist() == [None, [BOS, None], [], [BOS, None, BOS]]
    assert found["labels"].to_pylist() == labels.to_pylist() and found["kind"].to_pylist() == [0, 1, 2, 3]
    classes = pa.table({"input_ids": [[BOS, BOS, 5]], "labels": [1]})
    assert dedupe_bos(classes, bos_token_id=BOS).to_pylist() == [{"input_ids": [BOS, 5], "labels": 1}]
    for empty in (ids.slice(0, 0), pa.array([[], []]), pa.array([None], pa.list_(pa.int64()))):
        table = pa.table({"input_ids": empty})
        assert dedupe_bos(table, bos_token_id=BOS) is table


@pytest.mark.parametrize(
    ("columns", "known", "words"),
    [
        ({"text": ["a"]}, {}, ["text", "no input_ids", "to_pylist"]),
        ({"input_ids": [[1.5]]}, {}, ["input_ids hold list", "integers"]),
        ({"input_ids": [5]}, {}, ["input_ids hold int64"]),
        ({"input_ids": [[5], [1]], "attention_mask": [[1], [1, 1]]}, {}, ["Row 1: attention_mask has 2 entries"]),
        ({"input_ids": [[5], [1, 1]], "labels": [[1, 1], [1]]}, {}, ["Row 1: labels has 1 entries"]),
        ({"input_ids": [[1, 1]]}, {"pad_token_id": BOS}, ["2 times the id 1", "attention_mask"]),
        ({"input_ids": [[1, 1]], "attention_mask": [["1", "1"]]}, {}, ["attention_mask hold string", "int64"]),
        ({"input_ids": [[1, 1]], "labels": [["O", "O"]]}, {}, ["labels hold string", "int64"]),
        ({"input_ids": [[1, 1]], "seq_lengths": [[2]]}, {}, ["before packing"]),
    ],
)
def test_errors(columns: Any, known: Any, words: list[str]) -> None:
    with pytest.raises(PadfixError) as caught:
        dedupe_bos(pa.table(columns), bos_token_id=BOS, **known)
    assert all(word in str(caught.value) for word in words), caught.value


def test_ids_that_are_all_null_are_no_bos() -> None:
    table = pa.table({"input_ids": pa.array([[None, None], None], pa.list_(pa.uint8()))})
    assert dedupe_bos(table, bos_token_id=0, pad_token_id=1) is table


def test_a_table_is_cut_without_pandas(tmp_path: Path) -> None:
    columns = {"input_ids": [[BOS, BOS, 5], None], "labels": [[1, 2, 5], None], "attention_mask": [[1, 1, None], None]}
    with pa.OSFile(str(tmp_path / "rows"), "wb") as sink, pa.ipc.new_stream(sink, pa.table(columns).schema) as stream:
        stream.write_table(pa.table(columns))
    code = (
        "import sys; import pyarrow as pa; from llama_padfix import dedupe_bos; "
        "found = dedupe_bos(pa.ipc.open_stream(pa.memory_map(sys.argv[1])).read_all(), bos_token_id=1); "
        "print('pandas' in sys.modules, found.to_pylist())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "rows")], capture_output=True, text=True)
    cut = {"input_ids": [BOS, 5], "labels": [-100, 5], "attention_mask": [1, None]}
    assert done.stdout.strip() == f"False {[cut, dict.fromkeys(cut)]}", done.stderr


def test_labels_that_cannot_be_ignored_are_refused() -> None:
    labels = pa.array([[1, 2]], pa.list_(pa.uint32()))
    with pytest.raises(PadfixError, match="labels hold uint32"):
        dedupe_bos(pa.table({"input_ids": [[BOS, BOS]], "labels": labels}), bos_token_id=BOS)


@pytest.mark.parametrize("layout", [None, "numpy"])
def test_datasets_of_every_kind(layout: str | None, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    features = datasets.Features(
        {
            "input_ids": datasets.Sequence(datasets.Value("int32"), length=3),
            "labels": datasets.Sequence(datasets.Value("int64")),
            "name": datasets.Value("string"),
        }
    )
    made = [{"input_ids": [BOS, BOS, 5 + k], "labels": [1, 2, 3], "name": str(k)} for k in range(4)]
    made += [{"input_ids": [BOS, 6, 7], "labels": [1, 2, 3], "name": "x"}]
    expected = [alone(row, None) for row in made]
    datasets.Dataset.from_list(made, features=features).save_to_disk(str(tmp_path))
    dataset = datasets.load_from_disk(str(tmp_path)).with_format(layout, columns=["labels", "input_ids"])
    dataset.info.description = "kept"
    for shown, right in ((dataset, expected), (dataset.select([4, 0]), [expected[4], expected[0]])):
        found = dedupe_bos(shown, bos_token_id=BOS)
        assert found.format == shown.format and found.info.description == "kept"
        assert found.with_format(None).to_list() == right
        assert dedupe_bos(found, bos_token_id=BOS) is found
    splits = dedupe_bos(datasets.DatasetDict(train=dataset), bos_token_id=BOS)
    assert type(splits) is datasets.DatasetDict and splits["train"].with_format(None).to_list() == expected
    stream = dedupe_bos(datasets.Dataset.from_list(made).to_iterable_dataset(), bos_token_id=BOS)
    assert [*stream] == expected


def test_rows_of_arrays_are_cut_as_lists_are() -> None:
    row = {"input_ids": numpy.array([BOS, BOS, 5]), "labels": numpy.array([1, 2, 3])}
    plain = {"input_ids": numpy.array([BOS, 5]), "labels": numpy.array([1, 2])}
    found = dedupe_bos([row, plain], bos_token_id=BOS)
    assert {name: value.tolist() for name, value in found[0].items()} == {"input_ids": [BOS, 5], "labels": [-100, 3]}
    assert found[1] is plain


@settings(max_examples=60, deadline=None)
@given(st.data(), st.booleans(), st.sampled_from([PAD, None]))
def test_columns_of_lists_give_what_each_row_gives(data: Any, masked: bool, pad: int | None) -> None:
    made = data.draw(st.lists(rows(masked), min_size=1, max_size=6))
    names = [name for name in made[0] if name != "note" and all(row[name] is not None for row in made)]
    columns = dedupe_bos({name: [row[name] for row in made] for name in names}, bos_token_id=BOS, pad_token_id=pad)
    for place, row in enumerate(made):
        expected = alone({name: row[name] for name in names}, pad)
        assert {name: columns[name][place] for name in names} == expected


def test_a_dataset_of_many_chunks_is_cut_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    find = arrow._find_surplus

    def count(batch: pa.RecordBatch, *settings: Any) -> Any:
        batches.append(batch.num_rows)
        return find(batch, *settings)

    chunk = pa.table({"input_ids": [[BOS, BOS, 5], [BOS, 6]], "labels": [[BOS, BOS, 5], [-100, 6]]})
    dataset = Dataset(pa.concat_tables([chunk] * 30))
    monkeypatch.setattr(arrow, "_find_surplus", count)
    cut = dedupe_bos(dataset, bos_token_id=BOS, pad_token_id=PAD)
    assert cut[:2] == {"input_ids": [[BOS, 5], [BOS, 6]], "labels": [[-100, 5], [-100, 6]]}
    assert batches[-1] == len(dataset)  # before it stands the look for a row that needs a cut
