"""What a trainer that samples its own completions (GRPO, RLOO) shows before it runs: its prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llama_padfix.doctor.facts import RowFacts
from llama_padfix.tokens.calls import preserve_backend_state

if TYPE_CHECKING:
    from llama_padfix.core.types import TokenizerLike, TrainerLike

_OWN = {"rollout_func": "a rollout_func", "tools": "tools", "environment_factories": "an environment"}


def samples_completions(trainer: TrainerLike) -> bool:
    """Return True for a trainer that generates what it trains on, all of it or a part: it has a temperature."""
    return hasattr(trainer.args, "temperature")


def describe_rollouts(trainer: TrainerLike) -> str:
    """Return why the completions of such a trainer were not looked at, and how far their ids can be relied on."""
    own = [text for name, text in _OWN.items() if getattr(trainer, name, None)]
    if not type(trainer).__module__.startswith("trl."):
        own.append(f"the class {type(trainer).__name__}")
    why = "completions are sampled while the trainer runs, and no token of them was looked at"
    if not own:
        return f"{why}; the ids that are sampled are trained, none is encoded again"
    used = " and ".join(own)
    return f"{why}; {used} may train other ids than were sampled, since text that is encoded again may get others"


def find_prompts(batch: object) -> list[Any]:  # texts or lists of messages
    """Return the prompts of a batch that is not encoded, a list of rows or columns; none of any other batch."""
    if isinstance(batch, Mapping):
        prompts = batch.get("prompt")
        encoded = any(getattr(held, "ndim", 0) == 2 for held in batch.values())
        return list(prompts) if isinstance(prompts, (list, tuple)) and not encoded else []
    rows = batch if isinstance(batch, (list, tuple)) else ()
    prompts = [row.get("prompt") if isinstance(row, Mapping) else None for row in rows]
    return [] if any(prompt is None for prompt in prompts) else prompts


def rows_of_prompts(
    trainer: TrainerLike, tokenizer: TokenizerLike | None, prompts: Sequence[Any], source: str, first: int
) -> Iterator[RowFacts]:
    """Yield prompts as the trainer encodes them; each once, although it is sampled from several times.

    Args:
        trainer: what the prompts are rendered for.
        tokenizer: the trainer's; without one there are no rows.
        prompts: texts or lists of messages.
        source: what the rows are called in findings.
        first: the number of the first prompt.
    """
    import numpy as np

    if tokenizer is None:
        return
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
