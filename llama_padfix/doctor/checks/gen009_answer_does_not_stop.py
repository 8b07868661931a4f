"""GEN009: generated answers do not end.

Greedy generation on held-back prompts, with the saved settings: `check_stops(model, tokenizer, prompts)`, or
`llama-padfix doctor FOLDER --generate`. An answer that does not end within the limit has one of five reasons. The
model generates an end, and generation does not stop there (the stop list is short). It writes the end as text. The end
has the highest score, and a saved setting such as `min_new_tokens` or `repetition_penalty` lets another token through.
No end was trained. Or the end was never first: the answer is long, or the run too short. `rank` counts the tokens with
a higher score.
"""

from collections.abc import Sequence
from dataclasses import replace

from llama_padfix.doctor.facts import Facts
from llama_padfix.doctor.findings import MAX_EVIDENCE, Change, Check, Evidence, Finding, Findings, Safety, Severity
from llama_padfix.doctor.generation.answers import MISSES, GeneratedAnswer, Miss
from llama_padfix.doctor.token_policy import as_ids, stop_ids

_HELD_BACK = "look at min_new_tokens, min_length, repetition_penalty, suppress_tokens in generation_config.json"
_WHY: dict[Miss, tuple[Severity, str]] = {
    "not a stop": ("error", "run on behind an end that the model generated: generation does not stop at {names}"),
    "as text": (
        "error",
        "write their end as text, which no stop id matches: it was no token of the vocabulary in training",
    ),
    "held back": ("error", f"had an end first, and a setting of generation let another token through: {_HELD_BACK}"),
    "not trained": ("error", "do not end, and the rows train no end"),
    "never first": ("warning", "do not end within the limit, and an end was never first{trained}"),
}
_TRAINED = {
    True: "; the run trains one, so train longer, or raise max_new_tokens",
    False: "",
    None: "; whether the run trains one is not known: pass encoding=read_encoding(dataset)",
}


def _find(facts: Facts) -> Findings:
    answers = facts.generated or ()
    for miss in MISSES:
        missed = [answer for answer in answers if answer.miss == miss]
        if missed:
            yield _describe(facts, miss, missed, len(answers))


def _describe(facts: Facts, miss: Miss, missed: Sequence[GeneratedAnswer], seen: int) -> Finding:
    severity, why = _WHY[miss]
    names = {token_id: token for token, token_id in facts.vocabulary.items()} if miss == "not a stop" else {}
    ids = sorted({answer.passed[1] for answer in missed if answer.passed is not None})
    known = {answer.end_trained for answer in missed}
    said = why.format(
        names=", ".join(f"{names.get(i, '?')} ({i})" for i in ids),
        trained=_TRAINED[known.pop() if len(known) == 1 else None],
    )
    found = CHECK.found(f"{len(missed)} of {seen} answers {said}.", _add_stops(facts, ids), severity)
    evidence = tuple(_show(answer) for answer in missed[:MAX_EVIDENCE])
    return replace(found, where="generated", rows=len(missed), seen=seen, count=len(missed), evidence=evidence)


def _add_stops(facts: Facts, ids: Sequence[int]) -> tuple[Change, ...]:
    """Return the change that lets generation stop where the model ended: safe where the policy on stops agrees."""
    model = facts.model
    if not ids or model is None:
        return ()
    held = model.generation_eos_token_id if model.has_generation_config else model.config_eos_token_id
    why = f"the model generates {', '.join(map(str, ids))} to end"
    after = tuple(dict.fromkeys((*as_ids(held), *ids)))
    owner = "generation_config" if model.has_generation_config else "config"
    safety: Safety = "safe" if set(ids) <= set(stop_ids(facts)) else "manual"
    return (Change(f"model.{owner}.eos_token_id", held, after, why, safety),)


def _show(answer: GeneratedAnswer) -> Evidence:
    near = answer.nearest
    place = answer.passed[0] if answer.passed is not None else near.at if near is not None else answer.new_tokens
    remark = f"{answer.new_tokens} tokens"
    if answer.passed is not None:
        remark += f"; {answer.passed[1]} generated at token {place}"
    elif near is not None:
        rank = "first" if near.rank == 0 else f"rank {near.rank}"
        remark += f"; {near.token_id} {rank} at token {near.at}, probability {near.probability:.2g}"
    return Evidence(answer.prompt, place, place + 1, answer.tail, remark)


CHECK = Check(
    code="GEN009",
    name="answer-does-not-stop",
    severity="error",
    needs=("generated answers",),
    traps=(3,),
    doc=__doc__,
    bad="model.generation_config.eos_token_id  # 128001; the model ends its answers with 128009",
    good="model.generation_config.eos_token_id = [128001, 128008, 128009]",
    find=_find,
)
