"""What differs between the supported versions of transformers, TRL, PEFT and datasets, each named once.

Every difference is found by a signature or by trying, not by a version number; the version that brought it is named
for the reader. What an old version cannot do at all is refused by the function that needs it.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from llama_padfix.core.errors import PadfixError

if TYPE_CHECKING:
    from peft import PeftConfig

    from llama_padfix.core.types import ModelLike, TokenizerLike, TrainerLike

# Names of one argument in two versions.
_SAME = (
    ("evaluation_strategy", "eval_strategy"),  # transformers 4.41
    ("gradient_checkpointing", "activation_checkpointing"),  # transformers 5.23
    ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"),
    ("no_cuda", "use_cpu"),  # transformers 4.34; the old name left in 5.0
)
_CLOCK_PROBE = "{{ strftime_now is defined }}"
_CLOCKS: dict[type, bool] = {}  # by the class of tokenizer, which decides


def name_dtype_argument() -> str:
    """Return the keyword for the weights' dtype: `dtype` since transformers 4.56, `torch_dtype` before."""
    from transformers import PretrainedConfig

    return "dtype" if "dtype" in inspect.signature(PretrainedConfig.__init__).parameters else "torch_dtype"


def converts_weights() -> bool:
    """Return whether `from_pretrained` takes the weights as a mapping of names and converts them: transformers 5."""
    return importlib.util.find_spec("transformers.core_model_loading") is not None


def takes_hidden_states() -> bool:
    """Return whether TRL's SFTTrainer computes the loss from the hidden states of `model.base_model`: TRL 1.16."""
    try:
        from trl.trainer import utils
    except ImportError:
        return False
    return hasattr(utils, "add_fused_lm_head")


def name_tokenizer_argument(trainer_class: Callable[..., object]) -> str:
    """Return what a trainer class calls its tokenizer: `processing_class`, before transformers 4.46 `tokenizer`."""
    parameters = inspect.signature(trainer_class).parameters
    return "processing_class" if "processing_class" in parameters else "tokenizer"


def find_tokenizer(trainer: TrainerLike) -> Any:  # `Any`: a tokenizer or a processor of any class
    """Return the tokenizer or processor of a trainer; None where it has none."""
    held = getattr(trainer, "processing_class", None)
    return held if held is not None else getattr(trainer, "tokenizer", None)


def make_checkpointing_arguments() -> dict[str, object]:
    """Return the keywords of `TrainingArguments` that make checkpointing, where it is on, the non-reentrant kind.

    That is the default from transformers 5.23 on, which calls it activation checkpointing.
    """
    from transformers import TrainingArguments

    if "activation_checkpointing_kwargs" in inspect.signature(TrainingArguments).parameters:
        return {}
    return {"gradient_checkpointing_kwargs": {"use_reentrant": False}}


def make_grouping_arguments() -> dict[str, object]:
    """Return the keywords of `TrainingArguments` for batches of like length; transformers 5 names a strategy."""
    from transformers import TrainingArguments

    if "train_sampling_strategy" in inspect.signature(TrainingArguments).parameters:
        return {"train_sampling_strategy": "group_by_length"}
    return {"group_by_length": True}


def enable_checkpointing(model: ModelLike, how: dict[str, object]) -> None:
    """Switch checkpointing on under the name that the model knows; the old one warns from transformers 5.23 on."""
    enable = getattr(model, "activation_checkpointing_enable", None)
    if enable is not None:
        enable(activation_checkpointing_kwargs=how)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=how)


def rename_arguments(arguments: Mapping[str, object], config_class: Callable[..., object]) -> dict[str, object]:
    """Return the keywords under the names that this `TrainingArguments` class knows, older and newer ones alike.

    `evaluation_strategy`, `gradient_checkpointing`, `no_cuda`; `warmup_ratio`, which is a `warmup_steps` below 1
    since transformers 5.0; `group_by_length`, which is a `train_sampling_strategy` since 5.2. Any other keyword is
    passed through. Raises `PadfixError` where two keywords mean the same.
    """
    known = inspect.signature(config_class).parameters
    renamed: dict[str, object] = {}
    for given, value in arguments.items():
        for name, new_value in _rename(given, value, known).items():
            if name in renamed and renamed[name] != new_value:
                raise PadfixError(f"{given}={value!r} and {name}={renamed[name]!r} mean the same. Pass one of them.")
            renamed[name] = new_value
    return renamed


# `Any`: a value of any argument, compared with a number where it is one.
def _rename(name: str, value: Any, known: Mapping[str, inspect.Parameter]) -> dict[str, object]:
    for older, newer in _SAME:
        if name in (older, newer):
            # Where both are known, the older one warns.
            return {newer if newer in known or older not in known else older: value}
    # Up to transformers 4.57 the ratio is 0.0 by default and the steps are whole; since 5.0 it is None, then gone.
    by_ratio = "warmup_ratio" in known and known["warmup_ratio"].default is not None
    if name == "warmup_ratio" and not by_ratio:
        return {} if value is None else {"warmup_steps": value}
    if name == "warmup_steps" and by_ratio and 0 < value < 1:
        return {"warmup_ratio": value}
    if name == "group_by_length" and name not in known:
        return {"train_sampling_strategy": "group_by_length"} if value else {}
    if name == "train_sampling_strategy" and name not in known and value in ("random", "group_by_length"):
        return {"group_by_length": value == "group_by_length"}
    return {name: value}


def gives_clock(tokenizer: TokenizerLike) -> bool:
    """Return True if chat templates get `strftime_now` (transformers 4.45); without, Llama 3.2 prints a fixed date."""
    kind = type(tokenizer)
    if kind not in _CLOCKS:
        probe = [{"role": "user", "content": "Hi"}]
        try:
            shown = tokenizer.apply_chat_template(probe, chat_template=_CLOCK_PROBE, tokenize=False)
            _CLOCKS[kind] = shown != str(False)
        except Exception:  # a tokenizer that renders by code of its own
            _CLOCKS[kind] = True
    return _CLOCKS[kind]


def averages_by_tokens() -> bool:
    """Return True if an accumulated update is the mean over its trained tokens (transformers 4.46).

    The sign is the argument `num_items_in_batch`. Before, an update is the mean of the batches' means, in which a row
    with few trained tokens counts for more.
    """
    from transformers import Trainer

    return "num_items_in_batch" in inspect.signature(Trainer.compute_loss).parameters


def count_second_division(trainer: TrainerLike) -> int:
    """Return by what accelerate divides accumulated gradients that the trainer has divided already; 1 for not at all.

    transformers 5.2 to 5.5 passes the number of accumulated batches to accelerate, which divides the loss by it
    although the loss is divided by the update's tokens already: the gradient of N batches is 1/N of what it should be.
    """
    steps = int(getattr(trainer.accelerator, "gradient_accumulation_steps", 1))
    once = not averages_by_tokens() or getattr(trainer, "is_deepspeed_enabled", False)
    return 1 if once else steps


def divide_once(trainer: TrainerLike) -> bool:
    """Let accumulated gradients be divided once; return True if the trainer would have done it twice."""
    twice = count_second_division(trainer) > 1
    if twice:
        trainer.accelerator.gradient_accumulation_steps = 1
    return twice


BatchLayout = Literal["joined", "named", "apart"]
"""How a batch holds answers: in one block, in columns for each answer, or with the prompts for themselves."""


def find_batch_layout(trainer_class: type) -> BatchLayout:
    """Return how the batches of a preference trainer of TRL hold answers, by the columns that its source names.

    "joined": one block of rows with a mask of what is trained (TRL 1.x). "named": columns for each answer with labels
    (ORPO, DPO to TRL 0.11, KTO and reward models of that time). "apart": prompts and answers for themselves (DPO of
    TRL 0.12 to 0.29), where each token of an answer is trained.
    """
    source = inspect.getsource(trainer_class)
    if any(f'"{name}"' in source for name in ("chosen_labels", "completion_labels", "input_ids_chosen")):
        return "named"
    return "apart" if '"prompt_input_ids"' in source else "joined"


@functools.cache
def reads_paired_merges() -> bool:
    """Return True if a tokenizer.json whose merges are pairs can be read: tokenizers 0.20 (transformers 4.45).

    These versions and newer ones write it so; older ones read `"a b"` only.
    """
    from tokenizers import Tokenizer

    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}
    try:
        Tokenizer.from_str(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
    except Exception:  # the library raises bare Exceptions
        return False
    return True


def resizes_to_mean(model: ModelLike) -> bool:
    """Return True if `resize_token_embeddings` can make new rows the mean of the old ones (transformers 4.46)."""
    return "mean_resizing" in inspect.signature(model.resize_token_embeddings).parameters


def trains_single_rows(lora: PeftConfig) -> bool:
    """Return True if a PEFT configuration can train single rows of a matrix: `trainable_token_indices`, PEFT 0.15."""
    return hasattr(lora, "trainable_token_indices")


@functools.cache
def trains_rows_of_heads() -> bool:
    """Return True if PEFT can train single rows of an output head (PEFT 0.18); before, only those of an embedding."""
    import peft
    import torch

    with torch.random.fork_rng(devices=[]):
        layers = torch.nn.ModuleDict({"body": torch.nn.Linear(2, 2), "head": torch.nn.Linear(2, 3, bias=False)})
        try:
            config = peft.LoraConfig(target_modules=["body"], trainable_token_indices={"head": [0]})
            peft.inject_adapter_in_model(config, layers)
        except (AttributeError, TypeError):  # a linear layer has no embedding_dim; the field is not known
            return False
    return True


def ties_saved_copies(lora: PeftConfig) -> bool:
    """Return True if PEFT ties a head to the trained copy of its embedding: `ensure_weight_tying`, PEFT 0.18."""
    return hasattr(lora, "ensure_weight_tying")


def list_feature(datasets: Any) -> Any:  # `Any`: the package, which is untyped, and one of its classes
    """Return the feature of a column of lists: `List` since datasets 4.0, where `Sequence` warns; else that."""
    return getattr(datasets, "List", None) or datasets.Sequence
