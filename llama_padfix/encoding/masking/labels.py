"""Ids and turns to labels: -100 everywhere but on what the model must produce."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.masking.labels_from_ids import label_answers
from llama_padfix.encoding.masking.learned_markers import learn_markers
from llama_padfix.encoding.masking.turns_in_ids import TurnMarkers
from llama_padfix.tokens.calls import check_tokenizer, preserve_backend_state

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from llama_padfix.core.types import TokenizerLike
    from llama_padfix.encoding.masking.labels_from_ids import Numbers


def find_markers(tokenizer: TokenizerLike, template_kwargs: Mapping[str, object] | None = None) -> TurnMarkers:
    """Return the ids that stand around an assistant turn in the tokenizer's chat template.

    They are learned by rendering, and checked on conversations of many kinds (tools, thoughts, empty answers): with
    them `mask_labels` gives the labels of `ChatEncoder`, or an error for a row of which ids alone do not tell.

    Args:
        tokenizer: The tokenizer, which is left as it is.
        template_kwargs: The arguments of the chat template with which the rows were rendered.

    Raises:
        PadfixError: There is no chat template, its header has no ids of its own, or ids alone do not tell its turns.
    """
    check_tokenizer(tokenizer)
    with preserve_backend_state(tokenizer):
        return learn_markers(tokenizer, template_kwargs or {})


def mask_labels(
    input_ids: Iterable[object],
    markers: TurnMarkers,
    *,
    train_on: str = "assistant",
    attention_mask: Numbers | Sequence[Numbers] | None = None,
    lengths: Numbers | None = None,
) -> Any:  # in the type of `input_ids`
    """Return labels for ids that are already encoded: each assistant turn with its stop token, else -100.

    A header with nothing behind it, or with an end of text that was appended, opens no turn. Arrays are quickest: many
    rows joined into a flat one, with their `lengths`, are labeled at the speed of memory.

    Args:
        input_ids: A sequence of ints, a batch of them, or a numpy or torch array of integers whose last axis is the
            row.
        markers: The ids around a turn, by `find_markers`.
        train_on: "assistant" trains every turn, "last" the last one of each row.
        attention_mask: 0 where a row is padding, in the shape of `input_ids`. It matters for a row that was cut
            inside a turn.
        lengths: The number of ids of each row in a flat array of several rows.

    Returns:
        The labels, in the type (int64 for an unsigned one) and shape of `input_ids`.

    Raises:
        PadfixError: `train_on` is not known, the markers have no header, an array holds anything but integers,
            lengths or a mask do not fit the ids, or ids alone do not tell which tokens of a row are the model's: by
            the markers, a tool's result stands inside its turn, or an answer has no header.
    """
    if not isinstance(markers, TurnMarkers):
        raise PadfixError(
            f"markers is a {type(markers).__name__}. Make them: mask_labels(input_ids, find_markers(tokenizer))"
        )
    if not markers.header_ids:
        raise PadfixError(
            "The markers have no header_ids, so no turn can be found. Make them: find_markers(tokenizer)"
        )
    if train_on not in ("assistant", "last"):
        raise PadfixError(f"train_on={train_on!r} is not known. Use 'assistant' or 'last'.")
    return label_answers(input_ids, markers, last_only=train_on == "last", mask=attention_mask, lengths=lengths)
