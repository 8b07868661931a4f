"""What was observed of a saved folder. `facts` re-exports `FolderFacts`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llama_padfix.core.types import JsonObject

TOKENIZER_FILES = frozenset({"tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json"})
"""The files of which a folder has at least one where a tokenizer was saved into it."""


@dataclass(frozen=True)
class FolderFacts:
    """What a run saved: file names, and the contents of the JSON files."""

    path: str
    """The folder."""

    files: tuple[str, ...]
    """The names of its files, sorted."""

    tokenizer_config: JsonObject = field(default_factory=dict, repr=False)
    """tokenizer_config.json, empty where it is missing."""

    config: JsonObject = field(default_factory=dict, repr=False)
    """config.json, empty where it is missing."""

    generation_config: JsonObject = field(default_factory=dict, repr=False)
    """generation_config.json, empty where it is missing."""

    adapter_config: JsonObject = field(default_factory=dict, repr=False)
    """adapter_config.json, empty where it is missing."""

    raw_ids: tuple[int, ...] = ()
    """The ids that tokenizer.json alone gives a probe text, empty where it cannot be read."""

    loaded_ids: tuple[int, ...] = ()
    """The ids that the loaded tokenizer gives the same text, empty where it does not load."""

    baked: Mapping[str, str] = field(default_factory=dict)
    """What tokenizer.json does to every text: by "padding" and "truncation", in words."""

    load_error: str | None = None
    """Why the tokenizer does not load."""

    chat_template: str | None = field(default=None, repr=False)
    """The text of chat_template.jinja."""

    saved_at: Mapping[str, float] = field(default_factory=dict, repr=False)
    """When each file was written, in seconds."""

    byte_level: bool = False
    """tokenizer.json splits bytes, as Llama 3's does and Llama 2's does not."""

    embedding_rows: int | None = None
    """Rows of the embedding by the header of the weights, else by config.json."""

    weights_seen: bool = False
    """`embedding_rows` comes from the weights."""

    broken_weights: tuple[str, ...] = ()
    """What is wrong with files of weights: cut short, damaged, missing beside others."""

    given: str = ""
    """The folder that was given, where `path` is its newest checkpoint."""

    checkpoints: tuple[str, ...] = ()
    """The names of the checkpoints in it, the oldest first."""

    adapter_rows: int | None = None
    """Rows of the embedding that an adapter's file holds, None where it holds none."""

    adapter_is_nested: bool = False
    """The adapter's file holds the names of an adapter on an adapter."""

    base_rows: int | None = None
    """Rows of the adapter's base model by its config.json, None where that is not here."""

    base_stops: tuple[int, ...] | None = None
    """The ids at which the adapter's base model stops, None where its files are not here."""

    @property
    def has_tokenizer(self) -> bool:
        """The folder holds a file of a tokenizer."""
        return not TOKENIZER_FILES.isdisjoint(self.files)

    @property
    def base_is_here(self) -> bool:
        """The config of the adapter's base model was found: in its folder, or in the cache."""
        return self.base_rows is not None or self.base_stops is not None
