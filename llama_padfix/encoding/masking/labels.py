"""Ids and turns to labels: -100 everywhere but on what the model must produce."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llama_padfix.chat.profile.template_profile import observe_template
from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.masking.labels_from_ids import label_answers
from llama_padfix.encoding.masking.turns_in_ids import TurnMarkers
from llama_padfix.tokens.calls import encode_raw, preserve_backend_state
from llama_padfix.tokens.control import TEXT_END_TOKEN, find_control_text, special_ids

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llama_padfix.core.types import TokenizerLike
    from llama_padfix.encoding.masking.labels_from_ids import Numbers

# A letter, a digit, a bracket, a quote, a line break in a code fence, other scripts and an emoji:
# whatever follows the header, its last token must stay the same.
_PROBES = ("Word", "7", "(x)", '"', "```\ncode\n```", "你好", "🙂", "é")


def find_markers(tokenizer: TokenizerLike) -> TurnMarkers:
    """Return the ids that stand around an assistant turn in the tokenizer's chat template.

    They are learned by rendering, and verified on answers of many kinds: the ids before each must be the same.

    Args:
        tokenizer: The tokenizer, which is left as it is.

    Raises:
        PadfixError: There is no chat template, or its header has no ids of its own.
    """
    with preserve_backend_state(tokenizer):
        return _find_markers(tokenizer)


def _find_markers(tokenizer: TokenizerLike) -> TurnMarkers:
    facts = observe_template(tokenizer)
    if facts is None or facts.error is not None:
        seen = "has no chat template" if facts is None else f"has a chat template that cannot be read: {facts.error}"
        raise PadfixError(
            f"The tokenizer {seen}, so there are no turns to mark. "
            "Pass markers by hand: TurnMarkers(header_ids=(...), stop_ids=(...))"
        )
    if facts.stop_token_id is None or not facts.header:
        raise PadfixError(
            "The chat template opens or ends an assistant turn without a token of its own. "
            "Use ChatEncoder(tokenizer), which finds the turns in the text instead."
        )
    header_ids, *probed = (tuple(encode_raw(tokenizer, facts.header + probe)) for probe in ("", *_PROBES))
    for probe, ids in zip(_PROBES, probed, strict=True):
        if ids[: len(header_ids)] != header_ids:
            raise PadfixError(
                f"The header {facts.header!r} has other ids before {probe!r}: it melts into the answer, so ids alone "
                "cannot mark the turn. Use ChatEncoder(tokenizer), which finds the turns in the text instead."
            )
    specials = special_ids(tokenizer)
    ends = [facts.stop_token_id, specials.get("<|eom_id|>"), specials.get(TEXT_END_TOKEN)]
    opening = find_control_text(facts.header, tuple(specials))
    starts = [specials[opening[0][2]] if opening and opening[0][0] == 0 else None, tokenizer.bos_token_id]
    return TurnMarkers(
        header_ids=header_ids,
        stop_ids=tuple(dict.fromkeys(token_id for token_id in ends if token_id is not None)),
        turn_start_ids=tuple(token_id for token_id in starts if token_id is not None),
    )


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
        PadfixError: `train_on` is not known, the markers have no header, an array holds anything but integers, or
            lengths or a mask do not fit the ids.
    """
    if not markers.header_ids:
        raise PadfixError(
            "The markers have no header_ids, so no turn can be found. Make them: find_markers(tokenizer)"
        )
    if train_on not in ("assistant", "last"):
        raise PadfixError(f"train_on={train_on!r} is not known. Use 'assistant' or 'last'.")
    return label_answers(input_ids, markers, last_only=train_on == "last", mask=attention_mask, lengths=lengths)
