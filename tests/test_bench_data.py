"""The benchmark's data are what its page says, and its comparison of rows sees each difference."""

from __future__ import annotations

import collections
import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy
import pytest

from llama_padfix.chat.messages import content_texts
from llama_padfix.core.errors import IGNORE_INDEX
from llama_padfix.encoding.row_formats import read_row
from tests.conftest import fresh_tokenizer

FOLDER = Path(__file__).parent.parent / "benchmarks" / "throughput"
ROWS = 800


def load_script(name: str, folder: Path = FOLDER) -> Any:
    spec = importlib.util.spec_from_file_location(f"throughput_{name}", folder / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data() -> Any:
    return load_script("data")


@pytest.fixture(scope="module")
def rows(data: Any) -> list[dict[str, Any]]:
    return list(data.make_rows(ROWS))


@pytest.mark.slow
def test_a_row_depends_on_its_number_and_the_seed_alone(data: Any, rows: list[dict[str, Any]]) -> None:
    assert list(data.make_rows(20)) == rows[:20]
    other = list(data.make_rows(20, seed=data.SEED + 1))
    assert all(one != two for one, two in zip(other, rows, strict=False))
    assert len({json.dumps(row) for row in rows}) == ROWS


def test_rows_are_conversations_of_the_promised_form(data: Any, rows: list[dict[str, Any]]) -> None:
    turns: collections.Counter[int] = collections.Counter()
    for row in rows:
        messages = row["messages"]
        spoken = messages[messages[0]["role"] == "system" :]
        assert [message["role"] for message in spoken] == ["user", "assistant"] * (len(spoken) // 2)
        assert all(message["content"] == message["content"].strip() != "" for message in messages)
        turns[len(spoken) // 2] += 1
    assert set(turns) == set(data.TURNS)
    assert abs(sum(row["messages"][0]["role"] == "system" for row in rows) / ROWS - data.SYSTEM_SHARE) < 0.05
    text = "".join(message["content"] for row in rows for message in row["messages"])
    assert not any(f"<|{name}|>" in text for name in ("begin_of_text", "end_of_text", "start_header_id", "eot_id"))
    assert text.count("```python\n") > ROWS / 5  # source code in many answers


def test_lengths_are_log_normal_with_the_promised_mean(data: Any, rows: list[dict[str, Any]]) -> None:
    backend = fresh_tokenizer("3.1-instruct").backend_tokenizer
    texts = [message["content"] for row in rows for message in row["messages"]]
    counted = iter(len(encoding.ids) for encoding in backend.encode_batch_fast(texts, add_special_tokens=False))
    # The template writes BOS, and four tokens and an <|eot_id|> around each message.
    tokens = [1 + sum(5 + next(counted) for _ in row["messages"]) for row in rows]
    assert 580 < statistics.mean(tokens) < 700
    logarithms = numpy.log(tokens)
    assert abs(logarithms.std() - data.SIGMA) < 0.15
    assert abs(numpy.mean(((logarithms - logarithms.mean()) / logarithms.std()) ** 3)) < 0.4  # no skew is left


def test_the_file_is_one_that_datasets_maps_and_the_same_each_time(
    data: Any, rows: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datasets import Dataset

    monkeypatch.setattr(data, "_BATCH_ROWS", 300)  # more than one batch
    for name in ("one", "two"):
        data.write_rows(ROWS, tmp_path / f"{name}.arrow")
    assert (tmp_path / "one.arrow").read_bytes() == (tmp_path / "two.arrow").read_bytes()
    assert Dataset.from_file(str(tmp_path / "one.arrow")).to_list() == rows


def test_a_file_that_is_not_finished_is_not_there(
    data: Any, rows: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: int) -> Any:
        yield from rows
        raise KeyboardInterrupt

    monkeypatch.setattr(data, "make_rows", stop)
    with pytest.raises(KeyboardInterrupt):
        data.write_rows(5000, tmp_path / "rows.arrow")
    assert not (tmp_path / "rows.arrow").exists()


@pytest.fixture(scope="module")
def shapes(data: Any) -> Any:
    module = load_script("shapes", FOLDER.parent / "matrix")
    module.data = data  # which has read the library
    return module


def test_every_shape_of_the_workloads_is_read_as_what_it_is_compared_by(shapes: Any, data: Any) -> None:
    for name, shape in shapes.SHAPES.items():
        made = [*shapes.make_rows(name, 12)]
        assert len(made) == 12 and made == [*shapes.make_rows(name, 12)], name
        read = [read_row(row) for row in made]
        if shape.plain_of is not None:
            plain = [read_row(shape.plain_of(row)).messages for row in made]
            contents = [[content_texts(message["content"]) for message in one.messages or ()] for one in read]
            assert [[content_texts(message["content"]) for message in one or ()] for one in plain] == contents, name
    orders = {tuple(m["role"] for m in row["messages"]) for row in shapes.make_rows("irregular", 60)}
    assert len(orders) == 60
    calls = next(iter(shapes.make_rows("calls_40", 1)))["messages"]
    assert sum("tool_calls" in message for message in calls) == 40


def test_the_workloads_cover_each_shape_and_family() -> None:
    workloads = load_script("workloads", FOLDER.parent).WORKLOADS
    families = load_script("families", FOLDER.parent / "matrix").FAMILIES
    assert {one.family for one in workloads} == set(families)
    assert len({one.name for one in workloads}) == len(workloads)


def test_the_workloads_become_a_table_and_a_picture_that_name_what_is_missed() -> None:
    report = load_script("report", FOLDER.parent / "matrix")
    sides = {"ours": [0.1, 0.2, 0.1], "trl": [3.0, 2.0, 4.0], "template": [1.0, 1.0, 1.0]}
    rounds = {side: [{"cpu": cpu, "rows": 100} for cpu in taken] for side, taken in sides.items()}
    one = {"workload": "plain", "rows": 100, "sides": rounds, "at_least": 30}
    compared = {"trl": {"rows": 100, "of": 100, "ids": 100, "labels": 90, "more": 9}}
    other = {"workload": "a<b", "rows": 9, "sides": {"ours": rounds["ours"], "trl": [{"error": "x"}] * 3}}
    failed = {"workload": "none", "error": "no data", "sides": {}}
    results = [one | {"compared": compared}, other | {"at_least": 40, "compared": {}}, failed]
    table = report.write_table(results)
    equal = "ids 100, labels 90 and 9 with more tokens trained of 100"
    assert f"| plain | 100 | 1.000 | 30.000 | 10.000 | 30.0 (10.0 to 40.0) | 30 times less | {equal} |" in table
    assert "| a<b | 9 | 1.000 | - | - | not measured | 40 times less | not compared |" in table and "| none |" in table
    assert table.endswith("Asked and not reached: a<b (not measured; asked: 40 times less).\n")
    slower = report.write_table([one | {"at_least": 31}])
    assert slower.endswith("Asked and not reached: plain (30.0; asked: 31 times less).\n")
    even = report.write_table([one | {"at_least": 1}])
    assert "| no slower |" in even and even.endswith("Asked and not reached: nothing.\n")
    behind = report.write_table(
        [one | {"at_least": 1, "sides": rounds | {"trl": rounds["ours"], "ours": rounds["trl"]}}]
    )
    assert behind.endswith("Asked and not reached: plain (30.00 times the CPU; asked: no slower).\n")
    in_time, late, unmeasured = (
        report.write_table([told | {"at_least": None, "at_most": most}])
        for told, most in ((one, 1.0), (one, 0.9), (failed, 2.0))
    )
    assert "| 1 ms |" in in_time and in_time.endswith("Asked and not reached: nothing.\n")
    assert late.endswith("plain (1.00; asked: 0.9 ms).\n")
    assert unmeasured.endswith("none (not measured; asked: 2 ms).\n")
    root = ElementTree.fromstring(report.draw_picture(results))
    texts = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"plain", "a<b", "30.0x"} <= {*texts} and "none" not in texts
    assert len([*root.iter("{http://www.w3.org/2000/svg}circle")]) == 4 + 3 + 1
    ElementTree.fromstring(report.draw_picture([]))


def test_rows_of_which_more_is_trained_are_told_from_those_with_other_labels(tmp_path: Path) -> None:
    compare = load_script("workloads", FOLDER.parent).compare
    ids = [[7, 8, 9, 10]] * 3
    rows = {"ours": [[-100, -100, 9, 10]] * 3, "theirs": [[7, -100, 9, 10], [-100, 8, 9, 10], [-100, 8, 9, -100]]}
    ours, theirs = (save(tmp_path / name, ids, labels) for name, labels in rows.items())
    assert compare(theirs, ours) == {"rows": 3, "of": 3, "ids": 3, "labels": 1, "more": 1}


HEADER = [128006, 78191, 128007, 271]
ROW = [128000, 128006, 882, 128007, 271, 9906, 128009, *HEADER, 13347, 128009]
LABELS = [IGNORE_INDEX] * 11 + [13347, 128009]


def test_a_side_whose_library_prints_when_it_is_imported_answers_a_line_a_task(tmp_path: Path) -> None:
    (tmp_path / "unsloth.py").write_text("print('Patching your computer')")
    worker = FOLDER.parent / "matrix" / "worker.py"
    command = [sys.executable, str(worker), "unsloth"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    told = subprocess.check_output(command, input=b"{}\n{}\n", env=environment, stderr=subprocess.DEVNULL)
    assert [json.loads(line) for line in told.splitlines()] == [{"error": "KeyError: 'family'"}] * 2


def save(folder: Path, ids: list[list[int]], labels: list[list[int]] | None) -> Path:
    folder.mkdir()
    numpy.save(folder / "lengths.npy", numpy.array([len(row) for row in ids]))
    numpy.save(folder / "ids.npy", numpy.array([*itertools.chain(*ids)], numpy.int32))
    if labels is not None:
        numpy.save(folder / "labels.npy", numpy.array([*itertools.chain(*labels)], numpy.int32))
    return folder


def test_the_comparison_sees_each_difference_and_names_what_it_knows(tmp_path: Path) -> None:
    compare = load_script("compare").compare
    reference = save(tmp_path / "reference", [ROW, ROW], [LABELS, LABELS])
    assert compare(reference, reference) == {"rows": 2, "of": 2, "ids_equal": 2, "labels_equal": 2}
    assert compare(save(tmp_path / "engine", [ROW, ROW], None), reference) == {"rows": 2, "of": 2, "ids_equal": 2}
    assert compare(save(tmp_path / "short", [ROW], [LABELS]), reference) == {"rows": 1, "of": 2}

    other = save(tmp_path / "other", [ROW, [*ROW[:11], 13348, 128009]], [LABELS, [*LABELS[:11], 13348, 128009]])
    told = compare(other, reference)
    assert (told["ids_equal"], told["labels_equal"], told["ids_equal_without"]) == (1, 1, 1)

    wrong = save(tmp_path / "wrong", [ROW, ROW], [LABELS, [*LABELS[:5], 9906, *LABELS[6:]]])  # trains the prompt
    told = compare(wrong, reference)
    assert (told["ids_equal"], told["labels_equal"], told["labels_equal_without"]) == (2, 1, 1)

    headed = [*LABELS[:7], *HEADER, *LABELS[11:], IGNORE_INDEX]  # as torchtune has it
    told = compare(save(tmp_path / "tune", [[*ROW, 128001]] * 2, [headed] * 2), reference)
    assert (told["ids_equal"], told["labels_equal"]) == (0, 0)
    assert (told["ids_equal_without"], told["labels_equal_without"]) == (2, 2)
    assert (told["end_of_text_behind"], told["headers_trained"]) == (2, 2)


def result(cpu: float, **more: Any) -> dict[str, Any]:
    told = {"cpu": cpu, "wall": cpu, "process_cpu": cpu + 5, "peak": 10**9, "written": 0, "rows": 10, "tokens": 6400}
    return {**told, "versions": {}, **more}


def test_the_tables_show_medians_ratios_and_what_failed() -> None:
    tables = load_script("tables")
    runs = {
        "ours fastokens": [result(1.0), result(2.0), result(1.5)],
        "ours tokenizers": [result(20.0)] * 3,
        "ours cached": [result(5.0)] * 3,
        "TRL": [result(60.0), result(50.0), result(90.0)],
        "torchtune": [{"error": "exit 1: no module named x"}] * 3,
    }
    machine = {"processor": "a processor", "cores": 2, "system": "Linux", "python": "3.11"}
    compared = {"TRL": {"rows": 10, "of": 10, "ids_equal": 10, "labels_equal": 9}}
    collate = [{"collate 8 rows: TRL": {"numpy": {"ratio": ratio}}} for ratio in (16.0, 40.0, 17.0)]
    results = {"rows": 10, "machine": machine, "runs": runs, "collate": collate, "failed": {}, "compared": compared}
    page = tables.write_page(results)
    assert "other rows" not in page
    runs["labels ours"], runs["labels Unsloth"] = [result(1.0, digest="a")], [result(40.0, digest="a")]
    assert "| Unsloth's inner function | 25 times less | 40 |" in tables.write_page(results)
    assert "of both are equal" in tables.write_page(results)
    runs["labels Unsloth"] = [result(40.0, digest="a"), result(40.0, digest="b")]
    page = tables.write_page(results)
    assert "of both are NOT EQUAL" in page and "labels Unsloth gave other rows in another round." in page
    assert "| TRL | 80 times less | 40 (25 to 60) |" in page  # 60 / 1.5; of one round 60 / 1, 50 / 2, 90 / 1.5
    assert "| collate 8 rows | TRL's collator on lists | 15 times less | numpy: 17.0 |" in page
    assert "| collate 64 rows | TRL's collator on lists | 25 times less | not measured |" in page
    assert "| TRL | 10 times less | 12.0 (10.0 to 18.0) |" in page
    assert "| ours with `tokenizers` | no slower | 4.0 (4.0 to 4.0) |" in page
    assert "| torchtune | 14 times less | not measured |" in page
    assert "Failed: torchtune: exit 1: no module named x" in page
    assert "| TRL | 10 | 10 | 9 |  |" in page
    taken = ({"the engine": 0.3, "(a copy)": 0.2, "the rest": 0.1}, {"the engine": 0.9}, {"the engine": 0.3})
    runs["steps"] = [result(1.0, steps={"encoding": steps}) for steps in taken]
    steps = (
        "| encoding | the engine | 300 | 100% |\n| encoding | (a copy) | 0 |  |\n| encoding | the rest | 0 | 0% |\n"
    )
    assert steps in tables.write_page(results)
    around = f"before\n{tables.BEGIN}old\n{tables.END}after\n"
    written = tables.replace_block(around, page)
    assert written.startswith("before\n") and written.endswith("after\n") and page in written and "old" not in written
    assert tables.replace_block(written, page) == written
    with pytest.raises(SystemExit, match="must hold the two lines"):
        tables.replace_block("no marks", page)


def test_work_counts_its_own_seconds_and_not_what_was_before() -> None:
    measure = load_script("measure")
    sum(range(3_000_000))
    with measure.Work() as work:
        sum(range(3_000_000))
    assert 0 < work.cpu < work.process_cpu and work.wall > 0
    assert work.peak > 10 * 2**20  # bytes, and not kilobytes
