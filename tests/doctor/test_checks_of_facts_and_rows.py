"""Checks of rows beside facts that are given: versions, attention, and the turns that the checks look for."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from llama_padfix import IGNORE_INDEX, ChatEncoder, PadCollator, find_markers, mask_labels
from llama_padfix.doctor.check_helpers import find_turns
from llama_padfix.doctor.diagnose import diagnose
from llama_padfix.doctor.facts import EnvironmentFacts, Facts
from llama_padfix.doctor.observe.rows import rows_of_batch, rows_of_dataset, sample_of
from llama_padfix.doctor.observe.tokenizer import observe_tokenizer
from llama_padfix.doctor.runner import run_checks
from tests.doctor.test_checks_rows import BOS, END_OF_TEXT, EOT, OWN, ids_of, raw
from tests.support.conversations import make_rows, shared
from tests.support.correct_setups import (
    CHATS,
    patched,
    plain_trainer,
)


@pytest.mark.parametrize(
    ("attention", "masked", "version", "found"),
    [
        ("sdpa", False, "5.23.0", False),
        ("sdpa", True, "5.23.0", True),
        ("sdpa", False, "4.53.3", True),
        ("flash_attention_2", True, "4.45.0", False),
        (None, True, "5.23.0", False),
    ],
)
def test_position_ids_isolate_where_attention_reads_them(
    attention: str | None, masked: bool, version: str, found: bool, tmp_path: Path
) -> None:
    tokenizer = raw("3.1-instruct")
    ids = [ids_of(tokenizer, row["messages"]) for row in CHATS[:2]]
    row = torch.tensor([ids[0] + ids[1]])
    batch = {"input_ids": row, "position_ids": torch.tensor([[*range(len(ids[0])), *range(len(ids[1]))]])}
    if masked:
        batch["attention_mask"] = torch.ones_like(row)
    facts = look(tokenizer, batch, version)
    if attention is not None:
        facts = replace(facts, trainer=trainer_facts(tmp_path, attention))
    report = run_checks(facts, [OWN["PCK001"]], rows=rows_of_batch(batch, "batch"))
    assert bool(report.findings) == found
    assert (report.passed == ("PCK001",)) == (not found)


@functools.cache
def _trainer_facts() -> Any:
    from llama_padfix.doctor.observe.trainer import observe_trainer

    tokenizer, model = patched("3.1-instruct")
    collator = PadCollator(tokenizer.pad_token_id)
    rows = Dataset.from_list([{"input_ids": [1, 2, 3]}])
    return observe_trainer(plain_trainer(tokenizer, model, rows, Path("unused"), collator))


def trainer_facts(folder: Path, attention: str) -> Any:
    return replace(_trainer_facts(), attention=attention)


@functools.cache
def _observed(tokenizer: Any) -> Facts:
    return replace(observe_tokenizer(tokenizer), markers=find_markers(tokenizer))


def look(tokenizer: Any, rows: Any, version: str = "5.23.0") -> Facts:
    """The facts of the rows, as they would be under that version of transformers."""
    sample, _ = sample_of(rows, "batch" if isinstance(rows, dict) else "dataset", None)
    return replace(_observed(tokenizer), samples=(sample,), environment=EnvironmentFacts({"transformers": version}))


@pytest.mark.parametrize(
    ("version", "found"), [("4.45.2", 0), ("4.46.0", 7), ("4.57.1", 7), ("5.7.0", 7), ("5.8.0", 0), ("5.23.0", 0)]
)
def test_a_label_at_position_0_matters_in_some_versions(version: str, found: int) -> None:
    tokenizer = raw("3.1-instruct")
    rows = [{"input_ids": (ids := ids_of(tokenizer, row["messages"])), "labels": ids} for row in CHATS]
    report = run_checks(look(tokenizer, rows, version), [OWN["LBL006"]], rows=rows_of_dataset(rows, "dataset"))
    assert [finding.rows for finding in report.findings] == [found] * bool(found)
    assert all(finding.severity == "note" for finding in report.findings)
    healed = [{**row, "labels": [IGNORE_INDEX, *row["labels"][1:]]} for row in rows]
    assert not run_checks(
        look(tokenizer, healed, version), [OWN["LBL006"]], rows=rows_of_dataset(healed, "x")
    ).findings


@pytest.mark.parametrize("release", ["3-instruct-early", "3.1-instruct"])
def test_turns_are_those_that_are_trained(release: str) -> None:
    """`find_turns` and `mask_labels` look for the same thing in the same ids."""
    markers = find_markers(shared(release))
    rows = ChatEncoder(shared(release)).encode_rows(make_rows(120, seed=3))[0]["input_ids"]
    rows += [row[: len(row) * 2 // 3] for row in rows] + [[*row[5:], END_OF_TEXT] for row in rows]
    for row in rows_of_dataset([{"input_ids": ids} for ids in rows], "dataset"):
        labels = [IGNORE_INDEX] * len(row.input_ids)
        for turn in find_turns(row, markers):
            if not turn.opened:
                until = turn.end + (turn.stop_id is not None)
                labels[turn.start : until] = row.input_ids[turn.start : until].tolist()
        assert labels == mask_labels(row.input_ids.tolist(), markers)


def test_a_single_row_of_everything_is_no_conversation() -> None:
    """Text without turns, all of it trained, under a tokenizer with a chat template: nothing but notes."""
    tokenizer, model = patched("3.1-instruct")
    rows = [{"input_ids": (ids := tokenizer("Once upon a time")["input_ids"]), "labels": ids}] * 3
    report = diagnose(tokenizer, model=model, dataset=Dataset.from_list(rows))
    assert [finding for finding in report.findings if finding.severity != "note"] == []


def test_what_cannot_be_known_is_not_said() -> None:
    tokenizer = raw("3.1-instruct", pad_token="<|eot_id|>")
    ids = ids_of(tokenizer, CHATS[0]["messages"])  # two turns
    markers = find_markers(tokenizer)
    labels = mask_labels(ids, markers)
    [row] = rows_of_dataset([{"input_ids": ids, "labels": labels}], "dataset")
    first, second = find_turns(row, markers)

    def codes(ids: list[int], labels: list[int], **changes: Any) -> set[str]:
        rows = [{"input_ids": ids, "labels": labels}]
        facts = replace(look(tokenizer, rows), **changes)
        return {f.code for f in run_checks(facts, tuple(OWN.values()), rows=rows_of_dataset(rows, "dataset")).findings}

    assert codes(ids, labels) == set()
    # An answer that was cut, and that is not trained: the first alone is.
    only_first = [*labels[: first.end + 1], *[IGNORE_INDEX] * (second.end - first.end - 2)]
    assert codes(ids[: len(only_first)], only_first) == set()
    assert codes(ids[: second.end - 1], labels[: second.end - 1]) == {"TRN001"}
    # Without an attention mask the last pad id of a text may be padding.
    text = [BOS, 11, 12, EOT]
    assert codes(text, [IGNORE_INDEX, 11, 12, IGNORE_INDEX]) == set()
    # Where the past has other headers than the next answer, what stands outside of those may be the assistant's.
    both = list(labels)
    both[first.end + 3] = ids[first.end + 3]
    assert codes(ids, both) == {"LBL009"}
    template = look(tokenizer, [{"input_ids": ids}]).template
    assert template is not None
    assert codes(ids, both, template=replace(template, header_in_history=False)) == set()
