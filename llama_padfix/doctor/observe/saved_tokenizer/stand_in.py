"""What stands in for the generic tokenizer of transformers 5, without transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llama_padfix.chat.jinja_environment import PLAIN, compile_template

if TYPE_CHECKING:
    import tokenizers

    from llama_padfix.core.types import JsonObject, Messages

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""The settings that name one special token."""

LISTS = ("extra_special_tokens", "additional_special_tokens")
"""The settings that list some."""

_NO_LIMIT = int(1e30)  # as transformers writes it


def content_of(token: object) -> object:
    """Return the text of a token, which a config holds as text or as an object."""
    return token.get("content") if isinstance(token, dict) else token


class TokenizersBackend:
    """What is used of the class of transformers that has this name, without transformers."""

    is_fast = True

    def __init__(self, backend: tokenizers.Tokenizer, settings: JsonObject, chat_template: str | None) -> None:
        self.backend_tokenizer = backend
        self.chat_template = chat_template
        self.init_kwargs = settings
        self.padding_side = settings.get("padding_side", "right")
        self.model_max_length = settings.get("model_max_length", _NO_LIMIT)
        self.name_or_path = settings.get("name_or_path", "")
        tokens = {name: content_of(settings[name]) for name in NAMED if settings.get(name) is not None}
        self.special_tokens_map = {name: str(token) for name, token in tokens.items()}
        more = [str(content_of(token)) for name in LISTS for token in settings.get(name) or ()]
        self.all_special_tokens = list(dict.fromkeys([*self.special_tokens_map.values(), *more]))
        self.all_special_ids = [backend.token_to_id(token) for token in self.all_special_tokens]
        self.added_tokens_decoder = backend.get_added_tokens_decoder()

    def __getattr__(self, name: str) -> Any:  # the text of a named token, its id, or None where it is not set
        if name in NAMED:
            return self.special_tokens_map.get(name)
        if name.removesuffix("_id") in NAMED:
            token = self.special_tokens_map.get(name.removesuffix("_id"))
            return None if token is None else self.backend_tokenizer.token_to_id(token)
        raise AttributeError(name)

    def __len__(self) -> int:
        return self.backend_tokenizer.get_vocab_size(with_added_tokens=True)

    def __call__(self, text: str, *, add_special_tokens: bool = True, **_: object) -> dict[str, list[int]]:
        """Return the ids of a text."""
        return {"input_ids": self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens).ids}

    def get_vocab(self) -> dict[str, int]:
        """Return the id of every token."""
        return self.backend_tokenizer.get_vocab(with_added_tokens=True)

    def convert_tokens_to_ids(self, tokens: Any) -> Any:  # a token gives an id, a list a list
        """Return the ids of tokens."""
        one = self.backend_tokenizer.token_to_id
        return one(tokens) if isinstance(tokens, str) else [one(token) for token in tokens]

    def decode(self, token_ids: Sequence[int], **_: object) -> str:
        """Return the text of ids, special tokens included."""
        return self.backend_tokenizer.decode(list(token_ids), skip_special_tokens=False)

    def get_chat_template(self, chat_template: str | None = None, tools: object = None) -> str:
        """Return the source of the chat template."""
        return chat_template if chat_template is not None else str(self.chat_template)

    def apply_chat_template(
        self,
        conversation: Messages,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        tokenize: bool = False,
        add_generation_prompt: bool = False,
        **kwargs: object,
    ) -> str:
        """Return a conversation as text."""
        from datetime import datetime

        messages = [{key: value for key, value in message.items() if value is not None} for message in conversation]
        context = {
            "strftime_now": lambda pattern: datetime.now().strftime(pattern),
            **self.special_tokens_map,
            **kwargs,
        }
        given = {"messages": messages, "tools": tools, "documents": None}
        template = compile_template(self.get_chat_template(chat_template), PLAIN)
        return template.render(**context, **given, add_generation_prompt=add_generation_prompt)
