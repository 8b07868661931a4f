"""The encoder of a tokenizer or a processor, for a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.encoder import ChatEncoder
from llama_padfix.encoding.media.encoder import MediaEncoder
from llama_padfix.encoding.media.processor import is_processor
from llama_padfix.encoding.pairs.encoder import PairEncoder

if TYPE_CHECKING:
    from llama_padfix.core.types import TokenizerLike


def split_processor(value: Any) -> tuple[TokenizerLike, Any]:  # a tokenizer or a processor; the latter or None
    """Return the tokenizer of a processor and the processor; of a tokenizer that, and None."""
    return (value.tokenizer, value) if is_processor(value) else (value, None)


def choose_encoder(
    value: TokenizerLike, template: str | None, task: Any, rearranges: bool
) -> tuple[Callable[..., ChatEncoder], TokenizerLike]:
    """Return what makes an encoder with a chat template, and the tokenizer; a processor has a template of its own.

    Raises `PadfixError` for a processor and rows that are packed or ordered by length (`rearranges`), or preferences.
    """
    if not is_processor(value):
        kind: Callable[..., ChatEncoder] = ChatEncoder if task == "sft" else partial(PairEncoder, task=task)
        return partial(kind, template=template), value
    if rearranges or task != "sft":
        raise PadfixError(
            "packing, group_by_length and preferences arrange rows of text, and those of a processor have media. "
            "Leave them out, or train on text: prepare(processor.tokenizer, model)"
        )
    own = getattr(value, "chat_template", None)
    own = own.get("default") if isinstance(own, Mapping) else own
    tokenizer: TokenizerLike = value.tokenizer
    template = template or (own if own != tokenizer.chat_template else None)
    return partial(MediaEncoder, value, template=template), tokenizer
