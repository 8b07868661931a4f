"""The loop of every repair: find changes, apply them, look again, until nothing is left to change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from llama_padfix.core.errors import PadfixError

if TYPE_CHECKING:
    from llama_padfix.doctor.findings import Change

_State = TypeVar("_State")
_MAX_ROUNDS = 4  # a change may make room for another (a new EOS frees a pad token); more rounds than that is a loop


def repair_until_stable(
    state: _State,
    find: Callable[[_State], Sequence[Change]],
    apply: Callable[[_State, Sequence[Change]], _State],
    advice: str,
) -> tuple[_State, tuple[Change, ...]]:
    """Apply what `find` returns until it returns nothing.

    Args:
        state: what was observed.
        find: returns the changes that a state needs.
        apply: applies them, and returns the state that follows.
        advice: what to do where the changes never end; it ends the error message.

    Returns:
        The last state, and every change that was found, in order.

    Raises:
        PadfixError: there are still changes after four rounds.
    """
    found: list[Change] = []
    for _ in range(_MAX_ROUNDS):
        changes = find(state)
        if not changes:
            return state, tuple(found)
        state = apply(state, changes)
        found += changes
    raise PadfixError(
        "The checks keep asking for changes of the same settings: "
        f"{'; '.join(str(change) for change in found[-3:])}. {advice}"
    )
