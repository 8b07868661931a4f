"""What was observed, as plain frozen data: the only thing that a check may look at.

Ids are ints, names are strings, dtypes are torch's names as strings; nothing here is a live object of another
library, except that the columns of a row are numpy arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llama_padfix.chat.template_profile import TemplateProfile
from llama_padfix.encoding.turns_in_ids import Turn, TurnMarkers

__all__ = [
    "DataFacts",
    "EnvironmentFacts",
    "Facts",
    "FolderFacts",
    "ModelFacts",
    "RowFacts",
    "RowStatistics",
    "SampleFacts",
    "TrainerFacts",
]


@dataclass(frozen=True)
class RowStatistics:
    """A row of the embedding in ratios to ordinary rows: 1 is ordinary, 0 is nothing.

    `norm` is its length, `to_mean` its distance to the mean of ordinary rows in units of theirs, `to_twin` the
    distance to the nearest row of another control token in the same units.
    """

    norm: float
    to_mean: float
    to_twin: float


@dataclass(frozen=True)
class ModelFacts:
    """The settings of a model that must agree with its tokenizer, as they are held (an id, a tuple or None).

    `generation_error` is what saving the generation config would raise. `original_rows` is the size of the
    vocabulary that the checkpoint was saved with, None where that cannot be known. `rows` tells of the rows of
    control tokens. `trained_rows` of the embedding and `trained_output_rows` of the head get gradients: all where
    None. `says_tied` is the config's word for it that both are one matrix, `is_tied` whether they are.
    `attention_installed` is None for an attention that needs no package.
    """

    embedding_rows: int | None = None
    config_pad_token_id: int | None = None
    config_eos_token_id: int | tuple[int, ...] | None = None
    has_generation_config: bool = False
    generation_pad_token_id: int | None = None
    generation_eos_token_id: int | tuple[int, ...] | None = None
    generation_error: str | None = None
    original_rows: int | None = None
    rows: Mapping[int, RowStatistics] = field(default_factory=dict, repr=False)
    trained_rows: tuple[int, ...] | None = None
    trained_output_rows: tuple[int, ...] | None = None
    says_tied: bool = False
    is_tied: bool = False
    is_peft: bool = False
    attention: str | None = None
    attention_installed: bool | None = None
    floating_dtypes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RowFacts:
    """One encoded row as the loss will see it; int64 numpy arrays of one length, None where a column is missing.

    `number` counts from 0 in what `source` names: "train batch", "eval batch", "batch" or "dataset". Rows of a
    batch are padded; `attention_mask` tells where, and `position_ids` come from packing.
    """

    source: str
    number: int
    input_ids: Any
    labels: Any = None
    attention_mask: Any = None
    position_ids: Any = None
    found_turns: dict[TurnMarkers, tuple[Turn, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """What `check_helpers.find_turns` found, by markers: most checks need the turns of the same row."""


@dataclass(frozen=True)
class SampleFacts:
    """Which rows were looked at: `seen` of `total` (None for a stream), each column that a row had."""

    source: str
    seen: int
    total: int | None
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrainerFacts:
    """How a trainer is set up to run.

    `arguments` are the training arguments that are plain values. `collator` is the collator's class name with its
    module; `given_labels_kept` tells, by trying, whether labels of a row survive the collator (None: could not be
    tried), and `dataset_labels_masked` whether the first rows of the dataset bring labels of which some are -100.
    `trainable_dtypes` and `frozen_dtypes` count parameters (elements) by dtype. `world_size` is what the trainer
    runs with, `expected_world_size` what the launcher announced, `distributed_type` how accelerate runs it.
    `mixed_precision` is what the trainer's own accelerator computes in; `autocast_dtype` is what the model's
    forward was already wrapped with by an earlier trainer; `launched` tells whether `accelerate launch` started
    the process. `advised_dtype` is what `choose_precision` says of the device that will train, `advised_reason`
    why. `documents_isolated` tells whether attention keeps to a document of a packed row by its position ids.
    `divided_again_by` is the number by which accelerate divides gradients that the Trainer has divided already.
    `loader_errors` holds, by source, what drawing a batch raised, and `not_drawn` why nothing was drawn.
    """

    class_name: str
    arguments: Mapping[str, Any] = field(repr=False)
    collator: str
    given_labels_kept: bool | None
    collator_pad_token_id: int | None
    device_type: str
    device_name: str
    device_capability: tuple[int, int] | None
    trainable_dtypes: Mapping[str, int]
    frozen_dtypes: Mapping[str, int]
    attention: str | None
    is_peft: bool
    quantization: str | None
    world_size: int
    expected_world_size: int | None
    wrapper: str | None
    autocast_dtype: str | None
    dataset_columns: tuple[str, ...]
    dataset_labels_masked: bool | None = None
    label_names: tuple[str, ...] = ()
    mixed_precision: str = "no"
    launched: bool = False
    distributed_type: str = "NO"
    sharding_asked: str | None = None
    advised_dtype: str | None = None
    advised_reason: str = ""
    documents_isolated: bool | None = None
    divided_again_by: int = 1
    loader_errors: Mapping[str, str] = field(default_factory=dict)
    not_drawn: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FolderFacts:
    """What a run saved: file names, and what the JSON files say.

    `tokenizer_config`, `config`, `generation_config` and `adapter_config` are the parsed files, empty where there
    is none; `chat_template` is the text of chat_template.jinja and `saved_at` when each file was written (seconds).
    `raw_ids` are the ids that the raw tokenizer.json gives a probe text and `loaded_ids` those of the tokenizer as
    it loads, both empty where one could not be had; `load_error` says why. `byte_level`: tokenizer.json splits
    bytes, as Llama 3's does and Llama 2's does not. `embedding_rows` comes from the header of the weights, or else
    from config.json; `weights_seen` tells which.
    """

    path: str
    files: tuple[str, ...]
    tokenizer_config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    generation_config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    adapter_config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    raw_ids: tuple[int, ...] = ()
    loaded_ids: tuple[int, ...] = ()
    load_error: str | None = None
    chat_template: str | None = field(default=None, repr=False)
    saved_at: Mapping[str, float] = field(default_factory=dict, repr=False)
    byte_level: bool = False
    embedding_rows: int | None = None
    weights_seen: bool = False


@dataclass(frozen=True)
class DataFacts:
    """What was seen in rows that are not encoded yet, and what the library's own encoder made of them.

    `seen` of `total` rows were read; `shapes` counts them by shape. `unreadable` and `unanswered` hold (row, why)
    and `spelled` (row, the control tokens that its text spells) of the first rows that have it; the counts beside
    them are of all. `bos_in_text` counts `text` rows that begin with a written BOS. Of the rows that could be read
    `cut` lost turns to `max_length`, and `too_long` have no turn that fits.
    """

    source: str
    seen: int
    total: int | None
    shapes: Mapping[str, int]
    unreadable: tuple[tuple[int, str], ...] = ()
    unreadable_count: int = 0
    unanswered: tuple[tuple[int, str], ...] = ()
    unanswered_count: int = 0
    spelled: tuple[tuple[int, str], ...] = ()
    spelled_count: int = 0
    bos_in_text: int = 0
    max_length: int | None = None
    cut: int = 0
    too_long: int = 0


@dataclass(frozen=True)
class EnvironmentFacts:
    """The installed versions by package name (only those that are installed)."""

    versions: Mapping[str, str]


@dataclass(frozen=True)
class Facts:
    """What was observed of everything that a diagnosis was given; a part that was not given is None or empty.

    The tokenizer's part: `vocabulary` maps every token to its id and `special_ids` the special ones;
    `pad_token_id` is looked up there, so it is None for a pad token that the vocabulary lacks. `bos_added` and
    `eos_added` count what encoding a plain text puts before and after it. `probe_ids` are those of "Hello world" and
    `probe_text` is what they decode as; `tokenizer_class` is the name of the loaded class. `template` is None
    without a chat template; `markers` are the ids around its assistant turns, None where they have none of their own.
    """

    vocab_size: int = 0
    vocabulary: Mapping[str, int] = field(default_factory=dict, repr=False)
    special_ids: Mapping[str, int] = field(default_factory=dict, repr=False)
    bos_token: str | None = None
    bos_token_id: int | None = None
    eos_token: str | None = None
    eos_token_id: int | None = None
    pad_token: str | None = None
    pad_token_id: int | None = None
    unk_token_id: int | None = None
    padding_side: str = "right"
    bos_added: int = 0
    eos_added: int = 0
    tokenizer_class: str = ""
    probe_ids: tuple[int, ...] = ()
    probe_text: str = "Hello world"
    requested_pad_token: str | None = None
    template: TemplateProfile | None = None
    markers: TurnMarkers | None = None
    model: ModelFacts | None = None
    trainer: TrainerFacts | None = None
    folder: FolderFacts | None = None
    environment: EnvironmentFacts | None = None
    samples: tuple[SampleFacts, ...] = ()
    data: DataFacts | None = None

    @property
    def present(self) -> frozenset[str]:
        """The parts that a check may need: "tokenizer", "template", "markers", "model", "trainer", ..., "rows"."""
        parts = {
            "tokenizer": self.vocab_size > 0,
            "template": self.template is not None,
            "markers": self.markers is not None,
            "model": self.model is not None,
            "trainer": self.trainer is not None,
            "folder": self.folder is not None,
            "environment": self.environment is not None,
            "rows": bool(self.samples),
            "data": self.data is not None,
            "saved ids": self.folder is not None and bool(self.folder.raw_ids and self.folder.loaded_ids),
            "saved config": self.folder is not None and bool(self.folder.config or self.folder.generation_config),
        }
        return frozenset(name for name, there in parts.items() if there)
