"""Plans and applies changes: the only code that writes to a tokenizer, a config or a generation config."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from llama_padfix.doctor import examine
from llama_padfix.observe import observe
from llama_padfix.policy import choose_pad_token
from llama_padfix.records import Change, Facts, ModelFacts, PadfixError, Plan, Safety

__all__ = ["padding_side", "patch_tokenizer", "plan_patch"]

_MAX_ROUNDS = 4  # a change may make room for another (a new EOS frees a pad token); more rounds than that is a loop


def plan_patch(tokenizer: Any, model: Any = None, *, pad_token: str = "auto", add_bos: bool = False) -> Plan:
    """Return every change that `patch_tokenizer` would make, and touch nothing.

    `pad_token` overrides the policy with a token of the vocabulary; `add_bos` lets encoding add a BOS to plain
    text where the family has one and no chat template writes it. Raises `PadfixError` for a pad token that the
    vocabulary lacks, and where the vocabulary offers none.
    """
    requested = None if pad_token == "auto" else pad_token
    facts = observe(tokenizer, model, pad_token=requested)
    _require_pad_token(facts)
    changes: list[Change] = []
    for _ in range(_MAX_ROUNDS):
        round_changes = _changes_for(facts, add_bos)
        if not round_changes:
            return Plan(_merge(changes))
        for change in round_changes:
            facts = _foresee(facts, change)
        changes += round_changes
    raise PadfixError(
        "The checks keep asking for changes of the same settings: "
        + "; ".join(str(change) for change in changes[-3:])
        + ". Please report it with the tokenizer's name; meanwhile pass pad_token= by hand."
    )


def patch_tokenizer(tokenizer: Any, model: Any = None, *, pad_token: str = "auto", add_bos: bool = False) -> Plan:
    """Apply `plan_patch` in place, verify it by observing again, and return what was changed.

    Idempotent: a second call returns an empty plan. When anything raises on the way, every setting is put back
    before the error leaves.
    """
    plan = plan_patch(tokenizer, model, pad_token=pad_token, add_bos=add_bos)
    undo: list[Callable[[], None]] = []
    try:
        for change in plan.changes:
            undo.append(_apply(change, tokenizer, model))
        left = plan_patch(tokenizer, model, pad_token=pad_token, add_bos=add_bos) if plan else Plan()
        if left:
            raise PadfixError(
                "The tokenizer does not keep what was set: "
                + "; ".join(str(change) for change in left.changes)
                + f". Its class {type(tokenizer).__name__} overrides it; load it with "
                "transformers.PreTrainedTokenizerFast.from_pretrained(name)"
            )
    except BaseException:
        for step in reversed(undo):
            step()
        raise
    return plan


@contextlib.contextmanager
def padding_side(tokenizer: Any, side: str) -> Iterator[Any]:
    """Pad on `side` ("left" for generation) within the block, and put the old side back, whatever happens."""
    if side not in ("left", "right"):
        raise PadfixError(f"padding_side got {side!r}; it is 'left' (generation) or 'right' (training).")
    before = tokenizer.padding_side
    tokenizer.padding_side = side
    try:
        yield tokenizer
    finally:
        tokenizer.padding_side = before


def _require_pad_token(facts: Facts) -> None:
    if choose_pad_token(facts) is not None:
        return
    asked = facts.requested_pad_token
    if asked is not None:
        found = facts.vocabulary.get(asked)
        seen = f"is not among the {facts.vocab_size} tokens" if found is None else f"({found}) is beyond the embedding"
        raise PadfixError(f"pad_token={asked!r} {seen}. Let the policy choose one that is there: pad_token='auto'")
    raise PadfixError(
        "No token of the vocabulary is free to pad with. Add one and resize: "
        "tokenizer.add_special_tokens({'pad_token': '<pad>'}); model.resize_token_embeddings(len(tokenizer))"
    )


def _changes_for(facts: Facts, add_bos: bool) -> list[Change]:
    """Return the safe changes that the catalogue asks for, and the two that the caller may ask for."""
    wanted: set[Safety] = {"safe"}
    changes = [
        change
        for finding in examine(facts).findings
        for change in finding.changes
        if change.safety in wanted or (add_bos and change.target == "tokenizer.adds_bos")
    ]
    choice = choose_pad_token(facts)
    if facts.requested_pad_token is not None and choice is not None and choice.token != facts.pad_token:
        changes = [change for change in changes if change.target != "tokenizer.pad_token"]
        changes.append(Change("tokenizer.pad_token", facts.pad_token, choice.token, choice.why))
    return list(_merge(changes))


def _merge(changes: list[Change]) -> tuple[Change, ...]:
    """Keep one change a target, from its first `before` to its last `after`, in the order of first mention."""
    merged: dict[str, Change] = {}
    for change in changes:
        first = merged.get(change.target)
        merged[change.target] = change if first is None else replace(change, before=first.before)
    return tuple(change for change in merged.values() if change.before != change.after)


def _foresee(facts: Facts, change: Change) -> Facts:
    """Return the facts as they will be once the change is applied."""
    after: Any = change.after
    if change.target == "tokenizer.pad_token":
        return replace(facts, pad_token=after, pad_token_id=facts.vocabulary.get(after))
    if change.target == "tokenizer.eos_token":
        return replace(facts, eos_token=after, eos_token_id=facts.vocabulary.get(after))
    if change.target == "tokenizer.padding_side":
        return replace(facts, padding_side=after)
    if change.target == "tokenizer.adds_bos":
        return replace(facts, bos_added=int(after))
    field = _MODEL_FIELDS.get(change.target)
    if field is None:
        raise PadfixError(f"No code knows how to apply a change of {change.target}.")
    return replace(facts, model=replace(facts.model or ModelFacts(), **{field: after}))


_MODEL_FIELDS = {
    "model.config.pad_token_id": "config_pad_token_id",
    "model.config.eos_token_id": "config_eos_token_id",
    "model.generation_config.pad_token_id": "generation_pad_token_id",
    "model.generation_config.eos_token_id": "generation_eos_token_id",
}


def _apply(change: Change, tokenizer: Any, model: Any) -> Callable[[], None]:
    """Apply one change of a whitelisted target; return what undoes it."""
    if change.target == "tokenizer.adds_bos":
        return _set_automatic_bos(tokenizer, bool(change.after))
    owner, _, name = change.target.rpartition(".")
    if owner == "tokenizer" and name in ("pad_token", "eos_token", "padding_side"):
        target = tokenizer
    elif change.target in _MODEL_FIELDS and owner == "model.config":
        target = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    elif change.target in _MODEL_FIELDS:
        target = model.generation_config
    else:
        raise PadfixError(f"No code knows how to apply a change of {change.target}.")
    before = getattr(target, name)
    after = list(change.after) if isinstance(change.after, tuple) else change.after
    setattr(target, name, after)
    return lambda: setattr(target, name, before)


def _set_automatic_bos(tokenizer: Any, add: bool) -> Callable[[], None]:
    """Edit the post-processor, which decides in every version whether encoding adds a BOS and is saved with it.

    `add_bos_token` reads False in transformers 5.x although BOS is added, and setting it does nothing in 4.x;
    where it is stored, it is set as well, since some classes rebuild the post-processor from it when loaded.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise PadfixError(
            f"{type(tokenizer).__name__} has no fast backend, so its automatic BOS cannot be edited. "
            "Load the fast tokenizer: AutoTokenizer.from_pretrained(name, use_fast=True)"
        )
    before = backend.post_processor
    before_flags = {name: getattr(tokenizer, name) for name in ("_add_bos_token",) if hasattr(tokenizer, name)}
    before_init = dict(tokenizer.init_kwargs)
    bos, bos_id = tokenizer.bos_token, tokenizer.bos_token_id
    edited = _add_bos_piece(before, bos, bos_id) if add else _remove_bos_pieces(before, bos)

    backend.post_processor = edited
    for name in before_flags:
        object.__setattr__(tokenizer, name, add)
    if "add_bos_token" in tokenizer.init_kwargs:
        tokenizer.init_kwargs["add_bos_token"] = add

    def undo() -> None:
        backend.post_processor = before
        for name, value in before_flags.items():
            object.__setattr__(tokenizer, name, value)
        tokenizer.init_kwargs.clear()
        tokenizer.init_kwargs.update(before_init)

    return undo


def _remove_bos_pieces(processor: Any, bos: str) -> Any:
    """Return a copy of the post-processor whose templates write no BOS; everything else in it is kept."""
    state = json.loads(processor.__getstate__())
    parts = state["processors"] if state["type"] == "Sequence" else [state]
    for part in parts:
        if part["type"] != "TemplateProcessing":
            continue
        for kind in ("single", "pair"):
            part[kind] = [piece for piece in part[kind] if piece.get("SpecialToken", {}).get("id") != bos]
    return _rebuild(processor, state)


def _add_bos_piece(processor: Any, bos: str, bos_id: int) -> Any:
    """Return the post-processor with a BOS before the sequence (both of a pair)."""
    from tokenizers import processors

    add = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, bos_id)]
    )
    return add if processor is None else processors.Sequence([processor, add])


def _rebuild(processor: Any, state: dict[str, Any]) -> Any:
    # The pickled state of a post-processor is its JSON, the same as in tokenizer.json.
    rebuilt = copy.deepcopy(processor)
    rebuilt.__setstate__(json.dumps(state).encode())
    return rebuilt
