"""The one composition: patch, then everything that a training script needs from what was patched."""

from __future__ import annotations

import datetime
import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llama_padfix.core.compat import divide_once, name_tokenizer_argument
from llama_padfix.core.errors import PadfixError
from llama_padfix.core.records import short_repr
from llama_padfix.doctor.findings import Plan, Report
from llama_padfix.doctor.patch import patch_and_observe
from llama_padfix.doctor.runner import run_checks
from llama_padfix.encoding.collator import PadCollator
from llama_padfix.encoding.counts import Counts
from llama_padfix.encoding.dataset.encode import encode_dataset
from llama_padfix.encoding.encoder import ChatEncoder
from llama_padfix.encoding.settings import OnError, OnLoss, SpecialTokens, TrainOn, Truncation
from llama_padfix.encoding.sources import column_names
from llama_padfix.hardware.precision import Precision, choose_precision
from llama_padfix.training.adapters.lora import keep_trainable_float32
from llama_padfix.training.adapters.row_training import complete_head
from llama_padfix.training.trainer import (
    import_trl,
    make_sft_config,
    require_accumulation,
    sft_arguments_for,
    split_sft_arguments,
    trainer_arguments_for,
)

if TYPE_CHECKING:
    from typing import TypeAlias

    from datasets import Dataset, DatasetDict, IterableDataset
    from trl import SFTTrainer

    from llama_padfix.core.types import ModelLike, Rows, TokenizerLike

    AnyDataset: TypeAlias = Dataset | DatasetDict | IterableDataset


@dataclass(frozen=True)
class Prepared:
    """What `prepare` returns: each part is an ordinary object that works without the others."""

    plan: Plan
    """What was changed, and why."""
    report: Report
    """What the checks still find."""
    precision: Precision
    """What the run computes in."""
    collator: PadCollator
    """Pads encoded rows to a batch."""
    encoder: ChatEncoder
    """Turns rows into ids and labels."""

    __repr__ = short_repr

    @property
    def training_args(self) -> dict[str, Any]:  # keywords of another library, for this and the next
        """Keywords for `trl.SFTConfig`, a fresh dict at every call."""
        return sft_arguments_for(self.precision)

    @property
    def trainer_args(self) -> dict[str, Any]:
        """Keywords for `transformers.TrainingArguments`, which lacks those of TRL; a fresh dict at every call."""
        return trainer_arguments_for(self.precision)

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
    ) -> AnyDataset:
        """Encode rows of any known shape; what was dropped, cut or repaired is logged, and counted in `counts`.

        Args:
            dataset: A `Dataset`, `DatasetDict` or `IterableDataset`, a list of rows, a path, a frame, an Arrow table
                or a generator, as for `encode_dataset`.
            progress: Show a progress bar.
            num_proc: The number of processes; several give the bytes of one.
            cache_dir: Where a dataset is cached that does not lie in files; any other is cached beside them.

        Returns:
            The same kind of dataset (a `Dataset` for any other) with the columns `input_ids` and `labels`.

        Raises:
            PadfixError: As `encode_dataset`.
        """
        return encode_dataset(self.encoder, dataset, progress=progress, num_proc=num_proc, cache_dir=cache_dir)

    def __str__(self) -> str:
        return f"{self.plan}\n{self.precision}\n{self.report}"

    def _repr_html_(self) -> str:
        return self.plan._repr_html_() + self.report._repr_html_()


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
    device: object = None,
) -> Prepared:
    """Patch a tokenizer and its model in place, and return what a training script needs from there on.

    Pad token, stop list, EOS, padding side and automatic BOS are set by the policy, for `template` where it is given;
    no token is added, no embedding resized, no template edited. A second call has an empty plan. The keywords from
    `max_length` to `date` are those of `ChatEncoder`, but for `pad_token`.

    Args:
        tokenizer: The tokenizer to patch.
        model: The model to patch; None for the tokenizer alone.
        pad_token: As for `patch_tokenizer`.
        pad_to_multiple_of: As for `PadCollator`.
        device: As for `choose_precision`.

    Returns:
        The plan of what was changed, the report, the precision, the encoder and the collator.

    Raises:
        PadfixError: Something cannot be done; everything is as it was.
    """
    encoder = ChatEncoder(
        tokenizer,
        max_length,
        train_on,
        truncation=truncation,
        on_error=on_error,
        on_loss=on_loss,
        template=template,
        template_kwargs=template_kwargs,
        keep_reasoning=keep_reasoning,
        special_tokens=special_tokens,
        allowed_tokens=allowed_tokens,
        date=date,
    )
    precision = choose_precision(device)
    PadCollator(0, pad_to_multiple_of=pad_to_multiple_of)  # its arguments are checked before anything is patched
    given = template or (template_kwargs or {}).get("chat_template")
    plan, facts = patch_and_observe(tokenizer, model, pad_token=pad_token, chat_template=given)
    report = run_checks(facts)
    assert tokenizer.pad_token_id is not None  # the patch has set it
    collator = PadCollator(tokenizer.pad_token_id, pad_to_multiple_of=pad_to_multiple_of)
    return Prepared(plan=plan, report=report, precision=precision, collator=collator, encoder=encoder)


def build_trainer(
    model: ModelLike,
    tokenizer: TokenizerLike,
    dataset: Rows | str | os.PathLike[str],
    *,
    eval_dataset: Rows | str | os.PathLike[str] | None = None,
    **sft_arguments: Any,  # of three functions
) -> SFTTrainer:
    """Return TRL's `SFTTrainer`, ready to train on a dataset or list of rows in any known shape.

    Args:
        model: The model to patch and to train.
        tokenizer: The tokenizer to patch.
        dataset: One split: a `Dataset`, an `IterableDataset`, a list of rows, a path, or a frame. Rows with
            `input_ids` and `labels`, which `prepared.encode` makes, are taken as they are.
        eval_dataset: Rows to evaluate on; a mapping of several sets is encoded too.
        sft_arguments: Keywords of `prepare`, of `SFTConfig` and of `SFTTrainer` (such as `peft_config`, `callbacks`),
            each passed on to where the installed version knows it. They win over what `prepare` would set.

    Raises:
        PadfixError: None of them knows a keyword, or it acts on raw rows. This, and what `SFTConfig` raises, comes
            before anything is patched or encoded.
    """
    trl = import_trl()
    of_prepare = set(inspect.signature(prepare).parameters) - {"tokenizer", "model"}
    prepare_arguments = {name: sft_arguments.pop(name) for name in of_prepare & set(sft_arguments)}
    config, rest = split_sft_arguments(sft_arguments, of_prepare)
    if isinstance(dataset, Mapping):
        raise PadfixError(
            f"The dataset to train on has the parts {', '.join(map(repr, dataset))}. Pass one of them: "
            "build_trainer(model, tokenizer, dataset['train'], eval_dataset=dataset['test'])"
        )
    safe = sft_arguments_for(choose_precision(prepare_arguments.get("device")))
    args = make_sft_config({"output_dir": "out", **safe, **config})
    require_accumulation(args)

    prepared = prepare(tokenizer, model, **prepare_arguments)
    train_rows = _encode_rows(prepared, dataset, "dataset", args.disable_tqdm)
    if eval_dataset is not None:
        rest["eval_dataset"] = _encode_rows(prepared, eval_dataset, "eval_dataset", args.disable_tqdm)
    rest.setdefault("data_collator", prepared.collator)
    rest[name_tokenizer_argument(trl.SFTTrainer)] = tokenizer
    trainer = trl.SFTTrainer(model=model, args=args, train_dataset=train_rows, **rest)
    divide_once(trainer)
    if hasattr(trainer.model, "peft_config") and not args.bf16:
        keep_trainable_float32(trainer.model, prepared.precision)  # TRL casts those of a quantized model to bfloat16
    complete_head(trainer.model)  # TRL reads a bias of the head, which PEFT's wrapper around single rows lacks
    return trainer


def _encode_rows(prepared: Prepared, rows: Any, name: str, quiet: bool) -> Any:  # rows of any shape; a dataset
    """Return rows encoded, or as they are where they have ids and labels already."""
    if {"input_ids", "labels"} <= set(column_names(rows) or ()):
        from datasets import Dataset

        return Dataset.from_list(list(rows)) if isinstance(rows, (list, tuple)) else rows
    return encode_dataset(prepared.encoder, rows, progress=not quiet, name=name)
