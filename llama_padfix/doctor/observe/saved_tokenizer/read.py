"""A saved tokenizer as transformers 5 loads it, read without transformers where that needs no code of its class.

That is the generic class, which takes tokenizer.json as it is. Whatever in a folder would make transformers change the
tokenizer that the file describes is left to transformers: `read_generic` returns None.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llama_padfix.core.version import installed_versions
from llama_padfix.doctor.observe.saved_tokenizer.stand_in import LISTS, NAMED, TokenizersBackend, content_of

if TYPE_CHECKING:
    import tokenizers

    from llama_padfix.core.types import JsonObject
    from llama_padfix.doctor.facts import FolderFacts

_GENERIC = ("TokenizersBackend", "PreTrainedTokenizerFast")
_MODEL_TYPES = ("llama",)  # transformers has another class in mind for some other types
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
    *NAMED,
    *LISTS,
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
        and ("config.json" not in folder.files or folder.config.get("model_type") in _MODEL_TYPES)
        and settings.keys() <= _PLAIN_SETTINGS
        and settings.get("padding_side", "right") in ("left", "right")
        and isinstance(settings.get("model_max_length", 0), int)
        and _keeps_files(folder)
        and backend.post_processor is not None
        and not folder.baked  # transformers takes a pad token from padding in the file
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
    lists = [settings.get(name) or [] for name in LISTS]
    if not all(isinstance(listed, list) for listed in lists):
        return False
    named = [settings[name] for name in NAMED if settings.get(name) is not None] + [t for some in lists for t in some]
    declared = settings.get("added_tokens_decoder")
    return all(content_of(token) in special for token in named) and (
        declared is None
        or (
            isinstance(declared, dict)
            and {str(token_id): _flags(token) for token_id, token in added.items()} == declared
        )
    )


def _flags(token: tokenizers.AddedToken) -> JsonObject:
    names = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    return {name: getattr(token, name) for name in names}
