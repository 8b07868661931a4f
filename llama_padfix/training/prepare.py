"""The one composition: patch, then everything that a training script needs from what was patched."""

from __future__ import annotations

import datetime
import inspect
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from llama_padfix.core.compat import divide_once, make_grouping_arguments, name_tokenizer_argument
from llama_padfix.core.errors import PadfixError
from llama_padfix.core.records import record_html, short_repr
from llama_padfix.doctor.findings import Plan, Report
from llama_padfix.doctor.patch import patch_and_observe
from llama_padfix.doctor.runner import run_checks
from llama_padfix.encoding.collator import PadCollator
from llama_padfix.encoding.counts import Counts
from llama_padfix.encoding.dataset.encode import encode_dataset, with_arrays
from llama_padfix.encoding.encoder import ChatEncoder
from llama_padfix.encoding.media.choose import choose_encoder
from llama_padfix.encoding.media.collator import MediaCollator
from llama_padfix.encoding.media.dataset import encode_media
from llama_padfix.encoding.media.encoder import MediaEncoder
from llama_padfix.encoding.packing.collator import PackCollator
from llama_padfix.encoding.packing.isolation import Isolation, try_packing
from llama_padfix.encoding.packing.pack import add_lengths, pack_rows
from llama_padfix.encoding.pairs.collator import PairCollator
from llama_padfix.encoding.pairs.encoder import PairEncoder
from llama_padfix.encoding.settings import OnError, OnLoss, SpecialTokens, TrainOn, Truncation
from llama_padfix.encoding.sources import column_names
from llama_padfix.hardware.precision import Precision, choose_precision
from llama_padfix.serving.before_training.rows_check import RowsCheck
from llama_padfix.training.adapters.lora import keep_trainable_float32
from llama_padfix.training.adapters.row_training import complete_head
from llama_padfix.training.tasks import (
    TaskName,
    add_stand_ins,
    arguments_for,
    find_layout,
    find_task,
    find_unmasked,
    import_classes,
    make_reference,
    require_arguments,
    trainer_arguments_for,
)
from llama_padfix.training.trainer import (
    apply_arguments,
    make_config,
    require_accumulation,
    require_base_model,
    split_arguments,
)

if TYPE_CHECKING:
    from typing import TypeAlias

    from datasets import Dataset, DatasetDict, IterableDataset
    from transformers import Trainer, TrainingArguments

    from llama_padfix.core.types import ModelLike, Rows, TokenizerLike

    AnyDataset: TypeAlias = Dataset | DatasetDict | IterableDataset


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """What `prepare` returns: each part is an ordinary object that works without the others."""

    plan: Plan
    """What was changed, and why."""
    report: Report
    """What the checks still find."""
    precision: Precision
    """What the run computes in."""
    collator: PadCollator | PackCollator | PairCollator | MediaCollator
    """Makes a batch of encoded rows: padded, packed, of preferences, or with what a processor makes of media."""
    encoder: ChatEncoder
    """Turns rows into ids and labels."""
    packing: Isolation | None = None
    """Whether rows are packed, and what that rests on; None where packing was not asked for."""
    group_by_length: bool = False
    """Whether a batch is made of rows of like length."""
    task: TaskName = "sft"
    """What the rows are for: the trainer of TRL that takes them."""
    serving: RowsCheck | None = None
    """Compares rows with what the engines of `serve_with` feed; its `report` holds what was found."""

    __repr__ = short_repr

    @property
    def training_args(self) -> dict[str, Any]:  # keywords of another library, for this and the next
        """Keywords for `trl.SFTConfig`, or the config of another task; a fresh dict at every call."""
        return {**arguments_for(self.task, self.precision), **self._batch_arguments()}

    @property
    def trainer_args(self) -> dict[str, Any]:
        """Keywords for `transformers.TrainingArguments`, which lacks those of TRL; a fresh dict at every call."""
        return {**trainer_arguments_for(self.task, self.precision), **self._batch_arguments()}

    @property
    def counts(self) -> Counts:
        """What became of all rows encoded so far."""
        return self.encoder.counts

    def encode(
        self,
        dataset: Rows | str | os.PathLike[str],
        *,
        progress: bool = True,
        num_proc: int | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        max_shard_size: int | str | None = None,
    ) -> AnyDataset:
        """Encode rows of any known shape; what was dropped, cut or repaired is logged, and counted in `counts`.

        Args:
            dataset: A `Dataset`, `DatasetDict` or `IterableDataset`, a list of rows, a path, a frame, an Arrow table
                or a generator, as for `encode_dataset`.
            progress: Show a progress bar.
            num_proc: The number of processes; several give the bytes of one.
            cache_dir: Where a dataset is cached that does not lie in files; any other is cached beside them.
            max_shard_size: As for `encode_dataset`.

        Returns:
            The same kind of dataset (a `Dataset` for any other) with the columns `input_ids` and `labels`; with
            packing, packed rows with `seq_lengths` too (see `pack_rows`); with `group_by_length`, `length` too. Rows
            hold numpy arrays, which a dataloader fetches in a fraction of the time of lists. A stream gives
            lists, as does `.with_format(None)`.

        Raises:
            PadfixError: As `encode_dataset`.
        """
        where: Any = {"num_proc": num_proc, "cache_dir": cache_dir, "max_shard_size": max_shard_size}
        return self._encode(dataset, progress=progress, **where)

    def _encode(self, dataset: Any, *, progress: bool, name: str = "dataset", **where: Any) -> AnyDataset:
        if isinstance(self.encoder, MediaEncoder):
            with_media: AnyDataset = encode_media(self.encoder, dataset, progress=progress, name=name, **where)
            return with_media
        if self.serving is not None:
            dataset = self.serving.look_at(dataset, name)
        return self._arrange(encode_dataset(self.encoder, dataset, progress=progress, name=name, **where), progress)

    def _arrange(self, rows: AnyDataset, progress: bool) -> AnyDataset:
        if isinstance(self.collator, PackCollator):
            assert self.encoder.max_length is not None  # `prepare` packs with one only
            rows = pack_rows(rows, self.encoder.max_length, progress=progress)
        elif self.group_by_length:
            rows = add_lengths(rows)
        elif self.task != "sft":
            return cast("AnyDataset", add_stand_ins(self.task, rows))
        arranged: AnyDataset = with_arrays(rows)
        return arranged

    def apply_to(self, args: TrainingArguments) -> None:
        """Set on a config that exists already, such as one that `TrlParser` read, what `training_args` holds.

        Packing that the config asks for is switched off there where `encode` packs the rows: a trainer that packs
        refuses another collator.

        Args:
            args: An `SFTConfig` or `TrainingArguments`; changed in place, and its own checks run again.

        Raises:
            PadfixError: The config asks for packing and `prepare` was not told to pack.
            ValueError: As the config's own checks; it is then as it was.
        """
        of_trl = hasattr(args, "dataset_kwargs") or (self.task != "sft" and hasattr(args, "max_length"))
        wanted = self.training_args if of_trl else self.trainer_args
        apply_arguments(args, wanted, packs=self.packing is not None, max_length=self.encoder.max_length)

    def _batch_arguments(self) -> dict[str, object]:
        if isinstance(self.collator, PackCollator | MediaCollator):
            return {"remove_unused_columns": False}  # the model does not name seq_lengths, or the columns of media
        return make_grouping_arguments() if self.group_by_length else {}

    def __str__(self) -> str:
        parts = (self.plan, self.precision, self.packing, self.report)
        return "\n".join(str(part) for part in parts if part is not None)

    def _repr_html_(self) -> str:
        packing = record_html(self.packing) if self.packing is not None else ""
        return self.plan._repr_html_() + self.precision._repr_html_() + packing + self.report._repr_html_()


def prepare(
    tokenizer: TokenizerLike,
    model: ModelLike | None = None,
    *,
    max_length: int | None = None,
    train_on: TrainOn = "assistant",
    pad_token: str = "auto",
    truncation: Truncation = "turns",
    on_error: OnError = "raise",
    on_loss: OnLoss = "count",
    template: str | None = None,
    template_kwargs: Mapping[str, Any] | None = None,  # of any template
    keep_reasoning: bool = False,
    special_tokens: SpecialTokens = "escape",
    allowed_tokens: Sequence[str] = (),
    date: datetime.date | str | None = None,
    pad_to_multiple_of: int | None = None,
    packing: bool = False,
    group_by_length: bool = False,
    task: TaskName | type = "sft",
    device: object = None,
    serve_with: str | Sequence[str] = (),
) -> Prepared:
    """Patch a tokenizer and its model in place, and return what a training script needs from there on.

    Pad token, stop list, EOS, padding side and automatic BOS are set as `template` needs them; nothing else changes.
    Idempotent. Other arguments are those of `ChatEncoder`, `patch_tokenizer`, `PadCollator` and `choose_precision`.

    Args:
        tokenizer: What to patch. For media a processor, which holds one.
        model: What to patch with it, or None.
        packing: Put several documents into a row of `max_length` tokens, where `model` is proven to keep them apart.
        group_by_length: Make batches of rows of like length.
        task: What rows are for: "sft", or preferences for "dpo", "kto", "reward" or "orpo"; or the trainer's class.
        serve_with: Engines of `check_serving`: `encode` logs which rows they feed otherwise than they are trained.

    Returns:
        The plan of what was changed, the report, the precision, the encoder and the collator.

    Raises:
        PadfixError: Something cannot be done; everything is as it was.
    """
    task = require_arguments(task, packing, group_by_length, max_length, pad_to_multiple_of)
    make_encoder, tokenizer = choose_encoder(tokenizer, template, task, packing or group_by_length)
    of_turns = {"train_on": train_on, "truncation": truncation, "on_error": on_error, "on_loss": on_loss}
    encoder = make_encoder(
        tokenizer,
        max_length,
        template_kwargs=template_kwargs,
        keep_reasoning=keep_reasoning,
        special_tokens=special_tokens,
        allowed_tokens=allowed_tokens,
        date=date,
        **of_turns,
    )
    serving = RowsCheck(encoder, serve_with) if serve_with else None
    precision = choose_precision(device)
    plan, facts = patch_and_observe(tokenizer, model, pad_token=pad_token, template_kwargs=encoder.template_kwargs)
    collator, isolation = _make_collator(encoder, model, task, pad_to_multiple_of, packing)
    return Prepared(plan, run_checks(facts), precision, collator, encoder, isolation, group_by_length, task, serving)


def _make_collator(
    encoder: ChatEncoder, model: ModelLike | None, task: TaskName, pad_to_multiple_of: int | None, packing: bool
) -> tuple[PadCollator | PackCollator | PairCollator | MediaCollator, Isolation | None]:
    """Return what makes batches, and what packing comes to, None where it was not asked for."""
    tokenizer = encoder.tokenizer
    assert tokenizer.pad_token_id is not None  # the patch has set it
    if isinstance(encoder, MediaEncoder):
        dtype = getattr(model, "dtype", None)  # of a model of transformers
        return MediaCollator(encoder.processor, tokenizer.pad_token_id, pad_to_multiple_of, dtype), None
    if isinstance(encoder, PairEncoder):
        layout, encoder.without_mask = find_layout(task), find_unmasked(task)
        return PairCollator(tokenizer.pad_token_id, encoder.task, encoder.max_length, pad_to_multiple_of, layout), None
    if not packing:
        return PadCollator(tokenizer.pad_token_id, pad_to_multiple_of), None
    isolation = try_packing(model, tokenizer.pad_token_id)
    if isolation.layout is None:
        logger.warning("llama_padfix: %s", isolation)
        return PadCollator(tokenizer.pad_token_id, pad_to_multiple_of), isolation
    return PackCollator(tokenizer.pad_token_id, isolation.layout, pad_to_multiple_of), isolation


def build_trainer(
    model: ModelLike,
    tokenizer: TokenizerLike,
    dataset: Rows | str | os.PathLike[str],
    *,
    eval_dataset: Rows | str | os.PathLike[str] | None = None,
    **arguments: Any,  # of three functions
) -> Trainer:
    """Return TRL's `SFTTrainer`, or with `task` another one, ready to train on rows in any known shape.

    Args:
        model: The model to patch and to train.
        tokenizer: The tokenizer to patch.
        dataset: One split: a `Dataset`, an `IterableDataset`, a list of rows, a path, or a frame. Rows with
            `input_ids` and `labels`, which `prepared.encode` makes, are taken as they are.
        eval_dataset: Rows to evaluate on; a mapping of several sets is encoded too.
        arguments: Keywords of `prepare`, of `SFTConfig` and of `SFTTrainer` (such as `peft_config`, `callbacks`), or
            of the two classes of another task, each passed on to where the installed version knows it. They win over
            what `prepare` would set. DPO and KTO get a copy of the model as `ref_model` where they need one.

    Raises:
        PadfixError: None of them knows a keyword, or it acts on raw rows. This, and what `SFTConfig` raises, comes
            before anything is patched or encoded.
    """
    task = find_task(arguments.get("task", "sft"))
    trainer_class, config_class = import_classes(task)
    of_prepare = set(inspect.signature(prepare).parameters) - {"tokenizer", "model"}
    prepare_arguments = {name: arguments.pop(name) for name in of_prepare & set(arguments)}
    config, rest = split_arguments(arguments, trainer_class, config_class, of_prepare)
    if isinstance(dataset, Mapping):
        raise PadfixError(
            f"The dataset to train on has the parts {', '.join(map(repr, dataset))}. Pass one of them: "
            "build_trainer(model, tokenizer, dataset['train'], eval_dataset=dataset['test'])"
        )
    safe = arguments_for(task, choose_precision(prepare_arguments.get("device")))
    args = make_config({"output_dir": "out", **safe, **config}, config_class)
    require_accumulation(args)
    if task == "sft":
        require_base_model(model)

    prepared = prepare(tokenizer, model, **prepare_arguments)
    shown = not args.disable_tqdm
    train_rows = _encode_rows(prepared, dataset, "dataset", shown)
    if eval_dataset is not None:
        rest["eval_dataset"] = _encode_rows(prepared, eval_dataset, "eval_dataset", shown)
    for name in prepared._batch_arguments().keys() - set(config):
        setattr(args, name, prepared._batch_arguments()[name])
    rest.setdefault("data_collator", prepared.collator)
    rest[name_tokenizer_argument(trainer_class)] = tokenizer
    rest |= make_reference(task, model, {**config, **rest})
    trainer = trainer_class(model=model, args=args, train_dataset=train_rows, **rest)
    divide_once(trainer)
    if hasattr(trainer.model, "peft_config") and not args.bf16:
        keep_trainable_float32(trainer.model, prepared.precision)  # TRL casts those of a quantized model to bfloat16
    complete_head(trainer.model)  # TRL reads a bias of the head, which PEFT's wrapper around single rows lacks
    return trainer


def _encode_rows(prepared: Prepared, rows: Any, name: str, shown: bool) -> Any:  # rows of any shape; a dataset
    """Return rows encoded, or as they are where they have ids and labels already; packed where `prepare` packs."""
    columns = set(column_names(rows) or ())
    if not {*prepared.encoder.columns} <= columns:
        return prepared._encode(rows, progress=shown, name=name)
    if isinstance(rows, (list, tuple)):
        from datasets import Dataset

        rows = Dataset.from_list(list(rows))
    if isinstance(prepared.encoder, MediaEncoder):
        return rows
    return rows if "seq_lengths" in columns else prepared._arrange(rows, shown)
