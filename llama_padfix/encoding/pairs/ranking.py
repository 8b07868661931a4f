"""Several answers with scores (UltraFeedback): the best and the worst of them, and pairs with equal scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import PadfixError, describe
from llama_padfix.encoding.reading.json_values import as_list, seen

if TYPE_CHECKING:
    from llama_padfix.core.types import Row

_ANSWERS = ("completions", "responses", "answers")
_SCORES = ("scores", "ratings", "rewards")
_RANKS = ("ranks", "rank")  # 1 is the best
_TEXT_KEYS = ("response", "completion", "answer", "text")
_SCORE_KEYS = ("overall_score", "score", "rating", "reward")
_PAIR_SCORES = ("score_{}", "{}_score", "{}-rating", "{}_rating", "rating_{}")


@dataclass(frozen=True)
class Ranked:
    """The best and the worst answer of a row; `tie` shows their scores where these are equal."""

    best: Any  # a text, or messages
    worst: Any
    tie: str
    read: frozenset[str]


def find_ranked(columns: Row) -> str | None:
    """Return the column that holds several answers; None where there is none."""
    return next((name for name in _ANSWERS if isinstance(as_list(columns.get(name)), list)), None)


def rank_answers(columns: Row, name: str) -> Ranked:
    """Return the best and the worst answer of the column `name`, by the scores beside or inside of them.

    Raises:
        PadfixError: There are fewer than two answers, or an answer has no score.
    """
    entries = as_list(columns[name]) or []
    beside = next((column for column in (*_SCORES, *_RANKS) if column in columns), None)
    if beside is not None:
        scores, where = as_list(columns[beside]), beside
    else:
        scores, where = [_score_of(entry) for entry in entries], f"{name}[...]['overall_score']"
    numbers = [number for number in map(read_number, scores or ()) if number is not None]
    if scores is None or not len(numbers) == len(scores) == len(entries) > 1:
        shown = describe(scores if beside is None else columns[beside])
        raise PadfixError(
            f"{name} holds {len(entries)} answers, and {where} is {shown}: a pair is made of two answers "
            "or more, with one number for each. Write the scores into a column scores"
        )
    sign = -1 if beside in _RANKS else 1
    order = sorted(range(len(entries)), key=lambda place: -sign * numbers[place])  # of equal ones the first
    best, worst = order[0], order[-1]
    tie = f"{where} {scores[best]} for all" if numbers[best] == numbers[worst] else ""
    read = frozenset((name, *((beside,) if beside else ())))
    return Ranked(_answer_of(entries[best], name), _answer_of(entries[worst], name), tie, read)


def find_tie(columns: Row) -> tuple[str, tuple[str, ...]]:
    """Return the scores of a pair's answers where they are equal, else "", and the columns that hold scores.

    Raises:
        PadfixError: The rejected answer has the higher score.
    """
    tie, read = "", list[str]()
    for pattern in _PAIR_SCORES:
        names = [pattern.format(name) for name in ("chosen", "rejected")]
        scores = [columns.get(name) for name in names]
        better, worse = map(read_number, scores)
        if better is None or worse is None:
            continue
        read += names
        if better < worse:
            raise PadfixError(
                f"{names[0]} is {scores[0]} and {names[1]} {scores[1]}: the rejected answer is the better one. "
                "Exchange the two, or drop the row"
            )
        if better == worse:
            tie = f"{names[0]} and {names[1]} {scores[0]}"
    return tie, tuple(read)


def read_number(value: Any) -> float | None:  # of a user's column
    """Return a finite number, also one of numpy or one that a CSV file left as text; None for anything else."""
    held = value.item() if getattr(value, "shape", None) == () else value
    if isinstance(held, bool) or not isinstance(held, (int, float, str)):
        return None
    try:
        number = float(held)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _score_of(entry: object) -> object:
    if not isinstance(entry, Mapping):
        return None
    return next((entry[key] for key in _SCORE_KEYS if read_number(entry.get(key)) is not None), None)


def _answer_of(entry: object, name: str) -> Any:  # a text, or messages
    if isinstance(entry, Mapping) and not {"role", "from"} & set(entry):
        text = next((entry[key] for key in _TEXT_KEYS if isinstance(entry.get(key), str)), None)
        if text is None:
            raise PadfixError(
                f"an answer of {name} is {seen(entry)}, without a text. Give it one of: {', '.join(_TEXT_KEYS)}"
            )
        return text
    if not isinstance(entry, (str, Mapping)) and not as_list(entry):
        raise PadfixError(f"an answer of {name} is {seen(entry)}, neither a text nor messages; drop the row")
    return entry
