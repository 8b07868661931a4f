"""What TRL's trainer of each task takes: its classes, its keywords, and rows that it does not tokenize again."""

from __future__ import annotations

import copy
import functools
import importlib
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

from llama_padfix.core.compat import BatchLayout, find_batch_layout
from llama_padfix.core.errors import PadfixError, describe
from llama_padfix.encoding.collator import PadCollator
from llama_padfix.encoding.dataset.open_rows import map_splits
from llama_padfix.training.trainer import import_trl, sft_arguments_for
from llama_padfix.training.trainer import trainer_arguments_for as safe_arguments_for

if TYPE_CHECKING:
    from llama_padfix.core.types import ModelLike
    from llama_padfix.hardware.precision import Precision

TaskName = Literal["sft", "dpo", "kto", "reward", "orpo"]

_CLASSES = {
    "sft": ("SFTTrainer", "SFTConfig"),
    "dpo": ("DPOTrainer", "DPOConfig"),
    "kto": ("KTOTrainer", "KTOConfig"),
    "reward": ("RewardTrainer", "RewardConfig"),
    "orpo": ("ORPOTrainer", "ORPOConfig"),
}
_ALSO_IN = ("trl.experimental.orpo", "trl.experimental.kto")

# TRL tokenizes rows of these tasks whatever they hold. What it makes of these is empty, and takes no time. The ids are
# in other columns, which `PairCollator` reads; without it the first batch has no token, and the model raises.
_NOTHING = [{"role": "user", "content": ""}]
_EMPTY = [{"role": "assistant", "content": ""}]
_TEMPLATE = {"chat_template_kwargs": {"chat_template": "{# encoded rows: pass data_collator=prepared.collator #}"}}
_STAND_INS: Mapping[str, Mapping[str, object]] = {
    "dpo": {"prompt": _NOTHING, "chosen": _EMPTY, "rejected": _EMPTY, **_TEMPLATE},
    "kto": {"prompt": _NOTHING, "completion": _EMPTY, **_TEMPLATE},
}
# Where TRL takes texts only, it makes a BOS and an end of them; its own collator then raises at the null that it takes
# for a number.
_TEXTS: Mapping[str, Mapping[str, object]] = {
    "kto": {"prompt": ".", "completion": " a", "pass_prepared_collator_logps": None},  # it looks for tokens of both
    "reward": {"input_ids_chosen": [], "input_ids_rejected": []},  # names by which it knows encoded rows
}
_PAIR_OF_TEXTS = {"prompt": "", "chosen": "", "rejected": "", "pass_prepared_collator_logps": None}


def find_task(task: object) -> TaskName:
    """Return the name of a task, which is given by name or as a trainer's class.

    Raises:
        PadfixError: It is neither.
    """
    for name in get_args(TaskName):
        known = isinstance(task, type) and any(kind.__name__ == _CLASSES[name][0] for kind in task.__mro__)
        if known or task == name:
            return name  # type: ignore[no-any-return]  # of `get_args`
    raise PadfixError(
        f"task={describe(task)} is not known. Use one of: {', '.join(map(repr, get_args(TaskName)))}, or the class of "
        "such a trainer: task=DPOTrainer"
    )


def require_arguments(
    task: object, packing: bool, group_by_length: bool, max_length: int | None, pad_to_multiple_of: int | None
) -> TaskName:
    """Return the name of the task; raise `PadfixError` for what would only fail after something is patched."""
    name = find_task(task)
    if name != "sft" and (packing or group_by_length):
        raise PadfixError(f"task={name!r}: preferences are padded as they come. Leave packing and group_by_length out")
    PadCollator(0, pad_to_multiple_of=pad_to_multiple_of)
    if packing and max_length is None:
        raise PadfixError("packing=True fills rows of max_length tokens, and max_length is None. Pass max_length=2048")
    return name


def import_classes(task: TaskName) -> tuple[Any, Any]:  # classes of another library
    """Return TRL's trainer and its config for a task.

    Raises:
        PadfixError: The installed TRL has none.
    """
    trl = import_trl()
    trainer, config = _CLASSES[task]
    for module in ("trl", *_ALSO_IN):
        try:
            held = trl if module == "trl" else importlib.import_module(module)
            return _find_own(getattr(held, trainer)), getattr(held, config)
        except (ImportError, AttributeError):
            continue
    raise PadfixError(f"TRL {trl.__version__} has no {trainer}. Run: pip install -U trl")


def _find_own(trainer: type) -> type:
    """Return the class that takes the arguments: where TRL moved it, the one of the old place passes any on."""
    return next((kind for kind in trainer.__mro__ if "model" in inspect.signature(kind).parameters), trainer)


def arguments_for(task: TaskName, precision: Precision) -> dict[str, object]:
    """Return the keywords of the config of a task that make a run safe, and keep TRL from changing encoded rows."""
    if task == "sft":
        return sft_arguments_for(precision)
    # ORPO cuts only what it tokenizes itself.
    return {**trainer_arguments_for(task, precision), **({} if task == "orpo" else {"max_length": None})}


def trainer_arguments_for(task: TaskName, precision: Precision) -> dict[str, object]:
    """Return those of these keywords that `transformers.TrainingArguments` has too."""
    arguments = safe_arguments_for(precision)
    if task != "sft":
        del arguments["label_names"]  # batches of preferences have no labels of tokens
        arguments["remove_unused_columns"] = False  # the ids are in columns that TRL does not name
    return arguments


def find_layout(task: TaskName) -> BatchLayout:
    """Return how the installed trainer of a task takes its batches; that of TRL 1.x where there is none."""
    try:
        return find_batch_layout(import_classes(task)[0])
    except PadfixError:
        return "named" if task == "orpo" else "joined"


def find_unmasked(task: TaskName) -> str:
    """Return the trainer and its version where that trains every token behind the prompt; "" for any other."""
    if task != "dpo" or find_layout(task) != "apart":
        return ""
    return f"DPOTrainer of TRL {import_trl().__version__}"


def _choose_stand_ins(task: TaskName) -> Mapping[str, object]:
    if task == "sft":
        return {}
    layout = find_layout(task)
    if layout == "joined":
        known = task != "reward" or '"chosen_ids"' in inspect.getsource(import_classes(task)[0])
        return _STAND_INS.get(task, {}) if known else {"chosen_input_ids": [], "rejected_input_ids": []}
    return _TEXTS.get(task, _PAIR_OF_TEXTS)


def add_stand_ins(task: TaskName, rows: Any) -> Any:  # an encoded dataset, or a mapping of them
    """Return encoded rows with the columns without which TRL's trainer of this task refuses them."""
    values = _choose_stand_ins(task)
    if isinstance(rows, Mapping):
        return map_splits(rows, lambda _, split: add_stand_ins(task, split))
    if set(values) <= set(rows.column_names or ()):
        return rows
    import datasets
    import numpy as np
    import pyarrow

    one = datasets.Dataset.from_list([dict(values)])
    if not hasattr(rows, "__len__"):
        features = datasets.Features({**rows.features, **one.features})
        return rows.map(functools.partial(_give, values), features=features)
    table = one.data.table.take(pyarrow.array(np.zeros(len(rows), np.int64)))
    return datasets.concatenate_datasets([rows, datasets.Dataset(table)], axis=1)


def _give(values: Mapping[str, object], row: object) -> dict[str, object]:
    return dict(values)


def make_reference(task: TaskName, model: ModelLike, given: Mapping[str, object]) -> dict[str, object]:
    """Return `ref_model` for a task that compares with the model as it was; nothing where TRL needs none.

    TRL would load it from the model's folder, without what was changed in memory. An adapter is switched off instead.
    """
    compares = task in ("dpo", "kto") and given.get("peft_config") is None and "ref_model" not in given
    if not compares or given.get("precompute_ref_log_probs") or hasattr(model, "peft_config"):
        return {}
    if getattr(model, "hf_quantizer", None) is not None:
        return {}
    return {"ref_model": copy.deepcopy(model)}
