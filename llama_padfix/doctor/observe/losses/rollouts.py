"""What a trainer that samples its own completions (GRPO, RLOO) shows before it runs: its prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llama_padfix.doctor.facts import RowFacts
from llama_padfix.tokens.calls import preserve_backend_state

if TYPE_CHECKING:
    from typing import TypeGuard

    from llama_padfix.core.types import Row, TokenizerLike, TrainerLike

_OWN = {"rollout_func": "a rollout_func", "tools": "tools", "environment_factories": "an environment"}


def samples_completions(trainer: TrainerLike) -> bool:
    """Return True for a trainer that generates what it trains on, several completions of each prompt."""
    return hasattr(trainer.args, "num_generations")


def describe_rollouts(trainer: TrainerLike) -> str:
    """Return why the completions of such a trainer were not looked at, and how far their ids can be relied on."""
    own = [text for name, text in _OWN.items() if getattr(trainer, name, None)]
    why = "completions are sampled while the trainer runs, so no token that is trained was looked at"
    if not own:
        return f"{why}; the ids that are sampled are trained, none is encoded again"
    used = " and ".join(own)
    return f"{why}; {used} may return other ids than were sampled, since text that is encoded again gets others"


def holds_prompts(batch: object) -> TypeGuard[Sequence[Row]]:
    """Return True for a batch that was not collated: a list of rows with a `prompt`."""
    return (
        isinstance(batch, (list, tuple))
        and bool(batch)
        and all(isinstance(row, Mapping) and row.get("prompt") is not None for row in batch)
    )


def rows_of_prompts(
    trainer: TrainerLike, tokenizer: TokenizerLike | None, batch: Sequence[Row], source: str, first: int
) -> Iterator[RowFacts]:
    """Yield the prompts of a batch as the trainer encodes them; each once, although it is sampled from several times.

    Args:
        trainer: what the prompts are rendered for.
        tokenizer: the trainer's; without one there are no rows.
        batch: rows with a `prompt`, a text or messages.
        source: what the rows are called in findings.
        first: the number of the first prompt.
    """
    import numpy as np

    if tokenizer is None:
        return
    prompts = [row["prompt"] for row in batch]
    distinct = [prompt for place, prompt in enumerate(prompts) if place == 0 or prompt != prompts[place - 1]]
    with preserve_backend_state(tokenizer):
        encoded = [_encode(trainer, tokenizer, prompt) for prompt in distinct]
    for number, ids in enumerate(encoded, first):
        yield RowFacts(f"{source}, prompt", number, np.asarray(ids, dtype=np.int64))


def _encode(trainer: TrainerLike, tokenizer: TokenizerLike, prompt: Any) -> Sequence[int]:  # a text or messages
    if isinstance(prompt, str):
        ids: Sequence[int] = tokenizer(prompt)["input_ids"]
        return ids
    options = {
        "tools": getattr(trainer, "tools", None) or None,
        "chat_template": getattr(trainer, "chat_template", None),
    }
    options |= getattr(trainer, "chat_template_kwargs", None) or {}
    rendered: Mapping[str, Sequence[int]] = tokenizer.apply_chat_template(
        prompt, add_generation_prompt=True, tokenize=True, return_dict=True, **options
    )
    return rendered["input_ids"]
