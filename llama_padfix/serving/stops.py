"""Where engines end an answer, against the ids with which trained answers end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from llama_padfix.core.text import printable

if TYPE_CHECKING:
    from llama_padfix.serving.engines.engine import Engine, Stops
    from llama_padfix.serving.folder import ServedFolder
    from llama_padfix.serving.trained import TrainedRows


def find_missing(folder: ServedFolder, engines: Sequence[Engine], trained: TrainedRows) -> Iterator[tuple[str, int]]:
    """Yield what is said of each trained end at which engines do not stop, with the number of turns."""
    for end, turns in sorted(trained.ends.items()):
        [name] = folder.name_ids([end])
        without = [one.name for one in engines if one.stops is not None and not _holds(one.stops, end, name)]
        if without:
            token = printable(f"{name} ({end})")
            yield f"{turns} trained turns end with {token}, at which {', '.join(without)} would not stop.", turns


def find_inside(
    folder: ServedFolder, engines: Sequence[Engine], trained: TrainedRows
) -> Iterator[tuple[str, Sequence[int]]]:
    """Yield what is said of each id inside of trained answers at which engines stop, with the numbers of the rows."""
    for token_id, rows in sorted(trained.inside.items()):
        stopping = [one.name for one in engines if one.stops is not None and token_id in one.stops.ids]
        if stopping:
            token = printable(f"{folder.name_ids([token_id])[0]} ({token_id})")
            yield f"{len(rows)} rows hold {token} inside an answer, where {', '.join(stopping)} would stop.", rows


def _holds(stops: Stops, token_id: int, name: str) -> bool:
    return token_id in stops.ids or name in stops.texts
