"""Compare the rows that the peers made with ours, and say what sets them apart.

    python compare.py FOLDER REFERENCE

FOLDER holds one folder a peer, as `measure.report` keeps rows. Prints JSON: for each peer the number of rows with
equal ids and with equal labels, and the same once more after what is known of the peer is taken away: an
`<|end_of_text|>` behind the row, and training of the assistant's header.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy

IGNORED = -100
END_OF_TEXT = 128001
HEADER = numpy.array([128006, 78191, 128007, 271], numpy.int32)  # of the assistant


def read_rows(folder: Path) -> tuple[list[Any], list[Any] | None]:
    """Return the rows' ids and labels; None where the peer makes none."""
    edges = numpy.cumsum(numpy.load(folder / "lengths.npy"))[:-1]
    labels = folder / "labels.npy"
    ids = numpy.split(numpy.load(folder / "ids.npy"), edges)
    return ids, numpy.split(numpy.load(labels), edges) if labels.exists() else None


def mask_headers(ids: Any, labels: Any) -> Any:
    """Return the labels with -100 on each assistant header."""
    masked = labels.copy()
    for place in numpy.flatnonzero(ids[: len(ids) - 3] == HEADER[0]):
        if (ids[place : place + 4] == HEADER).all():
            masked[place : place + 4] = IGNORED
    return masked


def compare(folder: Path, reference: Path) -> dict[str, Any]:
    """Compare two folders of rows."""
    ids, labels = read_rows(folder)
    right_ids, right_labels = read_rows(reference)
    assert right_labels is not None
    told: dict[str, Any] = {"rows": len(ids), "of": len(right_ids)}
    if len(ids) != len(right_ids):
        return told
    equal = numpy.array([numpy.array_equal(*pair) for pair in zip(ids, right_ids, strict=True)])
    told["ids_equal"] = int(equal.sum())
    if labels is None:
        return told
    pairs = zip(labels, right_labels, strict=True)
    told["labels_equal"] = int((numpy.array([numpy.array_equal(*pair) for pair in pairs]) & equal).sum())
    if told["labels_equal"] < len(ids):
        told |= _compare_without_habits(ids, labels, right_ids, right_labels)
    return told


def _compare_without_habits(ids: Any, labels: Any, right_ids: Any, right_labels: Any) -> dict[str, Any]:
    ended = headed = ids_equal = labels_equal = 0
    for row, row_labels, right, right_row in zip(ids, labels, right_ids, right_labels, strict=True):
        if row[-1] == END_OF_TEXT and row_labels[-1] == IGNORED and right[-1] != END_OF_TEXT:
            ended += 1
            row, row_labels = row[:-1], row_labels[:-1]
        masked = mask_headers(row, row_labels)
        headed += not numpy.array_equal(masked, row_labels)
        same = numpy.array_equal(row, right)
        ids_equal += same
        labels_equal += same and numpy.array_equal(masked, right_row)
    return {
        "end_of_text_behind": ended,
        "headers_trained": headed,
        "ids_equal_without": ids_equal,
        "labels_equal_without": labels_equal,
    }


if __name__ == "__main__":
    folder, reference = Path(sys.argv[1]), sys.argv[2]
    names = sorted(path.name for path in folder.iterdir() if (path / "lengths.npy").exists())
    print(json.dumps({name: compare(folder / name, folder / reference) for name in names}))
