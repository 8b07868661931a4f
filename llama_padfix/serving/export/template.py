"""The template to save: rewritten as far as every text of the training stays as it is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from llama_padfix.core.errors import PadfixError
from llama_padfix.serving.export.proof import Expected, Judge, expect_texts, writes_the_same
from llama_padfix.serving.export.rewrites import REWRITES, pin_arguments, pin_eos

if TYPE_CHECKING:
    from llama_padfix.serving.engines.engine import Engine
    from llama_padfix.serving.rendering.chat import Chat

_Arguments = Mapping[str, object]


@dataclass(frozen=True)
class SavedTemplate:
    """The template to save, and what its requests need."""

    source: str
    """The template."""

    changes: tuple[str, ...] = ()
    """What was changed in it, a sentence each."""

    arguments: _Arguments = field(default_factory=dict)
    """The arguments of the training that are written into it."""

    requests: tuple[tuple[_Arguments, int], ...] = ()
    """The arguments that other conversations need in each request, with the number of those."""

    thinks: bool | None = None
    """The value of `enable_thinking` with which the trained texts are written; None where there is none."""


def rewrite_template(
    chats: Sequence[Chat], more: Sequence[Chat] = (), engines: Sequence[Engine] = (), eos: str | None = None
) -> SavedTemplate:
    """Return the template to save.

    Args:
        chats: Whole conversations and conversations up to each point, as the training rendered them.
        more: Others on which it is proven, with the arguments of most of the training.
        engines: What has to render no more of them otherwise than before.

        eos: The EOS of the training, where the copy gets another one.

    Raises:
        PadfixError: there is none, or one file cannot hold the templates of all.
    """
    if not chats:
        raise PadfixError("No conversation renders, so nothing shows that the copy is right. Pass rows of chats.")
    expected = expect_texts([*chats, *more])
    original = expected[0].chat.source
    if any(one.chat.source != original for one in expected):
        raise PadfixError(
            "Rows were trained with different templates, which one file cannot hold. "
            "Export with an encoder of one template: encoder=prepared.encoder"
        )
    source, arguments, expected = _pin(original, expected)
    changes = ["the template holds the date and the arguments of the training"] if source != original else []
    if eos is not None and "eos_token" in source:
        pinned = pin_eos(source, eos)
        if writes_the_same(pinned, [replace(one, chat=_without_eos(one.chat)) for one in expected]):
            source = pinned
            changes.append(f"the template holds the EOS that it prints, {eos}")
    judge = Judge(engines, expected)
    counts = judge.count(source)
    for said, rewrite, has_to_help in REWRITES:
        rewritten = rewrite(source)
        if rewritten == source or not writes_the_same(rewritten, expected):
            continue
        now = judge.count(rewritten)
        if all(new <= old for new, old in zip(now, counts, strict=True)) and (now != counts or not has_to_help):
            source, counts = rewritten, now
            changes.append(f"the template: {said}")
    requests = _count_requests(expected[: len(chats)])
    return SavedTemplate(source, tuple(changes), arguments, requests, _find_switch(source, expected))


def _find_switch(source: str, expected: Sequence[Expected]) -> bool | None:
    """Return what a server that passes `enable_thinking` with each request has to pass."""
    for value in (False, True) if "enable_thinking" in source else ():
        asked = [replace(one, request={"enable_thinking": value, **one.request}) for one in expected]
        if writes_the_same(source, asked):
            return value
    return None


def _without_eos(chat: Chat) -> Chat:
    return replace(chat, tokens={name: text for name, text in chat.tokens.items() if name != "eos_token"})


def _pin(source: str, expected: Sequence[Expected]) -> tuple[str, _Arguments, list[Expected]]:
    """Return the template with as many arguments as conversations share, those, and what requests still pass."""
    choices = [(pin_arguments(source, arguments), arguments) for arguments in _choose_arguments(expected)]
    for pinned, arguments in [*choices, (source, {})]:
        asked = [replace(one, request=_leave_out(one.chat.kwargs, arguments)) for one in expected]
        if writes_the_same(pinned, asked):
            return pinned, arguments, asked
    raise PadfixError(
        "The date or the arguments of the training cannot be written into the template: it renders other texts then. "
        "Pass them with each request, and export with an encoder without them."
    )


def _choose_arguments(expected: Sequence[Expected]) -> Iterator[_Arguments]:
    """Yield the arguments of most conversations, then those that all share."""
    sets = {_spell(one.chat.kwargs): one.chat.kwargs for one in expected}
    yield sets[Counter(_spell(one.chat.kwargs) for one in expected).most_common(1)[0][0]]
    first = expected[0].chat.kwargs
    if len(sets) > 1:
        yield {key: value for key, value in first.items() if all(_holds(one, key, value) for one in sets.values())}


def _leave_out(kwargs: _Arguments, written: _Arguments) -> _Arguments:
    """Return the arguments that the template does not hold."""
    return {key: value for key, value in kwargs.items() if key != "chat_template" and not _holds(written, key, value)}


def _holds(kwargs: _Arguments, key: str, value: object) -> bool:
    return key in kwargs and _spell({key: kwargs[key]}) == _spell({key: value})


def _spell(kwargs: _Arguments) -> str:
    return json.dumps(kwargs, sort_keys=True, default=repr)


def _count_requests(expected: Sequence[Expected]) -> tuple[tuple[_Arguments, int], ...]:
    whole = [one.request for one in expected if one.request and not one.chat.add_generation_prompt]
    counts = Counter(map(_spell, whole))
    return tuple((next(one for one in whole if _spell(one) == key), count) for key, count in counts.most_common())
