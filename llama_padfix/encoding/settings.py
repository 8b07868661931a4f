"""How rows are encoded: the settings that decide ids and labels, checked when they are made."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from llama_padfix.chat.dates import pin_date
from llama_padfix.chat.losses.keep import keep_reasoning
from llama_padfix.core.errors import PadfixError, describe
from llama_padfix.core.kinds import require_max_length
from llama_padfix.tokens.calls import check_tokenizer
from llama_padfix.tokens.control import special_ids, text_end_id

if TYPE_CHECKING:
    from llama_padfix.core.types import TokenizerLike

# The callable is given a user's message, with whatever values it has.
TrainOn = Literal["assistant", "last"] | Mapping[str, Sequence[str]] | Callable[[Mapping[str, Any], int], bool]
"""Every assistant message, the last one, those of the roles, or those for which a callable returns True."""

SpecialTokens = Literal["escape", "error", "allow"]
Truncation = Literal["turns", "tokens", "error", "split"]
OnError = Literal["raise", "drop"]
OnLoss = Literal["count", "error"]


@dataclass(frozen=True, kw_only=True)
class EncodeSettings:
    """The settings of a `ChatEncoder` that decide the ids and labels of a row."""

    template_kwargs: Mapping[str, object] = field(default_factory=dict)
    """Arguments of the chat template. The date of a template that prints today's is pinned in them."""
    max_length: int | None = None
    """Tokens above which a row is cut; None for rows of any length."""
    train_on: TrainOn = "assistant"
    """Which assistant messages are trained."""
    truncation: Truncation = "turns"
    """How a row is cut: behind the last whole turn that fits, at the token, or not at all.

    With "turns" and "split", which are the same, a plain text is split into pieces.
    """
    on_error: OnError = "raise"
    """What becomes of a row that cannot be read."""
    on_loss: OnLoss = "count"
    """What becomes of a row of which the chat template leaves something out."""
    keep_reasoning: bool = False
    """Whether a row that loses thoughts is refused; `template_kwargs` then hold what makes the template keep them."""
    special_tokens: SpecialTokens = "escape"
    """What a control token becomes that a message spells: text, an error, or the control token."""
    allowed_tokens: tuple[str, ...] = ()
    """Control tokens that may be spelled inside trained turns and stay control tokens there."""

    def __post_init__(self) -> None:
        """Raise `PadfixError` for a setting that is not known."""
        _require_train_on(self.train_on)
        require_choice("special_tokens", self.special_tokens, SpecialTokens)
        require_choice("truncation", self.truncation, Truncation)
        require_choice("on_error", self.on_error, OnError)
        require_choice("on_loss", self.on_loss, OnLoss)
        require_max_length(self.max_length)


def _require_train_on(train_on: object) -> None:
    """Raise `PadfixError` for a `train_on` that is not known."""
    if callable(train_on) or train_on in ("assistant", "last"):
        return
    if isinstance(train_on, Mapping) and set(train_on) == {"roles"} and isinstance(train_on["roles"], list | tuple):
        if set(train_on["roles"]) == {"assistant"}:
            return
        raise PadfixError(
            f"train_on={train_on!r}: only the model's own turns can be trained, and a template marks no others. "
            "Use {'roles': ['assistant']}, or train the whole text: rows of the shape {'text': ...}"
        )
    raise PadfixError(
        f"train_on={train_on!r} is not known. Use one of: 'assistant', 'last', {{'roles': ['assistant']}}, "
        "or a callable(message, index) -> bool."
    )


def make_settings(
    tokenizer: TokenizerLike,
    date: datetime.date | str | None,
    template_kwargs: Mapping[str, object] | None,
    template: str | None = None,
    **settings: Any,  # the other fields of EncodeSettings, which checks them
) -> EncodeSettings:
    """Check a tokenizer and settings, and return them with the arguments for template, thoughts and date."""
    check_tokenizer(tokenizer)
    if template is not None:
        template_kwargs = _add_template(template, template_kwargs or {})
    if taken := sorted(
        {"add_generation_prompt", "conversation", "tokenize", "tools"}.intersection(template_kwargs or ())
    ):
        raise PadfixError(
            f"template_kwargs has {taken[0]}, which is no argument of the template: each row is rendered with its own "
            "tools and answers, as text. Leave it out; to train the rest of a last message that was begun: "
            'template_kwargs={"continue_final_message": True}'
        )
    checked = EncodeSettings(**settings)
    if checked.keep_reasoning:
        template_kwargs = keep_reasoning(tokenizer, template_kwargs)
    return replace(checked, template_kwargs=pin_date(tokenizer, template_kwargs, date))


def _add_template(template: object, template_kwargs: Mapping[str, object]) -> Mapping[str, object]:
    """Return the arguments with the chat template among them, as `apply_chat_template` takes it."""
    if not isinstance(template, str) or not template:
        raise PadfixError(
            f"template={describe(template)} is no source of a chat template. Read its file: "
            "template=Path('chat_template.jinja').read_text()"
        )
    if template_kwargs.get("chat_template", template) != template:
        raise PadfixError(
            "template and template_kwargs['chat_template'] are two different chat templates. Pass one of the two: "
            "ChatEncoder(tokenizer, template=...)"
        )
    return {**template_kwargs, "chat_template": template}


def find_text_end(tokenizer: TokenizerLike) -> int | None:
    """Return the id that ends a plain text. It is fixed when an encoder is made: a patch may change the EOS later."""
    return text_end_id(special_ids(tokenizer), tokenizer.eos_token_id)


def require_choice(name: str, value: object, choices: object) -> None:
    """Raise `PadfixError` for a setting that is none of the values of a `Literal`."""
    if value not in get_args(choices):
        raise PadfixError(f"{name}={value!r} is not known. Use one of: {', '.join(map(repr, get_args(choices)))}.")
