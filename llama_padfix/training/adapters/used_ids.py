"""The ids that a chat template and a dataset use: those whose rows must hold something."""

from __future__ import annotations

import contextlib
from itertools import islice
from typing import TYPE_CHECKING

from llama_padfix.chat.profile.template_profile import observe_template
from llama_padfix.core.errors import PadfixError
from llama_padfix.doctor.observe.rows import rows_of_dataset
from llama_padfix.encoding.encoder import ChatEncoder
from llama_padfix.encoding.masking.labels import find_markers
from llama_padfix.encoding.sources import is_encoded, is_iterable
from llama_padfix.tokens.calls import check_tokenizer, encode_raw, preserve_backend_state, render_or_none

if TYPE_CHECKING:
    from llama_padfix.core.types import Rows, TokenizerLike

_BATCH = 1000  # raw rows that are encoded at a time
_CONVERSATIONS: tuple[tuple[str, ...], ...] = (("system", "user", "assistant", "user"), ("user", "assistant", "user"))


def find_used_ids(tokenizer: TokenizerLike, dataset: Rows | None) -> set[int]:
    """Return the ids that the chat template, the EOS and the rows of a dataset (None for no dataset) use."""
    check_tokenizer(tokenizer)
    with preserve_backend_state(tokenizer):
        used = _ids_of_template(tokenizer)
    if tokenizer.eos_token_id is not None:
        used.add(int(tokenizer.eos_token_id))
    return used if dataset is None else used | _ids_of_data(tokenizer, dataset)


def _ids_of_template(tokenizer: TokenizerLike) -> set[int]:
    """Return the ids that a rendered conversation holds, and those that may end a turn, as the check EMB004 does."""
    facts = observe_template(tokenizer)
    used: set[int] = set()
    with contextlib.suppress(PadfixError):  # no template, or turns without ids of their own
        markers = find_markers(tokenizer)
        used |= {*markers.header_ids, *markers.stop_ids, *markers.turn_start_ids}
    for roles in _CONVERSATIONS if facts is not None else ():
        messages = [{"role": role, "content": "Word"} for role in roles]
        text = render_or_none(tokenizer, messages, add_generation_prompt=True)
        if text is not None:  # else the template knows no system message
            return used | set(encode_raw(tokenizer, text))
    return used


def _ids_of_data(tokenizer: TokenizerLike, dataset: Rows) -> set[int]:
    import numpy as np

    used: set[int] = set()
    if is_encoded(dataset):
        for row in rows_of_dataset(dataset, "dataset", None, None):
            ids = row.input_ids if row.attention_mask is None else row.input_ids[row.attention_mask != 0]
            used.update(int(i) for i in np.unique(ids))
        return used
    if not is_iterable(dataset):
        raise PadfixError(f"A {type(dataset).__name__} is no dataset. Pass one split, or a list of rows: [row, ...]")
    encoder = ChatEncoder(tokenizer)
    rows, first = iter(dataset), 0
    while batch := list(islice(rows, _BATCH)):
        columns, _ = encoder.encode_rows(batch, first)
        used.update(token_id for ids in columns["input_ids"] for token_id in ids)
        first += len(batch)
    return used
