"""One answer, generated greedily with the saved settings, while the scores of the ends are watched."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import PadfixError
from llama_padfix.core.hf_objects import base_model, text_config
from llama_padfix.core.kinds import require_model
from llama_padfix.doctor.generation.answers import NearestEnd

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# What is not greedy, or generates several tokens a step; `generate` warns of sampling's settings unless neutral.
_GREEDY: dict[str, object] = {
    "do_sample": False,
    "num_beams": 1,
    "num_return_sequences": 1,
    "num_beam_groups": 1,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 50,
    "penalty_alpha": None,
    "prompt_lookup_num_tokens": None,
    "dola_layers": None,
    "max_time": None,
}


@dataclass
class EndWatch:
    """Reads the scores of every step: where an end was nearest, and where one was first."""

    ends: Sequence[int]
    """The ids that are ends."""

    on_step: Callable[[], object]
    """Called at each step."""

    steps: int = 0
    """Steps so far."""

    nearest: NearestEnd | None = field(default=None)
    """The best of them."""

    def read(self, module: object, arguments: object, output: Any) -> None:  # as a forward hook; a model's output
        """Compare the scores of the last position, before any setting changed them."""
        import torch

        logits = output.logits if hasattr(output, "logits") else output[0]
        scores = logits[0, -1].detach().float()
        ends = [token_id for token_id in self.ends if token_id < len(scores)]
        if ends:
            best = max(ends, key=lambda token_id: float(scores[token_id]))
            rank = int((scores > scores[best]).sum())
            if self.nearest is None or rank < self.nearest.rank:
                probability = float(torch.softmax(scores, dim=-1)[best])
                self.nearest = NearestEnd(self.steps, best, rank, probability)
        self.steps += 1
        self.on_step()


def generate_greedily(
    model: PreTrainedModel, tokenizer: object, ids: Sequence[int], ends: Collection[int], limit: int, on_step: Any
) -> tuple[list[int], NearestEnd | None]:
    """Return the ids that the model generates, and where an end was nearest.

    Args:
        model: The model, in evaluation mode (`evaluating`).
        tokenizer: Its tokenizer, which saved stop strings need.
        ids: The prompt.
        ends: The ids to watch.
        limit: The most new tokens.
        on_step: Called at each of them.

    Raises:
        PadfixError: `generate` raised.
    """
    import torch

    inner = base_model(model)
    held = getattr(inner, "generation_config", None)
    settings = {name: value for name, value in _GREEDY.items() if hasattr(held, name)}
    if getattr(held, "stop_strings", None):
        settings["tokenizer"] = tokenizer
    watch = EndWatch(sorted(ends), on_step)
    hook = inner.register_forward_hook(watch.read)
    prompt = torch.tensor([list(ids)], device=inner.get_input_embeddings().weight.device)
    pad = getattr(held, "pad_token_id", None)
    try:
        with torch.no_grad():
            made = model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=limit,
                pad_token_id=0 if pad is None else pad,  # one prompt is never padded; without an id `generate` warns
                **settings,
            )
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError) as error:
        raise PadfixError(
            f"model.generate raised {type(error).__name__}: {error}. Try it: "
            f"model.generate(tokenizer('Hi', return_tensors='pt').input_ids, max_new_tokens={limit}, do_sample=False)"
        ) from error
    finally:
        hook.remove()
    return made[0, len(ids) :].tolist(), watch.nearest


def require_generating(model: object) -> None:
    """Raise `PadfixError` for what is no model, or one that does not generate."""
    require_model(model)
    if not callable(getattr(model, "generate", None)):
        raise PadfixError(
            f"A {type(model).__name__} does not generate. Pass a causal language model: "
            "check_stops(model, tokenizer, prompts)"
        )


def find_limit(model: object, prompt_tokens: int, wanted: int) -> int:
    """Return how many tokens can be generated: as many as are wanted, saved as a limit, or left of the positions."""
    inner = base_model(model)
    saved = getattr(getattr(inner, "generation_config", None), "max_new_tokens", None)
    positions = getattr(text_config(inner.config), "max_position_embeddings", None)
    left = positions - prompt_tokens if isinstance(positions, int) and positions > 0 else wanted
    return max(min(wanted, left, saved if isinstance(saved, int) else wanted), 0)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:  # a model of any class
    """Put a model into evaluation mode, and each of its modules back; keep transformers' remarks off the screen."""
    from transformers.utils import logging as settings

    training = [module for module in model.modules() if module.training]
    level = settings.get_verbosity()
    settings.set_verbosity(logging.ERROR)
    model.eval()
    try:
        yield
    finally:
        settings.set_verbosity(level)
        for module in training:
            module.training = True
