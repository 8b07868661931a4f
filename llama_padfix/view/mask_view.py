"""A picture of what is trained: every token of some rows, with its role, its label and what the doctor says of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llama_padfix.core.errors import PadfixError
from llama_padfix.core.files import write_whole
from llama_padfix.doctor.facts import Facts, RowFacts, SampleFacts
from llama_padfix.doctor.findings import Check, Report
from llama_padfix.doctor.observe.data import observe_data
from llama_padfix.doctor.observe.environment import observe_environment
from llama_padfix.doctor.observe.tokenizer import make_decoder, observe_tokenizer
from llama_padfix.doctor.runner import load_checks, run_checks
from llama_padfix.encoding.encoder import ChatEncoder
from llama_padfix.tokens.calls import check_tokenizer, preserve_backend_state
from llama_padfix.view.document import MaskDocument, Problem, make_row
from llama_padfix.view.html import as_notebook, as_page
from llama_padfix.view.pieces import read_pieces
from llama_padfix.view.read_rows import ReadRow, read_rows, take_rows
from llama_padfix.view.roles import learn_roles
from llama_padfix.view.terminal import as_terminal

__all__ = ["MaskView", "view_mask"]


class MaskView(MaskDocument):
    """Rows as they are trained: `print(view)` in a terminal, as it is in a notebook, `view.save("mask.html")`.

    `rows` are the rows that were looked at, `pieces` what each of their ids reads, `report` what the checks of rows
    say of them; `total` is how many rows there are, None for a stream.
    """

    def to_text(self, *, color: bool = False, max_rows: int | None = None, max_tokens: int | None = None) -> str:
        """Return the rows for a terminal, trained text in double brackets; with `color` in ANSI colours as well.

        At most `max_rows` rows and `max_tokens` tokens of each (the first and the last); what is left out is said.
        """
        return as_terminal(self, color=color, max_rows=max_rows, max_tokens=max_tokens)

    def to_html(self) -> str:
        """Return a page that stands alone: one file, no address in it, everything in the rows escaped."""
        return as_page(self)

    def save(self, path: str | Path) -> Path:
        """Write the page to `path`, whole or not at all, and return the path; a file that is there is replaced.

        Raises `PadfixError` for a folder, or where the folder of the file does not exist or cannot be written to.
        """
        path = Path(path)
        if path.is_dir():
            raise PadfixError(f"{str(path)!r} is a folder. Name a file in it, such as {str(path / 'mask.html')!r}.")
        try:
            write_whole(path, self.to_html().encode("utf-8", "backslashreplace"))
        except OSError as error:
            raise PadfixError(
                f"{str(path)!r} cannot be written: {error.strerror or error}. Name a file in a folder that is there."
            ) from error
        return path

    def __str__(self) -> str:
        quiet = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
        return self.to_text(color=sys.stdout.isatty() and not quiet, max_rows=10, max_tokens=1000)

    def _repr_html_(self) -> str:
        return as_notebook(self)


def view_mask(
    rows: Any,
    tokenizer: Any,
    *,
    row_numbers: Sequence[int] | None = None,
    max_rows: int = 200,
    encoder: ChatEncoder | None = None,
    model: Any = None,
    title: str = "What is trained",
) -> MaskView:
    """Return a picture of which tokens of `rows` the loss asks for, and of what is wrong with them.

    `rows` is a dataset, a list or a stream of rows, one collated batch or a loader of batches, one row, or one
    conversation. Encoded rows are shown as they are: `labels`, or else the masks of which TRL makes labels
    (`assistant_masks`, `completion_mask`). Raw rows of any known shape go through `encoder` first, by default
    `ChatEncoder(tokenizer)`; a row that cannot be encoded is shown with the reason. `row_numbers` (from 0) says which
    rows are shown, else the first `max_rows`. `model` (or what has its `config` and `generation_config`) lets the
    checks look that compare rows with a model. Nothing that is passed is changed.

    Raises `PadfixError` for what holds no rows, for a row number that is not there, and for raw rows where the
    tokenizer has no chat template.
    """
    check_tokenizer(tokenizer)
    if max_rows < 1:
        raise PadfixError(f"max_rows={max_rows!r} shows nothing. Pass an int above 0.")
    taken = take_rows(rows, row_numbers, max_rows)
    with preserve_backend_state(tokenizer):
        facts = observe_tokenizer(tokenizer, model, with_markers=True)
        facts = replace(facts, environment=observe_environment())
        read = read_rows(taken, tokenizer, encoder)
        encoded = [item.facts for item in read if item.facts is not None]
        if encoded:
            columns = [name for name in ("labels", "attention_mask") if getattr(encoded[0], name) is not None]
            sample = SampleFacts(taken.source, len(encoded), taken.total, ("input_ids", *columns))
            facts = replace(facts, samples=(sample,))
        raw = [item.number for item in read if item.is_raw]
        if raw:
            facts = replace(facts, data=observe_data(taken.rows, tokenizer, taken.source, places=raw))
        catalogue = [check for check in load_checks() if {"rows", "labels", "data"} & set(check.needs)]
        report = run_checks(facts, catalogue, rows=encoded, decode=make_decoder(tokenizer))
        pieces = read_pieces(tokenizer, facts, {token_id for row in encoded for token_id in row.input_ids.tolist()})
        roles = learn_roles(tokenizer, facts)
    shown_rows = []
    for item in read:
        problems = tuple(_find_problems(item, facts, catalogue, report))
        row = item.facts or _no_tokens(item.number)
        shown_rows.append(make_row(row, facts, roles, pieces, problems, item.note))
    return MaskView(tuple(shown_rows), pieces, report, taken.source, taken.total, title)


def _find_problems(item: ReadRow, facts: Facts, catalogue: Sequence[Check], report: Report) -> Iterator[Problem]:
    """Yield what the checks see in a row: every check of rows, and of raw rows the examples of its findings."""
    seen = set()
    for finding in report.findings:
        inspects = any(check.code == finding.code and check.inspect is not None for check in catalogue)
        for place in () if inspects else finding.evidence:
            if place.row == item.number:
                remark = place.remark or place.text
                seen.add(remark)
                yield Problem(finding.code, finding.severity, place.start, place.end, remark=remark)
    if item.error and item.error not in seen:
        yield Problem("", "error", 0, 0, remark=item.error)
    found = {finding.code for finding in report.findings}
    for check in catalogue:
        if item.facts is None or check.inspect is None or check.code not in found:
            continue  # a check that found nothing in any row, or that was skipped, has nothing to say of this one
        if "labels" in check.needs and item.facts.labels is None:
            continue
        for hit in check.inspect(item.facts, facts):
            yield Problem(check.code, check.severity, hit.start, hit.end, hit.count, hit.remark)


def _no_tokens(number: int) -> RowFacts:
    import numpy

    return RowFacts("", number, numpy.zeros(0, dtype=numpy.int64))
