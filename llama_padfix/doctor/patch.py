"""Plan and apply changes: the only code that writes to a tokenizer, a config or a generation config."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import PadfixError
from llama_padfix.core.hf_objects import text_config
from llama_padfix.doctor.findings import Change, Facts, Plan
from llama_padfix.doctor.observe.snapshot import remember_state
from llama_padfix.doctor.observe.tokenizer import observe_tokenizer
from llama_padfix.doctor.repair import repair_until_stable
from llama_padfix.doctor.runner import run_checks
from llama_padfix.doctor.token_policy import choose_pad_token, explain_candidates

if TYPE_CHECKING:
    from tokenizers.processors import PostProcessor

    from llama_padfix.core.types import ConfiguredModel, JsonObject, TokenizerLike
    from llama_padfix.doctor.findings import Check

_MODEL_FIELDS = {
    "model.config.pad_token_id": "config_pad_token_id",
    "model.config.eos_token_id": "config_eos_token_id",
    "model.generation_config.pad_token_id": "generation_pad_token_id",
    "model.generation_config.eos_token_id": "generation_eos_token_id",
}


def plan_patch(
    tokenizer: TokenizerLike, model: ConfiguredModel | None = None, *, pad_token: str = "auto", add_bos: bool = False
) -> Plan:
    """Return every change that `patch_tokenizer` would make, without making any.

    Args:
        tokenizer: a Hugging Face tokenizer.
        model: its model, whose config and generation config are planned for as well.
        pad_token: a token of the vocabulary to pad with, or "auto" for the one that the policy chooses.
        add_bos: let encoding add a BOS to plain text, where the family has one and no chat template writes it.

    Raises:
        PadfixError: the vocabulary lacks `pad_token`, or holds no token that is free to pad with.
    """
    return _plan(observe_tokenizer(tokenizer, model, pad_token=None if pad_token == "auto" else pad_token), add_bos)


def _plan(facts: Facts, add_bos: bool) -> Plan:
    _require_pad_token(facts)
    _, changes = repair_until_stable(
        facts,
        lambda facts: _changes_for(facts, add_bos),
        lambda facts, changes: reduce(_foresee, changes, facts),
        "Please report it with the tokenizer's name; meanwhile pass pad_token= by hand.",
    )
    return Plan(_merge(changes))


def patch_tokenizer(
    tokenizer: TokenizerLike, model: ConfiguredModel | None = None, *, pad_token: str = "auto", add_bos: bool = False
) -> Plan:
    """Set the special tokens of a tokenizer and its model in place, and verify them by observing both again.

    Args:
        tokenizer: a Hugging Face tokenizer.
        model: its model; its config and generation config are set, and no weight is changed.
        pad_token: a token of the vocabulary to pad with, or "auto" for the one that the policy chooses.
        add_bos: let encoding add a BOS to plain text, where the family has one and no chat template writes it.

    Returns:
        The changes that were made; a second call returns an empty plan.

    Raises:
        PadfixError: the vocabulary lacks `pad_token`, holds no token that is free to pad with, or the tokenizer does
            not keep a setting. Whatever is raised, every setting is put back first.
    """
    return patch_and_observe(tokenizer, model, pad_token=pad_token, add_bos=add_bos)[0]


def patch_and_observe(
    tokenizer: TokenizerLike, model: ConfiguredModel | None = None, *, pad_token: str = "auto", add_bos: bool = False
) -> tuple[Plan, Facts]:
    """Do what `patch_tokenizer` does, and return the plan with the facts that were observed last."""
    requested = None if pad_token == "auto" else pad_token
    facts = observe_tokenizer(tokenizer, model, pad_token=requested)
    plan = _plan(facts, add_bos)
    if not plan:
        return plan, facts
    with _all_or_nothing(tokenizer, model):
        for change in plan:
            _apply(change, tokenizer, model)
        facts = observe_tokenizer(tokenizer, model, pad_token=requested, earlier=facts)
        left = _plan(facts, add_bos)
        if left:
            raise PadfixError(
                "The tokenizer does not keep what was set: "
                + "; ".join(str(change) for change in left.changes)
                + f". Its class {type(tokenizer).__name__} overrides it; load it with "
                "transformers.PreTrainedTokenizerFast.from_pretrained(name)"
            )
    return plan, facts


def apply_changes(changes: Sequence[Change], tokenizer: TokenizerLike, model: ConfiguredModel | None = None) -> Plan:
    """Apply changes that a report proposes and return them as a plan; all of them, or none when one raises."""
    plan = Plan(_merge(changes))
    with _all_or_nothing(tokenizer, model):
        for change in plan:
            _apply(change, tokenizer, model)
    return plan


def apply_until_stable(
    changes: Sequence[Change], tokenizer: TokenizerLike, model: ConfiguredModel | None, catalogue: Sequence[Check]
) -> Plan:
    """Apply changes, and those of the same safety that these make room for: a new EOS may free a pad token."""
    safeties = {change.safety for change in changes}

    def find(plan: Plan) -> list[Change]:
        report = run_checks(observe_tokenizer(tokenizer, model, with_markers=True), catalogue)
        return [change for each in report.findings for change in each.changes if change.safety in safeties]

    def apply(plan: Plan, more: Sequence[Change]) -> Plan:
        return apply_changes([*plan, *more], tokenizer, model)

    plan = apply_changes(changes, tokenizer, model)
    return repair_until_stable(plan, find, apply, "The tokenizer does not keep them.")[0]


@contextlib.contextmanager
def padding_side(tokenizer: TokenizerLike, side: str) -> Iterator[TokenizerLike]:
    """Set the padding side within a block, and put the old one back when the block ends or raises.

    Args:
        tokenizer: a Hugging Face tokenizer.
        side: "left" for generation, "right" for training.

    Raises:
        PadfixError: `side` is neither.
    """
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
    token = facts.requested_pad_token
    if token is not None:
        found = facts.vocabulary.get(token)
        seen = f"is not among the {facts.vocab_size} tokens" if found is None else f"({found}) is beyond the embedding"
        raise PadfixError(f"pad_token={token!r} {seen}. Let the policy choose one that is there: pad_token='auto'")
    looked_at = "; ".join(explain_candidates(facts)) or "the vocabulary holds none of the names that a pad token has"
    raise PadfixError(
        f"No token of the vocabulary is free to pad with ({looked_at}). PadCollator masks by position, so the EOS "
        f"will do there: pad_token={facts.eos_token!r}. Other collators need a token of its own: "
        "tokenizer.add_special_tokens({'pad_token': '<pad>'}); model.resize_token_embeddings(len(tokenizer))"
    )


def _changes_for(facts: Facts, add_bos: bool) -> list[Change]:
    """Return the safe changes of the catalogue, the requested pad token, and the BOS where `add_bos` is set."""
    findings = run_checks(facts).findings
    for finding in findings:
        if finding.code == "LOD007":  # text is lost, and no setting corrects the ids
            raise PadfixError(finding.message)
    changes = [
        change
        for finding in findings
        for change in finding.changes
        if change.safety == "safe" or (add_bos and change.target == "tokenizer.adds_bos")
    ]
    choice = choose_pad_token(facts)
    if facts.requested_pad_token is not None and choice is not None and choice.token != facts.pad_token:
        changes = [change for change in changes if change.target != "tokenizer.pad_token"]
        changes.append(Change("tokenizer.pad_token", facts.pad_token, choice.token, choice.why))
    return list(_merge(changes))


def _merge(changes: Iterable[Change]) -> tuple[Change, ...]:
    """Keep one change for each target, from its first `before` to its last `after`, in the order of the first."""
    merged: dict[str, Change] = {}
    for change in changes:
        first = merged.get(change.target)
        merged[change.target] = change if first is None else replace(change, before=first.before)
    return tuple(change for change in merged.values() if change.before != change.after)


def _foresee(facts: Facts, change: Change) -> Facts:
    """Return the facts as they will be once the change is applied."""
    after: Any = change.after  # of the type that its target holds
    if change.target in ("tokenizer.pad_token", "tokenizer.eos_token"):
        name = change.target.removeprefix("tokenizer.")
        return replace(facts, **{name: after, f"{name}_id": facts.vocabulary.get(after)})
    if change.target in ("tokenizer.padding_side", "tokenizer.split_special_tokens"):
        return replace(facts, **{change.target.removeprefix("tokenizer."): after})
    if change.target == "tokenizer.adds_bos":
        return replace(facts, bos_added=int(after))
    if change.target not in _MODEL_FIELDS or facts.model is None:
        raise PadfixError(f"No code knows how to apply a change of {change.target}.")
    return replace(facts, model=replace(facts.model, **{_MODEL_FIELDS[change.target]: after}))


@contextlib.contextmanager
def _all_or_nothing(tokenizer: TokenizerLike, model: ConfiguredModel | None) -> Iterator[None]:
    """Put back every setting that a patch may write if the block raises."""
    configs = [] if model is None else [text_config(model.config), getattr(model, "generation_config", None)]
    owners = [owner for owner in (tokenizer, *configs) if owner is not None]
    restore = remember_state(shallow=owners)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    processor = backend.post_processor if backend is not None else None
    try:
        yield
    except BaseException:
        restore()
        if backend is not None:
            backend.post_processor = processor
        raise


def _apply(change: Change, tokenizer: TokenizerLike, model: ConfiguredModel | None) -> None:
    """Apply one change of a whitelisted target."""
    owner, _, name = change.target.rpartition(".")
    after = list(change.after) if isinstance(change.after, tuple) else change.after
    if change.target == "tokenizer.adds_bos":
        _set_automatic_bos(tokenizer, bool(after))
    elif owner == "tokenizer" and name in ("pad_token", "eos_token", "padding_side", "split_special_tokens"):
        setattr(tokenizer, name, after)
        if name in ("padding_side", "split_special_tokens"):
            tokenizer.init_kwargs[name] = after  # transformers 4.x saves it from there alone
    elif change.target in _MODEL_FIELDS and model is not None:
        setattr(text_config(model.config) if owner == "model.config" else model.generation_config, name, after)
    else:
        raise PadfixError(f"No code knows how to apply a change of {change.target}.")


def _set_automatic_bos(tokenizer: TokenizerLike, add: bool) -> None:
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
    backend.post_processor = _edit_bos(backend.post_processor, tokenizer.bos_token, tokenizer.bos_token_id, add)
    if hasattr(tokenizer, "_add_bos_token"):
        object.__setattr__(tokenizer, "_add_bos_token", add)
    if "add_bos_token" in tokenizer.init_kwargs:
        tokenizer.init_kwargs["add_bos_token"] = add


def _edit_bos(processor: PostProcessor | None, bos: str | None, bos_id: int | None, add: bool) -> PostProcessor | None:
    """Return a copy of the post-processor that writes a BOS before each sequence, or none; the rest of it is kept."""
    from tokenizers import processors

    # The pickled state of a post-processor is its JSON, the same as in tokenizer.json.
    state = json.loads(processor.__getstate__()) if processor is not None else None
    templates = _find_templates(state)
    if add and not templates:
        plain = processors.TemplateProcessing(single="$A", pair="$A $B:1", special_tokens=[])
        return _edit_bos(processors.Sequence([processor, plain]) if processor else plain, bos, bos_id, add)
    for template in templates:
        tokens = template["special_tokens"]
        written = {name for name, token in tokens.items() if token["ids"] == [bos_id]}
        for kind in ("single", "pair"):
            pieces = [piece for piece in template[kind] if piece.get("SpecialToken", {}).get("id") not in written]
            template[kind] = _put_before_sequences(pieces, bos) if add and template is templates[-1] else pieces
        if add:
            tokens[bos] = {"id": bos, "ids": [bos_id], "tokens": [bos]}
    if processor is None or not templates:
        return processor
    edited = copy.deepcopy(processor)
    edited.__setstate__(json.dumps(state).encode())
    return edited


def _find_templates(state: JsonObject | None) -> list[JsonObject]:
    if state is None or state["type"] == "Sequence":
        return [template for part in (state or {}).get("processors", ()) for template in _find_templates(part)]
    return [state] if state["type"] == "TemplateProcessing" else []


def _put_before_sequences(pieces: list[JsonObject], bos: str | None) -> list[JsonObject]:
    def bos_of(piece: JsonObject) -> list[JsonObject]:
        return [{"SpecialToken": {"id": bos, "type_id": piece["Sequence"]["type_id"]}}] if "Sequence" in piece else []

    return [part for piece in pieces for part in (*bos_of(piece), piece)]
