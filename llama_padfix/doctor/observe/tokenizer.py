"""What a tokenizer and a model really do, found by encoding and rendering, never by trusting an attribute.

`add_bos_token` reads False in transformers 5.x although BOS is added, and a chat template says nothing about
itself; so both are tried out on short probes.
"""

from __future__ import annotations

from typing import Any

from llama_padfix.chat.template_profile import USER_PROBE, observe_template
from llama_padfix.doctor.facts import Facts
from llama_padfix.doctor.observe.model import observe_model
from llama_padfix.tokens.calls import check_tokenizer, count_leading, encode_raw, preserve_backend_state
from llama_padfix.tokens.control import special_ids

__all__ = ["observe_tokenizer"]


def observe_tokenizer(tokenizer: Any, model: Any = None, *, pad_token: str | None = None, earlier: Facts | None = None) -> Facts:
    """Return the facts about a tokenizer and, when given, its model; changes neither.

    `pad_token` is the pad token that the user asks for, kept in the facts for the checks. `earlier` are facts of the
    same tokenizer whose settings may have changed since, and its model's vocabulary not: copying that takes longer
    than all the rest. Raises `PadfixError` when `tokenizer` is not a Hugging Face tokenizer, or `model` not a model.
    """
    check_tokenizer(tokenizer)
    if earlier is not None and (earlier.vocab_size, earlier.special_ids) == (len(tokenizer), special_ids(tokenizer)):
        vocabulary = earlier.vocabulary
    else:
        vocabulary = tokenizer.get_vocab()
    with preserve_backend_state(tokenizer):
        bos_added, eos_added = _count_added(tokenizer)
        probe_ids = encode_raw(tokenizer, "Hello world")
        template = observe_template(tokenizer)
    pad_content, controls = tokenizer.pad_token, special_ids(tokenizer)
    return Facts(
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
        requested_pad_token=pad_token,
        model=observe_model(model, {*controls.values(), *tokenizer.added_tokens_decoder})
        if model is not None
        else None,
    )


def _count_added(tokenizer: Any) -> tuple[int, int]:
    """Return how many BOS encoding puts before a plain text, and how many EOS after it."""
    with_special = [int(i) for i in tokenizer(USER_PROBE)["input_ids"]]
    bos_added = count_leading(with_special, tokenizer.bos_token_id)
    eos_added = count_leading(with_special[::-1], tokenizer.eos_token_id)
    return bos_added, eos_added
