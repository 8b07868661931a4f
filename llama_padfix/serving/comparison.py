"""An engine against the trained rows: at each point the ids that it would feed, and the causes where they differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llama_padfix.chat.trace import count_equal
from llama_padfix.serving.causes import Explainer
from llama_padfix.serving.rendering.chat import RenderRefusedError
from llama_padfix.tokens.calls import count_leading
from llama_padfix.tokens.engine import Engine as TextEngine

if TYPE_CHECKING:
    from llama_padfix.serving.engines.engine import Engine
    from llama_padfix.serving.folder import ServedFolder
    from llama_padfix.serving.trained import Point

SHOWN = 3
"""Rows that are shown of each cause and engine."""

_CONTEXT = 40  # characters around a difference
_TOGETHER = 512  # texts that are encoded in one call


@dataclass(frozen=True)
class Difference:
    """One point where an engine feeds other ids than were trained."""

    engine: str
    """The engine."""

    row: int
    """The number of the row."""

    turn: int
    """The index of the message that is generated."""

    causes: tuple[str, ...]
    """Why, by name."""

    trained: str
    """The trained text around the first difference."""

    served: str
    """What the engine feeds there, or its error."""


@dataclass
class Comparison:
    """What an engine feeds at all points."""

    engine: Engine

    points: int = 0
    """Points that were compared."""

    differing: int = 0
    """Points whose ids differ."""

    causes: Counter[str] = field(default_factory=Counter)
    """Points by cause; a point with two causes counts for both."""

    rows: dict[str, set[int]] = field(default_factory=dict)
    """The rows of each cause."""

    shown: dict[str, list[Difference]] = field(default_factory=dict)
    """A few differences of each cause, each of another row."""

    bos: set[int] = field(default_factory=set)
    """How many BOS tokens stand first in the ids."""

    def add(self, point: Point, causes: Sequence[str], served: str | RenderRefusedError) -> None:
        """Count a point whose ids differ."""
        self.differing += 1
        trained, other = _draw(point.text, served)
        difference = Difference(self.engine.name, point.row, point.turn, tuple(causes), trained, other)
        for cause in causes:
            self.causes[cause] += 1
            rows = self.rows.setdefault(cause, set())
            shown = self.shown.setdefault(cause, [])
            if point.row not in rows and len(shown) < SHOWN:
                shown.append(difference)
            rows.add(point.row)


def compare(folder: ServedFolder, points: Sequence[Point], engines: Sequence[Engine]) -> list[Comparison]:
    """Compare each engine's ids at each point with those that were trained.

    An engine that finds no template is compared as if it found the folder's. Texts are compared first: an equal text
    has equal ids where the engine encodes as the tokenizer does.
    """
    encoder = TextEngine(folder.tokenizer)
    compared = _compare(folder, points, engines, encoder)
    if encoder.failed:  # the ids of earlier texts may be wrong too
        compared = _compare(folder, points, engines, TextEngine(folder.tokenizer, "tokenizers"))
    return compared


def _compare(
    folder: ServedFolder, points: Sequence[Point], engines: Sequence[Engine], encoder: TextEngine
) -> list[Comparison]:
    comparisons = [Comparison(engine) for engine in engines if engine.compares]
    explainer = Explainer(folder)
    for start in range(0, len(points), _TOGETHER):
        some = points[start : start + _TOGETHER]
        flat, lengths = encoder.encode([point.text for point in some])
        ends = lengths.cumsum().tolist()
        for point, begin, end in zip(some, [0, *ends], ends, strict=False):
            explainer.begin(point, tuple(flat[begin:end].tolist()))
            for comparison in comparisons:
                _compare_point(comparison, explainer)
    return comparisons


def _compare_point(comparison: Comparison, explainer: Explainer) -> None:
    """Compare one engine at the explainer's point."""
    engine, point = comparison.engine, explainer.point
    comparison.points += 1
    served = _serve(engine, explainer)
    if isinstance(served, RenderRefusedError):
        comparison.add(point, explainer.explain(engine, served), served)
        return
    bos_id, goes_on = explainer.folder.tokenizer.bos_token_id, _goes_on(point, served)
    if engine.encode is None and not goes_on and explainer.has_other_ids(served):
        comparison.bos.add(count_leading(explainer.encode(engine, served[:_CONTEXT]), bos_id))
        comparison.add(point, explainer.explain(engine, served), served)
        return
    ids = explainer.encode(engine, served)
    comparison.bos.add(count_leading(ids, bos_id))
    if ids == point.ids or (goes_on and ids == tuple(point.row_ids[: len(ids)])):
        return
    causes = () if served == point.text else explainer.explain(engine, served)
    comparison.add(point, causes or (_name_ids(point, ids, explainer.text_ids, bos_id),), served)


def _serve(engine: Engine, explainer: Explainer) -> str | RenderRefusedError:
    """Return the text that an engine makes at the point, or why there is none."""
    chat = explainer.serve(engine)
    if engine.run is None:
        return explainer.render(chat, tuple(engine.quirks))
    try:
        return engine.run(chat)
    except RenderRefusedError as error:
        return error


def _goes_on(point: Point, served: str) -> bool:
    """Return True if a prompt is the trained one and a part of the answer: the row holds it all the same."""
    more = served[len(point.text) :]
    return (
        bool(more)
        and served.startswith(point.text)
        and len(more) < len(point.answer)
        and point.answer.startswith(more)
    )


def _name_ids(point: Point, ids: tuple[int, ...], text_ids: tuple[int, ...], bos_id: int | None) -> str:
    """Return why the ids of the same text differ."""
    if count_leading(ids, bos_id) != count_leading(point.ids, bos_id):
        return "BOS"
    if text_ids == point.ids:
        return "encoding"
    return "token edge" if text_ids[:-1] == point.ids[: len(text_ids) - 1] else "spelled control token"


def _draw(trained: str, served: str | RenderRefusedError) -> tuple[str, str]:
    """Return both texts around their first difference."""
    if isinstance(served, RenderRefusedError):
        return trained[-_CONTEXT:], str(served)[:200]
    place = count_equal(trained, served)
    start = max(place - _CONTEXT // 2, 0)
    return trained[start : place + _CONTEXT], served[start : place + _CONTEXT]
