"""What was observed, as plain frozen data: all that a check reads.

Ids are ints, names are strings, dtypes are torch's names as strings; nothing here is a live object of another
library, except that the columns of a row are numpy arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llama_padfix.chat.profile.template_profile import TemplateProfile
from llama_padfix.doctor.folder_facts import FolderFacts
from llama_padfix.doctor.found_facts import OtherTokenizer
from llama_padfix.doctor.generation.answers import GeneratedAnswer
from llama_padfix.doctor.model_facts import ModelFacts, OptimizerFacts, RowStatistics
from llama_padfix.doctor.row_facts import DataFacts, RowFacts, SampleFacts
from llama_padfix.encoding.masking.turns_in_ids import TurnMarkers

if TYPE_CHECKING:
    from llama_padfix.core.types import JsonObject

__all__ = [
    "DataFacts",
    "Facts",
    "FolderFacts",
    "ModelFacts",
    "OptimizerFacts",
    "OtherTokenizer",
    "RowFacts",
    "RowStatistics",
    "SampleFacts",
    "TrainerFacts",
]


@dataclass(frozen=True)
class TrainerFacts:
    """How a trainer is set up to run."""

    class_name: str
    """The class of the trainer."""

    arguments: JsonObject = field(repr=False)
    """The training arguments that are bool, int, float, str or None."""

    collator: str
    """The collator's class name with its module."""

    given_labels_kept: bool | None
    """Labels of a row survive the collator; None where that could not be tried."""

    collator_pad_token_id: int | None
    """The id that the collator pads with."""

    device_type: str
    """The type of the device that will train."""

    device_name: str
    """Its name."""

    device_capability: tuple[int, int] | None
    """Its compute capability, None for what is not CUDA."""

    trainable_dtypes: Mapping[str, int]
    """Counts of trainable parameters (elements) by dtype."""

    frozen_dtypes: Mapping[str, int]
    """Counts of frozen parameters (elements) by dtype."""

    attention: str | None
    """The attention implementation of the model."""

    is_peft: bool
    """The model carries a PEFT adapter."""

    quantization: str | None
    """The quantization method of the model."""

    world_size: int
    """The number of processes that the trainer runs with."""

    expected_world_size: int | None
    """The number that the launcher announced, None without a launcher."""

    wrapper: str | None
    """The class that wraps the model, None without one."""

    autocast_dtype: str | None
    """The dtype of an autocast that an earlier trainer left around the model's forward."""

    dataset_columns: tuple[str, ...]
    """The columns of the training set."""

    dataset_labels_masked: bool | None = None
    """Some labels of the first rows are -100; None without labels."""

    label_names: tuple[str, ...] = ()
    """The trainer's `label_names`."""

    mixed_precision: str = "no"
    """What the trainer's accelerator computes in."""

    launched: bool = False
    """`accelerate launch` started the process."""

    distributed_type: str = "NO"
    """How accelerate runs the trainer."""

    sharding_requested: str | None = None
    """`fsdp` or `deepspeed` where the arguments set it."""

    advised_dtype: str | None = None
    """The dtype that `choose_precision` returns for the device."""

    advised_reason: str = ""
    """Why it does."""

    documents_isolated: bool | None = None
    """Attention separates the documents of a packed row by position ids; None where not known."""

    divided_again_by: int = 1
    """By how much accelerate divides gradients that the trainer has divided already; 1 is right."""

    own_loss: str | None = None
    """The function or method that computes the loss, where it is the user's own."""

    loader_errors: Mapping[str, str] = field(default_factory=dict)
    """By source, what drawing a batch raised."""

    not_drawn: Mapping[str, str] = field(default_factory=dict)
    """By source, why nothing was drawn."""

    loss_from_labels: bool = False
    """The loss is what the model returns for the batch's `labels`."""

    trains_all_by_default: bool = False
    """SFTTrainer made the labels of rows that it encoded itself, and was not asked to leave anything out."""

    own_loss_shifts: bool | None = None
    """An own loss compares the logits of a place with the label of the next one, as it must; None where not known."""

    loss_without_labels: str | None = None
    """The name of an own loss whose code reads no labels, None where it does or cannot be told."""

    tool_suffix: tuple[str, str] | None = None
    """What is appended behind a tool call in a rollout, and what the template writes, where the two differ."""

    dropped: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """By source, how many rows the trainer was given and keeps, where it dropped some."""

    generates_from_rows: bool = False
    """Evaluation gives the `input_ids` of whole rows to `generate`."""

    passes_cache_off: bool = False
    """The trainer calls the model with `use_cache=False`, whatever its config says."""

    trained_whole: Mapping[str, int] = field(default_factory=dict)
    """Counts of trainable elements of added rows and of modules that an adapter saves whole, by dtype."""

    reference: ModelFacts | None = None
    """The embedding's rows and special ids of the reference model."""

    copies: tuple[tuple[str, str, object], ...] = ()
    """What it keeps of the tokenizer's and model's settings: target of a change, kind, value; a list as a tuple."""

    @property
    def samples_completions(self) -> bool:
        """It generates what it trains on (GRPO, RLOO, online DPO): it has a temperature."""
        return "temperature" in self.arguments


@dataclass(frozen=True)
class EnvironmentFacts:
    """The installed versions by package name (only those that are installed)."""

    versions: Mapping[str, str]


@dataclass(frozen=True)
class Facts:
    """What was observed of everything that a diagnosis was given; a part that was not given is None or empty."""

    vocab_size: int = 0
    """Number of tokens, 0 without a tokenizer."""

    vocabulary: Mapping[str, int] = field(default_factory=dict, repr=False)
    """Every token's id."""

    special_ids: Mapping[str, int] = field(default_factory=dict, repr=False)
    """The ids of special tokens, by token."""

    bos_token: str | None = None
    """The tokenizer's BOS."""

    bos_token_id: int | None = None
    """Its id."""

    eos_token: str | None = None
    """The tokenizer's EOS."""

    eos_token_id: int | None = None
    """Its id."""

    pad_token: str | None = None
    """The tokenizer's pad token."""

    pad_token_id: int | None = None
    """Its id in `vocabulary`, None for a pad token that the vocabulary lacks."""

    unk_token_id: int | None = None
    """The id of the unknown token."""

    padding_side: str = "right"
    """"left" or "right"."""

    bos_added: int = 0
    """How many BOS encoding puts before a plain text."""

    eos_added: int = 0
    """How many EOS encoding puts after it."""

    tokenizer_class: str = ""
    """The name of the loaded class."""

    probe_ids: tuple[int, ...] = ()
    """The ids of "Hello world"."""

    probe_text: str = "Hello world"
    """What `probe_ids` decode as."""

    split_special_tokens: bool = False
    """Special tokens in a text are encoded as letters."""

    requested_pad_token: str | None = None
    """The pad token that the user passed."""

    template: TemplateProfile | None = None
    """What was learned about the chat template, None without one."""

    markers: TurnMarkers | None = None
    """The ids around assistant turns, None where turns have none of their own."""

    model: ModelFacts | None = None
    """Of the model."""

    trainer: TrainerFacts | None = None
    """Of the trainer."""

    optimizer: OptimizerFacts | None = None
    """Of the optimizer, where there is one already."""

    folder: FolderFacts | None = None
    """Of the saved folder."""

    environment: EnvironmentFacts | None = None
    """The installed versions."""

    samples: tuple[SampleFacts, ...] = ()
    """The sources of encoded rows."""

    data: DataFacts | None = None
    """Of rows that are not encoded."""

    more_data: tuple[DataFacts, ...] = ()
    """The same of further splits; checks of `data` run for each."""

    tokenizer_where: str = ""
    """The place in which the tokenizer was found, empty where it was given."""

    other_tokenizers: tuple[OtherTokenizer, ...] = ()
    """Tokenizers that were found beside it, and differ."""

    loader_errors: Mapping[str, str] | None = None
    """By source, what drawing a batch of a dataloader raised; None without one that belongs to no trainer."""

    held_ids: tuple[tuple[str, int, bool], ...] = ()
    """Pad ids that a collate function keeps: the place, the id, and whether another one can be put there."""

    generated: tuple[GeneratedAnswer, ...] | None = None
    """What the model generated; None where it was not asked to."""

    notes: tuple[str, ...] = ()
    """What was looked at in the place of what was given, and what was not looked at: one sentence each."""

    @property
    def present(self) -> frozenset[str]:
        """The parts that a check may need: "tokenizer", "template", "markers", "model", "trainer", ..., "rows"."""
        records = ("template", "markers", "model", "trainer", "optimizer", "folder", "environment", "data")
        folder = self.folder or FolderFacts("", ())
        parts = {name: getattr(self, name) is not None for name in records} | {
            "tokenizer": self.vocab_size > 0,
            "training": self.trainer is not None or self.optimizer is not None,
            "rows": bool(self.samples),
            "batches": self.trainer is not None or self.loader_errors is not None,
            "saved ids": bool(folder.raw_ids and folder.loaded_ids),
            "saved config": bool(folder.config or folder.generation_config),
            "adapter": bool(folder.adapter_config),
            "base of the adapter": folder.base_is_here,
            "generated answers": self.generated is not None,
        }
        return frozenset(name for name, is_present in parts.items() if is_present)
