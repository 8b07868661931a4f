"""What a tokenizer and a model really do, found by encoding and rendering short probes.

Attributes are not trusted: `add_bos_token` reads False in transformers 5.x although a BOS is added.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from llama_padfix.chat.profile.template_profile import observe_template
from llama_padfix.core.errors import PadfixError
from llama_padfix.doctor.facts import Facts
from llama_padfix.doctor.observe.model import observe_model, observe_optimizer
from llama_padfix.encoding.masking.labels import find_markers
from llama_padfix.tokens.calls import check_tokenizer, count_leading, encode_raw, preserve_backend_state
from llama_padfix.tokens.control import special_ids

if TYPE_CHECKING:
    import torch

    from llama_padfix.core.types import ConfiguredModel, TokenizerLike


def observe_tokenizer(
    tokenizer: TokenizerLike,
    model: ConfiguredModel | None = None,
    *,
    pad_token: str | None = None,
    earlier: Facts | None = None,
    with_markers: bool = False,
    chat_template: str | None = None,
) -> Facts:
    """Return the facts about a tokenizer and, when given, its model; changes neither.

    Args:
        tokenizer: a Hugging Face tokenizer.
        model: its model, or anything that has a `config`.
        pad_token: the pad token that the user passed; the checks read it from the facts.
        earlier: facts of the same tokenizer and model, whose settings may have changed since. The vocabulary is
            taken from them while its size is the same, because copying it takes longer than all the rest.
        with_markers: also learn the ids around assistant turns, which only checks of rows need.
        chat_template: the source of the template that rows are rendered with, where it is not the tokenizer's.

    Raises:
        PadfixError: `tokenizer` is not a Hugging Face tokenizer, or `model` is not a model.
    """
    check_tokenizer(tokenizer)
    controls = special_ids(tokenizer)
    if earlier is not None and (earlier.vocab_size, earlier.special_ids) == (len(tokenizer), controls):
        vocabulary = earlier.vocabulary
    else:
        vocabulary = tokenizer.get_vocab()
    with preserve_backend_state(tokenizer):
        bos_added, eos_added = _count_added(tokenizer)
        probe_ids = encode_raw(tokenizer, "Hello world")
        template = observe_template(tokenizer, {"chat_template": chat_template} if chat_template else None)
    pad_content = tokenizer.pad_token
    added = {*controls.values(), *tokenizer.added_tokens_decoder}
    facts = Facts(
        vocab_size=len(tokenizer),
        vocabulary=vocabulary,
        special_ids=controls,
        bos_token=tokenizer.bos_token,
        bos_token_id=tokenizer.bos_token_id,
        eos_token=tokenizer.eos_token,
        eos_token_id=tokenizer.eos_token_id,
        pad_token=pad_content,
        pad_token_id=vocabulary.get(pad_content) if pad_content is not None else None,
        unk_token_id=tokenizer.unk_token_id,
        padding_side=tokenizer.padding_side,
        bos_added=bos_added,
        eos_added=eos_added,
        tokenizer_class=type(tokenizer).__name__,
        probe_ids=tuple(probe_ids),
        probe_text=tokenizer.decode(probe_ids),
        template=template,
        split_special_tokens=bool(getattr(tokenizer, "split_special_tokens", False)),
        requested_pad_token=pad_token,
        model=observe_model(model, added) if model is not None else None,
    )
    return _add_markers(facts, tokenizer) if with_markers else facts


def _add_markers(facts: Facts, tokenizer: TokenizerLike) -> Facts:
    with suppress(PadfixError):  # no template, or turns without ids of their own
        return replace(facts, markers=find_markers(tokenizer))
    return facts


def make_decoder(tokenizer: TokenizerLike | None) -> Callable[[Sequence[int]], str]:
    """Return what shows ids as text in a finding: decoded without negative ids, or numbers without a tokenizer."""
    if tokenizer is None:
        return lambda ids: " ".join(map(str, ids))
    return lambda ids: str(tokenizer.decode([i for i in ids if i >= 0]))


def _count_added(tokenizer: TokenizerLike) -> tuple[int, int]:
    """Return how many BOS encoding puts before a plain text, and how many EOS after it."""
    with_special = [int(i) for i in tokenizer("Hello world")["input_ids"]]
    bos_added = count_leading(with_special, tokenizer.bos_token_id)
    eos_added = count_leading(with_special[::-1], tokenizer.eos_token_id)
    return bos_added, eos_added


def observe_pair(
    tokenizer: TokenizerLike | None,
    model: ConfiguredModel | None,
    optimizer: torch.optim.Optimizer | None = None,
) -> Facts:
    """Return the facts about a tokenizer, its model and the optimizer of that, each of which may be missing."""
    if tokenizer is not None:
        facts = observe_tokenizer(tokenizer, model, with_markers=True)
    else:
        facts = Facts(model=observe_model(model) if model is not None else None)
    return replace(facts, optimizer=observe_optimizer(model, optimizer))
