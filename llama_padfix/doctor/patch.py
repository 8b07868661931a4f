"""Plan and apply the safe changes of a tokenizer and its model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import PadfixError, describe
from llama_padfix.doctor.findings import Change, Facts, Plan
from llama_padfix.doctor.fixing.repair import repair_until_stable
from llama_padfix.doctor.fixing.settings import MODEL_FIELDS, Owners, all_or_nothing, apply_change, merge_changes
from llama_padfix.doctor.observe.tokenizer import observe_tokenizer
from llama_padfix.doctor.runner import run_checks
from llama_padfix.doctor.token_policy import choose_pad_token, explain_candidates
from llama_padfix.tokens.calls import check_tokenizer

if TYPE_CHECKING:
    from llama_padfix.core.types import ConfiguredModel, TokenizerLike


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
    return Plan(merge_changes(changes))


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
    tokenizer: TokenizerLike,
    model: ConfiguredModel | None = None,
    *,
    pad_token: str = "auto",
    add_bos: bool = False,
    template_kwargs: Mapping[str, object] | None = None,
) -> tuple[Plan, Facts]:
    """Do what `patch_tokenizer` does, and return the plan with the facts that were observed last.

    Where `template_kwargs` hold a chat template, the settings are those for it in place of the tokenizer's own.
    """
    given = (template_kwargs or {}).get("chat_template")
    chat_template = given if isinstance(given, str) else None
    requested = None if pad_token == "auto" else pad_token
    facts = observe_tokenizer(tokenizer, model, pad_token=requested, chat_template=chat_template)
    plan = _plan(facts, add_bos)
    if not plan:
        return plan, facts
    owners = Owners(tokenizer, model)
    with all_or_nothing(owners):
        for change in plan:
            apply_change(change, owners)
        facts = observe_tokenizer(tokenizer, model, pad_token=requested, earlier=facts, chat_template=chat_template)
        left = _plan(facts, add_bos)
        if left:
            raise PadfixError(
                "The tokenizer does not keep what was set: "
                + "; ".join(str(change) for change in left.changes)
                + f". Its class {type(tokenizer).__name__} overrides it; load it with "
                "transformers.PreTrainedTokenizerFast.from_pretrained(name)"
            )
    return plan, facts


@contextlib.contextmanager
def padding_side(tokenizer: TokenizerLike, side: str) -> Iterator[TokenizerLike]:
    """Set the padding side within a block, and put the old one back when the block ends or raises.

    Args:
        tokenizer: a Hugging Face tokenizer.
        side: "left" for generation, "right" for training.

    Raises:
        PadfixError: `side` is neither, or `tokenizer` is none.
    """
    if side not in ("left", "right"):
        raise PadfixError(
            f"padding_side got {describe(side)}; it is 'left' (generation) or 'right' (training). "
            "Run: with padding_side(tokenizer, 'left'): ..."
        )
    check_tokenizer(tokenizer)
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
    """Return the safe changes of the catalog, the requested pad token, and the BOS where `add_bos` is set."""
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
    return list(merge_changes(changes))


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
    if change.target not in MODEL_FIELDS or facts.model is None:
        raise PadfixError(f"No code knows how to apply a change of {change.target}.")
    return replace(facts, model=replace(facts.model, **{MODEL_FIELDS[change.target]: after}))
