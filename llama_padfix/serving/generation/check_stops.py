"""Whether the answers of a model end by themselves, found by generating them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import PadfixError
from llama_padfix.doctor.observe.tokenizer import observe_tokenizer
from llama_padfix.doctor.runner import run_checks, select_checks
from llama_padfix.encoding.record import Encoding, hash_template
from llama_padfix.serving.generation.greedy import evaluating, find_limit, generate_greedily, require_generating
from llama_padfix.serving.generation.read_answer import find_ends, read_answer
from llama_padfix.serving.generation.stop_prompts import find_record, make_prompts, require_prompts
from llama_padfix.serving.generation.stop_report import CODE, StopReport, say_stopped

if TYPE_CHECKING:
    from llama_padfix.core.types import TokenizerLike
    from llama_padfix.doctor.generation.answers import GeneratedAnswer
    from llama_padfix.serving.generation.read_answer import Ends
    from llama_padfix.serving.generation.stop_prompts import StopPrompt

QUESTIONS = ("Hello!", "What is 2 + 2?", "Name three colors.", "Say 'yes' and nothing else.")
"""What is asked where no prompts are given."""


def check_stops(
    model: Any,  # a model of any class that generates, with or without an adapter
    tokenizer: TokenizerLike,
    prompts: Iterable[object] | None = None,
    *,
    encoding: Encoding | None = None,
    max_new_tokens: int = 256,
    progress: bool = False,
) -> StopReport:
    """Generate answers greedily with the saved settings, and tell which end by themselves, and why others do not.

    One prompt is generated from at a time, where the model lies. Model and tokenizer are left as they are.

    Args:
        model: The model, whose `generation_config` counts but for sampling and beams.
        tokenizer: Its tokenizer.
        prompts: Held-back rows, encoded or not, lists of messages, or texts, each a user's question. The last answer
            of a row is what is generated anew. By default four questions.
        encoding: How the run encoded its rows, from `read_encoding(dataset)`; rows are encoded alike, which also
            tells whether an end was trained. By default what encoded prompts hold of it.
        max_new_tokens: The most tokens of an answer; fewer where the settings or the positions end before.
        progress: Show a progress bar, in tokens.

    Raises:
        PadfixError: No row gives a prompt, `max_new_tokens` is none, or the model cannot generate.
    """
    require_generating(model)
    if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int) or max_new_tokens < 1:
        raise PadfixError(f"max_new_tokens={max_new_tokens!r}: an answer has at least one token. Pass an int.")
    rows = QUESTIONS if prompts is None else require_prompts(prompts)
    if not isinstance(encoding, Encoding | None):
        raise PadfixError(
            f"Got a {type(encoding).__name__} where the record of an encoding is needed. Pass encoder.encoding, or "
            "read_encoding(dataset)"
        )
    encoding = find_record(rows) if encoding is None else encoding
    made, left_out = make_prompts(tokenizer, rows, encoding)
    limits = {prompt.number: find_limit(model, len(prompt.input_ids), max_new_tokens) for prompt in made}
    left_out |= {number: "the prompt fills all positions of the model" for number, most in limits.items() if not most}
    made = [prompt for prompt in made if limits[prompt.number]]
    if not made:
        reason = next(iter(left_out.values()), "there are none")
        raise PadfixError(f"None of the prompts can be generated from: {reason}. Pass texts, messages or rows.")
    facts = observe_tokenizer(tokenizer, model)
    ends = find_ends(facts, made)
    answers = tuple(_generate(model, tokenizer, made, limits, ends, encoding is not None, progress))
    names = {token_id: token for token, token_id in facts.vocabulary.items() if token_id in ends.stops}
    notes = [say_stopped(answers, names), *_note_record(tokenizer, encoding), *_note_left_out(left_out)]
    seen = replace(facts, generated=answers, notes=tuple(notes))
    report = replace(run_checks(seen, select_checks([CODE])), looked_at=("tokenizer", "model", "generated answers"))
    return StopReport(answers, dict(sorted(names.items())), report, left_out)


def _generate(
    model: Any,  # as above
    tokenizer: TokenizerLike,
    prompts: Sequence[StopPrompt],
    limits: Mapping[int, int],
    ends: Ends,
    recorded: bool,
    progress: bool,
) -> Iterator[GeneratedAnswer]:
    with evaluating(model), _token_bar(sum(limits[prompt.number] for prompt in prompts), progress) as advance:
        for prompt in prompts:
            limit = limits[prompt.number]
            step = advance if progress else _do_nothing
            ids, nearest = generate_greedily(model, tokenizer, prompt.input_ids, ends.ids, limit, step)
            advance(limit - len(ids))
            known = recorded or prompt.encoded
            yield read_answer(tokenizer, prompt, ids, ends=ends, nearest=nearest, limit=limit, recorded=known)


@contextmanager
def _token_bar(total: int, shown: bool) -> Iterator[Any]:  # what advances it by a number of tokens
    from tqdm.auto import tqdm

    with tqdm(total=total, desc="Generating", unit="token", disable=not shown) as bar:
        yield bar.update


def _do_nothing() -> None:
    pass


def _note_record(tokenizer: TokenizerLike, encoding: Encoding | None) -> Iterator[str]:
    if encoding is not None and encoding.template_hash != hash_template(tokenizer):
        yield (
            "The chat template is not the one that the record of the run names: prompts are written otherwise than "
            "those that were trained."
        )


def _note_left_out(left_out: Mapping[int, str]) -> Iterator[str]:
    if left_out:
        number, why = next(iter(left_out.items()))
        yield f"{len(left_out)} prompts were left out; the first is {number}: {why}"
