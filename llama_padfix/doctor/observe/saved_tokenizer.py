"""A saved tokenizer as transformers 5 loads it, read without transformers where that needs no code of its class.

That is the generic class, which takes tokenizer.json as it is. Whatever in a folder would make transformers change the
tokenizer that the file describes is left to transformers: `read_generic` returns None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_padfix.chat.jinja_environment import PLAIN, compile_template
from llama_padfix.core.version import installed_versions

if TYPE_CHECKING:
    import tokenizers

    from llama_padfix.core.types import JsonObject, Messages
    from llama_padfix.doctor.facts import FolderFacts

_GENERIC = ("TokenizersBackend", "PreTrainedTokenizerFast")
_MODEL_TYPES = ("llama",)  # transformers has another class in mind for some other types
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_LISTS = ("extra_special_tokens", "additional_special_tokens")
# What is in these files, or under these names, may change the tokenizer that tokenizer.json describes.
_OTHER_FILES = (
    "added_tokens.json",
    "chat_template.json",
    "merges.txt",
    "special_tokens_map.json",
    "tekken.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
)
_PLAIN_SETTINGS = {
    *_NAMED,
    *_LISTS,
    "added_tokens_decoder",
    "backend",
    "chat_template",
    "clean_up_tokenization_spaces",
    "is_local",
    "local_files_only",
    "model_input_names",
    "model_max_length",
    "name_or_path",
    "padding_side",
    "processor_class",
    "tokenizer_class",
    "truncation_side",
}
_NO_LIMIT = int(1e30)  # as transformers writes it


def read_generic(folder: FolderFacts, backend: tokenizers.Tokenizer) -> TokenizersBackend | None:
    """Return the tokenizer of a folder; None where transformers has to load it.

    Args:
        folder: what was observed of the folder.
        backend: what its tokenizer.json holds.
    """
    settings = folder.tokenizer_config
    version = installed_versions(["transformers"]).get("transformers", "0")
    is_generic = (
        version.partition(".")[0] >= "5"
        and settings.get("tokenizer_class") in _GENERIC
        and folder.config.get("model_type") in _MODEL_TYPES
        and settings.keys() <= _PLAIN_SETTINGS
        and settings.get("padding_side", "right") in ("left", "right")
        and isinstance(settings.get("model_max_length", 0), int)
        and _keeps_files(folder)
        and backend.post_processor is not None
        and backend.truncation is backend.padding is None
        and _adds_nothing(settings, backend)
    )
    template = folder.chat_template if folder.chat_template is not None else settings.get("chat_template")
    return TokenizersBackend(backend, settings, template) if is_generic and isinstance(template, str | None) else None


def _keeps_files(folder: FolderFacts) -> bool:
    """Return True if no file beside tokenizer.json is read; where its added tokens are listed, no map of them is."""
    listed = {"special_tokens_map.json"} if "added_tokens_decoder" in folder.tokenizer_config else set()
    others = set(folder.files).intersection(_OTHER_FILES) - listed
    return not others and not Path(folder.path, "additional_chat_templates").exists()


def _adds_nothing(settings: JsonObject, backend: tokenizers.Tokenizer) -> bool:
    """Return True if each token that the settings name is a special token of tokenizer.json already."""
    added = backend.get_added_tokens_decoder()
    special = {token.content for token in added.values() if token.special}
    lists = [settings.get(name) or [] for name in _LISTS]
    if not all(isinstance(listed, list) for listed in lists):
        return False
    named = [settings[name] for name in _NAMED if settings.get(name) is not None] + [t for some in lists for t in some]
    declared = settings.get("added_tokens_decoder")
    return all(_content(token) in special for token in named) and (
        declared is None
        or (
            isinstance(declared, dict)
            and {str(token_id): _flags(token) for token_id, token in added.items()} == declared
        )
    )


def _content(token: object) -> object:
    return token.get("content") if isinstance(token, dict) else token


def _flags(token: tokenizers.AddedToken) -> JsonObject:
    names = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    return {name: getattr(token, name) for name in names}


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
        tokens = {name: _content(settings[name]) for name in _NAMED if settings.get(name) is not None}
        self.special_tokens_map = {name: str(token) for name, token in tokens.items()}
        more = [str(_content(token)) for name in _LISTS for token in settings.get(name) or ()]
        self.all_special_tokens = list(dict.fromkeys([*self.special_tokens_map.values(), *more]))
        self.all_special_ids = [backend.token_to_id(token) for token in self.all_special_tokens]
        self.added_tokens_decoder = backend.get_added_tokens_decoder()

    def __getattr__(self, name: str) -> Any:  # the text of a named token, its id, or None where it is not set
        if name in _NAMED:
            return self.special_tokens_map.get(name)
        if name.removesuffix("_id") in _NAMED:
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
