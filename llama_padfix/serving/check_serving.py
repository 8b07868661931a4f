"""`check_serving`: a saved folder and its rows, through every engine."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llama_padfix.core.errors import PadfixError
from llama_padfix.serving.comparison import Comparison, compare
from llama_padfix.serving.engines.catalogue import choose_engines, open_engines, open_live
from llama_padfix.serving.findings import find_faults
from llama_padfix.serving.folder import ServedFolder, read_served_folder
from llama_padfix.serving.own_chats import OWN_CHATS
from llama_padfix.serving.report import EngineSummary, ServingReport
from llama_padfix.serving.trained import read_trained

if TYPE_CHECKING:
    from llama_padfix.core.types import Rows
    from llama_padfix.encoding.encoder import ChatEncoder
    from llama_padfix.serving.engines.engine import Engine
    from llama_padfix.serving.trained import TrainedRows


def check_serving(
    folder: str | Path,
    dataset: Rows | None = None,
    *,
    engines: Sequence[str] | None = None,
    rows: int = 200,
    encoder: ChatEncoder | None = None,
    url: str | None = None,
) -> ServingReport:
    """Compare what serving engines feed a model with what it was trained on, and where they stop.

    At each generation point of each row (before each trained answer) the ids that an engine would feed are compared
    with those that were trained up to there. A server gets the messages and the tools of a row, no arguments of the
    template and no date, on the day after this one. Of a preference the point before the chosen answer is compared, of
    a prompt without an answer the one behind it. Nothing in the folder is executed, no weight is read and no
    network is used but for `url`.

    Args:
        folder: The folder that the run saved, with its tokenizer.
        dataset: The rows that were trained, of any shape that `ChatEncoder` reads; None for the library's own chats.
        engines: The names of engines; None for all of `llama-padfix serving --help`.
        rows: The most rows that are read.
        encoder: The encoder of the training, whose settings hold the date and the arguments of the template; by
            default `ChatEncoder(tokenizer)` with the tokenizer of the folder.
        url: The address of a llama-server, vLLM or SGLang that serves the folder: the ids that it really feeds, today,
            and a few answers that it generates. Without `engines` nothing else is compared then.

    Returns:
        For each engine what differs, with its cause by name, and its stops, template, BOS and sampling.

    Raises:
        PadfixError: The folder cannot be read, an engine's name is not known, or no row has a point.
    """
    names = choose_engines(engines) if engines is not None or url is None else ()
    served = read_served_folder(folder, today=url is not None)
    trained = read_trained(served, OWN_CHATS.values() if dataset is None else dataset, rows, encoder)
    if not trained.points:
        why = "; ".join(trained.left_out) or "there are no rows"
        raise PadfixError(f"No row has an answer to compare: {why}. Pass rows of conversations.")
    with ExitStack() as stack:
        opened, missing = open_engines(names, served, stack)
        opened += [] if url is None else [open_live(url, served, [point.chat for point in trained.points])]
        report, _ = compare_engines(served, trained, opened)
    by_name = {one.name: one for one in report.engines}
    names = (*names, *(engine.name for engine in opened if engine.name not in names))
    summaries = tuple(by_name.get(name) or EngineSummary(name, missing=missing[name]) for name in names)
    return replace(report, engines=summaries, source="dataset" if dataset is not None else "chats of its own")


def compare_engines(
    folder: ServedFolder, trained: TrainedRows, engines: Sequence[Engine]
) -> tuple[ServingReport, list[Comparison]]:
    """Return the report on open engines, and what was counted of those whose prompts can be compared."""
    compared = compare(folder, trained.points, engines)
    findings, passed = find_faults(folder, trained, engines, compared)
    by_name = {one.engine.name: one for one in compared}
    summaries = tuple(_summarize(folder, engine, by_name.get(engine.name)) for engine in engines)
    left_out, kinds = trained.left_out, trained.kinds
    return ServingReport(summaries, findings, passed, trained.read, len(trained.points), left_out, kinds), compared


def _summarize(folder: ServedFolder, engine: Engine, compared: Comparison | None) -> EngineSummary:
    stops = engine.stops
    return EngineSummary(
        engine.name,
        engine.version,
        points=compared.points if compared is not None else 0,
        differing=compared.differing if compared is not None else 0,
        causes=dict(compared.causes.most_common()) if compared is not None else {},
        bos=tuple(sorted(compared.bos)) if compared is not None else (),
        stops=(*folder.name_ids(stops.ids), *stops.texts) if stops is not None else (),
        stop_ids=stops.ids if stops is not None else (),
        stop_source=stops.source if stops is not None else "",
        template_source=engine.template_source,
        sampling=engine.sampling,
        notes=engine.notes,
    )
