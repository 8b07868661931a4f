"""Arguments and templates with which rows would be trained as an engine feeds them, each tried on the first rows."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from llama_padfix.chat.dates import find_date, pin_date
from llama_padfix.core.errors import PadfixError
from llama_padfix.serving.comparison import compare
from llama_padfix.serving.export.template import rewrite_template
from llama_padfix.serving.rendering.render import apply_to_chat
from llama_padfix.serving.report import Proposal
from llama_padfix.serving.trained import TrainedRows, read_trained

if TYPE_CHECKING:
    from llama_padfix.encoding.encoder import ChatEncoder
    from llama_padfix.serving.comparison import Comparison
    from llama_padfix.serving.engines.engine import Engine
    from llama_padfix.serving.folder import ServedFolder
    from llama_padfix.serving.rendering.chat import Chat

TRIED = 20
"""The most rows on which a proposal is tried."""

_OF_A_DATE = ("date_string", "datetime", "chat_template")  # arguments that go the way of `date`
_BY_ARGUMENTS = ("arguments", "thinking switch")  # causes


def propose(
    folder: ServedFolder,
    encoder: ChatEncoder,
    rows: Sequence[object],
    trained: TrainedRows,
    compared: Sequence[Comparison],
) -> Iterator[Proposal]:
    """Yield for each engine what leaves fewer points that differ: arguments of `prepare`, then a template.

    Args:
        folder: The tokenizer as it will be served.
        encoder: The encoder of the training.
        rows: The rows.
        trained: Their points.
        compared: What the engines feed there.
    """
    some = rows[:TRIED]
    now = _first_rows(trained)
    for one in compared:
        if not one.differing or not now.points:
            continue
        before = _count(folder, now, one.engine)
        best = Proposal(one.engine.name, points=len(now.points), differing=before, left=before)
        read = now
        for arguments, other in _other_encoders(encoder, one, now.points[0].chat):
            try:
                again = read_trained(folder, some, len(some), other)
            except PadfixError:
                continue
            left = _count(folder, again, one.engine)
            if left < best.left and len(again.points) == len(now.points):
                best, read = replace(best, arguments=arguments, left=left), again
        if best.arguments:
            yield best
        if best.left:
            yield from _propose_template(folder, read, one.engine, best)


def _propose_template(folder: ServedFolder, read: TrainedRows, engine: Engine, best: Proposal) -> Iterator[Proposal]:
    """Yield the template of the export, which writes every trained text, if fewer points differ with it."""
    try:
        saved = rewrite_template([*read.chats, *(point.chat for point in read.points)])
    except PadfixError:  # rows with different templates
        return
    if saved.requests:  # rows with different arguments
        return
    left = _count(folder, read, replace(engine, template=saved.source))
    if left < best.left:
        yield replace(best, template=saved.source, changes=saved.changes, left=left)


def _first_rows(trained: TrainedRows) -> TrainedRows:
    return replace(
        trained, points=[point for point in trained.points if point.row < TRIED], chats=trained.chats[:TRIED]
    )


def _count(folder: ServedFolder, trained: TrainedRows, engine: Engine) -> int:
    [compared] = compare(folder, trained.points, [engine])
    return compared.differing


def _other_encoders(
    encoder: ChatEncoder, compared: Comparison, chat: Chat
) -> Iterator[tuple[Mapping[str, object], ChatEncoder]]:
    """Yield arguments of `prepare` that may help, fewest first, each with the encoder that they would make."""
    held = dict(encoder.template_kwargs)
    kwargs = {name: value for name, value in held.items() if name not in _OF_A_DATE}
    dates = {name: value for name, value in held.items() if name in _OF_A_DATE}
    served, _ = apply_to_chat(replace(chat, kwargs=held), compared.engine.quirks)
    given = {name: value for name, value in served.kwargs.items() if name not in _OF_A_DATE}
    causes = compared.causes
    by_kwargs = given if given != kwargs and any(causes[cause] for cause in _BY_ARGUMENTS) else None
    undated = None
    if causes["date"] and find_date(held) is not None and "chat_template" not in dates:
        undated = pin_date(encoder.tokenizer, kwargs)
        undated = None if undated == held else {name: undated[name] for name in undated if name in _OF_A_DATE}
    if by_kwargs is not None:
        yield {"template_kwargs": given}, _with_arguments(encoder, {**given, **dates})
    if undated is not None:
        yield {"date": None}, _with_arguments(encoder, {**kwargs, **undated})
    if by_kwargs is not None and undated is not None:
        yield {"template_kwargs": given, "date": None}, _with_arguments(encoder, {**given, **undated})


def _with_arguments(encoder: ChatEncoder, template_kwargs: Mapping[str, object]) -> ChatEncoder:
    """Return a copy of an encoder with other arguments of the template."""
    other = copy.copy(encoder)
    other.settings = replace(encoder.settings, template_kwargs=template_kwargs)
    return other
