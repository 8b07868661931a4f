"""The first rows of a dataset, as they will be trained and as engines will feed them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.dataset.open_rows import as_sequence, map_splits, require_rows
from llama_padfix.encoding.dataset.reader import RowReader
from llama_padfix.serving.before_training.proposals import propose
from llama_padfix.serving.check_serving import compare_engines
from llama_padfix.serving.engines.catalogue import choose_engines, open_engines
from llama_padfix.serving.folder import as_served
from llama_padfix.serving.trained import read_trained, take_rows

if TYPE_CHECKING:
    from llama_padfix.encoding.encoder import ChatEncoder
    from llama_padfix.serving.comparison import Comparison
    from llama_padfix.serving.engines.engine import Engine
    from llama_padfix.serving.folder import ServedFolder
    from llama_padfix.serving.report import ServingReport

logger = logging.getLogger(__name__)

ROWS = 200
"""The most rows of a dataset that are compared."""

_NAMED = 3  # rows of a cause


class RowsCheck:
    """Compares rows before they are trained with what engines will feed. Nothing that is encoded changes.

    Args:
        encoder: The encoder of the training.
        engines: The name of an engine, or several, as for `check_serving`.
        rows: The most rows that are compared.

    Attributes:
        report: What was found last; None before any rows were compared.

    Raises:
        PadfixError: A name is not known, what an engine runs is not installed, or the tokenizer has no chat template.
    """

    def __init__(self, encoder: ChatEncoder, engines: str | Sequence[str], rows: int = ROWS) -> None:
        self.engines = choose_engines(engines, "serve_with")
        self.rows = rows
        self.report: ServingReport | None = None
        self._encoder = encoder
        self._said: set[str] = set()
        if hasattr(encoder, "processor"):
            raise PadfixError(
                "serve_with compares rows of text, and those of a processor have media. Leave it out, and compare "
                "what the run saved: check_serving(output_dir, rows)"
            )
        with ExitStack() as stack:
            self._open(as_served(encoder.tokenizer), stack)

    def __repr__(self) -> str:
        return f"RowsCheck(engines={self.engines}, rows={self.rows}, report={self.report!r})"

    def look_at(self, dataset: Any, name: str = "dataset") -> Any:  # whatever holds rows
        """Compare the first rows of a dataset and log what differs; return what is to be encoded.

        That is the dataset as it was given; rows of a generator, which can be read once, stand in a list. Of several
        splits "train" is compared, or the first. A stream is not read, since some can be read only once.

        Raises:
            PadfixError: There are no rows, or they are encoded already.
        """
        dataset = part = as_sequence(dataset)
        if isinstance(dataset, Mapping):
            dataset = map_splits(dataset, lambda _, rows: as_sequence(rows))
            split = "train" if "train" in dataset else next(iter(dataset), None)
            part, name = dataset.get(split), f"split {split!r}"
        if hasattr(part, "take") and not hasattr(part, "__len__"):
            logger.warning(
                "llama_padfix: serve_with: the %s is a stream, which may be read only once, and was not compared. "
                "Compare its first rows: prepared.serving.check(list(stream.take(%d)))",
                name,
                self.rows,
            )
            return dataset
        require_rows(part, name)
        rows = RowReader(part).read(0, min(len(part), self.rows))
        try:
            self.check(rows.to_pylist() if hasattr(rows, "to_pylist") else rows, name)
        except PadfixError as error:
            logger.warning("llama_padfix: serve_with: the rows of the %s were not compared: %s", name, error)
        return dataset

    def check(self, rows: Iterable[object], name: str = "dataset") -> ServingReport:
        """Compare rows, log what differs unless that was said before, and return the report.

        Args:
            rows: Rows of any shape that the encoder reads, those of preferences and prompts among them.
            name: What the log calls them.

        Raises:
            PadfixError: These are no rows, or the chat template does not end.
        """
        given = list(take_rows(rows, self.rows))
        folder = as_served(self._encoder.tokenizer)
        trained = read_trained(folder, given, self.rows, self._encoder)
        with ExitStack() as stack:
            engines = self._open(folder, stack)
            report, compared = compare_engines(folder, trained, engines)
            proposals = tuple(propose(folder, self._encoder, given, trained, compared))
        self.report = replace(report, proposals=proposals, passed=(), source=name)
        self._say(compared, self.report)
        return self.report

    def _say(self, compared: Sequence[Comparison], report: ServingReport) -> None:
        proposed = [f"proposals[{number}]: {one}" for number, one in enumerate(report.proposals)]
        lines = "\n  ".join([*_describe(compared, report), *proposed])
        if lines and lines not in self._said:
            self._said.add(lines)
            logger.warning(
                "llama_padfix: serve_with: of the first %d rows of the %s some are served otherwise than trained:"
                "\n  %s\n  The texts and proposals are in prepared.serving.report",
                report.rows,
                report.source,
                lines,
            )

    def _open(self, folder: ServedFolder, stack: ExitStack) -> list[Engine]:
        """Return the engines without their stops, which the saved files decide; the stack closes them."""
        opened, missing = open_engines(self.engines, folder, stack)
        if missing:
            name, line = next(iter(missing.items()))
            raise PadfixError(f"serve_with={name!r} runs what is not installed. Run: {line}")
        return [replace(engine, stops=None) for engine in opened]


def _describe(compared: Sequence[Comparison], report: ServingReport) -> Iterator[str]:
    """Yield a line for each engine that feeds other ids, with its causes and their first rows."""
    for one in compared:
        if one.differing:
            rows = set().union(*one.rows.values())
            causes = [f"{cause} {_name_rows(one.rows[cause])}" for cause, _ in one.causes.most_common()]
            yield f"{one.engine.name}: {len(rows)} of {report.rows} rows: {', '.join(causes)}"


def _name_rows(rows: set[int]) -> str:
    first = sorted(rows)[:_NAMED]
    more = ", ..." if len(rows) > _NAMED else ""
    return f"in {len(rows)} (row {', '.join(map(str, first))}{more})"
