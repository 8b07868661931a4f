"""The types of what the library is given: tokenizers, models, rows and arrays, as far as it relies on them.

Hugging Face's own classes are loaded late and mostly untyped, so a protocol names what is called. Import these names
under `TYPE_CHECKING`; nothing here is needed while a program runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from typing import TypeAlias

    import numpy as np
    import numpy.typing as npt
    import tokenizers
    import torch
    from peft import LoraConfig
    from transformers import BitsAndBytesConfig

    IdArray: TypeAlias = npt.NDArray[np.int32]
    """Ids or labels of rows, one row after another, shape (tokens,)."""

    LongArray: TypeAlias = npt.NDArray[np.int64]
    """Bounds, places and batches: int64."""

    BoolArray: TypeAlias = npt.NDArray[np.bool_]

    ByteArray: TypeAlias = npt.NDArray[np.uint8]

    IntArray: TypeAlias = npt.NDArray[np.integer]
    """Integers of any width, as a user's arrays hold them."""

    Row: TypeAlias = Mapping[str, object]
    """One row of a dataset, by column."""

    Message: TypeAlias = Mapping[str, Any]
    """One chat message; its values are a user's data and a template's business."""

    Messages: TypeAlias = Sequence[Message]

    DeviceMap: TypeAlias = str | int | Mapping[str, str | int] | None
    """What `device_map=` takes, and what `from_pretrained` does."""

    Lora: TypeAlias = bool | Mapping[str, object] | LoraConfig | None
    """What `lora=` takes: True for the defaults, fields that replace those, a configuration, or nothing."""

    Quantization: TypeAlias = str | BitsAndBytesConfig | None
    """What `quantization=` takes: "nf4", "int8", a configuration, or None."""

    MessageDict: TypeAlias = dict[str, Any]
    """A message that the library made from a user's, in the keys that chat templates know."""

    Tool: TypeAlias = Mapping[str, Any]
    """The JSON schema of one tool, or what a template takes for one."""

    Collator: TypeAlias = Callable[[list[Any]], Mapping[str, Any]]
    """What makes a batch of rows: tensors by column."""

    JsonObject: TypeAlias = dict[str, Any]
    """An object that was read from JSON or will be written as JSON; its values are what the file holds."""


class AddedTokenLike(Protocol):
    """`tokenizers.AddedToken`: a token that is cut out of a text before anything else looks at it."""

    content: str
    special: bool
    lstrip: bool
    rstrip: bool
    single_word: bool
    normalized: bool


class TokenizerLike(Protocol):
    """What is used of `transformers.PreTrainedTokenizerBase`; `backend_tokenizer` only where `is_fast`."""

    chat_template: str | dict[str, str] | None
    padding_side: str
    model_max_length: int
    name_or_path: str
    is_fast: bool
    bos_token: str | None
    bos_token_id: int | None
    eos_token: str | None
    eos_token_id: int | None
    pad_token: str | None
    pad_token_id: int | None
    unk_token: str | None
    unk_token_id: int | None
    added_tokens_decoder: Mapping[int, AddedTokenLike]
    all_special_tokens: Sequence[str]
    all_special_ids: Sequence[int]
    special_tokens_map: Mapping[str, str]
    backend_tokenizer: tokenizers.Tokenizer
    init_kwargs: dict[str, Any]

    def __len__(self) -> int: ...

    def __call__(self, text: Any, **settings: Any) -> Any: ...  # BatchEncoding: a dict that depends on the settings

    def get_vocab(self) -> dict[str, int]: ...

    def get_added_vocab(self) -> dict[str, int]: ...

    def convert_tokens_to_ids(self, tokens: Any) -> Any: ...  # a token gives an int, a list a list

    def convert_ids_to_tokens(self, ids: Any) -> Any: ...  # an int gives a token, a list a list

    def convert_tokens_to_string(self, tokens: list[str]) -> str: ...

    def decode(self, token_ids: Any, **settings: Any) -> str: ...

    def apply_chat_template(self, conversation: Any, **settings: Any) -> Any: ...  # text, ids or a batch of either

    def get_chat_template(self, chat_template: str | None = None, tools: Any = None) -> str: ...

    def add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int: ...

    def save_pretrained(self, save_directory: str | Path) -> Any: ...


class ConfiguredModel(Protocol):
    """A model, or a stand-in for one that has the settings alone; a Transformers config differs by model type."""

    config: Any
    generation_config: Any  # None where the model does not generate


class ModelLike(ConfiguredModel, Protocol):
    """What is used of `transformers.PreTrainedModel`, with or without a PEFT adapter."""

    def parameters(self) -> Iterator[torch.nn.Parameter]: ...

    def modules(self) -> Iterator[torch.nn.Module]: ...

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]: ...

    def named_modules(self, *, remove_duplicate: bool = True) -> Iterator[tuple[str, torch.nn.Module]]: ...

    def get_submodule(self, target: str) -> torch.nn.Module: ...

    def requires_grad_(self, requires_grad: bool = True) -> object: ...

    def enable_input_require_grads(self) -> object: ...

    def gradient_checkpointing_enable(self, *, gradient_checkpointing_kwargs: dict[str, object]) -> object: ...

    def get_input_embeddings(self) -> torch.nn.Embedding: ...

    def set_input_embeddings(self, value: torch.nn.Embedding) -> None: ...

    def get_output_embeddings(self) -> torch.nn.Linear | None: ...

    def set_output_embeddings(self, new_embeddings: torch.nn.Linear) -> None: ...

    def resize_token_embeddings(self, new_num_tokens: int, **settings: bool) -> object: ...


class TrainerLike(Protocol):
    """What is used of `transformers.Trainer`."""

    model: ModelLike
    model_wrapped: object
    args: Any  # transformers.TrainingArguments, whose fields differ by version
    accelerator: Any  # accelerate.Accelerator, which is untyped
    data_collator: Collator
    train_dataset: Rows | None

    def get_train_dataloader(self) -> Iterable[object]: ...

    def get_eval_dataloader(self, eval_dataset: str | None = None) -> Iterable[object]: ...


Rows = Iterable[Any]
"""Rows of any shape: a dataset, a list, a stream."""
