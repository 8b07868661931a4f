"""Rows as Arrow tables, chunks as bytes of an Arrow stream, and what reading mapped files keeps in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow
import pytest
from datasets import Dataset, load_from_disk

from llama_padfix import Counts
from llama_padfix.encoding.dataset import reader as chunks
from llama_padfix.encoding.dataset.arrow_stream import pack_part, read_counts
from llama_padfix.encoding.dataset.reader import RowReader, tabulate
from tests.conformance.test_streaming import ROWS

MIXED: dict[str, list[Any]] = {
    "a key that only some have": [{"a": [{"b": 1}, {"c": 2}]}],
    "other keys in another row": [{"a": 1}, {"b": 1}],
    "another order of keys": [{"a": {"b": 1, "c": 2}}, {"a": {"c": 1, "b": 2}}],
    "whole and broken numbers": [{"a": 1}, {"a": 1.5}],
    "truth and number": [{"a": True}, {"a": 1}],
    "half of a surrogate pair": [{"a": "\ud83d"}],
    "a number beyond 64 bits": [{"a": 2**70}],
    "a tuple": [{"a": (1, 2)}],
    "text of another class": [{"a": type("Text", (str,), {})("x")}],
    "keys that are no text": [{"a": {1: 2}}],
    "no rows but lists": [[{"role": "user", "content": "x"}]],
    "no columns": [{}],
    "bytes": [{"a": b"x"}],
}
HELD: dict[str, list[Any]] = {
    "conversations": ROWS[:5],
    "nulls": [{"a": None, "b": [None]}, {"a": "x", "b": [{"c": 1.5}]}, {"a": None, "b": None}],
    "only nulls": [{"a": None}],
    "empty lists": [{"a": []}, {"a": [{"b": [[]]}]}, {"a": [{"b": [[1]]}]}],
    "empty objects": [{"a": {}}],
    "bytes that are no letters": [{"a": "\0\u2028\U0001f600"}],
}


@pytest.mark.parametrize("kind", MIXED)
def test_rows_that_arrow_would_change_stay_rows(kind: str) -> None:
    assert tabulate(MIXED[kind]) is None


@pytest.mark.parametrize("kind", HELD)
def test_rows_that_arrow_holds_come_back_as_they_were(kind: str) -> None:
    found = tabulate(HELD[kind]).to_pylist()
    assert repr(found) == repr(HELD[kind])


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="no /proc")
@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.slow
def test_what_was_read_of_mapped_files_does_not_stay_in_memory(
    shuffled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Dataset.from_dict({"text": ["x" * 20_000] * 1500}).save_to_disk(tmp_path)
    rows = load_from_disk(tmp_path)
    monkeypatch.setattr(chunks, "_RESIDENT_BYTES", 1 << 20)
    reader = RowReader(rows.select(list(range(1499, -1, -1))) if shuffled else rows)
    assert reader.is_mapped
    most = 0
    for start in range(0, 1500, 50):
        table = reader.read(start, start + 50)
        assert len(table.column("text").to_pylist()[49]) == 20_000
        most = max(most, resident_bytes(tmp_path))
    assert most < (12 << 20), most  # of 30 MB


def resident_bytes(folder: Path) -> int:
    found, of_folder = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            of_folder = str(folder) in line
        elif of_folder and line.startswith("Rss:"):
            found += int(line.split()[1]) * 1024
    return found


def test_equal_rows_give_equal_bytes_however_they_are_stored() -> None:
    kind = pyarrow.list_(pyarrow.int32())
    table = pyarrow.table({name: pyarrow.array([[9], [1, 2], [3]], kind) for name in ("input_ids", "labels")})
    parts = pyarrow.concat_tables([table.slice(1, 1), table.slice(2, 1)]).select(["labels", "input_ids"])
    large = table.slice(1).cast(
        pyarrow.schema([(name, pyarrow.large_list(pyarrow.int32())) for name in ("input_ids", "labels")])
    )
    packed = {bytes(pack_part(one, 0, 0, Counts(rows=2))) for one in (table.slice(1), parts, large)}
    assert len(packed) == 1


def test_what_is_no_file_of_ours_has_no_counts(tmp_path: Path) -> None:
    assert read_counts(tmp_path / "none") is None
    Dataset.from_dict({"input_ids": [[1]], "labels": [[1]]}).save_to_disk(tmp_path)
    [other] = tmp_path.glob("*.arrow")
    found = read_counts(other)
    assert found is None or found.rows == 0
