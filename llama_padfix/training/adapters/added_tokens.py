"""Tokens added to a tokenizer and its model: rows that start from the mean, and the configuration that trains them."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama_padfix.core.compat import resizes_to_mean
from llama_padfix.core.errors import PadfixError, describe
from llama_padfix.core.hf_objects import text_config
from llama_padfix.core.text import is_unicode
from llama_padfix.doctor.observe.tokenizer import observe_tokenizer
from llama_padfix.doctor.token_policy import choose_pad_token
from llama_padfix.tokens.calls import check_tokenizer, copy_tokenizer, encode_raw, preserve_backend_state
from llama_padfix.training.adapters.row_training import (
    Matrices,
    RowTraining,
    TrainsRows,
    average_row,
    find_matrices,
    make_lora,
    train_rows,
)

if TYPE_CHECKING:
    import torch
    from tokenizers import AddedToken

    from llama_padfix.core.types import Lora, ModelLike, TokenizerLike

logger = logging.getLogger(__name__)

# Names of tokens that only pad, without their brackets and lines.
_PADDING_NAMES = frozenset({"pad", "padding", "padtoken", "padid", "rightpad", "rightpadid", "finetunerightpadid"})


@dataclass(frozen=True)
class AddedTokens(TrainsRows):
    """What `add_tokens` did."""

    tokens: Mapping[str, int]
    """The ids of the new tokens, and of tokens that had no row."""
    existing: Mapping[str, int]
    """The ids of the tokens that were there already."""
    rows_before: int
    """The rows of the embedding before."""
    rows_after: int
    """The rows of the embedding after."""
    training: RowTraining
    """How the new rows are trained."""
    notes: tuple[str, ...] = ()
    """Effects that the caller may not expect."""

    def __str__(self) -> str:
        added = ", ".join(f"{token!r} ({token_id})" for token, token_id in self.tokens.items())
        now = f"now {self.rows_after}" if self.rows_after != self.rows_before else "not resized"
        did = f"Added {added or 'nothing'}. Embedding: {self.rows_before} rows, {now}."
        return "\n".join([did, *self.notes, str(self.training)])


def add_tokens(
    model: ModelLike,
    tokenizer: TokenizerLike,
    tokens: Sequence[str | AddedToken],
    *,
    lora: Lora = None,
    special: bool = True,
    pad_to_multiple_of: int | None = None,
) -> AddedTokens:
    """Add tokens to a tokenizer and rows for them to its model, in place; return how to train just these rows.

    The embedding is resized once, if it has no rows to spare. New rows start from the mean of the others, in the head
    as well, and tied weights stay tied. A token that is there already is left alone, unless it has no row.

    Args:
        model: A model without an adapter, with its weights.
        tokenizer: The tokenizer of the model.
        tokens: Strings, or `AddedToken`s, which are taken as they are.
        lora: As for `train_rows`.
        special: The strings become control tokens: `ChatEncoder` and `prepare` write them where the chat template
            does, and as text where a message only spells them (see `allowed_tokens`). Tokens for messages need False.
        pad_to_multiple_of: Round the rows of a resized embedding up to a multiple of this.

    Raises:
        PadfixError: Something cannot be done, or the only new token is for padding, which needs none; model and
            tokenizer are as they were.
    """
    check_tokenizer(tokenizer)
    requested = _read_tokens(tokens, special)
    if pad_to_multiple_of is not None and (not isinstance(pad_to_multiple_of, int) or pad_to_multiple_of < 1):
        raise PadfixError(f"pad_to_multiple_of={pad_to_multiple_of!r} must be a positive int, such as 64, or None.")
    matrices = find_matrices(model)
    config = make_lora(lora, model)
    rows_before = int(matrices.embedding.weight.shape[0])
    with preserve_backend_state(tokenizer):
        known = {text: _find_token(tokenizer, text) for text in requested}
    missing = [token for text, token in requested.items() if known[text] is None]
    _refuse_padding_alone(tokenizer, model, missing)

    with ExitStack() as undo:  # what is left in it at the end of the block is undone
        undo.callback(_remember_model(model, matrices))
        if missing:
            undo.callback(_remember_tokenizer(tokenizer))
        with preserve_backend_state(tokenizer):
            added = _add(tokenizer, missing)
        rowless = {token: i for token, i in tokenizer.get_vocab().items() if i >= rows_before}
        given = dict(sorted({**rowless, **added}.items(), key=lambda item: item[1]))
        _give_rows(model, matrices, set(given.values()), pad_to_multiple_of, undo)
        training = train_rows(model, given.values(), False if config is None else config)
        undo.pop_all()
    rows_after = int(model.get_input_embeddings().weight.shape[0])
    existing = {text: token_id for text, token_id in known.items() if token_id is not None and text not in given}
    others = [token for token in given if token not in requested]
    notes = _take_notes(tokenizer, existing, others, resized=rows_after > rows_before)
    result = AddedTokens(given, existing, rows_before, rows_after, training, notes)
    logger.info("llama_padfix: %s", result)
    return result


def _read_tokens(tokens: object, special: bool) -> dict[str, AddedToken]:
    """Return the tokens by their text, each once, as `AddedToken`s."""
    from tokenizers import AddedToken

    if isinstance(tokens, (str, AddedToken)) or not isinstance(tokens, Iterable):
        raise PadfixError(f"tokens={describe(tokens)} is not a list of tokens. Pass one: ['<tool>', '</tool>']")
    read: dict[str, AddedToken] = {}
    for token in tokens:
        if not isinstance(token, (str, AddedToken)):
            raise PadfixError(f"{describe(token)} is no token. Pass strings, or tokenizers.AddedToken.")
        text = str(token)
        if not text.strip():
            raise PadfixError(f"{text!r} cannot be a token: it would match everywhere or nowhere. Remove it.")
        if not is_unicode(text):
            raise PadfixError(f"{text!r} holds half of a surrogate pair, which is no text. Remove it.")
        if isinstance(token, str):
            composed = unicodedata.normalize("NFC", text)
            if composed != text:
                raise PadfixError(
                    f"{text!r} is not in Unicode's usual form NFC, so that the same word in your data would not match "
                    f"it. Pass unicodedata.normalize('NFC', token), which is {composed!r}; or AddedToken({text!r})"
                )
            token = AddedToken(text, special=special, normalized=False)
        read.setdefault(text, token)
    return read


def _find_token(tokenizer: TokenizerLike, text: str) -> int | None:
    """Return the id of a text that is one token already, control token or ordinary; found by encoding it."""
    ids = encode_raw(tokenizer, text)
    return ids[0] if len(ids) == 1 and tokenizer.decode(ids, skip_special_tokens=False) == text else None


def _refuse_padding_alone(tokenizer: TokenizerLike, model: ModelLike, missing: Sequence[AddedToken]) -> None:
    names = {re.sub("[^a-z]", "", str(token).lower()) for token in missing}
    if not names or not names <= _PADDING_NAMES:
        return
    choice = choose_pad_token(observe_tokenizer(tokenizer, model))
    if choice is not None:
        raise PadfixError(
            f"Padding needs no new token and no new row: {choice.token!r} ({choice.token_id}) pads, because "
            f"{choice.why}. Run instead: prepare(tokenizer, model)"
        )


def _add(tokenizer: TokenizerLike, missing: Sequence[AddedToken]) -> dict[str, int]:
    """Add tokens and return them by id, verified by encoding each alone and within a text."""
    if not missing:
        return {}
    before = set(tokenizer.get_vocab().values())
    # In one call, each with its own flags: `special_tokens=True` would only set the flag that they carry.
    tokenizer.add_tokens(list(missing))
    added: dict[str, int] = {}
    for token in missing:
        token_id = _find_token(tokenizer, str(token))
        inside = encode_raw(tokenizer, f"a{token}b")
        if token_id is None or token_id in before or (inside.count(token_id) != 1 and not token.single_word):
            raise PadfixError(
                f"{str(token)!r} was added, and 'a{token}b' is still encoded as {inside}: another token or the "
                "normalizer takes it apart. Choose a form of its own, such as '<|my_token|>'."
            )
        added[str(token)] = token_id
    return added


def _give_rows(model: ModelLike, matrices: Matrices, ids: set[int], multiple: int | None, undo: ExitStack) -> None:
    """Give each id a row from the mean of the others: by one resize, or among the rows that are there to spare."""
    import torch

    count = int(matrices.embedding.weight.shape[0])
    spare = sorted(token_id for token_id in ids if token_id < count)
    needed = max([count, *(token_id + 1 for token_id in ids)])
    rounded = needed if multiple is None else -(-needed // multiple) * multiple
    others = spare[0] if spare and spare[0] > count // 2 else count  # the rows behind are as unused as these
    with torch.no_grad():
        for layer in matrices.layers.values() if spare else ():
            weight, places = layer.weight, torch.tensor(spare, device=layer.weight.device)
            undo.callback(_remember_rows(weight, places))
            weight[places] = average_row(weight, others).to(weight.dtype)
    if rounded == count:
        return
    logger.warning(
        "llama_padfix: %s is resized from %d to %d rows: whoever loads the adapter has to resize the base model too.",
        *(type(model).__name__, count, rounded),
    )
    can_mean = resizes_to_mean(model)
    finite = all(bool(layer.weight.isfinite().all()) for layer in matrices.layers.values())
    own_mean = not can_mean or not finite  # transformers takes a mean of all rows, broken ones among them
    layers = matrices.layers if own_mean else {}
    means = {name: average_row(layer.weight, count) for name, layer in layers.items()}
    model.resize_token_embeddings(rounded, **({"mean_resizing": not own_mean} if can_mean else {}))
    resized = find_matrices(model)
    if resized.tied != matrices.tied or resized.layers.keys() != matrices.layers.keys():
        raise PadfixError("Resizing tied or untied embedding and head. Upgrade: pip install -U transformers")
    with torch.no_grad():
        for name, layer in resized.layers.items():
            if layer.weight.shape[0] != rounded:
                raise PadfixError(f"{name} has {layer.weight.shape[0]} rows after a resize to {rounded}.")
            if own_mean:  # else they are drawn at random
                layer.weight[count:] = means[name].to(layer.weight.dtype)
            layer.weight.data = layer.weight.data.contiguous()


def _remember_tokenizer(tokenizer: TokenizerLike) -> Callable[[], None]:
    """Return what puts the tokenizer back: `tokenizers` cannot take a token away, so a copy is kept."""
    kept = copy_tokenizer(tokenizer)

    def restore() -> None:
        settings = vars(tokenizer)
        settings.clear()
        settings.update(vars(kept))

    return restore


def _remember_rows(weight: torch.Tensor, places: torch.Tensor) -> Callable[[], None]:
    kept = weight.data[places].clone()

    def restore() -> None:
        weight.data[places] = kept

    return restore


def _remember_model(model: ModelLike, matrices: Matrices) -> Callable[[], None]:
    """Return what puts embedding, head and the sizes noted in configs back; the old weights are kept, not copied."""
    layers = [layer for layer in (matrices.embedding, matrices.head) if layer is not None]
    held = [(layer, dict(vars(layer)), dict(layer._parameters)) for layer in layers]
    tensors = [(p, p.data) for _, _, parameters in held for p in parameters.values() if p is not None]
    config, held_names = text_config(model.config), set(vars(model))
    sizes = [(vars(owner), vars(owner)["vocab_size"]) for owner in (config, model) if "vocab_size" in vars(owner)]

    def restore() -> None:
        for parameter, data in tensors:
            parameter.data = data
        for layer, attributes, parameters in held:
            vars(layer).update(attributes)
            layer._parameters.clear()
            layer._parameters.update(parameters)
        model.set_input_embeddings(matrices.embedding)
        if matrices.head is not None:
            model.set_output_embeddings(matrices.head)
        for attributes, size in sizes:
            attributes["vocab_size"] = size
        if "vocab_size" not in held_names:
            vars(model).pop("vocab_size", None)

    return restore


def _take_notes(
    tokenizer: TokenizerLike, existing: Mapping[str, int], others: Sequence[str], *, resized: bool
) -> tuple[str, ...]:
    notes = []
    if existing:
        named = ", ".join(f"{text!r} ({token_id})" for text, token_id in existing.items())
        notes.append(
            f"There already, and left alone: {named}. Were their rows ever trained? "
            "Run: find_untrained(model, tokenizer)"
        )
    if others:
        notes.append(f"Tokens added before, which had no rows, got theirs too: {', '.join(map(repr, others))}.")
    reserved = [token for token in tokenizer.get_vocab() if "reserved_special_token" in token]
    if resized and reserved:
        notes.append(
            f"The vocabulary has {len(reserved)} reserved tokens, such as {min(reserved, key=len)!r}, which need no "
            "resize: write one in your template, and train its row with mean_init_untrained."
        )
    return tuple(notes)
