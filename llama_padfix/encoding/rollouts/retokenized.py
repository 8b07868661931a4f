"""Where the messages of a rollout, rendered and encoded again, give other ids than the model read and sampled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama_padfix.chat.trace import count_equal
from llama_padfix.core.errors import PadfixError
from llama_padfix.core.records import record_html, short_repr
from llama_padfix.encoding.rollouts.written import read_tools
from llama_padfix.tokens.calls import apply_template, check_tokenizer, encode_raw, preserve_backend_state

if TYPE_CHECKING:
    from llama_padfix.core.types import Messages, TokenizerLike, Tool
    from llama_padfix.encoding.rollouts.joined import Rollout

_BEFORE, _BEHIND = 4, 8  # tokens that are drawn


@dataclass(frozen=True)
class Retokenized:
    """The first place at which the messages of a rollout, encoded again, give other ids."""

    position: int
    """How many ids are the same up to there."""
    where: str
    """Whose ids stand there: "prompt", "sampled in turn 2" or "written behind turn 2"."""
    same_text: bool
    """Whether the rest is the same text, cut into other tokens."""
    ids: tuple[int, ...]
    """The ids of the rollout from there on."""
    again: tuple[int, ...]
    """Those of the messages, encoded again."""
    drawing: str
    """The tokens around the place, as both have them."""

    __repr__ = short_repr
    _repr_html_ = record_html

    def __str__(self) -> str:
        why = "the same text in other tokens" if self.same_text else "another text"
        return f"Encoding the messages again gives other ids from id {self.position} on ({self.where}): {why}\n" + (
            self.drawing
        )


def find_retokenized(
    tokenizer: TokenizerLike,
    rollout: Rollout,
    messages: Messages,
    *,
    tools: Sequence[Tool | Callable[..., object]] | None = None,
    template_kwargs: Mapping[str, object] | None = None,
) -> Retokenized | None:
    """Return where a rollout's messages, rendered and encoded, give other ids; None where they give the same.

    A trainer that encodes messages again trains ids that the model never sampled: other tokens for the same text, a
    thought that the template drops from earlier turns, white space that it trims, arguments in another order. What the
    template writes behind the last turn is not compared.

    Args:
        tokenizer: The tokenizer, which is left as it is.
        rollout: What `join_rollout` returned.
        messages: The whole conversation: the prompt, each turn as it was parsed, and what was appended.
        tools: The tools that the template writes into the prompt: schemas, or functions as TRL takes them.
        template_kwargs: The arguments of the chat template.

    Raises:
        PadfixError: The template refuses the conversation, or `rollout` is none.
    """
    check_tokenizer(tokenizer)
    if not hasattr(rollout, "ids"):
        raise PadfixError(
            f"Got a {type(rollout).__name__} where a rollout is needed. Make one: "
            "join_rollout(tokenizer, prompt, [(completion_ids, None)])"
        )
    with preserve_backend_state(tokenizer):
        try:
            text = apply_template(tokenizer, messages, tools=read_tools(tools), template_kwargs=template_kwargs)
        except Exception as error:  # a template is a program of its author: it may raise anything
            raise PadfixError(
                f"The chat template refuses the conversation: {type(error).__name__}: {error}. Pass all messages in "
                "their order: [*prompt, turn, *appended, turn]"
            ) from error
        again = encode_raw(tokenizer, text)
        ids = rollout.ids
        position = count_equal(ids, again)
        if position == len(ids):
            return None
        rest, rest_again = _decode(tokenizer, ids[position:]), _decode(tokenizer, again[position:])
        return Retokenized(
            position,
            _find_owner(rollout, position),
            rest_again.startswith(rest),
            tuple(ids[position:]),
            tuple(again[position:]),
            _draw(tokenizer, ids, again, position),
        )


def _find_owner(rollout: Rollout, position: int) -> str:
    owner = "prompt"
    for number, (start, end) in enumerate(rollout.turns, 1):
        if start <= position:
            owner = f"sampled in turn {number}" if position < end else f"written behind turn {number}"
    return owner


def _draw(tokenizer: TokenizerLike, ids: Sequence[int], again: Sequence[int], position: int) -> str:
    """Return both rows of tokens around a place, a bar in front of the first that differ."""
    first = max(position - _BEFORE, 0)
    before = _name_tokens(tokenizer, ids[first:position])
    lines = []
    for name, row in (("rollout", ids), ("again  ", again)):
        behind = row[position : position + _BEHIND]
        more = " ..." if len(row) > position + _BEHIND else ""
        shown = _name_tokens(tokenizer, behind) or "(nothing)"
        lines.append(f"  {name}  {'... ' if first else ''}{before} | {shown}{more}")
    return "\n".join(lines)


def _name_tokens(tokenizer: TokenizerLike, ids: Sequence[int]) -> str:
    return " ".join(repr(_decode(tokenizer, [token_id])) for token_id in ids)


def _decode(tokenizer: TokenizerLike, ids: Sequence[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
