"""The parts of a rollout to its ids and mask: what the model sampled stays as it was sampled."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import PadfixError, describe
from llama_padfix.core.records import record_html, short_repr
from llama_padfix.encoding.rollouts.written import PromptWriter, read_tools
from llama_padfix.tokens.calls import check_tokenizer, preserve_backend_state

if TYPE_CHECKING:
    from typing import TypeAlias

    from llama_padfix.core.types import Messages, TokenizerLike, Tool

    Ids: TypeAlias = Iterable[Any]
    """Ints, or a numpy or torch array of them."""
    RolloutTurn: TypeAlias = tuple[Ids, Messages | Ids | None]
    """What the model sampled, and what was appended behind it: messages, ids, or nothing."""


@dataclass(frozen=True)
class Rollout:
    """The ids of a rollout as the model read and sampled them, and which of them it sampled."""

    prompt_ids: list[int]
    """What the first turn was sampled from."""
    completion_ids: list[int]
    """Everything behind the prompt: sampled turns, and what was written between them."""
    mask: list[int]
    """1 for each completion id that the model sampled, 0 for any other: `env_mask` of TRL, `response_mask` of verl."""
    turns: tuple[tuple[int, int], ...]
    """Where each sampled turn begins and ends in `ids`: the action ranges of OpenRLHF."""

    __repr__ = short_repr
    _repr_html_ = record_html

    @property
    def ids(self) -> list[int]:
        """The prompt and everything behind it: what the next turn is sampled from."""
        return [*self.prompt_ids, *self.completion_ids]

    def spread(self, values: Sequence[Sequence[float]], fill: float = 0.0) -> list[float]:
        """Return values of sampled ids, such as log probabilities, in the places of `completion_ids`.

        Args:
            values: For each turn one value for each sampled id.
            fill: What stands where nothing was sampled.

        Raises:
            PadfixError: The values are not those of the turns.
        """
        expected = [end - start for start, end in self.turns]
        try:
            lengths = [len(own) for own in values]
        except TypeError:
            raise PadfixError("The values are no list with a list for each turn. Pass [[0.1, 0.2], [0.3]]") from None
        if lengths != expected:
            raise PadfixError(f"The turns have {expected} sampled ids, and {lengths} values were given.")
        rest = (value for own in values for value in own)
        return [next(rest) if sampled else fill for sampled in self.mask]


def join_rollout(
    tokenizer: TokenizerLike,
    prompt: Messages | Ids,
    turns: Sequence[RolloutTurn],
    *,
    tools: Sequence[Tool | Callable[..., object]] | None = None,
    template_kwargs: Mapping[str, object] | None = None,
    stop_ids: Collection[int] | int | None = None,
) -> Rollout:
    """Return the ids of a rollout and the mask of what the model sampled: token in, token out.

    No sampled id is decoded or encoded. What the chat template writes between two turns is encoded once, from a
    rendering of the appended messages behind a stand-in for the turn: its end where the model sampled none, the
    messages, and the next generation prompt. During a rollout `ids` of the turns so far are what to sample from next.

    Args:
        tokenizer: The tokenizer, which is left as it is.
        prompt: The ids that the first turn was sampled from (those of a rollout so far too), or the prompt's messages.
        turns: For each turn the ids that the model sampled, its stop token included and no padding, and what was
            appended behind it: messages (of tools, users, an environment), ids, or None. An assistant's message in
            front of the others is the turn itself, for templates that write parts of it into the tool's result.
        tools: The tools that the template writes into the prompt: schemas, or functions as TRL takes them.
        template_kwargs: The arguments of the chat template.
        stop_ids: More ids at which sampling ended, such as `model.generation_config.eos_token_id`; those of the
            template and the tokenizer's EOS are known.

    Raises:
        PadfixError: It cannot be proven what the template writes between two turns, the template leaves a message
            out, or padding stands behind a turn.
    """
    check_tokenizer(tokenizer)
    writer = PromptWriter(tokenizer, dict(template_kwargs or {}), read_tools(tools))
    with preserve_backend_state(tokenizer):
        context, prompt_ids = _read_part(prompt)
        if context is not None:
            prompt_ids = writer.write_prompt(context)
        completion_ids: list[int] = []
        mask: list[int] = []
        spans = []
        ends = writer.stop_ids.union(_read_stops(stop_ids))
        for number, (sampled, appended) in enumerate(_read_turns(turns), 1):
            own = _read_ids(sampled)
            _require_unpadded(own, tokenizer.pad_token_id, ends, number)
            start = len(prompt_ids) + len(completion_ids)
            spans.append((start, start + len(own)))
            messages, more = _read_part(appended if appended is not None else ())
            if messages is not None:
                more = _write_behind(writer, context, messages, own, ends)
            completion_ids += [*own, *more]
            mask += [1] * len(own) + [0] * len(more)
    return Rollout(prompt_ids, completion_ids, mask, tuple(spans))


def _write_behind(
    writer: PromptWriter, context: Messages | None, appended: Messages, sampled: Sequence[int], ends: Collection[int]
) -> list[int]:
    """Return the ids between a sampled turn and the next; the template's stop token where none was sampled."""
    stop_id, ids = writer.write_behind(context, appended)
    last = sampled[-1] if sampled else None
    if stop_id is None:  # what opens the next message ends the turn (GLM)
        return ids[1:] if ids[:1] == [last] and last in writer.control_ids else ids
    return ids if last == stop_id or last in ends else [stop_id, *ids]


def _read_part(part: Any) -> tuple[list[Any] | None, list[int]]:  # a user's messages or ids
    """Return messages, or else ids."""
    held = part["input_ids"] if isinstance(part, Mapping) and "input_ids" in part else part
    items = [*held] if isinstance(held, Iterable) else held
    if isinstance(items, list) and items and all(isinstance(item, Mapping) for item in items):
        return items, []
    return None, _read_ids(items)


def _read_turns(turns: Any) -> list[tuple[Any, Any]]:  # a user's turns
    """Return turns as pairs.

    Raises:
        PadfixError: They are none.
    """
    held = [*turns] if isinstance(turns, Iterable) else [turns]
    if not all(isinstance(turn, list | tuple) and len(turn) == 2 for turn in held):
        raise PadfixError(
            "The turns of a rollout are pairs of what the model sampled and what was appended behind it, or None. "
            "Pass [(sampled_ids, messages), (sampled_ids, None)]"
        )
    return [(sampled, appended) for sampled, appended in held]


def _read_stops(stop_ids: Any) -> list[int]:  # a user's ids
    """Return the ids at which sampling ended.

    Raises:
        PadfixError: They are no ids: a stop that is not known would be written a second time.
    """
    held = stop_ids.tolist() if hasattr(stop_ids, "tolist") else stop_ids
    try:
        return [] if held is None else _read_ids(held if isinstance(held, Iterable) else [held])
    except PadfixError:
        raise PadfixError(
            f"stop_ids is {describe(stop_ids)}, no ids. Pass ints: tokenizer.convert_tokens_to_ids(tokens), or "
            "model.generation_config.eos_token_id"
        ) from None


def _read_ids(items: Iterable[Any]) -> list[int]:  # of whatever array
    try:
        ids = [operator.index(item) for item in items]
        if min(ids, default=0) < 0:  # a label of -100 is no token
            raise ValueError
        return ids
    except (TypeError, ValueError):
        raise PadfixError(
            "A part of a rollout is neither messages nor the ids of one row. Pass a flat list of ints from 0 on or "
            "a list of dicts; text that was appended as it is: tokenizer(text, add_special_tokens=False).input_ids"
        ) from None


def _require_unpadded(ids: Sequence[int], pad_id: int | None, ends: Collection[int], number: int) -> None:
    """Raise `PadfixError` where padding stands behind a turn: it would be trained as what the model sampled."""
    real = next((place for place in range(len(ids), 0, -1) if ids[place - 1] != pad_id), 0)
    behind_end = real > 0 and ids[real - 1] in ends
    if len(ids) - real > (0 if behind_end else 1):  # one may have been sampled: the pad token ends texts of Qwen
        keep = real if behind_end else real + (pad_id in ends)
        raise PadfixError(
            f"Turn {number} ends with {len(ids) - keep} pad tokens ({pad_id}), which the model did not sample: "
            f"generate() fills up shorter rows. Pass the ids without them: sampled[:{keep}]"
        )
