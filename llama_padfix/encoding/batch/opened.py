"""Objects that a template looks into, as parts of the shape: which keys they hold, and of what types.

A tool is a constant, since few lists of tools stand in the rows of a dataset. The arguments of a call keep their keys,
in their order, and a hole stands for each text and number at any depth; what is empty, true, false or null stays.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from itertools import count
from typing import Any, TypeAlias

from llama_padfix.chat.symbolic_slots import Hole, fill_holes, find_holes
from llama_padfix.encoding.batch.outlines import Reading, rebuild

_DEEPEST = 16  # of arguments that are opened

Skeleton: TypeAlias = Any
"""Arguments without what they say: `str`, `int` and `float` stand for a value of the type; `(list, ...)` and
`(dict, key, item, ...)` hold others."""


def open_objects(
    reading: Reading, texts: list[str], opened: frozenset[str]
) -> tuple[Reading, list[str]] | tuple[None, None]:
    """Return a reading in which the tools, the arguments or both are opened, and its texts; None if they are too deep.

    Args:
        reading: What was read of a row, by its shape.
        texts: Its texts.
        opened: "tools", "arguments", or both.
    """
    tools, arguments = _find_objects(reading)
    made: list[str] = []
    keys: list[tuple[int, Skeleton]] = [(place, texts[place]) for place in tools if "tools" in opened]
    constants = {place for place, _ in keys}
    places = arguments if "arguments" in opened else frozenset()
    if not places and not constants:
        return reading, texts
    for place, text in enumerate(texts):
        if place in places:
            skeleton = _outline(json.loads(text), made, _DEEPEST)
            if skeleton is None:
                return None, None
            keys.append((place, skeleton))
        elif place not in constants:
            made.append(text)
    return _open(reading, tuple(keys)), made


@lru_cache(maxsize=8192)
def _find_objects(reading: Reading) -> tuple[frozenset[int], frozenset[int]]:
    """Return the places of the tools, and of the arguments of calls."""
    tools, messages = (
        frozenset(hole.place for hole in find_holes(value) if hole.kind is dict)
        for value in (reading.tools, list(reading.messages or ()))
    )
    return tools, messages


def _outline(value: Any, texts: list[str], depth: int) -> Skeleton:  # of JSON
    """Return the skeleton of a value, and add what it says to the texts; None where it is too deep."""
    kind = type(value)
    if kind is str:
        if not value:
            return value
        texts.append(value)
        return kind
    if kind is int or kind is float:
        texts.append(repr(value))
        return kind
    if kind is not dict and kind is not list:
        return (kind, value)
    if not depth:
        return None
    made: list[Any] = [kind]
    for key, item in value.items() if kind is dict else enumerate(value):
        inner = _outline(item, texts, depth - 1)
        if inner is None:
            return None
        made += (key, inner) if kind is dict else (inner,)
    return tuple(made)


@lru_cache(maxsize=8192)
def _open(reading: Reading, keys: tuple[tuple[int, Skeleton], ...]) -> Reading:
    """Return a reading with some objects opened: tools by their JSON text, arguments by their skeletons."""
    skeletons, places = dict(keys), count()
    filled = {
        place: (json.loads(found) if isinstance(found, str) else rebuild(found, lambda kind: Hole(next(places), kind)))
        if (found := skeletons.get(place))
        else next(places)
        for place in range(len(reading.contents))
    }

    def fill(hole: Hole) -> object:
        found = filled[hole.place]
        return replace(hole, place=found) if hole.place not in skeletons else found

    messages, tools = fill_holes(list(reading.messages or ()), fill), fill_holes(reading.tools, fill)
    contents = tuple((place,) for place in range(next(places)))
    return Reading(tuple(messages), contents, reading.trained_from, reading.is_text, tools, by_shape=True)
