"""Fixes of live objects that hold: apply, look again, take back what lets another check fail, say what is left."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from llama_padfix.doctor.facts import Facts
from llama_padfix.doctor.findings import Change, Finding, Plan, Report
from llama_padfix.doctor.fixing.copies import describe_held, follow_changes
from llama_padfix.doctor.fixing.repair import repair_until_stable
from llama_padfix.doctor.fixing.settings import Owners, apply_changes, remember_settings

if TYPE_CHECKING:
    from typing import TypeAlias

Look: TypeAlias = "Callable[[], tuple[Facts, Report]]"
"""Observes the target anew and runs every check."""


@dataclass(frozen=True)
class _Seen:
    """What a look showed after some changes."""

    facts: Facts
    report: Report
    plan: Plan = field(default_factory=Plan)


def fix_live(changes: Sequence[Change], owners: Owners, look: Look, codes: Collection[str]) -> Plan:
    """Apply changes, those of the same safety that they make room for, and those of a trainer's copies.

    Then look again. Where a check fails that did not fail before, the changes of the check that caused it are taken
    back, or all of them where no single one did.

    Args:
        changes: what a report proposes, of one safety.
        owners: the objects to change; all their settings are put back where anything raises.
        look: observes the target and runs the whole catalog.
        codes: the checks that were selected.

    Returns:
        The changes that were made and taken back, and a line for each finding that is left.

    Raises:
        PadfixError: a target is not known, or the tokenizer does not keep what was set.
    """
    before = _Seen(*look())
    put_back = remember_settings(owners)
    try:
        done = _attempt(changes, before, owners, look, codes)
        worse = _list_worse(before.report, done.report)
        taken_back: tuple[Change, ...] = ()
        for left_out in [*dict.fromkeys(change.code for change in done.plan), None] if worse else ():
            put_back()
            taken_back = tuple(change for change in done.plan if left_out in (change.code, None))
            kept = [change for change in changes if change not in taken_back and left_out is not None]
            again = _attempt(kept, before, owners, look, codes, {change.target for change in taken_back})
            if not _list_worse(before.report, again.report):
                done = again
                break
    except BaseException:
        put_back()
        raise
    why = "; ".join(map(str, worse))
    returned = tuple(replace(change, why=f"it would make another check fail: {why}") for change in taken_back)
    left = (*describe_held(before.facts, done.facts, returned), *_describe_left(done, owners, codes))
    return replace(done.plan, taken_back=returned, left=left)


def _attempt(
    changes: Sequence[Change],
    before: _Seen,
    owners: Owners,
    look: Look,
    codes: Collection[str],
    refused: Collection[str] = (),
) -> _Seen:
    """Apply changes until nothing is left to change; `refused` are targets that stay as they are."""
    safeties = {change.safety for change in changes}
    known = {finding.code for finding in before.report.findings}

    def find(seen: _Seen) -> list[Change]:
        # What the changes made necessary is applied with them, selected or not.
        found = [each for each in seen.report.findings if each.code in codes or each.code not in known]
        more = [change for each in found for change in each.changes if change.safety in safeties]
        more += follow_changes(before.facts, seen.facts)
        return [change for change in more if change.target not in refused]

    def apply(seen: _Seen, more: Sequence[Change]) -> _Seen:
        plan = apply_changes([*seen.plan, *more], owners)
        return _Seen(*look(), plan)

    if not changes:
        return before
    return repair_until_stable(apply(before, changes), find, apply, "The tokenizer does not keep them.")[0]


def _list_worse(before: Report, after: Report) -> list[Finding]:
    """Return the findings above a note of checks that passed before, or that hurt more rows now.

    What a fix makes visible is not its fault: rows that could not be drawn before, such as without a pad token.
    """
    hurt = {(each.code, each.where): each.rows for each in before.findings if each.severity != "note"}
    read = {"", *(sample.source for sample in before.samples if sample.seen)}
    passed = {*before.passed, *(each.code for each in before.findings)}
    serious = [each for each in after.findings if each.severity != "note"]
    serious = [each for each in serious if each.where in read and each.code in passed]
    return [each for each in serious if each.rows > hurt.get((each.code, each.where), -1)]


def _describe_left(done: _Seen, owners: Owners, codes: Collection[str]) -> Iterator[str]:
    """Yield a line for what no setting changes: rows that are encoded already, then each other finding."""
    if done.plan and getattr(owners.trainer, "use_vllm", False):
        yield f"vLLM was started with the settings of before. {_encode_anew(owners)}"
    found = done.report.to_dict()["findings"]
    left = [each for each in found if each["severity"] != "note" and each["code"] in codes]
    rows = [each for each in left if each["where"]]
    if rows:
        named = ", ".join(dict.fromkeys(each["code"] for each in rows))
        yield f"{named}: the rows are encoded already, and no setting changes them. {_encode_anew(owners)}"
    for each in left:
        if not each["where"]:
            yield f"{each['code']} {each['name']}: {each['fix']}"


def _encode_anew(owners: Owners) -> str:
    trainer = owners.trainer
    if trainer is not None and type(trainer).__module__.startswith("trl."):
        name = type(trainer).__name__
        reference = ", ref_model=trainer.ref_model" if getattr(trainer, "ref_model", None) is not None else ""
        call = f"model=trainer.model{reference}, args=trainer.args, train_dataset=dataset, processing_class=tokenizer"
        return f"Make the trainer anew from the rows that are not encoded: trainer = {name}({call})"
    encode = "prepare(tokenizer, model).encode(dataset)"
    return f"Encode them anew: {'trainer.train_dataset = ' if trainer is not None else ''}{encode}"
