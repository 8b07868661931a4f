"""The ids of an answer read as facts: where it ended, and which end it passed or wrote as text."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama_padfix.doctor.generation.answers import GeneratedAnswer, NearestEnd
from llama_padfix.doctor.token_policy import as_ids, stop_ids

if TYPE_CHECKING:
    from llama_padfix.core.types import TokenizerLike
    from llama_padfix.doctor.facts import Facts
    from llama_padfix.serving.generation.stop_prompts import StopPrompt

_TAIL = 24  # tokens of an answer's end that are shown


@dataclass(frozen=True)
class Ends:
    """What ends an answer."""

    stops: frozenset[int]
    """The ids at which generation stops by the saved settings."""

    ids: frozenset[int]
    """The ids that end a turn or a text: those of the policy, and control tokens that rows are trained to end with."""

    texts: tuple[str, ...]
    """How such an end is spelled."""

    by_token: bool
    """Whether a turn ends with a token; else what is trained behind an answer is not judged."""


def find_ends(facts: Facts, prompts: Sequence[StopPrompt]) -> Ends:
    """Return the ends by the facts on tokenizer and model, and by what is trained behind the prompts."""
    model, template = facts.model, facts.template
    assert model is not None  # `check_stops` has one
    held = model.generation_eos_token_id if model.has_generation_config else model.config_eos_token_id
    controls = set(facts.special_ids.values())
    trained = {prompt.last_trained for prompt in prompts if prompt.last_trained in controls}
    ids = frozenset(token_id for token_id in {*stop_ids(facts), *trained} if token_id is not None)
    names = [token for token, token_id in facts.special_ids.items() if token_id in ids]
    closing = template.closing.strip() if template is not None else ""
    by_token = template is None or template.stop_token is not None or not closing
    return Ends(frozenset(as_ids(held)), ids, tuple(filter(None, [*names, closing])), by_token)


def read_answer(
    tokenizer: TokenizerLike,
    prompt: StopPrompt,
    ids: Sequence[int],
    *,
    ends: Ends,
    nearest: NearestEnd | None,
    limit: int,
    recorded: bool,
) -> GeneratedAnswer:
    """Return the facts about one answer.

    Args:
        tokenizer: Decodes.
        prompt: What it answers.
        ids: The ids that were generated.
        ends: What ends an answer.
        nearest: Where an end was nearest.
        limit: How many tokens could have been generated.
        recorded: Whether the labels behind the prompt are those that the run trained.
    """
    last = ids[-1] if ids else None
    stopped_at = last if last in ends.stops else None
    ended = stopped_at is not None or len(ids) < limit
    passed = [(at, token_id) for at, token_id in enumerate(ids) if token_id in ends.ids - ends.stops]
    if ended:
        passed = [each for each in passed if each[1] == prompt.last_trained]
    return GeneratedAnswer(
        prompt=prompt.number,
        prompt_tokens=len(prompt.input_ids),
        new_tokens=len(ids),
        limit=limit,
        stopped_at=stopped_at,
        ended=ended,
        nearest=nearest,
        passed=passed[0] if passed else None,
        as_text=None if ended else _find_spelled(tokenizer, ids, ends.ids, ends.texts),
        end_trained=prompt.last_trained in ends.ids if recorded and ends.by_token else None,
        tail=tokenizer.decode(list(ids[-_TAIL:])),
    )


def _find_spelled(
    tokenizer: TokenizerLike, ids: Sequence[int], ends: Collection[int], texts: Sequence[str]
) -> str | None:
    """Return the first end that ordinary tokens spell; None where they spell none."""
    text = tokenizer.decode([token_id for token_id in ids if token_id not in ends])
    found = {text.find(spelled): spelled for spelled in texts if spelled in text}
    return found[min(found)] if found else None
