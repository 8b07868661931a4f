"""The only code that writes to a tokenizer, a config, a generation config, or a trainer's copies of their settings."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from llama_padfix.core.errors import PadfixError
from llama_padfix.core.hf_objects import text_config
from llama_padfix.doctor.findings import Change, Plan
from llama_padfix.doctor.observe.copies import COPIES, set_copy
from llama_padfix.doctor.observe.loader import find_owners, is_loader
from llama_padfix.doctor.observe.snapshot import remember_state
from llama_padfix.doctor.observe.targets.held_ids import find_held_ids
from llama_padfix.doctor.observe.targets.tokenizer_search import search_tokenizers

if TYPE_CHECKING:
    from tokenizers.processors import PostProcessor

    from llama_padfix.core.types import ConfiguredModel, JsonObject, TokenizerLike, TrainerLike

MODEL_FIELDS = {
    "model.config.pad_token_id": "config_pad_token_id",
    "model.config.eos_token_id": "config_eos_token_id",
    "model.generation_config.pad_token_id": "generation_pad_token_id",
    "model.generation_config.eos_token_id": "generation_eos_token_id",
}
"""What may be set of a model, with the names of the facts."""

TOKENIZER_FIELDS = tuple(
    f"tokenizer.{name}" for name in ("pad_token", "eos_token", "padding_side", "split_special_tokens", "adds_bos")
)
"""What may be set of a tokenizer."""


@dataclass(frozen=True)
class Owners:
    """The live objects that changes apply to."""

    tokenizer: TokenizerLike
    """The tokenizer that was observed."""

    model: ConfiguredModel | None = None
    """Its model."""

    trainer: TrainerLike | None = None
    """The trainer that keeps copies of their settings."""

    collators: Mapping[str, object] = field(default_factory=dict)
    """By name, what may keep a pad id of its own: the trainer's collator, or dataloaders."""

    @cached_property
    def tokenizers(self) -> tuple[TokenizerLike, ...]:
        """The tokenizer, and those of the same vocabulary that the trainer and its collator hold beside it."""
        names = ("processing_class", "tokenizer", "data_collator")
        roots = [(name, vars(self.trainer).get(name)) for name in names] if self.trainer is not None else []
        roots += [owner for part in self.collators.values() for owner in find_owners(part).items()]
        found = [self.tokenizer, *(each.tokenizer for each in search_tokenizers(*roots))]
        return tuple({id(each): each for each in found if len(each) == len(self.tokenizer)}.values())


def remember_settings(owners: Owners) -> Callable[[], None]:
    """Return what puts back every setting that a change may write."""
    tokenizers, trainer, model = owners.tokenizers, owners.trainer, owners.model
    held: list[object] = [*tokenizers]
    held += [] if model is None else [text_config(model.config), getattr(model, "generation_config", None)]
    if trainer is not None:
        held += [trainer, trainer.args, trainer.data_collator, getattr(trainer, "generation_config", None)]
    held += [part for part in owners.collators.values() if is_loader(part)]
    kept = [each for each in find_held_ids(owners.collators) if each.set_to is not None]
    restore = remember_state(shallow=[each for each in held if hasattr(each, "__dict__")])
    backends = [getattr(tokenizer, "backend_tokenizer", None) for tokenizer in tokenizers]
    processors = [(backend, backend.post_processor) for backend in backends if backend is not None]

    def put_back() -> None:
        for each in kept:
            each.put(each.value)
        restore()
        for backend, processor in processors:
            backend.post_processor = processor

    return put_back


@contextlib.contextmanager
def all_or_nothing(owners: Owners) -> Iterator[None]:
    """Put back every setting that a change may write if the block raises."""
    put_back = remember_settings(owners)
    try:
        yield
    except BaseException:
        put_back()
        raise


def apply_change(change: Change, owners: Owners) -> None:
    """Apply one change of a whitelisted target."""
    owner, _, name = change.target.rpartition(".")
    model, trainer = owners.model, owners.trainer
    after = list(change.after) if isinstance(change.after, tuple) else change.after
    if change.target in TOKENIZER_FIELDS:
        for tokenizer in owners.tokenizers:
            if name == "adds_bos":
                _set_automatic_bos(tokenizer, bool(after))
                continue
            setattr(tokenizer, name, after)
            if name in ("padding_side", "split_special_tokens"):
                tokenizer.init_kwargs[name] = after  # transformers 4.x saves it from there alone
    elif change.target in MODEL_FIELDS and model is not None:
        setattr(text_config(model.config) if owner == "model.config" else model.generation_config, name, after)
    elif change.target in COPIES and trainer is not None:
        set_copy(trainer, change.target, after)
    elif found := [each for each in find_held_ids(owners.collators) if each.where == change.target]:
        found[0].put(after)
    else:
        raise PadfixError(f"No code knows how to apply a change of {change.target}.")


def apply_changes(changes: Iterable[Change], owners: Owners) -> Plan:
    """Apply changes that a report proposes and return them as a plan; all of them, or none when one raises."""
    plan = Plan(merge_changes(changes))
    with all_or_nothing(owners):
        for change in plan:
            apply_change(change, owners)
    return plan


def merge_changes(changes: Iterable[Change]) -> tuple[Change, ...]:
    """Keep one change for each target, from its first `before` to its last `after`, in the order of the first."""
    merged: dict[str, Change] = {}
    for change in changes:
        first = merged.get(change.target)
        merged[change.target] = change if first is None else replace(change, before=first.before)
    return tuple(change for change in merged.values() if change.before != change.after)


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
