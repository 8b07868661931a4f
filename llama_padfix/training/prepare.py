"""The one composition: patch, then everything that a training script needs from what was patched."""

from __future__ import annotations

import datetime
import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llama_padfix.core.compat import divide_once, name_tokenizer_argument
from llama_padfix.core.errors import PadfixError
from llama_padfix.doctor.findings import Plan, Report
from llama_padfix.doctor.patch import patch_and_observe
from llama_padfix.doctor.runner import run_checks
from llama_padfix.encoding.collator import PadCollator
from llama_padfix.encoding.counts import Counts
from llama_padfix.encoding.dataset.encode import encode_dataset
from llama_padfix.encoding.encoder import ChatEncoder
from llama_padfix.encoding.settings import OnError, OnLoss, SpecialTokens, TrainOn, Truncation
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


@dataclass(frozen=True)
class Prepared:
    """What `prepare` gives back: each part is an ordinary object that works without the others.

    `plan` holds what was changed and why, `report` what the checks still say, `encoder` turns rows into ids and
    labels, `collator` pads them. `training_args` are keywords for TRL's `SFTConfig`, `trainer_args` those for
    plain `transformers.TrainingArguments`, which does not know TRL's.
    """

    plan: Plan
    report: Report
    precision: Precision
    collator: PadCollator
    encoder: ChatEncoder

    @property
    def training_args(self) -> dict[str, Any]:
        """Keywords for `trl.SFTConfig`, a fresh dict at every call."""
        return sft_arguments_for(self.precision)

    @property
    def trainer_args(self) -> dict[str, Any]:
        """Keywords for `transformers.TrainingArguments`, a fresh dict at every call."""
        return trainer_arguments_for(self.precision)

    @property
    def counts(self) -> Counts:
        """What became of all rows encoded so far."""
        return self.encoder.counts

    def encode(
        self,
        dataset: Any,
        *,
        progress: bool = True,
        num_proc: int | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> Any:
        """Encode a `Dataset`, `DatasetDict`, `IterableDataset` or list of rows of any known shape.

        Returns the same kind of dataset (a `Dataset` for a list) with the columns `input_ids` and `labels`; what
        was dropped, cut or repaired is logged, and counted in `counts`. `num_proc` processes give the bytes of one.
        A dataset that lies in files is cached beside them, any other in `cache_dir` (see `encode_dataset`).
        """
        return encode_dataset(self.encoder, dataset, progress=progress, num_proc=num_proc, cache_dir=cache_dir)

    def __str__(self) -> str:
        return f"{self.plan}\n{self.precision}\n{self.report}"

    def _repr_html_(self) -> str:
        return self.plan._repr_html_() + self.report._repr_html_()


def prepare(
    tokenizer: Any,
    model: Any = None,
    *,
    max_length: int | None = None,
    train_on: TrainOn = "assistant",
    pad_token: str = "auto",
    truncation: Truncation = "turns",
    on_error: OnError = "raise",
    on_loss: OnLoss = "count",
    template_kwargs: Mapping[str, Any] | None = None,
    special_tokens: SpecialTokens = "escape",
    allowed_tokens: Sequence[str] = (),
    date: datetime.date | str | None = None,
    pad_to_multiple_of: int | None = None,
    device: Any = None,
) -> Prepared:
    """Patch a tokenizer and its model in place, and return what a training script needs from there on.

    Pad token, stop list, EOS, padding side and automatic BOS are set by the policy; no token is added, no
    embedding resized, no template edited. Idempotent: a second call has an empty plan. `max_length`, `train_on`,
    `truncation`, `on_error`, `on_loss`, `template_kwargs`, `special_tokens`, `allowed_tokens` and `date` are those
    of `ChatEncoder`; `device` is that of `choose_precision`. Raises `PadfixError`, and leaves everything as it was,
    for anything that it cannot do.
    """
    encoder = ChatEncoder(
        tokenizer,
        max_length,
        train_on,
        truncation=truncation,
        on_error=on_error,
        on_loss=on_loss,
        template_kwargs=template_kwargs,
        special_tokens=special_tokens,
        allowed_tokens=allowed_tokens,
        date=date,
    )
    precision = choose_precision(device)
    PadCollator(0, pad_to_multiple_of=pad_to_multiple_of)  # its arguments are checked before anything is patched
    plan, facts = patch_and_observe(tokenizer, model, pad_token=pad_token)
    report = run_checks(facts)
    collator = PadCollator(tokenizer.pad_token_id, pad_to_multiple_of=pad_to_multiple_of)
    return Prepared(plan=plan, report=report, precision=precision, collator=collator, encoder=encoder)


def build_trainer(model: Any, tokenizer: Any, dataset: Any, *, eval_dataset: Any = None, **sft_arguments: Any) -> Any:
    """Return TRL's `SFTTrainer`, ready to train on a raw dataset or list of rows in any known shape.

    The keywords are those of `prepare`, of `SFTConfig` and of `SFTTrainer` (such as `peft_config`, `callbacks`),
    each passed on to where the installed version knows it; what you give wins over what `prepare` would set.
    Raises `PadfixError` for a keyword that none of them knows or that acts on raw rows, and whatever `SFTConfig`
    raises, before anything is patched or encoded.
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
    train_rows = encode_dataset(prepared.encoder, dataset, progress=not args.disable_tqdm)
    if eval_dataset is not None:
        name = "eval_dataset"
        rest[name] = encode_dataset(prepared.encoder, eval_dataset, progress=not args.disable_tqdm, name=name)
    rest.setdefault("data_collator", prepared.collator)
    rest[name_tokenizer_argument(trl.SFTTrainer)] = tokenizer
    trainer = trl.SFTTrainer(model=model, args=args, train_dataset=train_rows, **rest)
    divide_once(trainer)
    if hasattr(trainer.model, "peft_config") and not args.bf16:
        keep_trainable_float32(trainer.model, prepared.precision)  # TRL casts those of a quantised model to bfloat16
    complete_head(trainer.model)  # TRL reads a bias of the head, which PEFT's wrapper around single rows lacks
    return trainer
